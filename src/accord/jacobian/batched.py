"""All tasks at once: one vector-Jacobian product, vectorised over K cotangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accord.errors import EngineError, OptionError
from accord.jacobian.losses import Losses, Shared
from accord.jacobian.reduce import Reduce
from accord.jacobian.segments import Cotangents, Graph
from accord.jacobian.storage import Block, Rows, nbytes
from accord.jacobian.walking import WalkingJacobian


class BatchedJacobian(WalkingJacobian):
    """One vmapped backward pass for all tasks, or for ``chunk_size`` of them at a time.

    Every operation of the graph must have a batching rule; where one has none this raises an EngineError, and
    ``sequential`` is the engine to use. It is quicker where operations are small.

    Args:
        losses: K scalars.
        shared: The shared parameters.
        chunk_size: Tasks differentiated at a time, all by default; as many gradients of activations are alive at once.
        lean: As in ``WalkingJacobian``.
        memory: As in ``WalkingJacobian``.
        heads: As in ``Jacobian``.
        retain_graph: As in ``Jacobian``.
        scale: As in ``Jacobian``.
        reduce: As in ``Jacobian``.
    """

    engine = "batched"

    def __init__(
        self,
        losses: Losses,
        shared: Shared,
        *,
        chunk_size: int | None = None,
        lean: bool = False,
        memory: float | None = None,
        heads: Shared | None = None,
        retain_graph: bool = False,
        scale: float | None = None,
        reduce: Reduce | str = "auto",
    ) -> None:
        if chunk_size is not None and (
            isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1
        ):
            raise OptionError(f"jacobian.{self.engine}: chunk_size = {chunk_size!r} is not a positive integer")
        self.chunk_size = chunk_size
        super().__init__(
            losses, shared, lean=lean, memory=memory, heads=heads, retain_graph=retain_graph, scale=scale, reduce=reduce
        )

    def _differentiate(self) -> list[Rows]:
        chunk = self.chunk_size or self.num_tasks
        if chunk >= self.num_tasks:
            self._fits()
        elif self.memory is not None:  # a chunk, beside all rows
            chunk = min(chunk, 1 + self._fits(in_flight=1) // max(1, nbytes(self.parameters)))
        cotangents: Cotangents = [
            [loss.new_full((), self.scale) if i == k else None for k in range(self.num_tasks)]
            for i, loss in enumerate(self.losses)
        ]
        outputs: Sequence[Any] = self.losses
        if not self.by_backward:
            first, *rest = Graph(self.losses, self.parameters).segments(nbytes(self.parameters))
            if rest and not first.leaves:
                outputs, cotangents = first.cut, self._vjp(self.losses, cotangents, first.cut, range(self.num_tasks))
        blocks: list[Block] = [None] * len(self.parameters)
        for start in range(0, self.num_tasks, chunk):
            tasks = range(start, min(self.num_tasks, start + chunk))
            for i, part in enumerate(self._vmapped(outputs, cotangents, self.parameters, tasks)):
                if part is None:
                    continue
                if len(tasks) == self.num_tasks:
                    blocks[i] = part.detach()
                    continue
                if blocks[i] is None:
                    blocks[i] = part.new_zeros((self.num_tasks, *part.shape[1:]))
                blocks[i][tasks.start : tasks.stop] = part  # type: ignore[index]
        return blocks  # type: ignore[return-value]

    def _vjp(
        self, outputs: Sequence[Any], cotangents: Cotangents, inputs: Sequence[Any], tasks: range
    ) -> list[list[Tensor | None]]:
        found: list[list[Tensor | None]] = [[] for _ in inputs]
        if outputs is self.losses and not any(isinstance(entry, Tensor) for entry in inputs):
            for k in tasks:  # through the heads one by one: each task has its own, and zeros for the others'
                ways = torch.autograd.grad(
                    self.losses[k], inputs, cotangents[k][k], retain_graph=True, allow_unused=True
                )
                for rows, gradient in zip(found, ways, strict=True):
                    rows.append(gradient)
            return found
        chunk = self.chunk_size or len(tasks)
        for first in range(tasks.start, tasks.stop, chunk):
            some = range(first, min(tasks.stop, first + chunk))
            for rows, part in zip(found, self._vmapped(outputs, cotangents, inputs, some), strict=True):
                rows += [None] * len(some) if part is None else list(part.unbind())
        return found

    def _vmapped(
        self, outputs: Sequence[Any], cotangents: Cotangents, inputs: Sequence[Any], tasks: range
    ) -> list[Tensor | None]:
        """(len(tasks), *shape) for each of the inputs."""
        if self.by_backward:
            raise EngineError(
                f"{self._caller}: reentrant activation checkpointing and sharded parameters need real backwards, one a "
                "task; use engine='sequential'"
            )
        where, given = [], []
        for output, rows in zip(outputs, cotangents, strict=True):
            some = [rows[k] for k in tasks]
            like = next((row for row in some if row is not None), None)
            if like is not None:
                where.append(output)
                given.append(torch.stack([torch.zeros_like(like) if row is None else row for row in some]))
        if not where or not inputs:
            return [None] * len(inputs)
        found = torch.autograd.grad(where, inputs, given, retain_graph=True, allow_unused=True, is_grads_batched=True)
        return list(found)


batched = BatchedJacobian
