"""What a balanced step returns and what a method decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from accord.solvers import Solution


@dataclass(frozen=True)
class Balance:
    """One balanced step, ready for logging; nothing in it holds a graph.

    Attributes:
        loss: The weighted loss Σ_k w_k l_k, shape ().
        losses: The losses, shape (K,), float64 on the CPU.
        weights: The weights of the task gradients, shape (K,), float64 on the CPU. A method that mixes
            gradients coordinate by coordinate (GradDrop) has no weights: NaN. Those of a method that averages
            gradients over the steps (MoCo, DB-MTL) belong to the averages, not to this step's gradients.
        gramian: Shape (K, K), float64 on the CPU, where the step computed it; the estimate, where it was estimated.
        residual: The certificate of the weights, where the method has one (``accord.solvers.Solution``). Where the
            Gramian was estimated (``gramian_batch`` and its like) it is that of the weights for the estimate: it says
            how well that was solved, not how near the estimate is.
        outcome: ``"solved"``, ``"stationary"``, ``"degenerate"``, or ``"approximate"`` where a published approximation
            was asked for or the Gramian was estimated; ``"reused"`` between two solves of an ``update_every`` schedule;
            ``"frozen"`` in eval mode; ``"skipped"`` where a gradient was not finite.
        cause: Why the outcome is not plainly ``"solved"``.
        scale: The factor on the shared gradient beside the weights (``max_norm``); 1 otherwise.
        tasks: The tasks' names.
        interval: Steps that the method wants between this solve and the next (``update_every``); None for methods that
            have no such schedule.
        drift: Where the step solved, and not for the first time, how far the weights have moved since the last solve:
            0 not at all but for a common factor, 1 a right angle (``accord.balancers.schedule.drift_of``).
        engine: What differentiated the losses; with ``engine="auto"`` also why it was chosen.
        estimated: Whether the Gramian is an estimate, whose norms and cosines are not those of this step's gradients.
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
    interval: int | None = None
    drift: float | None = None
    engine: str = ""
    estimated: bool = False

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
        interval: As in ``Balance``.
        drift: As in ``Balance``.
        estimated: Whether the Gramian is an estimate, from which no length of this step's gradient follows.
    """

    weights: np.ndarray
    head_weights: np.ndarray
    gramian: Tensor | None = None
    solution: Solution | None = None
    outcome: str = "solved"
    cause: str = ""
    max_norm: float | None = None
    interval: int | None = None
    drift: float | None = None
    estimated: bool = False
    directions: list[Tensor | None] | None = field(default=None, repr=False)
    """The shared gradient itself, for methods that no weights describe."""

    @property
    def knows_norm(self) -> bool:
        """Whether the norm of the shared gradient is √(wᵀGw), so that the gradient itself need not be looked at."""
        return self.gramian is not None and not self.estimated


def clip_factor(decision: Decision, norm: Callable[[], float]) -> float:
    """The factor that brings the shared gradient to ``max_norm``.

    Its norm is √(wᵀGw), where the Gramian is that of its gradients.

    Args:
        decision: With its weights and ``max_norm``.
        norm: Computes the norm otherwise.
    """
    if decision.max_norm is None:
        return 1.0
    if decision.gramian is not None and decision.knows_norm:
        w = torch.from_numpy(decision.weights)
        found = float((w @ decision.gramian @ w).clamp(min=0).sqrt())
    else:
        found = norm()
    return min(1.0, decision.max_norm / found) if found > 0 else 1.0


def named_cause(decision: Decision, tasks: Sequence[str]) -> str:
    """The cause with zero rows by task name."""
    solution = decision.solution
    if solution is None or not solution.zero_rows:
        return decision.cause
    return f"{decision.cause} ({', '.join(tasks[k] for k in solution.zero_rows)})"
