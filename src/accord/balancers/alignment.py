"""IMTL-G, Aligned-MTL and ConFIG: directions that treat all tasks' gradients alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np

from accord import solvers
from accord.balancers.base import Heads
from accord.balancers.gramian import GramianBalancer, GramianOptions
from accord.balancers.options import check_choice
from accord.balancers.registry import register
from accord.solvers import Solution


@register("imtl-g")
class IMTLG(GramianBalancer):
    """IMTL-G: the direction with equal projections on all task gradients; weights sum to 1 and may be negative.

    With ``shared=`` it is taken on the shared parameters' gradients, as in the published code; with ``features=`` at
    the shared representation, as in the paper. Heads are weighted.

    Args:
        tasks: The number of tasks, or their names.
        heads: ``"weighted"`` or ``"plain"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021.
    """

    reference = "Liu et al., ICLR 2021"
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        heads: Heads = "weighted",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.imtl_g``."""
        return solvers.imtl_g(gramian)


@register("aligned-mtl")
class AlignedMTL(GramianBalancer):
    """Aligned-MTL: the sum of the gradients after they are made orthogonal and equal in length.

    The principal components of the gradients keep their directions and get one length: that of the least
    (``scale="min"``), the median, or the root mean square of the kept components. Some libraries take the mean in the
    place of the sum (``reduction="mean"``). Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        scale: ``"min"``, ``"median"`` (the lower one of two) or ``"rmse"``.
        reduction: ``"sum"`` or ``"mean"`` of the aligned gradients.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023, arXiv:2305.19000.
    """

    reference = "Senushkin et al., CVPR 2023"
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        scale: str = "min",
        reduction: str = "sum",
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_choice(scale, ("min", "median", "rmse"), "scale", "AlignedMTL")
        check_choice(reduction, ("sum", "mean"), "reduction", "AlignedMTL")
        self.scale = scale
        self.reduction = reduction

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.aligned_mtl``."""
        solution = solvers.aligned_mtl(gramian, self.scale)
        return replace(solution, weights=solution.weights / self.num_tasks) if self.reduction == "mean" else solution


@register("config")
class ConFIG(GramianBalancer):
    """ConFIG: the direction with equal cosines to all gradients, as long as its projections on them add up to.

    The direction is IMTL-G's where the gradients are independent; where they are not it is the least-squares one.
    Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Liu et al., "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025,
        arXiv:2408.11104.
    """

    reference = "Liu et al., ICLR 2025"
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.config``."""
        return solvers.config(gramian)
