"""One vector-Jacobian product per task: any operation, any wrapper."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.jacobian.base import Block, Jacobian, Weights


class SequentialJacobian(Jacobian):
    """K backward passes, one task at a time.

    The heads are differentiated in the same passes, so that no part of the graph is walked more than once a task.
    """

    engine = "sequential"

    def _differentiate(self) -> list[Block]:
        inputs = (*self.parameters, *self.heads)
        rows: list[Block] = [None] * len(self.parameters)
        self._head_rows: list[dict[int, Tensor]] = [{} for _ in self.heads]
        for k, loss in enumerate(self.losses):
            keep = self.retain_graph or k < self.num_tasks - 1
            gradients = torch.autograd.grad(loss, inputs, retain_graph=keep, allow_unused=True)
            for i, gradient in enumerate(gradients):
                if gradient is None:
                    continue
                if i < len(rows):
                    rows[i] = _stored(rows[i], k, gradient, self.num_tasks)
                else:
                    self._head_rows[i - len(rows)][k] = gradient
        return rows

    def head_gradients(self, weights: Weights) -> list[Block]:
        """Σ_k w_k ∇l_k for the heads: from the stored products where there are any."""
        if self._rows is None:
            return super().head_gradients(weights)
        w = self._weights(weights).tolist()
        return [_sum(rows, w) for rows in self._head_rows]


sequential = SequentialJacobian


def _stored(block: Block, k: int, gradient: Tensor, num_tasks: int) -> Tensor:
    """Put row k into a parameter's block, which is made when the first task reaches it."""
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    if block is None:
        block = gradient.new_zeros((num_tasks, *gradient.shape))
    block[k] = gradient
    return block


def _sum(rows: dict[int, Tensor], weights: list[float]) -> Block:
    total: Block = None
    for k, gradient in rows.items():
        term = gradient * weights[k]
        total = term if total is None else total + term
    return total
