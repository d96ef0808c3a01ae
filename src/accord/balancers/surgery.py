"""PCGrad and GradVac: each gradient changed where it disagrees with another, then summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch

from accord import solvers
from accord.balancers.base import Heads
from accord.balancers.gramian import GramianBalancer, GramianOptions
from accord.balancers.options import check_between, check_choice
from accord.balancers.randomness import Seeded
from accord.balancers.registry import register
from accord.errors import OptionError
from accord.solvers import Solution


@register("pcgrad")
class PCGrad(Seeded, GramianBalancer):
    """PCGrad: each gradient projected off those it conflicts with, in random order, then summed.

    Some published code takes the mean (``reduction="mean"``). The order is drawn from a generator of the
    balancer's own. Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        reduction: ``"sum"`` or ``"mean"`` of the projected gradients.
        seed: Of the generator that draws the order.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782.
    """

    reference = "Yu et al., NeurIPS 2020"
    homogeneity = 0.0
    equivariant = False

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        reduction: str = "sum",
        seed: int = 0,
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_choice(reduction, ("sum", "mean"), "reduction", "PCGrad")
        self.reduction = reduction
        self.seed_with(seed)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.pcgrad`` with a random order."""
        return reduced(solvers.pcgrad(gramian, self.draw_order()), self.reduction)


@register("gradvac")
class GradVac(Seeded, GramianBalancer):
    """GradVac: each gradient drawn towards those it is less aligned with than they have been so far.

    Where the cosine of two gradients lies below their target, an exponential moving average of the cosines met, one
    gradient receives so much of the other that it reaches the target. Targets start at 0, so that the first step is
    PCGrad's. As in the paper's Algorithm 1 every cosine met enters the average (some published code averages only
    those below their target).

    Args:
        tasks: The number of tasks, or their names.
        beta: Share of the new cosine in the average; 0.5 in other implementations.
        reduction: ``"sum"`` or ``"mean"`` of the changed gradients.
        seed: Of the generator that draws the order.
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Wang et al., "Gradient Vaccine", ICLR 2021, arXiv:2010.05874, Algorithm 1.
    """

    reference = "Wang et al., ICLR 2021"
    homogeneity = 0.0
    equivariant = False

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        beta: float = 0.01,
        reduction: str = "sum",
        seed: int = 0,
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        if self.gramian_tasks is not None:
            raise OptionError(
                f"GradVac: gramian_tasks = {self.gramian_tasks!r} gives the tasks not drawn one common row, whose "
                "cosines of 1 would enter the targets; use gramian_batch or gramian_part, or another method"
            )
        check_between(beta, "beta", "GradVac", 0.0, 1.0)
        check_choice(reduction, ("sum", "mean"), "reduction", "GradVac")
        self.beta = beta
        self.reduction = reduction
        self.seed_with(seed)
        self._targets = np.zeros((self.num_tasks, self.num_tasks))

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.vaccinate`` with a random order; then the cosines met move the targets."""
        solution, observed = solvers.vaccinate(gramian, self._targets, self.draw_order())
        self._targets = self._targets + self.beta * (observed - self._targets)
        return reduced(solution, self.reduction)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._targets = np.zeros((self.num_tasks, self.num_tasks))

    def own_state(self) -> dict[str, Any]:
        """The targets (K, K) beside the rest."""
        return {**super().own_state(), "targets": torch.from_numpy(self._targets.copy())}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the targets beside the rest."""
        super().load_own_state(state)
        self._targets = state["targets"].numpy().copy()


def reduced(solution: Solution, reduction: str) -> Solution:
    """The sum as it is, or divided by K."""
    return replace(solution, weights=solution.weights / len(solution.weights)) if reduction == "mean" else solution
