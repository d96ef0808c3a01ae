"""All tasks at once: one vector-Jacobian product, vectorised over K cotangents."""

from __future__ import annotations

import torch

from accord.errors import OptionError
from accord.jacobian.base import Block, Jacobian
from accord.jacobian.losses import Losses, Shared


class BatchedJacobian(Jacobian):
    """One vmapped backward pass for all tasks, or for ``chunk_size`` of them at a time.

    Every operation of the graph must have a batching rule; where one has none this raises an EngineError, and
    ``sequential`` is the engine to use. It is quicker where operations are small.

    Args:
        losses: K scalars.
        shared: The shared parameters.
        retain_graph: Keep the graph for a later backward.
        chunk_size: Tasks differentiated at a time; all by default. It bounds the memory.
    """

    engine = "batched"

    def __init__(
        self, losses: Losses, shared: Shared, *, retain_graph: bool = False, chunk_size: int | None = None
    ) -> None:
        super().__init__(losses, shared, retain_graph=retain_graph)
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise OptionError(f"jacobian.batched: chunk_size = {chunk_size!r} is not a positive integer")
        self.chunk_size = chunk_size or self.num_tasks

    def _differentiate(self) -> list[Block]:
        stacked = torch.stack(self.losses)  # (K,)
        cotangents = torch.eye(self.num_tasks, dtype=stacked.dtype, device=stacked.device)
        chunks = [
            torch.autograd.grad(
                stacked, self.parameters, part, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
            for part in cotangents.split(self.chunk_size)
        ]
        if len(chunks) == 1:
            return [None if block is None else block.detach() for block in chunks[0]]
        return [_joined(parts) for parts in zip(*chunks, strict=True)]


batched = BatchedJacobian


def _joined(parts: tuple[Block, ...]) -> Block:
    """Chunks of one parameter's rows as a block (K, *shape); every chunk reaches a parameter or none does."""
    present = [part for part in parts if part is not None]
    return torch.cat(present).detach() if present else None
