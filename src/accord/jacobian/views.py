"""Jacobians made from others, or from losses alone, without a backward of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accord.jacobian.base import Block, Jacobian, Weights
from accord.jacobian.losses import Losses, gather_losses


class LossesOnly(Jacobian):
    """Losses without shared parameters, for methods that look at losses alone."""

    engine = "losses"

    def __init__(self, losses: Losses) -> None:
        gathered = gather_losses(losses, "balancer(losses)")
        self.losses, self.names, self.values = gathered.tensors, gathered.names, gathered.values
        self.parameters, self.retain_graph, self._heads, self._rows = (), False, (), None

    def check_reach(self) -> None:
        """There is nothing to reach."""

    def _differentiate(self) -> list[Block]:
        return []


class ScaledJacobian(Jacobian):
    """diag(s)·J: the Jacobian of K losses f_k(l_k) with f_k′(l_k) = s_k, from that of the losses themselves.

    Args:
        jacobian: J.
        scale: s, shape (K,).
        values: f_k(l_k), shape (K,), float64 on the CPU.
    """

    def __init__(self, jacobian: Jacobian, scale: Tensor, values: Tensor) -> None:
        self.unscaled = jacobian
        self.scale = scale.double()
        self.values = values
        self.engine = jacobian.engine
        self.losses, self.names, self.parameters = jacobian.losses, jacobian.names, jacobian.parameters
        self.retain_graph = jacobian.retain_graph
        self._rows = None

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The leaves of the losses' graph that are not shared."""
        return self.unscaled.heads

    def rows(self) -> list[Block]:
        """The rows of J, each times its factor."""
        if self._rows is None:
            self._rows = [None if block is None else self._scaled(block) for block in self.unscaled.rows()]
        return self._rows

    def gramian(self) -> Tensor:
        """diag(s)·G·diag(s)."""
        return self.scale[:, None] * self.unscaled.gramian() * self.scale

    def cross_gramian(self, other: Jacobian) -> Tensor:
        """The cross-Gramian with another scaled Jacobian."""
        if not isinstance(other, ScaledJacobian):
            return self.scale[:, None] * self.unscaled.cross_gramian(other)
        return self.scale[:, None] * self.unscaled.cross_gramian(other.unscaled) * other.scale

    def pull(self, weights: Weights) -> list[Block]:
        """Jᵀ(s∘w)."""
        return self.unscaled.pull(self._weights(weights) * self.scale)

    def head_gradients(self, weights: Weights) -> list[Block]:
        """Σ_k s_k w_k ∇l_k for the heads."""
        return self.unscaled.head_gradients(self._weights(weights) * self.scale)

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        """Add the weighted gradients of the scaled losses to ``.grad``."""
        self.unscaled.accumulate(self._weights(weights) * self.scale, self._weights(head_weights) * self.scale)

    def add(self, shared: Sequence[Block], heads: Sequence[Block]) -> None:
        """Add gradients, one per parameter, to ``.grad``."""
        self.unscaled.add(shared, heads)

    def check_reach(self) -> None:
        """As that of the unscaled Jacobian."""
        self.unscaled.check_reach()

    def _scaled(self, block: Tensor) -> Tensor:
        dtype = torch.promote_types(block.dtype, torch.float32)
        return block * self.scale.to(block.device, dtype).reshape(-1, *[1] * (block.ndim - 1))

    def _differentiate(self) -> list[Block]:
        return self.rows()
