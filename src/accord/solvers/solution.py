"""What a solver returns: weights, their certificate and a named outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Outcome = Literal["solved", "stationary", "degenerate", "approximate"]


@dataclass(frozen=True)
class Solution:
    """Weights of the task gradients and the proof that they are right.

    The update direction is ``d = Σ_k weights[k] · g_k``, to be followed downhill.

    Attributes:
        method: Name of the method, such as ``"nash-mtl"``.
        weights: Shape (K,), float64. A task with a zero gradient has weight 0.
        residual: The certificate: how far the weights are from the method's own definition, relative and
            dimensionless (see the solver's docstring). 0 is exact.
        floor: The smallest residual that float64 can show for this Gramian.
        outcome: ``"solved"``; ``"stationary"`` when the gradients are Pareto stationary to within rounding, so
            that the definition has no solution or none that float64 can tell; ``"degenerate"`` when the
            definition does not apply, or float64 does not reach it, for the reason in ``cause``; ``"approximate"``
            when an algorithm that need not arrive (``nash_ccp``) has ended elsewhere.
        cause: Why the outcome is not plainly ``"solved"``, or which rows are zero; else empty.
        steps: Iterations used.
        zero_rows: Indices of tasks whose gradient is zero.
    """

    method: str
    weights: np.ndarray
    residual: float
    floor: float
    outcome: Outcome
    cause: str = ""
    steps: int = 0
    zero_rows: tuple[int, ...] = ()

    @property
    def solved(self) -> bool:
        """Whether the certificate is met."""
        return self.outcome == "solved"

    @property
    def stationary(self) -> bool:
        """Whether the point is Pareto stationary to within rounding."""
        return self.outcome == "stationary"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The weights, so that ``np.asarray(solution)`` and ``G @ solution`` work."""
        return np.array(self.weights, dtype=dtype, copy=True if copy is None else copy)
