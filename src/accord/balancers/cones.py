"""UPGrad and DualProj: gradients projected on the cone of directions that hurt no task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from accord import solvers
from accord.balancers.base import Heads
from accord.balancers.gramian import GramianBalancer, GramianOptions
from accord.balancers.options import check_per_task
from accord.balancers.registry import register
from accord.solvers import Solution


class _ConeBalancer(GramianBalancer):
    """What the two have in common: no task is hurt, and each may be preferred."""

    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        preference: Sequence[float] | None = None,
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        if preference is not None:
            check_per_task(preference, "preference", type(self).__name__, self.num_tasks, least=0.0)
        self.preference = preference

    @property
    def descent(self) -> bool:  # pyrefly: ignore[bad-override]
        """The cone is that of directions that hurt no task."""
        return not self.estimated

    @property
    def equivariant(self) -> bool:
        """A preference belongs to its task's place."""
        return self.preference is None and super().equivariant


@register("upgrad")
class UPGrad(_ConeBalancer):
    """UPGrad: the mean of the gradients, each projected on the cone of directions that hurt no task.

    Every projection is exact. Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        preference: Weights (K,) of the projections in the sum; 1/K each by default.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232.
    """

    reference = "Quinton and Rey, 2024"

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.upgrad``."""
        return solvers.upgrad(gramian, self.preference)


@register("dualproj")
class DualProj(_ConeBalancer):
    """DualProj (GEM): the mean gradient projected on the cone of directions that hurt no task.

    Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        preference: Weights (K,) of the gradients in the mean; 1/K each by default.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840.
    """

    reference = "Lopez-Paz and Ranzato, NeurIPS 2017"

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.dualproj``."""
        return solvers.dualproj(gramian, self.preference)
