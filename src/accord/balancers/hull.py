"""MGDA and CAGrad: directions found on the convex hull of the task gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from accord import solvers
from accord.balancers.base import Heads
from accord.balancers.gramian import GramianBalancer, GramianOptions, times_k
from accord.balancers.options import check_choice, check_flag, check_number, require_positive
from accord.balancers.registry import register
from accord.errors import OptionError
from accord.solvers import Solution

SMALLEST = -300.0  # logarithm of the least normalised norm beside the largest: its square is still a number


@register("mgda")
class MGDA(GramianBalancer):
    """MGDA: the minimum-norm point of the convex hull of the task gradients.

    The weights sum to 1, as in the papers; the code of the Nash-MTL experiments multiplies them by K
    (``times_k``). Heads are weighted, as in Sener and Koltun's code. That code can also normalise the gradients before
    it looks for the point of least norm, by their norms (``normalization="l2"``), by the losses (``"loss"``) or by
    both (``"loss+"``, its choice for CelebA); as there, the weights found are then those of the gradients as they are.

    Args:
        tasks: The number of tasks, or their names.
        normalization: ``"none"``, ``"l2"``, ``"loss"`` or ``"loss+"``.
        times_k: Multiply the weights by K.
        heads: ``"weighted"`` or ``"plain"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, arXiv:1810.04650.
    """

    reference = "Sener and Koltun, NeurIPS 2018"
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        normalization: str = "none",
        times_k: bool = False,
        heads: Heads = "weighted",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_choice(normalization, ("none", "l2", "loss", "loss+"), "normalization", "MGDA")
        check_flag(times_k, "times_k", "MGDA")
        self.normalization = normalization
        self.times_k = times_k

    @property
    def descent(self) -> bool:  # pyrefly: ignore[bad-override]
        """Only the gradients that were normalised are sure to be descended."""
        return self.normalization == "none" and not self.estimated

    def weigh(self, gramian: np.ndarray, values: np.ndarray) -> Solution:
        """``accord.solvers.mgda`` on the normalised gradients."""
        if self.normalization == "none":
            return times_k(self.solve(gramian), self.times_k)
        norms = np.sqrt(np.diagonal(gramian))
        live = norms > 0.0
        norms = np.where(live, norms, 1.0)
        sizes = np.zeros(len(values)) if self.normalization in ("l2", "loss+") else np.log(norms)
        if self.normalization in ("loss", "loss+"):
            why = f"normalization={self.normalization!r} divides by it"
            sizes = sizes - np.log(require_positive(values, self.tasks, "MGDA", why))
        largest = sizes[live].max() if live.any() else 0.0
        sizes = np.where(live, np.exp(np.clip(sizes - largest, SMALLEST, 0.0)), 0.0)
        return times_k(self.solve(gramian / norms / norms[:, None] * sizes * sizes[:, None]), self.times_k)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.mgda``."""
        return solvers.mgda(gramian)


@register("cagrad")
class CAGrad(GramianBalancer):
    """CAGrad: the direction within c‖g0‖ of the mean gradient that helps the worst-off task most.

    The published code divides it by 1 + c² (``rescale=1``) and multiplies it by K (``times_k``) in its supervised
    experiments; heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        c: Radius relative to ‖g0‖, at least 0; 0.4 in the supervised experiments, 0.9 on MT10.
        rescale: 0 (none), 1 (by 1 + c²) or 2 (by 1 + c).
        times_k: Multiply the shared gradient by K.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, arXiv:2110.14048.
    """

    reference = "Liu et al., NeurIPS 2021"
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        c: float = 0.4,
        rescale: int = 0,
        times_k: bool = False,
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_number(c, "c", "CAGrad", "the paper uses 0.4", least=0.0, infinite=True)
        if math.isinf(c):
            raise OptionError("CAGrad: c is infinite; for the max-min direction use MGDA")
        check_choice(rescale, (0, 1, 2), "rescale", "CAGrad")
        check_flag(times_k, "times_k", "CAGrad")
        self.c = c
        self.rescale = rescale
        self.times_k = times_k

    @property
    def descent(self) -> bool:  # pyrefly: ignore[bad-override]
        """With c of at least 1 the ball holds d = 0, so that the worst-off task cannot lose."""
        return self.c >= 1 and not self.estimated

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.cagrad``."""
        return times_k(solvers.cagrad(gramian, self.c, self.rescale), self.times_k)
