"""K rows of each parameter as an engine produced them, and the two things that are done with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Block = Tensor | None
"""The rows of one parameter, shape (K, *parameter.shape), or None where no loss reaches it."""

Rows = Tensor | list[Tensor | None] | None
"""The same before anything is copied: a block, or K tensors of the parameter's shape, None where a task misses it."""

WINDOW = {"cpu": 2**17}
"""Numbers converted to float64 at a time: on a CPU few enough to stay in its cache."""


FEW = 24
"""Up to so many rows, NumPy multiplies them."""


class Held:
    """The rows that one process holds, whole.

    Args:
        rows: One entry a parameter.
        num_tasks: K.
    """

    def __init__(self, rows: Sequence[Rows], num_tasks: int) -> None:
        self.pieces = list(rows)
        self.num_tasks = num_tasks

    def products(self, other: Held) -> Tensor:
        """Σ_p L_p R_pᵀ, shape (K, K′), float64 on the CPU: this process's part of it."""
        return inner_products(self.pieces, other.pieces, self.num_tasks, other.num_tasks)

    def combined(self, weights: Tensor) -> list[Block]:
        """Σ_k w_k row_k in at least float32, one tensor a parameter, in memory of its own."""
        return [None if rows is None else combine(rows, weights) for rows in self.pieces]

    def blocks(self) -> list[Block]:
        """One block (K, *shape) a parameter; from now on the rows are stored so."""
        self.pieces = [as_block(rows) for rows in self.pieces]
        return list(self.pieces)  # type: ignore[arg-type]


def as_block(rows: Rows) -> Block:
    """Shape (K, *shape), with zeros where a task misses the parameter."""
    if rows is None or isinstance(rows, Tensor):
        return rows
    like = next(row for row in rows if row is not None)
    block = like.new_empty((len(rows), *like.shape))
    for k, row in enumerate(rows):
        block[k] = 0.0 if row is None else row
        rows[k] = None  # each row is let go once it is copied, so that at no time there are two of all
    return block


def inner_products(left: Sequence[Rows], right: Sequence[Rows], k: int, other_k: int | None = None) -> Tensor:
    """Σ_p L_p R_pᵀ, shape (K, K′), on the CPU.

    Accumulated in float64 (float32 on devices without it), because nearly parallel gradients differ only in the
    last digits of float32; a window of columns at a time, so that no second copy of the rows is made.
    """
    other_k = k if other_k is None else other_k
    totals: dict[torch.device, Tensor] = {}
    for a, b in zip(left, right, strict=True):
        if a is None or b is None:
            continue
        first, second = _flat(a), _flat(b) if b is not a else None
        device, n = first[0].device, first[0].numel()
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if device not in totals:
            totals[device] = torch.zeros(k, other_k, dtype=dtype, device=device)
        width = max(1, min(n, WINDOW.get(device.type, 2**24) // max(k, other_k)))  # shards may be empty
        here = torch.empty(k, width, dtype=dtype, device=device)
        there = here if second is None else torch.empty(other_k, width, dtype=dtype, device=device)
        product = _few if device.type == "cpu" and k <= FEW else torch.Tensor.addmm_
        for start in range(0, n, width):
            x = _window(first, start, here)  # (K, width)
            y = x if second is None else _window(second, start, there)
            product(totals[device], x, y.T)
    return sum((total.cpu().double() for total in totals.values()), torch.zeros(k, other_k, dtype=torch.float64))


def combine(rows: Tensor | list[Tensor | None], weights: Tensor) -> Tensor:
    """Σ_k w_k row_k in at least float32, shape of the parameter."""
    if isinstance(rows, Tensor):
        dtype = torch.promote_types(rows.dtype, torch.float32)
        w = weights.to(device=rows.device, dtype=dtype)
        return (w @ rows.reshape(len(w), -1).to(dtype)).reshape(rows.shape[1:])
    total: Tensor | None = None
    for row, weight in zip(rows, weights.tolist(), strict=True):
        if row is not None:
            row = row.to(torch.promote_types(row.dtype, torch.float32))
            total = row * weight if total is None else total.add_(row, alpha=weight)
    assert total is not None  # a list holds at least one row, or it would be None
    return total


def mixture(matrix: Tensor, block: Tensor) -> Tensor:
    """The rows of combinations of the losses, (M, *shape), from coefficients (M, K) and a block (K, *shape)."""
    flat = block.reshape(len(block), -1)
    return (matrix.to(flat) @ flat).reshape(len(matrix), *block.shape[1:])


def nbytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of one gradient of these tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _flat(rows: Tensor | list[Tensor | None]) -> Sequence[Tensor]:
    """The rows flat: a matrix (K, n), or K vectors."""
    if isinstance(rows, Tensor):
        return rows.reshape(len(rows), -1)  # type: ignore[return-value]
    like = next(row for row in rows if row is not None)
    zero = like.new_zeros(()).expand(like.numel())
    return [zero if row is None else row.reshape(-1) for row in rows]


def _window(flat: Sequence[Tensor], start: int, buffer: Tensor) -> Tensor:
    """Columns of the rows from ``start`` on, as many as the buffer has, or are left."""
    part = buffer[:, : flat[0].numel() - start]
    stop = start + part.shape[1]
    if isinstance(flat, Tensor):
        return part.copy_(flat[:, start:stop])
    for k, row in enumerate(flat):
        part[k].copy_(row[start:stop])
    return part


def _few(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Total += xy for few long rows on a CPU: NumPy's product is twice as quick there as torch's.

    In two parts, because NumPy has a slower routine for a matrix and its own transpose.
    """
    out, left, right = total.numpy(), x.numpy(), y.numpy()
    half = len(left) // 2
    with np.errstate(all="ignore"):  # what is not finite shows in the sum
        out[:half] += left[:half] @ right
        out[half:] += left[half:] @ right
