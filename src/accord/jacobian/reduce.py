"""How the gradients of several processes become those of the joint batch: a value, chosen from how the model is held.

All values have the same five verbs. ``hold`` takes the rows of this process and keeps its part of the joint ones;
``total`` sums a number over the parts; ``mean`` averages what every process has its own of, such as losses;
``average`` does so for a list of gradients; ``agree`` lets all processes fail together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from accord.errors import AccordError, EngineError
from accord.jacobian import collectives
from accord.jacobian.collectives import sharded
from accord.jacobian.storage import Block, Held, Rows

Found = TypeVar("Found")


class Reduce:
    """One process, or several that have nothing to do with each other: nothing is communicated."""

    size = 1
    rank = 0
    traffic = 0
    """Bytes that this process has sent so far."""

    def hold(self, rows: Sequence[Rows], num_tasks: int, leaves: Sequence[Tensor]) -> Held:
        """Keep this process's part of the joint rows."""
        return Held(rows, num_tasks)

    def total(self, part: Tensor) -> Tensor:
        """The sum of the processes' parts."""
        return part

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes' batches."""
        return values

    def average(self, gradients: list[Block], leaves: Sequence[Tensor]) -> list[Block]:
        """The mean over the processes' batches, of one gradient a leaf."""
        return gradients

    def agree(self, caller: str, error: AccordError | None, **facts: int) -> None:
        """Raise on every process if any has an error, or if they differ in a fact.

        Raises:
            AccordError: This process's own error.
            EngineError: That of another one, or a fact on which they differ.
        """
        if error is not None:
            raise error

    def attempt(self, caller: str, call: Callable[[], Found]) -> Found:
        """What a computation of this process found, unless it failed on any: before others wait for it in vain."""
        found: list[Found] = []
        error: AccordError | None = None
        try:
            found.append(call())
        except AccordError as caught:
            error = caught
        self.agree(caller, error)
        return found[0]

    @property
    def parts(self) -> bool:
        """Whether gradients of shared parameters are pieces that only together make the gradient."""
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Local(Reduce):
    """Nothing is communicated: each process balances for itself."""


class _Group(Reduce):
    """What both ways over a process group have in common."""

    def __init__(self, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise EngineError(
                f"jacobian.{type(self).__name__}: there is no process group; call torch.distributed.init_process_group "
                "first (torchrun sets up what it needs), or leave reduce away on a single process"
            )
        self.group = dist.group.WORLD if group is None else group
        self.size = dist.get_world_size(self.group)
        self.rank = dist.get_rank(self.group)
        if self.rank < 0:
            raise EngineError(f"jacobian.{type(self).__name__}: this process is not in the group that was given")
        self.groups: tuple[Any, ...] = (self.group,)
        self.traffic = 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes' batches: what DistributedDataParallel takes the gradients' mean by."""
        return self.sum(values) / self.size

    def total(self, part: Tensor) -> Tensor:
        """The sum of the processes' parts."""
        return self.sum(part)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the group."""
        return collectives.all_reduce(self, values)

    def agree(self, caller: str, error: AccordError | None, **facts: int) -> None:
        """Raise on every process if any has an error, or if they differ in a fact."""
        collectives.agree(self, caller, error, facts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(processes={self.size})"


class MeanRows(_Group):
    """Every process has the whole model and its own part of the batch, as under DistributedDataParallel.

    Row k of the joint batch is the mean of the processes' rows. Their Gramian needs the products of rows of different
    processes, so averaging the processes' Gramians is wrong. Here each process receives one range of columns of all
    rows (K·P numbers in all), multiplies there, and the K×K sums are added: exact. The weighted gradient is made range
    by range and gathered (P), or, where no rows are kept, averaged as usual (2P).

    Args:
        group: The process group; all processes by default.
    """

    def hold(self, rows: Sequence[Rows], num_tasks: int, leaves: Sequence[Tensor]) -> Held:
        """Exchange the rows so that this process has one range of columns of the joint ones."""
        return collectives.Scattered(self, rows, num_tasks, leaves)

    def average(self, gradients: list[Block], leaves: Sequence[Tensor]) -> list[Block]:
        """The mean over the processes' batches; None where no process has a gradient."""
        return collectives.average(self, gradients, leaves)


class SumShards(_Group):
    """Every process has one shard of each parameter, as under ``torch.distributed.fsdp.fully_shard`` (FSDP2).

    FSDP averages the gradients itself and leaves each process its shard of them, so the Gramian is the sum of the
    shards' and nothing else moves.

    Args:
        group: The process group over which parameters are sharded.
        replicas: The group of the processes that have the same shard, in hybrid sharding.
    """

    def __init__(self, group: Any = None, replicas: Any = None) -> None:
        super().__init__(group)
        self.groups = (self.group,) if replicas is None else (self.group, replicas)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes' batches."""
        batches = math.prod(dist.get_world_size(group) for group in self.groups)
        return collectives.all_reduce(self, values, groups=self.groups) / batches

    @property
    def parts(self) -> bool:
        """A process's gradient is a shard."""
        return True

    def average(self, gradients: list[Block], leaves: Sequence[Tensor]) -> list[Block]:
        """FSDP has done it for the leaves that it shards; the others' mean is taken here."""
        whole = [i for i, leaf in enumerate(leaves) if not sharded(leaf)]
        out = list(gradients)
        for group in self.groups if whole else ():
            over = _Over(group)
            found = collectives.average(over, [out[i] for i in whole], [leaves[i] for i in whole])
            self.traffic += over.traffic
            for i, gradient in zip(whole, found, strict=True):
                out[i] = gradient
        return out


class _Over(_Group):
    """A group, for a mean."""


class SumSamples(MeanRows):
    """Rows at a representation: every process has those of its own samples, and they are not averaged but joined.

    With the loss of the joint batch the mean of the processes' losses, its gradient at their samples is theirs divided
    by their number, so the Gramian is the sum of theirs divided by the square.
    """

    def hold(self, rows: Sequence[Rows], num_tasks: int, leaves: Sequence[Tensor]) -> Held:
        """The rows stay where their samples are."""
        return Held(rows, num_tasks)

    def total(self, part: Tensor) -> Tensor:
        """The sum of the processes' parts, for losses that are means over the processes."""
        return self.sum(part) / self.size**2

    @property
    def parts(self) -> bool:
        """A process's gradient is that at its own samples."""
        return True


def gathered(tensors: Sequence[Tensor]) -> bool:
    """Whether any tensor is not a parameter, but what ``fully_shard`` computes with in its place."""
    if "torch.distributed.fsdp" not in sys.modules or not (dist.is_available() and dist.is_initialized()):
        return False
    unseen = [t for t in tensors if not sharded(t) and t not in _SEEN]
    if unseen and collectives.gathered_by_fsdp(unseen):
        return True
    for tensor in unseen:  # looked up once, because it takes a while
        _SEEN[tensor] = True
    return False


def refuse_gathered(tensors: Sequence[Tensor], caller: str) -> None:
    """Raise EngineError if tensors are not the parameters, but what ``fully_shard`` computes with in their place."""
    if gathered(tensors):
        raise EngineError(
            f"{caller}: the parameters given are those that fully_shard has put together for the forward, which the "
            "optimiser does not have. Collect them once, right after fully_shard and before any forward: "
            "shared = list(model.trunk.parameters()), heads = list(model.heads.parameters())"
        )


_SEEN = WeakIdKeyDictionary()


def choose(reduce: Reduce | str, shared: Any, tensors: Sequence[Tensor], caller: str) -> Reduce:
    """The reduction that fits how a model is held, unless one is given.

    DTensors with a sharded dimension give ``SumShards``; an initialised process group of several processes gives
    ``MeanRows`` over that of a DistributedDataParallel module, else over all; all else gives ``Local``.

    Raises:
        EngineError: The parameters are held in a way that none of them fits.
    """
    if isinstance(reduce, Reduce):
        return reduce
    if reduce != "auto":
        raise EngineError(
            f"{caller}: reduce = {reduce!r} is neither 'auto' nor one of Local(), MeanRows(), SumShards()"
        )
    refuse_gathered(tensors, caller)
    meshes = {id(t.device_mesh): t for t in tensors if sharded(t)}  # type: ignore[attr-defined]
    if meshes:
        if len(meshes) > 1 or not all(sharded(t) for t in tensors):
            raise EngineError(
                f"{caller}: some shared parameters are sharded and others are not, or on another device mesh; call "
                "fully_shard on the whole model, or give reduce= yourself"
            )
        return SumShards(*collectives.mesh_groups(next(iter(meshes.values())), caller))
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Local()
    return MeanRows(shared.process_group if isinstance(shared, nn.parallel.DistributedDataParallel) else None)
