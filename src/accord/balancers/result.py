"""What a balanced step returns and what a method decides."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from accord.solvers import Solution


@dataclass(frozen=True)
class Balance:
    """One balanced step, ready for logging; nothing in it holds a graph.

    Attributes:
        loss: The weighted loss Σ_k w_k l_k, shape ().
        losses: The losses, shape (K,), float64 on the CPU.
        weights: The weights of the task gradients, shape (K,), float64 on the CPU. A method that mixes
            gradients coordinate by coordinate (GradDrop) has no weights: NaN.
        gramian: Shape (K, K), float64 on the CPU, where the step computed it.
        residual: The certificate of the weights, where the method has one (``accord.solvers.Solution``).
        outcome: ``"solved"``, ``"stationary"``, ``"degenerate"``; ``"reused"`` between two solves of an
            ``update_every`` schedule; ``"frozen"`` in eval mode; ``"skipped"`` where a gradient was not finite.
        cause: Why the outcome is not plainly ``"solved"``.
        scale: The factor on the shared gradient beside the weights (``max_norm``); 1 otherwise.
        tasks: The tasks' names.
    """

    loss: Tensor
    losses: Tensor
    weights: Tensor
    gramian: Tensor | None
    residual: float | None
    outcome: str
    cause: str
    scale: float
    tasks: tuple[str, ...]

    @property
    def solved(self) -> bool:
        """Whether the weights meet the method's definition at this step."""
        return self.outcome == "solved"

    @property
    def stationary(self) -> bool:
        """Whether the gradients are Pareto stationary to within rounding."""
        return self.outcome == "stationary"


@dataclass
class Decision:
    """What a method makes of one step.

    Attributes:
        weights: Shape (K,), of the shared gradients.
        head_weights: Shape (K,), of the heads' gradients.
        gramian: The Gramian, where one was computed.
        solution: The solver's answer, where there is one.
        outcome: As in ``Balance``.
        cause: As in ``Balance``.
        max_norm: Clip the shared gradient to this norm.
    """

    weights: np.ndarray
    head_weights: np.ndarray
    gramian: Tensor | None = None
    solution: Solution | None = None
    outcome: str = "solved"
    cause: str = ""
    max_norm: float | None = None
    directions: list[Tensor | None] | None = field(default=None, repr=False)
    """The shared gradient itself, for methods that no weights describe."""
