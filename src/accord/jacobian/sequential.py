"""One vector-Jacobian product per task: any operation, any wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accord.jacobian.collectives import local_part, sharded
from accord.jacobian.losses import hidden_leaves, reached_by
from accord.jacobian.segments import Cotangents
from accord.jacobian.storage import Block, Rows
from accord.jacobian.walking import WalkingJacobian


class SequentialJacobian(WalkingJacobian):
    """K backward passes, one task at a time.

    The heads are differentiated in the same passes, so that no part of the graph is walked more than once a task.
    Where parts of the graph are hidden (reentrant checkpointing, parameters sharded by FSDP2) the passes are real
    backwards whose ``.grad`` is taken away.
    """

    engine = "sequential"
    _head_rows: list[dict[int, Tensor]] | None = None
    _bystanders: tuple[Tensor, ...] = ()
    """Leaves that a view of another Jacobian leaves out, but a real backward writes to."""

    def _differentiate(self) -> list[Rows]:
        self._fits()
        count = len(self.parameters)
        owners = [range(self.num_tasks)] * len(self.heads) if self.by_backward else reached_by(self.losses, self.heads)
        rows: list[Any] = [None] * count
        head_rows: list[dict[int, Tensor]] = [{} for _ in self.heads]
        for k, loss in enumerate(self.losses):
            keep = self.retain_graph or k < self.num_tasks - 1
            cotangent = loss.new_full((), self.scale)
            where = [*range(count), *(count + i for i, tasks in enumerate(owners) if k in tasks)]
            inputs = [self.parameters[i] if i < count else self.heads[i - count] for i in where]
            for i, gradient in zip(where, self._walk([loss], [cotangent], inputs, keep), strict=True):
                if gradient is None:
                    continue
                if i >= count:
                    head_rows[i - count][k] = gradient
                    continue
                if rows[i] is None:
                    rows[i] = [None] * self.num_tasks
                rows[i][k] = _dense(gradient)
        self._head_rows = head_rows
        return rows

    def _find_heads(self) -> tuple[Tensor, ...]:
        found = super()._find_heads()
        if self._given is None and self.by_backward and not any(map(sharded, self.parameters)):
            known = {id(leaf) for leaf in (*self.parameters, *found)}
            found += tuple(p for p in hidden_leaves(self.losses, self._caller) if id(p) not in known)
        return found

    def _walk(
        self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], inputs: Sequence[Tensor], keep: bool
    ) -> list[Block]:
        """One backward pass."""
        if not self.by_backward:
            return list(torch.autograd.grad(outputs, inputs, cotangents, retain_graph=keep, allow_unused=True))
        touched = tuple({id(leaf): leaf for leaf in (*inputs, *self._bystanders)}.values())
        before = [leaf.grad for leaf in touched]
        try:
            for leaf in touched:
                leaf.grad = None
            torch.autograd.backward(outputs, cotangents, retain_graph=keep)
            return [None if leaf.grad is None else _here(leaf, leaf.grad) for leaf in inputs]
        finally:
            for leaf, gradient in zip(touched, before, strict=True):
                leaf.grad = gradient

    def _product(self, weights: Tensor, inputs: Sequence[Tensor], *, keep: bool) -> list[Block]:
        if not self.by_backward:
            return super()._product(weights, inputs, keep=keep)
        everything = (*self.parameters, *self.heads)
        wanted = {id(leaf) for leaf in inputs}
        with self._explained():
            gradients = self._walk(self.losses, self._cotangents(weights), everything, keep)
        return [g for leaf, g in zip(everything, gradients, strict=True) if id(leaf) in wanted]

    def _head_sum(self, weights: Tensor) -> list[Block]:
        """From the stored products where there are any."""
        if self._head_rows is None:
            return super()._head_sum(weights)
        return [weighted(rows, weights) for rows in self._head_rows]

    def head_rows(self) -> list[dict[int, Tensor]]:
        """From the same products as the rows."""
        return super().head_rows() if self._head_rows is None else self._head_rows

    def _view(self) -> Any:
        view = super()._view()
        view._head_rows = None
        if self.by_backward:
            view._bystanders = (*self._bystanders, *self.parameters, *self.heads)
        return view

    def _vjp(
        self, outputs: Sequence[Any], cotangents: Cotangents, inputs: Sequence[Any], tasks: range
    ) -> list[list[Tensor | None]]:
        found: list[list[Tensor | None]] = [[] for _ in inputs]
        for k in tasks:
            here = [
                (output, given[k]) for output, given in zip(outputs, cotangents, strict=True) if given[k] is not None
            ]
            gradients: Sequence[Tensor | None] = [None] * len(inputs)
            if here and inputs:
                where, given = zip(*here, strict=True)
                gradients = torch.autograd.grad(where, inputs, given, retain_graph=True, allow_unused=True)
            for rows, gradient in zip(found, gradients, strict=True):
                rows.append(None if gradient is None else _dense(gradient))
        return found


sequential = SequentialJacobian


def _dense(gradient: Tensor) -> Tensor:
    return gradient if gradient.layout is torch.strided else gradient.to_dense()


def _here(leaf: Tensor, gradient: Tensor) -> Tensor:
    """What this process holds of a gradient: its shard of a sharded one."""
    return local_part(gradient) if sharded(leaf) else gradient


def weighted(rows: dict[int, Tensor], weights: Tensor) -> Block:
    """Σ_k w_k rows[k]; None where there are none."""
    total: Block = None
    for k, gradient in rows.items():
        term = gradient * float(weights[k])
        total = term if total is None else total + term
    return total
