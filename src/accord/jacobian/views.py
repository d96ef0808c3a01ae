"""Jacobians made from others, or from losses alone, without a backward of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accord.errors import AccordError
from accord.jacobian.base import Jacobian, Weights
from accord.jacobian.collectives import checksum
from accord.jacobian.losses import Losses, check_finite, gather_losses
from accord.jacobian.reduce import Reduce, choose
from accord.jacobian.scaling import check_scale
from accord.jacobian.storage import Block, Rows, as_block


class LossesOnly(Jacobian):
    """Losses without shared parameters, for methods that look at losses alone."""

    engine = "losses"

    def __init__(self, losses: Losses, *, scale: float | None = None, reduce: Reduce | str = "auto") -> None:
        self.parameters, self.retain_graph, self._heads, self._held = (), False, (), None
        self.scaled, self.scale = scale is not None, check_scale("balancer(losses)", scale) or 1.0
        self.reduce = choose(reduce, None, (), "balancer(losses)")
        error, tasks, values = None, 0, torch.zeros(0)
        try:
            gathered = gather_losses(losses, "balancer(losses)")
            self.losses, self.names, values = gathered.tensors, gathered.names, gathered.values
            tasks = len(values)
        except AccordError as caught:
            error = caught
        self.reduce.agree("balancer(losses)", error, tasks=tasks, scale=checksum(repr(self.scale)))
        self.values = self.reduce.mean(values)
        if scale is None:
            check_finite(self.values, self.names, "balancer(losses)")

    def check_reach(self) -> None:
        """There is nothing to reach."""

    def _differentiate(self) -> list[Rows]:
        return []


class ScaledJacobian(Jacobian):
    """diag(s)·J: the Jacobian of K losses f_k(l_k) with f_k′(l_k) = s_k, from that of the losses themselves.

    Args:
        jacobian: J.
        factors: s, shape (K,).
        values: f_k(l_k), shape (K,), float64 on the CPU.
    """

    def __init__(self, jacobian: Jacobian, factors: Tensor, values: Tensor) -> None:
        self.unscaled = jacobian
        self.factors = factors.double()
        self.values = values
        self.engine, self.why, self.wanted = jacobian.engine, jacobian.why, jacobian.wanted
        self.losses, self.names, self.parameters = jacobian.losses, jacobian.names, jacobian.parameters
        self.parameter_names, self.retain_graph = jacobian.parameter_names, jacobian.retain_graph
        self._held = None
        self.reduce, self.scale, self.scaled = jacobian.reduce, jacobian.scale, jacobian.scaled
        if jacobian.part is not None:
            part, own = jacobian.part, self.factors  # not self: what is kept alive by itself keeps the graph alive
            self.part = lambda draw: ScaledJacobian(found := part(draw), own, own * found.values)

    @property
    def num_tasks(self) -> int:
        """K."""
        return self.unscaled.num_tasks

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The leaves of the losses' graph that are not shared."""
        return self.unscaled.heads

    @property
    def label(self) -> str:
        """As that of the unscaled Jacobian."""
        return self.unscaled.label

    @property
    def extra_cost(self) -> float:
        """As that of the unscaled Jacobian."""
        return self.unscaled.extra_cost

    def rows(self) -> list[Block]:
        """The rows of J, each times its factor."""
        return [None if block is None else self._scaled(block) for block in self.unscaled.rows()]

    def gramian(self) -> Tensor:
        """diag(s)·G·diag(s)."""
        return self.factors[:, None] * self.unscaled.gramian() * self.factors

    def cross_gramian(self, other: Jacobian) -> Tensor:
        """The cross-Gramian with another scaled Jacobian."""
        if not isinstance(other, ScaledJacobian):
            return self.factors[:, None] * self.unscaled.cross_gramian(other)
        return self.factors[:, None] * self.unscaled.cross_gramian(other.unscaled) * other.factors

    def pull(self, weights: Weights) -> list[Block]:
        """Jᵀ(s∘w)."""
        return self.unscaled.pull(self._weights(weights) * self.factors)

    def head_gradients(self, weights: Weights) -> list[Block]:
        """Σ_k s_k w_k ∇l_k for the heads."""
        return self.unscaled.head_gradients(self._weights(weights) * self.factors)

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        """Add the weighted gradients of the scaled losses to ``.grad``."""
        self.unscaled.accumulate(self._weights(weights) * self.factors, self._weights(head_weights) * self.factors)

    def add(self, shared: Sequence[Block], heads: Sequence[Block]) -> None:
        """Add gradients, one per parameter, to ``.grad``."""
        self.unscaled.add(shared, heads)

    def products(self, left: Sequence[Block], right: Sequence[Block]) -> Tensor:
        """LRᵀ of two sets of rows."""
        return self.unscaled.products(left, right)

    def norm(self, gradient: Sequence[Block]) -> float:
        """The Euclidean norm of a gradient."""
        return self.unscaled.norm(gradient)

    def shape(self, index: int) -> torch.Size:
        """The shape of a shared parameter, whole."""
        return self.unscaled.shape(index)

    def shard(self, index: int, whole: Tensor) -> Tensor:
        """What of a tensor, shaped like a shared parameter, belongs to this process's rows."""
        return self.unscaled.shard(index, whole)

    def finite(self) -> bool:
        """Whether ``.grad`` of all that a step writes to is finite."""
        return self.unscaled.finite()

    def restricted(self, indices: Sequence[int]) -> Jacobian:
        """The same of some of the shared parameters."""
        return ScaledJacobian(self.unscaled.restricted(indices), self.factors, self.values)

    def mixed(self, matrix: Tensor) -> Jacobian:
        """The Jacobian of combinations of the scaled losses."""
        mixture = self.unscaled.mixed(matrix * self.factors)
        mixture.values = matrix.double() @ self.values
        return mixture

    def check_reach(self) -> None:
        """As that of the unscaled Jacobian."""
        self.unscaled.check_reach()

    def _scaled(self, block: Tensor) -> Tensor:
        dtype = torch.promote_types(block.dtype, torch.float32)
        return block * self.factors.to(block.device, dtype).reshape(-1, *[1] * (block.ndim - 1))

    def local_rows(self) -> list[Rows]:
        """The rows on this process's batch alone."""
        blocks = [as_block(rows) for rows in self.unscaled.local_rows()]
        return [None if block is None else self._scaled(block) for block in blocks]

    def head_rows(self) -> list[dict[int, Tensor]]:
        """For each head the gradients of the tasks that reach it."""
        found = self.unscaled.head_rows()
        return [{k: gradient * float(self.factors[k]) for k, gradient in rows.items()} for rows in found]

    def _differentiate(self) -> list[Rows]:
        return self.local_rows()
