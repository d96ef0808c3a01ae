"""Balancers with parameters that the user's optimiser trains: UW, IMTL-L and the hybrid IMTL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from accord import solvers
from accord.balancers.base import Balancer, Heads
from accord.balancers.gramian import GramianBalancer, GramianOptions
from accord.balancers.losses import LossBalancer
from accord.balancers.options import check_finite, warn_option
from accord.balancers.registry import register
from accord.solvers import Solution

NO_MINIMUM = "its objective then has no minimum: the trained scale of the task would grow without bound"
PATIENCE = 100  # first steps without a change of the balancer's parameters before it says so


class Learned(Balancer):
    """Mixed in before the other base: warns once if no optimiser has moved the balancer's parameters yet."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._seen: list[Tensor] = []
        self._still = 0

    def accumulate_own(self, values: Tensor, scale: float = 1.0) -> None:
        """Add to ``.grad`` of the balancer's own parameters."""
        super().accumulate_own(values, scale)
        if not self.training or self._still > PATIENCE:
            return
        now = [parameter.detach().clone() for parameter in self.parameters()]
        if self._seen and any(not torch.equal(a, b) for a, b in zip(now, self._seen, strict=True)):
            self._still = PATIENCE + 1  # an optimiser has them
            return
        self._seen, self._still = now, self._still + 1
        if self._still == PATIENCE and any(p.grad is not None and bool(p.grad.any()) for p in self.parameters()):
            warn_option(
                f"{type(self).__name__}: its parameters have not moved for {PATIENCE} steps; give them to the "
                'optimiser, optimizer.add_param_group({"params": balancer.parameters()})'
            )


@register("uw")
class UW(Learned, LossBalancer):
    """Uncertainty weighting: Σ ½(e^(−s_k) l_k + s_k) with trained log-variances s.

    The balancer has parameters: give them to the optimiser, ``optimizer.add_param_group({"params":
    balancer.parameters()})`` (the published experiments use a learning rate of 0.025 for them). Some published code
    starts at s = −0.5 instead of 0: ``init``.

    Args:
        tasks: The number of tasks, or their names.
        init: Initial log-variance.

    References:
        Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses", CVPR 2018, arXiv:1705.07115.
    """

    reference = "Kendall et al., CVPR 2018"
    refuses_negative = "its objective then has no minimum: the trained variance of the task would fall without bound"

    def __init__(self, tasks: int | Sequence[str], *, init: float = 0.0) -> None:
        super().__init__(tasks)
        check_finite(init, "init", "UW")
        self.init = init
        self.log_variance = nn.Parameter(torch.full((self.num_tasks,), float(init)))

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """½e^(−s)."""
        return 0.5 * np.exp(-self.log_variance.detach().cpu().double().numpy())

    def objective(self, losses: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Σ ½(e^(−s) l + s), with a graph to s."""
        del weights
        s = self.log_variance
        stacked = torch.stack([loss.to(s) for loss in losses])
        return 0.5 * (torch.exp(-s) * stacked + s).sum()

    def own_objective(self, values: Tensor) -> Tensor:
        """Σ ½(e^(−s) l + s) at constant losses."""
        s = self.log_variance
        return 0.5 * (torch.exp(-s) * values.to(s) + s).sum()

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        with torch.no_grad():
            self.log_variance.fill_(float(self.init))


@register("imtl-l")
class IMTLL(Learned, LossBalancer):
    """IMTL-L: Σ e^(s_k) l_k − s_k with trained s, so that all scaled losses tend to 1.

    The balancer has parameters: give them to the optimiser, as with ``UW``.

    Args:
        tasks: The number of tasks, or their names.
        init: Initial s.

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021 (its loss balance).
    """

    reference = "Liu et al., ICLR 2021"
    refuses_negative = NO_MINIMUM

    def __init__(self, tasks: int | Sequence[str], *, init: float = 0.0) -> None:
        super().__init__(tasks)
        check_finite(init, "init", "IMTLL")
        self.init = init
        self.log_scale = nn.Parameter(torch.full((self.num_tasks,), float(init)))

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """e^s."""
        del values
        return _scales(self.log_scale)

    def own_objective(self, values: Tensor) -> Tensor:
        """Σ e^s l − s at constant losses."""
        return _scaled_losses(self.log_scale, values)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        with torch.no_grad():
            self.log_scale.fill_(float(self.init))


@register("imtl")
class IMTL(Learned, GramianBalancer):
    """IMTL, the hybrid: IMTL-G on the shared parameters, IMTL-L on the heads.

    The losses are scaled as e^(s_k) l_k − s_k with trained s; the shared parameters follow the direction with equal
    projections on the scaled losses' gradients, each head its own scaled loss. The balancer has parameters: give them
    to the optimiser, as with ``UW``. With ``features=`` the direction is taken at the shared representation, as in the
    paper.

    Args:
        tasks: The number of tasks, or their names.
        init: Initial s.
        heads: ``"plain"``, which here means e^s times their own gradient, or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021.
    """

    reference = "Liu et al., ICLR 2021"
    refuses_negative = NO_MINIMUM
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        init: float = 0.0,
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_finite(init, "init", "IMTL")
        self.init = init
        self.log_scale = nn.Parameter(torch.full((self.num_tasks,), float(init)))

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.imtl_g`` on the gradients of the scaled losses."""
        scale = _scales(self.log_scale)
        relative = scale / scale.max()
        solution = solvers.imtl_g(gramian * relative * relative[:, None])
        return replace(solution, weights=solution.weights * scale)

    def weigh_heads(self, solution: Solution, values: np.ndarray) -> np.ndarray:
        """e^s, or the shared gradients' weights; a task without a shared gradient trains its head with e^s."""
        scale = _scales(self.log_scale)
        heads = scale if self.heads == "plain" else solution.weights.copy()
        heads[list(solution.zero_rows)] = scale[list(solution.zero_rows)]
        return heads

    def own_objective(self, values: Tensor) -> Tensor:
        """Σ e^s l − s at constant losses."""
        return _scaled_losses(self.log_scale, values)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        with torch.no_grad():
            self.log_scale.fill_(float(self.init))


def _scales(log_scale: Tensor) -> np.ndarray:
    return np.exp(log_scale.detach().cpu().double().numpy())


def _scaled_losses(log_scale: Tensor, values: Tensor) -> Tensor:
    return (log_scale.exp() * values.to(log_scale) - log_scale).sum()
