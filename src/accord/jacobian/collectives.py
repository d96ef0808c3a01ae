"""The collective operations behind ``reduce``: torch.distributed, flat buffers, nothing else."""

from __future__ import annotations

import gc
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from accord.errors import AccordError, EngineError
from accord.jacobian.storage import Block, Held, Rows, as_block, inner_products

BUCKET_BYTES = 2**25
"""Parameters are sent together until a bucket has this many bytes of rows."""

_gather_single = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
"""One operation by its new name, where there is one: torch 2.13 warns of the old one."""


@contextmanager
def connected(group: Any, what: str) -> Iterator[None]:
    """Turn a failed collective into an EngineError that says what a process can and cannot know about it."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(
            f"jacobian.reduce: {what} over {dist.get_world_size(group)} processes failed on rank "
            f"{dist.get_rank(group)}: another process died, raised an error of its own, or did not come within the "
            f"group's timeout. Look at the other processes' output for the cause [torch: {error}]"
        ) from error


def home(group: Any) -> torch.device:
    """Where small messages of this group must lie."""
    backend = str(dist.get_backend(group))
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in backend else torch.device("cpu")


def all_reduce(reduce: Any, values: Tensor, op: Any = dist.ReduceOp.SUM, groups: Sequence[Any] = ()) -> Tensor:
    """The sum over the group, or over several one after the other, on the device where the values came from."""
    moved = values.detach().clone()
    for group in groups or [reduce.group]:
        moved = moved.to(home(group))
        with connected(group, "a sum"):
            dist.all_reduce(moved, op, group=group)
        reduce.traffic += _ring(2, moved, dist.get_world_size(group))
    return moved.to(values.device)


def agree(reduce: Any, caller: str, error: AccordError | None, facts: Mapping[str, int]) -> None:
    """One small maximum over the group; only if it shows a difference are the reasons exchanged.

    The header has one length whatever the facts, so that processes at different points find out here too.
    """
    place = checksum(f"{caller} {sorted(facts)}")
    code = checksum(repr(sorted(facts.items())))
    header = torch.tensor([error is not None, place, -place, code, -code], dtype=torch.int64)
    most = all_reduce(reduce, header, dist.ReduceOp.MAX, reduce.groups).tolist()
    same_place, same_facts = most[1] == -most[2], most[3] == -most[4]
    if not most[0] and same_place and same_facts:
        return
    said: list[Any] = [None] * reduce.size
    with connected(reduce.group, "an exchange of errors"):
        what = (None if error is None else str(error), caller, dict(facts))
        dist.all_gather_object(said, what, group=reduce.group)
    if error is not None:
        raise error
    failed = [(rank, text) for rank, (text, _, _) in enumerate(said) if text is not None]
    if failed:
        raise EngineError(
            f"{caller}: rank {failed[0][0]} of {reduce.size} raised an error, so that no rank takes this step: "
            f"{failed[0][1]}"
        )
    names = sorted({name for _, _, found in said for name in found})
    told = [("called", [where for _, where, _ in said])]
    told += [(name.replace("_", " "), [str(found.get(name, "-")) for _, _, found in said]) for name in names]
    differing = "; ".join(f"{name}: {', '.join(values)}" for name, values in told if len(set(values)) > 1)
    if not differing:
        raise EngineError(f"{caller}: a rank of another replica raised an error, or does not do the same work")
    raise EngineError(
        f"{caller}: the {reduce.size} ranks do not do the same work. By rank, {differing}. All must balance the same "
        "tasks, in the same order, with the same model, engine, loss scale and balancer"
    )


def checksum(text: str) -> int:
    """A number that differs where texts do."""
    return zlib.crc32(text.encode())


class Scattered(Held):
    """Rows of the joint batch of which each process has one range of columns.

    Args:
        reduce: The group, as a ``MeanRows``.
        rows: This process's rows, one entry a parameter.
        num_tasks: K.
        leaves: What they are the gradients of.
    """

    def __init__(self, reduce: Any, rows: Sequence[Rows], num_tasks: int, leaves: Sequence[Tensor]) -> None:
        self.num_tasks = num_tasks
        self.reduce = reduce
        rows = _agreed(reduce, rows, leaves)
        self.shapes = [leaf.shape for leaf in leaves]
        self.buckets = list(_buckets(rows, num_tasks))
        self.ranges: list[Tensor] = []
        for bucket in self.buckets:
            self.ranges.append(self._scatter([rows[i] for i in bucket]))
            for i in bucket:
                rows[i] = None  # let go as soon as they are sent

    def products(self, other: Held) -> Tensor:
        """This range's part of Σ_p L_p R_pᵀ."""
        others = other.ranges if isinstance(other, Scattered) else other.pieces
        return inner_products(self.ranges, others, self.num_tasks, other.num_tasks)

    def combined(self, weights: Tensor) -> list[Block]:
        """Σ_k w_k row_k: made range by range, then gathered."""
        out: list[Block] = [None] * len(self.shapes)
        for bucket, piece in zip(self.buckets, self.ranges, strict=True):
            sizes = [math.prod(self.shapes[i]) for i in bucket]
            whole = self._gather((weights.to(piece) @ piece)[None])[0, : sum(sizes)]
            for i, part in zip(bucket, whole.split(sizes), strict=True):
                out[i] = part.reshape(self.shapes[i])
        return out

    def blocks(self) -> list[Block]:
        """All of the joint rows, gathered from the ranges."""
        out: list[Block] = [None] * len(self.shapes)
        for bucket, piece in zip(self.buckets, self.ranges, strict=True):
            sizes = [math.prod(self.shapes[i]) for i in bucket]
            whole = self._gather(piece)[:, : sum(sizes)]  # (K, n)
            for i, part in zip(bucket, whole.split(sizes, 1), strict=True):
                out[i] = part.reshape(self.num_tasks, *self.shapes[i])
        return out

    def _scatter(self, rows: Sequence[Rows]) -> Tensor:
        """The mean over the processes of this process's range of columns: (K, n/W)."""
        size, k = self.reduce.size, self.num_tasks
        flat = [_flat(as_block(row)).expand(k, -1) for row in rows]  # type: ignore[arg-type]
        n = sum(block.shape[1] for block in flat)
        width = max(1, -(-n // size))  # where there are no columns, one of padding
        dtype = torch.promote_types(flat[0].dtype, torch.float32)
        ranges = flat[0].new_zeros((size, k, width), dtype=dtype)
        start = 0
        for block in flat:
            for rank in range(start // width, size):
                low, high = max(start, rank * width), min(start + block.shape[1], (rank + 1) * width)
                if low >= high:
                    break
                ranges[rank, :, low - rank * width : high - rank * width] = block[:, low - start : high - start]
            start += block.shape[1]
        received = torch.empty_like(ranges)
        with connected(self.reduce.group, "the exchange of rows"):
            dist.all_to_all_single(received, ranges, group=self.reduce.group)
        self.reduce.traffic += _ring(1, ranges, size)
        return received.sum(0).div_(size)

    def _gather(self, piece: Tensor) -> Tensor:
        """All processes' ranges side by side: (m, n/W) to (m, n) and the padding after it."""
        size = self.reduce.size
        m, width = piece.shape
        whole = piece.new_empty((size * m, width))
        with connected(self.reduce.group, "the gathering of the gradient"):
            _gather_single(whole, piece.contiguous(), group=self.reduce.group)  # type: ignore[misc]
        self.reduce.traffic += _ring(1, whole, size)
        return whole.reshape(size, m, width).transpose(0, 1).reshape(m, -1)


def average(reduce: Any, gradients: Sequence[Block], leaves: Sequence[Tensor]) -> list[Block]:
    """The mean over the processes, in flat buckets; None where no process has a gradient."""
    held = _agreed(reduce, [None if g is None else [_dense(g)] for g in gradients], leaves)
    out: list[Block] = [None] * len(held)
    for bucket in _buckets(held, 1):
        rows = [as_block(held[i]) for i in bucket]
        flat = torch.cat([r.reshape(-1).to(torch.promote_types(r.dtype, torch.float32)) for r in rows])  # type: ignore[union-attr]
        with connected(reduce.group, "the mean of the gradients"):
            dist.all_reduce(flat, group=reduce.group)
        reduce.traffic += _ring(2, flat, reduce.size)
        flat.div_(reduce.size)
        for i, row, part in zip(bucket, rows, flat.split([r.numel() for r in rows]), strict=True):  # type: ignore[union-attr]
            out[i] = part.reshape(row.shape[1:])  # type: ignore[union-attr]
    return out


def sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as FSDP2 and tensor parallelism make them."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def gathered_by_fsdp(tensors: Sequence[Tensor]) -> bool:
    """Whether a plain tensor is among what ``fully_shard`` put in the parameters' places for the forward.

    Nothing on the tensor tells; but FSDP keeps it beside the parameter itself, and one look at all objects finds that.
    """
    composable = sys.modules.get("torch.distributed._composable_state")
    if not getattr(composable, "_module_state_mapping", True):  # no module was ever given to fully_shard
        return False
    wanted = set(map(id, tensors))
    owners = (vars(owner).values() for owner in gc.get_objects() if type(owner).__name__ == "FSDPParam")
    return any(id(value) in wanted for values in owners for value in values)


def mesh_groups(tensor: Any, caller: str) -> tuple[Any, Any]:
    """The group over which a DTensor is sharded, and that of its replicas, for FSDP2's two layouts.

    Raises:
        EngineError: It is laid out otherwise.
    """
    kinds = [type(p).__name__ for p in tensor.placements]
    mesh = tensor.device_mesh
    if sum(kind == "Shard" for kind in kinds) != 1 or not set(kinds) <= {"Shard", "Replicate"} or len(kinds) > 2:
        raise EngineError(
            f"{caller}: a shared parameter of shape {tuple(tensor.shape)} has placements {list(tensor.placements)}; "
            "balancing knows parameters sharded by fully_shard over one dimension of the mesh, with or without replicas"
        )
    dimension = next(i for i, kind in enumerate(kinds) if kind == "Shard")
    others = [mesh.get_group(i) for i in range(mesh.ndim) if i != dimension]
    return mesh.get_group(dimension), others[0] if others else None


def local_part(tensor: Tensor) -> Tensor:
    """What of a tensor this process holds."""
    return tensor.to_local() if sharded(tensor) else tensor  # type: ignore[attr-defined]


def shard_like(leaf: Any, whole: Tensor) -> Tensor:
    """The part of a whole tensor that lies where this process's shard of the leaf does."""
    if not sharded(leaf):
        return whole
    for dimension, placement in enumerate(leaf.placements):
        if placement.is_shard():
            chunks = whole.chunk(leaf.device_mesh.size(dimension), placement.dim)
            rank = leaf.device_mesh.get_local_rank(dimension)
            whole = chunks[rank] if rank < len(chunks) else whole.narrow(placement.dim, 0, 0)
    return whole


def like_leaf(leaf: Any, gradient: Tensor) -> Tensor:
    """This process's part of a gradient in the form of its leaf."""
    if not sharded(leaf) or sharded(gradient):
        return gradient
    kind = type(leaf.data)
    return kind.from_local(
        gradient, leaf.device_mesh, leaf.placements, run_check=False, shape=leaf.shape, stride=leaf.stride()
    )


def _agreed(reduce: Any, rows: Sequence[Rows], leaves: Sequence[Tensor]) -> list[Rows]:
    """Rows with zeros where this process's batch does not reach a leaf, but another one's does.

    Raises:
        EngineError: The processes have the rows of other leaves, or in another order.
    """
    shapes = checksum(repr([tuple(leaf.shape) for leaf in leaves]))
    header = torch.tensor([len(rows), shapes, -len(rows), -shapes], dtype=torch.int64)
    most, least = all_reduce(reduce, header, dist.ReduceOp.MAX).chunk(2)
    same, anyone = torch.equal(most, -least), torch.zeros(0)
    if same and rows:
        seen, probe = torch.tensor([row is not None for row in rows]), _probe(leaves)
        anyone, high, low = all_reduce(reduce, torch.stack([seen.double(), probe, -probe]), dist.ReduceOp.MAX)
        same = bool((high + low <= 1e-3 * torch.maximum(high.abs(), low.abs())).all())
    if not same:
        raise EngineError(
            f"jacobian.reduce: the losses' graphs do not show the same parameters on all {reduce.size} processes (on "
            f"rank {reduce.rank} {len(rows)} of {sum(leaf.numel() for leaf in leaves)} numbers in all), so that "
            "gradients cannot be matched. Where not every batch reaches every head, give all of them, as in "
            "heads=model.heads; lean mode needs the same graph on all processes, so leave it away there"
        )
    return [
        [torch.zeros_like(leaf)] if row is None and reached else row
        for row, reached, leaf in zip(rows, anyone.tolist(), leaves, strict=True)
    ]


def _probe(leaves: Sequence[Tensor]) -> Tensor:
    """One number of each leaf, float64 on the CPU, to know it again by: what was found in a graph has no name."""
    home = leaves[0].device
    numbers = [
        leaf.detach()[tuple(n // 2 for n in leaf.shape)] if leaf.numel() else leaf.new_zeros(()) for leaf in leaves
    ]
    return torch.cat([number.reshape(1).to(home) for number in numbers]).double().cpu().nan_to_num()


def _row(rows: Any) -> Tensor:
    return rows[0] if isinstance(rows, Tensor) else next(row for row in rows if row is not None)


def _dense(gradient: Tensor) -> Tensor:
    return gradient if gradient.layout is torch.strided else gradient.to_dense()


def _flat(block: Tensor) -> Tensor:
    """(K, *shape) as (K, n), for n = 0 too."""
    return block.reshape(len(block), math.prod(block.shape[1:]))


def _buckets(rows: Sequence[Rows], num_tasks: int) -> Iterator[list[int]]:
    """Indices of entries of one kind and device that are sent together, the same on all processes."""
    bucket: list[int] = []
    total, kind = 0, None
    for i, entry in enumerate(rows):
        if entry is None:
            continue
        row = _row(entry)
        size = num_tasks * row.numel() * max(4, row.element_size())  # not of the entry, which may be a stand-in
        if bucket and (total + size > BUCKET_BYTES or kind != (row.dtype, row.device)):
            yield bucket
            bucket, total = [], 0
        bucket.append(i)
        total, kind = total + size, (row.dtype, row.device)
    if bucket:
        yield bucket


def _ring(times: int, tensor: Tensor, size: int) -> int:
    """Bytes one process sends where a buffer of this size passes through it ``times`` times."""
    return times * tensor.numel() * tensor.element_size() * (size - 1) // size
