"""Losses and shared parameters in all the forms users have them, checked once."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from accord.errors import EngineError, NonFiniteError, ShapeError

Losses = Mapping[str, Tensor] | Sequence[Tensor] | Tensor
"""K scalars: a dict by task name, a list, a tuple, or a tensor of shape (K,)."""

Shared = nn.Module | Tensor | Mapping[str, Tensor] | Iterable[Tensor | nn.Module] | Iterable[tuple[str, Tensor]]
"""The shared parameters: a module, several, parameters, or named parameters."""

ACCUMULATES = "torch::autograd::AccumulateGrad"
HIDING = "CheckpointFunctionBackward"


@dataclass(frozen=True)
class TaskLosses:
    """K scalar losses of one device.

    Attributes:
        tensors: K tensors of shape (), in the order given.
        names: Their names, when they came as a dict.
        values: Shape (K,), float64 on the CPU.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...] | None
    values: Tensor


def gather_losses(losses: Losses, caller: str) -> TaskLosses:
    """Bring losses to K scalar tensors.

    Raises:
        ShapeError: There is none, or one is not a scalar.
        EngineError: One has no graph to differentiate, or they lie on several devices.
    """
    names: tuple[str, ...] | None = None
    if torch.is_inference_mode_enabled():
        raise EngineError(f"{caller}: nothing can be differentiated in torch.inference_mode(); call it outside")
    if hasattr(losses, "gramian"):
        raise ShapeError(
            f"{caller}: losses is a {type(losses).__name__}, a Jacobian already; give it to balancer.apply(jacobian)"
        )
    if isinstance(losses, Tensor):
        if losses.ndim != 1:
            raise ShapeError(
                f"{caller}: losses is a tensor of shape {tuple(losses.shape)}, but one scalar per task is needed: "
                "shape (K,), or a dict or list of K scalars. Do not sum or average the tasks first"
            )
        with torch.enable_grad():  # the losses have a graph, whatever is on where they are differentiated
            tensors = tuple(losses.unbind())
    elif isinstance(losses, Mapping):
        names, tensors = tuple(str(name) for name in losses), tuple(losses.values())
    elif isinstance(losses, Iterable):
        tensors = tuple(losses)
    else:
        raise ShapeError(f"{caller}: losses is a {type(losses).__name__}; give a dict, list or tensor of K scalars")
    if not tensors:
        raise ShapeError(f"{caller}: no losses were given")
    label = names or tuple(str(k) for k in range(len(tensors)))
    for name, loss in zip(label, tensors, strict=True):
        if not isinstance(loss, Tensor):
            raise ShapeError(f"{caller}: the loss of task {name!r} is a {type(loss).__name__}, not a tensor")
        if loss.numel() != 1:
            raise ShapeError(
                f"{caller}: the loss of task {name!r} has shape {tuple(loss.shape)}, but a scalar is needed; "
                "reduce it over the batch, for instance with .mean()"
            )
        if not loss.requires_grad:
            raise EngineError(
                f"{caller}: the loss of task {name!r} does not require grad: it was detached, computed under "
                "torch.no_grad(), or depends on no trainable parameter"
            )
    devices = {loss.device for loss in tensors}
    if len(devices) > 1:
        raise EngineError(
            f"{caller}: the losses lie on several devices ({', '.join(sorted(map(str, devices)))}); "
            "move them to one with .to(device)"
        )
    with torch.enable_grad():
        tensors = tuple(loss.reshape(()) for loss in tensors)
    values = torch.stack([loss.detach().float() if loss.dtype.itemsize < 4 else loss.detach() for loss in tensors])
    values = values.cpu().double()
    return TaskLosses(tensors, names, values)


def check_finite(values: Tensor, names: Sequence[str] | None, caller: str) -> None:
    """Raise NonFiniteError unless all losses (K,) are finite."""
    if bool(torch.isfinite(values).all()):
        return
    label = names or [str(k) for k in range(len(values))]
    bad = [f"{n!r} = {v}" for n, v in zip(label, values.tolist(), strict=True) if not math.isfinite(v)]
    raise NonFiniteError(
        f"{caller}: the loss of {', '.join(bad)}; no gradient was written. "
        "Look for a division by zero, a logarithm of zero or a learning rate that is too large"
    )


def parameter_names(shared: Shared) -> tuple[str, ...] | None:
    """The names of the trainable shared parameters, each once, where ``shared`` has names."""
    if isinstance(shared, nn.Module):
        items: list[Any] = list(shared.named_parameters())
    elif isinstance(shared, Mapping):
        items = list(shared.items())
    else:
        items = [shared] if isinstance(shared, Tensor) else list(shared)
        if not all(isinstance(item, tuple) and len(item) == 2 for item in items):
            return None
    unique = {id(item): str(name) for name, item in reversed(items) if getattr(item, "requires_grad", False)}
    return tuple(reversed(unique.values()))


def gather_shared(shared: Shared, caller: str) -> tuple[Tensor, ...]:
    """The trainable shared parameters, each once.

    Raises:
        EngineError: There is none, all are frozen, one is complex, or one is not a leaf of the graph.
    """
    if isinstance(shared, nn.Module):
        found: list[Tensor] = list(shared.parameters())
    elif isinstance(shared, Tensor):
        found = [shared]
    elif isinstance(shared, Mapping):
        found = list(shared.values())
    elif not isinstance(shared, Iterable):
        raise EngineError(
            f"{caller}: shared is a {type(shared).__name__}; give a module, parameters or named parameters"
        )
    else:
        found = [item[1] if isinstance(item, tuple) and len(item) == 2 else item for item in shared]  # type: ignore[misc]
    found = [p for item in found for p in (item.parameters() if isinstance(item, nn.Module) else (item,))]  # type: ignore[union-attr]
    for item in found:
        if not isinstance(item, Tensor):
            raise EngineError(
                f"{caller}: shared holds a {type(item).__name__}; give a module, parameters or named parameters"
            )
        if not item.is_leaf:
            raise EngineError(
                f"{caller}: shared holds a tensor of shape {tuple(item.shape)} that was computed, not a parameter; "
                "give the parameters of the shared part of the network"
            )
        if item.is_complex():
            raise EngineError(
                f"{caller}: shared holds a complex parameter of shape {tuple(item.shape)}; inner products of complex "
                "gradients are not those of the real problem. Store it as torch.view_as_real(parameter)"
            )
    if not found:
        raise EngineError(f"{caller}: shared holds no parameter (was a generator passed that is already used up?)")
    unique = tuple({id(item): item for item in found if item.requires_grad}.values())
    devices = {item.device for item in unique}
    if len(devices) > 1:
        raise EngineError(
            f"{caller}: the shared parameters lie on several devices ({', '.join(sorted(map(str, devices)))}); move "
            "them to one, or shard them over processes with torch.distributed.fsdp.fully_shard"
        )
    if not unique:
        raise EngineError(
            f"{caller}: all {len(found)} shared parameters are frozen (requires_grad is False), so there is nothing "
            "to balance; unfreeze some, or train the heads with a plain backward"
        )
    return unique


def gather_features(features: Tensor | Iterable[Tensor], caller: str) -> tuple[Tensor, ...]:
    """The shared representation: tensors that the losses were computed from, each once.

    Raises:
        EngineError: There is none, or one carries no gradient, or is computed from another.
    """
    found = [features] if isinstance(features, Tensor) else list(features) if isinstance(features, Iterable) else None
    if not found or not all(isinstance(item, Tensor) for item in found):
        kind = type(features).__name__
        raise EngineError(f"{caller}: features is a {kind}; give the shared representation as a tensor or several")
    unique = tuple({id(item): item for item in found}.values())
    for item in unique:
        if not item.requires_grad or item.is_complex():
            raise EngineError(
                f"{caller}: features holds a tensor of shape {tuple(item.shape)} that "
                + (
                    "is complex"
                    if item.is_complex()
                    else "does not require grad: it was detached, or no trained parameter comes before it"
                )
            )
    edges = {_edge(item) for item in unique if not item.is_leaf}
    leaves = {id(item) for item in unique if item.is_leaf}
    for item in unique:
        own = _edge(item)
        if any((edge in edges and edge != own) or id(leaf_of(edge[0])) in leaves for edge in _edges([item])):
            raise EngineError(
                f"{caller}: features holds a tensor of shape {tuple(item.shape)} that is computed from another one "
                "of them; give the last shared tensors alone, or gradients would count twice"
            )
    return unique


def head_leaves(losses: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The graph's leaves that are not shared and not before a shared tensor: what a plain backward also writes to."""
    own = {id(parameter) for parameter in shared}
    found = {
        id(leaf): leaf for leaf in map(leaf_of, _nodes(losses, shared)) if leaf is not None and id(leaf) not in own
    }
    return tuple(found.values())


def leaves_before(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The leaves that tensors were computed from, themselves included where they are leaves."""
    own = [item for item in tensors if item.is_leaf]
    found = {id(leaf): leaf for leaf in (*own, *map(leaf_of, _nodes(tensors))) if leaf is not None}
    return tuple(found.values())


def reaches(losses: Sequence[Tensor], shared: Sequence[Tensor]) -> bool:
    """Whether any loss depends on any shared tensor, as far as the graph tells.

    Reentrant activation checkpointing hides what is inside it: it may reach anything.
    """
    own = {id(parameter) for parameter in shared if parameter.is_leaf}
    edges = {_edge(tensor) for tensor in shared if not tensor.is_leaf}
    if any(id(loss) in own or _edge(loss) in edges for loss in losses):
        return True
    return any(edge in edges or id(leaf_of(edge[0])) in own or edge[0].name() == HIDING for edge in _edges(losses))


def hides(losses: Sequence[Tensor], stop: Sequence[Tensor] = ()) -> bool:
    """Whether reentrant activation checkpointing hides part of the graph; not what lies before the tensors in stop."""
    return any(node.name() == HIDING for node in _nodes(losses, stop))


def reached_by(losses: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[range]:
    """For each leaf the one loss that reaches it, as a range; all of them where it may be several.

    One walk for all losses: what a second loss meets again belongs to several, with all that lies below it.
    """
    index = {id(leaf): i for i, leaf in enumerate(leaves)}
    everyone = range(len(losses))
    owners: dict[Any, range] = {}
    found = [range(0)] * len(leaves)
    for k, loss in enumerate(losses):
        todo: list[Any] = [loss.grad_fn]
        if id(loss) in index:
            found[index[id(loss)]] = everyone
        while todo:
            node = todo.pop()
            known = owners.get(node)
            if node is None or known in (everyone, range(k, k + 1)):
                continue
            owners[node] = range(k, k + 1) if known is None else everyone
            leaf = index.get(id(leaf_of(node)))
            if leaf is not None:
                found[leaf] = owners[node]
            todo.extend(below for below, _ in node.next_functions)
    return found


def hidden_leaves(losses: Sequence[Tensor], caller: str) -> tuple[Tensor, ...]:
    """The trainable parameters of what reentrant checkpoints run: they are no leaves of the graph.

    Raises:
        EngineError: No module is found in one.
    """
    found: dict[int, Tensor] = {}
    for node in _nodes(losses):
        if node.name() == HIDING:
            modules = _modules(getattr(node, "run_function", None))
            if not modules:
                raise EngineError(
                    f"{caller}: a reentrant activation checkpoint runs a function in which no module is found, so that "
                    "its parameters are not known; give all parameters that are not shared as heads=, or checkpoint "
                    "with use_reentrant=False"
                )
            found |= {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return tuple(found.values())


def _modules(run: Any, depth: int = 3) -> list[nn.Module]:
    """The modules that a function is one of, is bound to, is made of or closes over."""
    if isinstance(run, nn.Module):
        return [run]
    if depth == 0:
        return []
    if isinstance(run, list | tuple):
        inside: list[Any] = list(run)
    elif isinstance(run, Mapping):
        inside = list(run.values())
    elif isinstance(run, functools.partial):
        inside = [run.func, *run.args, *run.keywords.values()]
    elif callable(run):
        code, cells = getattr(run, "__code__", None), getattr(run, "__closure__", None) or ()
        names = () if code is None else code.co_names
        inside = [getattr(run, "__self__", None), *(getattr(run, "__globals__", {}).get(name) for name in names)]
        inside += [cell.cell_contents for cell in cells if cell != types.CellType()]
    else:
        return []
    return [module for item in inside for module in _modules(item, depth - 1)]


def leaf_of(node: Any) -> Tensor | None:
    """The leaf that a node of the graph accumulates into, if it is such a node."""
    return node.variable if node is not None and node.name() == ACCUMULATES else None


def _edge(tensor: Tensor) -> tuple[Any, int]:
    """Where a tensor hangs on the graph: the node that made it, and which of its outputs it is."""
    return tensor.grad_fn, tensor.output_nr


def _nodes(tensors: Sequence[Tensor], stop: Sequence[Tensor] = ()) -> Iterator[Any]:
    """The nodes of the tensors' graph, each once; nothing before the tensors in ``stop``."""
    seen: set[object] = set()
    for node, _ in _edges(tensors, stop):
        if node not in seen:
            seen.add(node)
            yield node


def _edges(tensors: Sequence[Tensor], stop: Sequence[Tensor] = ()) -> Iterator[tuple[Any, int]]:
    """The edges of the tensors' graph as (node, output), depth first, each once."""
    stops = {_edge(tensor) for tensor in stop if not tensor.is_leaf}
    seen: set[tuple[Any, int]] = set()
    walked: set[Any] = set()
    todo = [_edge(tensor) for tensor in tensors]
    while todo:
        edge = todo.pop()
        if edge[0] is None or edge in seen or edge in stops:
            continue
        seen.add(edge)
        yield edge
        if edge[0] not in walked:
            walked.add(edge[0])
            todo.extend(edge[0].next_functions)
