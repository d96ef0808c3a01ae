"""The modules of tasks that bring their own samples: what is checked, stacked and set back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from accord.errors import EngineError, ShapeError
from accord.jacobian.collectives import sharded
from accord.jacobian.losses import Shared, gather_shared, parameter_names

_NORMS = (nn.modules.batchnorm._NormBase,)  # batch norm, synchronised too, and instance norm
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_STATISTICS = ("running_mean", "running_var")
_COUNTER = "num_batches_tracked"


def check_model(model: nn.Module, caller: str) -> None:
    """Refuse what cannot be called with other parameters than its own.

    Raises:
        EngineError: It is no module, a wrapper of torch's for several devices, or has parameters without a shape.
    """
    if not isinstance(model, nn.Module):
        raise EngineError(f"{caller}: model is a {type(model).__name__}; give a torch.nn.Module")
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise EngineError(
            f"{caller}: the model is wrapped in {type(model).__name__}, whose hooks would average what are not yet "
            "the tasks' gradients; give model.module. The rows of several processes are averaged here (reduce='auto')"
        )
    if any(is_lazy(p) for p in model.parameters()):
        raise EngineError(
            f"{caller}: the model has lazy parameters that have no shape yet; run one forward of it before, and make "
            "the optimiser after that"
        )


def check_loss(loss_fn: Callable[..., Any], headed: bool, caller: str) -> None:
    """Refuse a loss function that cannot be called as it will be.

    Raises:
        EngineError: It is no function, or takes other arguments.
    """
    given = ("model", "batch", "head") if headed else ("model", "batch")
    if not callable(loss_fn):
        raise EngineError(
            f"{caller}: loss_fn is a {type(loss_fn).__name__}; give a function of ({', '.join(given)}) that returns a "
            "task's loss"
        )
    try:
        signature = inspect.signature(loss_fn)
    except (ValueError, TypeError):  # some builtins tell nothing of their arguments
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        why = "with heads= the task's head is the third" if headed else "the third, a head, comes only with heads="
        raise EngineError(
            f"{caller}: loss_fn takes {signature}, but is called as loss_fn({', '.join(given)}): {error}; {why}"
        ) from error


def gather_heads(
    heads: Any, names: Sequence[str] | None, num_tasks: int, vectorized: bool, caller: str
) -> tuple[nn.Module, ...]:
    """One head a task, in the tasks' order.

    Raises:
        ShapeError: Their number is not K, or they are to be stacked and differ in structure.
        EngineError: One is not a module, or they are one module for all.
    """
    if heads is None:
        return ()
    if isinstance(heads, Mapping | nn.ModuleDict):
        by_name = {str(key): head for key, head in heads.items()}
        if names is None or set(by_name) != set(names):
            raise ShapeError(
                f"{caller}: heads are named {sorted(by_name)}, but the tasks "
                + ("have no names: give tasks=, or a list of heads" if names is None else f"are {list(names)}")
            )
        found = tuple(by_name[name] for name in names)
    elif (isinstance(heads, nn.Module) and not isinstance(heads, nn.ModuleList)) or not isinstance(heads, Iterable):
        raise EngineError(
            f"{caller}: heads is one {type(heads).__name__}, but heads are modules of single tasks: give {num_tasks} "
            "of them, as a list, an nn.ModuleList or a mapping by task. A module that all tasks use belongs in the "
            "model"
        )
    else:
        found = tuple(heads)
    for head in found:
        if not isinstance(head, nn.Module):
            raise EngineError(f"{caller}: heads holds a {type(head).__name__}; give one module a task")
    if len(found) != num_tasks:
        raise ShapeError(f"{caller}: {len(found)} heads for {num_tasks} tasks; give one module a task")
    if vectorized:
        first = _structure(found[0])
        for k, head in enumerate(found):
            if _structure(head) != first:
                differing = next(f"{a} and {b}" for a, b in zip(first, _structure(head), strict=False) if a != b)
                raise ShapeError(
                    f"{caller}: the heads of tasks 0 and {k} differ in structure ({differing}), and only equal ones "
                    "can be stacked; pass vectorize=False, which runs one task after the other"
                )
    return found


def _structure(head: nn.Module) -> list[tuple[Any, ...]]:
    """All that must be equal for one head to stand for another."""
    modules = [
        (n, type(m).__name__, m.extra_repr(), "train" if m.training else "eval") for n, m in head.named_modules()
    ]
    tensors = [*head.named_parameters(), *head.named_buffers()]
    found = [*modules, *((name, tuple(t.shape), t.dtype, str(t.device)) for name, t in tensors)]
    return [*found, (len(found), "modules and tensors")]


@dataclass(frozen=True)
class Parameters:
    """Who has which trainable parameter.

    Attributes:
        shared: By name in the ``TaskLoss``, in the order given.
        names: Their names as given, where they had any.
        others: The model's, neither shared nor a head's.
        own: Those of heads of single tasks.
        owners: For each of these, by id, the tasks and the name in the task's head.
    """

    shared: dict[str, Tensor]
    names: tuple[str, ...] | None
    others: dict[str, Tensor]
    own: tuple[Tensor, ...]
    owners: dict[int, list[tuple[int, str]]]


def sort_parameters(model: nn.Module, heads: Sequence[nn.Module], shared: Shared | None, caller: str) -> Parameters:
    """Shared parameters, the model's other ones, and the heads'.

    Raises:
        EngineError: A shared parameter is not in the model, or is a head's, or the model is sharded.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own: dict[int, Tensor] = {}
    owners: dict[int, list[tuple[int, str]]] = {}
    for k, head in enumerate(heads):
        for name, parameter in head.named_parameters():
            if parameter.requires_grad:
                own[id(parameter)] = parameter
                owners.setdefault(id(parameter), []).append((k, name))
    given: Any = shared
    if shared is None:
        given = {name: p for name, p in trainable.items() if id(p) not in own}
    elif isinstance(shared, Iterator):
        given = list(shared)
    parameters, names = gather_shared(given, caller), parameter_names(given)
    by_id = {id(p): name for name, p in trainable.items()}
    for parameter in parameters:
        if id(parameter) not in by_id or id(parameter) in own:
            where = "is in heads too" if id(parameter) in own else "is not in the model"
            raise EngineError(
                f"{caller}: a shared parameter of shape {tuple(parameter.shape)} {where}; shared holds parameters of "
                "the model that all tasks use"
            )
    if any(sharded(p) for p in trainable.values()):
        raise EngineError(
            f"{caller}: the model's parameters are sharded over processes, and functional calls need whole ones; use "
            "engine='sequential' on separately computed losses"
        )
    chosen = {id(p) for p in parameters}
    return Parameters(
        {f"model.{by_id[id(p)]}": p for p in parameters},
        names,
        {f"model.{n}": p for n, p in trainable.items() if id(p) not in chosen and id(p) not in own},
        tuple(own.values()),
        owners,
    )


class Norms:
    """The model's norms that make another function of a task's batch than of the joint one.

    Those are batch norms that normalise by the batch, in train mode or without running statistics, and all norms whose
    running statistics a forward would move.

    Args:
        model: The model.
        heads: Modules of single tasks, whose statistics are the task's own.
        statistics: ``"per-task"``, or None to refuse such norms.
        caller: For messages.

    Raises:
        EngineError: There is one, and ``statistics`` is None.
    """

    def __init__(self, model: nn.Module, heads: Sequence[nn.Module], statistics: str | None, caller: str) -> None:
        own = {id(module) for head in heads for module in head.modules()}
        self.heads = heads
        theirs = {name: module for name, module in model.named_modules() if id(module) not in own}
        self.found = {f"model.{name}." if name else "model.": m for name, m in theirs.items() if _moves(m)}
        for name, module in theirs.items() if statistics is None else ():
            reason = _refused(module)
            if reason is not None:
                raise EngineError(f"{caller}: {name or 'the model'} ({type(module).__name__}) {reason}")

    def copies(self, num_tasks: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Running statistics, one copy a task (K, …), and one copy of the counters, by name."""
        statistics, counters = {}, {}
        for prefix, module in self.found.items():
            for key in _STATISTICS:
                buffer = module.get_buffer(key)
                statistics[prefix + key] = buffer.expand(num_tasks, *buffer.shape).clone()
            if module.num_batches_tracked is not None:
                counters[prefix + _COUNTER] = module.get_buffer(_COUNTER).clone()
        return statistics, counters

    @contextmanager
    def copied(self, moved: list[dict[str, Tensor]]) -> Iterator[None]:
        """Norms work on copies of their buffers, which are then appended to ``moved``; they get their own back."""
        before = [(prefix, module, dict(module.named_buffers())) for prefix, module in self.found.items()]
        try:
            for _, module, buffers in before:
                for key, buffer in buffers.items():
                    setattr(module, key, buffer.clone())
            yield
            moved.append({p + key: module.get_buffer(key) for p, module, _ in before for key in _STATISTICS})
        finally:
            for _, module, buffers in before:
                for key, buffer in buffers.items():
                    setattr(module, key, buffer)

    @torch.no_grad()
    def move(self, moved: Mapping[str, Tensor]) -> None:
        """Set running statistics to the mean over tasks, and each head's buffers to its own task's.

        Args:
            moved: By name, (K, …).
        """
        for prefix, module in self.found.items():
            for key in _STATISTICS:
                module.get_buffer(key).copy_(moved[prefix + key].mean(0))
            if module.num_batches_tracked is not None:
                module.get_buffer(_COUNTER).add_(1)
        for k, head in enumerate(self.heads):
            for name, buffer in head.named_buffers():
                if f"head.{name}" in moved and head.training:
                    buffer.copy_(moved[f"head.{name}"][k])


def _refused(module: nn.Module) -> str | None:
    """Why a norm is not for tasks that come alone, and what to do; None for all other modules."""
    if isinstance(module, _BATCH_NORMS) and (module.training or module.running_mean is None):
        fixed = module.running_mean is not None
        return (
            ("is in train mode" if fixed else "has no running statistics, so that it normalises by the batch always")
            + ". A joint batch would be normalised by the statistics of all tasks together, but here each task's batch "
            + ("is alone. Put it in eval mode, use" if fixed else "is alone. Use")
            + " GroupNorm or LayerNorm, or pass statistics='per-task': each task is normalised by its own batch"
            + (", and the running statistics move to the mean over tasks" if _moves(module) else "")
        )
    if _moves(module):
        return (
            "is in train mode with running statistics. Each sample is normalised by itself, so the gradients are those "
            "of separate losses, but its running statistics would move once per task. Put it in eval mode, make it "
            "with track_running_stats=False, or pass statistics='per-task': they then move once, to the mean over tasks"
        )
    return None


def _moves(module: nn.Module) -> bool:
    return (
        isinstance(module, _NORMS)
        and module.training
        and module.track_running_stats
        and getattr(module, "running_mean", None) is not None
    )


@contextmanager
def unchanged_on_error(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Set all buffers back where an error ends the block."""
    before = [
        (module, name, buffer, buffer.clone())
        for root in modules
        for module in root.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for module, name, buffer, value in before:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                buffer.copy_(value)
        raise
