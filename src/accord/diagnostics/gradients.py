"""What a Gramian says about the task gradients: norms, cosines, conflicts, and how far from Pareto stationary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from accord.solvers import pareto_stationarity

NEGLIGIBLE = 1e-6
"""Cosines within this of zero are rounding: two tasks conflict, and a loss rises, beyond it."""


class Pair(NamedTuple):
    """Two tasks and the cosine of their gradients."""

    first: str
    second: str
    cosine: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """K task gradients, as far as their inner products tell.

    Attributes:
        tasks: The tasks' names.
        gramian: G = JJᵀ, shape (K, K), float64.
    """

    tasks: tuple[str, ...]
    gramian: np.ndarray

    @cached_property
    def norms(self) -> np.ndarray:
        """Norms of the gradients, shape (K,)."""
        return np.sqrt(np.maximum(np.diagonal(self.gramian), 0.0))

    @cached_property
    def cosines(self) -> np.ndarray:
        """Cosines of all pairs, shape (K, K); 0 with a task that has no gradient."""
        safe = np.where(self.norms > 0.0, self.norms, 1.0)
        cosines = np.clip(self.gramian / safe[:, None] / safe, -1.0, 1.0)
        np.fill_diagonal(cosines, np.where(self.norms > 0.0, 1.0, 0.0))
        return cosines

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs of tasks that have gradients, the smallest cosine first."""
        live = np.flatnonzero(self.norms > 0.0)
        rows, columns = (live[index] for index in np.triu_indices(len(live), 1))
        cosines = self.cosines[rows, columns]
        order = np.argsort(cosines, kind="stable")
        return tuple(Pair(self.tasks[rows[i]], self.tasks[columns[i]], float(cosines[i])) for i in order)

    @property
    def conflicts(self) -> tuple[Pair, ...]:
        """The pairs whose gradients conflict (a cosine below −1e-6), worst first."""
        return tuple(pair for pair in self.pairs if pair.cosine < -NEGLIGIBLE)

    @property
    def silent(self) -> tuple[str, ...]:
        """The tasks whose gradient is zero."""
        return tuple(task for task, norm in zip(self.tasks, self.norms, strict=True) if norm == 0.0)

    @property
    def mean_cosine(self) -> float:
        """The mean over all pairs of tasks that have gradients; 1 without a pair."""
        return float(np.mean([pair.cosine for pair in self.pairs])) if self.pairs else 1.0

    @property
    def imbalance(self) -> float:
        """The norm of the longest gradient over that of the shortest that is not zero."""
        live = self.norms[self.norms > 0.0]
        return float(live.max() / live.min()) if len(live) else 1.0

    @property
    def mean_gradient(self) -> float:
        """The norm of the mean gradient, (1/K) Σ g_k."""
        return float(np.sqrt(max(0.0, float(self.gramian.sum())))) / len(self.tasks)

    @cached_property
    def stationarity(self) -> float:
        """The smallest norm of a convex combination of the unit gradients, between 0 and 1.

        0 is Pareto stationary. The losses' scales do not matter. K orthogonal gradients have 1/√K.
        """
        return pareto_stationarity(self.gramian)
