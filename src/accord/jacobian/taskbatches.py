"""The batches of tasks that bring their own samples, in all the forms users have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from accord.errors import EngineError, ShapeError


@dataclass(frozen=True)
class Batches:
    """K batches.

    Attributes:
        num_tasks: K.
        names: The tasks' names, where they have any.
        leaves: The tensors of all batches with a leading task axis, each (K, …); none where they are not stacked.
        build: Makes a task's batch of its leaves.
        each: The K batches otherwise.
        structure: What a batch is made of, to be compared.
    """

    num_tasks: int
    names: tuple[str, ...] | None
    leaves: list[Tensor]
    build: Callable[[Sequence[Tensor]], Any]
    each: list[Any] | None
    structure: Any = None

    def in_turn(self) -> Iterator[Any]:
        """One task's batch after the other."""
        if self.each is not None:
            yield from self.each
            return
        for k in range(self.num_tasks):
            yield self.build([leaf[k] for leaf in self.leaves])


def gather_batches(batches: Any, tasks: Sequence[str] | None, vectorize: bool | None, caller: str) -> Batches:
    """Bring batches to K of them, stacked along a task axis where they can be.

    A list holds K batches. So does a mapping whose keys are ``tasks``, or, without these, whose values are containers
    of one structure. All else is one tree of tensors with a leading task axis. What can be read both ways needs
    ``tasks``.

    Raises:
        ShapeError: There is no task, task axes differ, batches of different shapes were to be vectorised, or they can
            be read in two ways.
        EngineError: They are a generator, or a leaf is not a tensor, and not asked to be taken as it is by
            ``vectorize=False``.
    """
    names = None if tasks is None else tuple(str(task) for task in tasks)
    if isinstance(batches, Iterator | ValuesView):
        raise EngineError(
            f"{caller}: batches is a {type(batches).__name__}, which can be read once only, or not by index; give "
            "list(...) of it, K batches"
        )
    if isinstance(batches, list) and names is None:
        _refuse_ambiguous(batches, caller)
    whole = batches
    if isinstance(batches, Mapping) and _by_task(batches, names, caller):
        names = names or tuple(str(key) for key in batches)
        by_name = {str(key): batch for key, batch in batches.items()}
        batches = [by_name[name] for name in names]
    found = _listed(batches, vectorize, caller) if isinstance(batches, list) else _stacked(batches, vectorize, caller)
    if names is not None and len(names) != found.num_tasks:
        raise ShapeError(
            f"{caller}: {len(names)} tasks are named, but there are batches of {found.num_tasks}{_hint(whole)}"
        )
    return replace(found, names=names)


def _refuse_ambiguous(batches: list[Any], caller: str) -> None:
    """Refuse [X, Y] where each is as long as the list: K batches, or one batch with a task axis that is a list?"""
    count = len(batches)
    if batches and all(isinstance(item, Tensor) and item.ndim and len(item) == count for item in batches):
        raise ShapeError(
            f"{caller}: batches is a list of {count} tensors, {', '.join(_described(item) for item in batches[:4])}, "
            f"which may be {count} tasks' batches or one batch with a task axis of {count}. Give tasks=[...] if they "
            "are the tasks' batches, and a tuple, tuple(batches), if they are one batch"
        )


def _hint(batches: Any) -> str:
    """What may have been meant by a tuple."""
    if not isinstance(batches, tuple):
        return ""
    return ". A tuple, as zip(*loaders) gives, is one batch with a task axis; give K batches as a list, list(batches)"


def _by_task(batches: Mapping[Any, Any], names: tuple[str, ...] | None, caller: str) -> bool:
    if names is not None:
        return {str(key) for key in batches} == set(names)
    kinds = {_flatten(batch)[2] for batch in batches.values()} - {"none"}
    if len(kinds) > 1 and "leaf" not in kinds:
        raise ShapeError(
            f"{caller}: batches maps {[str(key) for key in batches]} to containers of different structure, which may "
            "be the batches of these tasks or the fields of one batch with a task axis. Give tasks=: the keys if they "
            "are tasks (then a batch each, vectorize=False if they are to stay as they are), or the tasks' names if "
            "they are fields"
        )
    return len(kinds) == 1 and "leaf" not in kinds


def _stacked(batches: Any, vectorize: bool | None, caller: str) -> Batches:
    leaves, build, structure = _flatten(batches)
    seen = ", ".join(f"{path}: {_described(leaf)}" for path, leaf in leaves)
    if not leaves:
        raise ShapeError(f"{caller}: the batches hold no tensor")
    for path, leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise EngineError(
                f"{caller}: {path} is {_described(leaf)}, but a batch with a task axis holds tensors alone ({seen}); "
                "make it a tensor of one entry a task, or give a list of K batches with vectorize=False"
            )
    if any(leaf.ndim == 0 for _, leaf in leaves) or len({len(leaf) for _, leaf in leaves}) > 1:
        raise ShapeError(
            f"{caller}: every tensor of the batches needs the same leading task axis, got {seen}. Give each task's "
            f"samples along the first axis, (K, samples, …), or a list of K batches{_hint(batches)}"
        )
    tensors = [leaf for _, leaf in leaves]
    if len(tensors[0]) == 0:
        raise ShapeError(f"{caller}: there is no task: the task axis is empty ({seen})")
    _check_detached(leaves, caller)
    if vectorize is False:
        each = [build([leaf[k] for leaf in tensors]) for k in range(len(tensors[0]))]
        return Batches(len(each), None, [], build, each)
    return Batches(len(tensors[0]), None, tensors, build, None, structure)


def _listed(batches: list[Any], vectorize: bool | None, caller: str) -> Batches:
    if not batches:
        raise ShapeError(f"{caller}: there is no task: the list of batches is empty")
    found = [_flatten(batch) for batch in batches]
    build = found[0][1]
    for k, (leaves, _, _) in enumerate(found):
        named = [(f"batches[{k}]{path.removeprefix('batch')}", leaf) for path, leaf in leaves]
        _check_detached(named, caller)
        for path, leaf in named:
            if vectorize is not False and not isinstance(leaf, Tensor):
                raise EngineError(
                    f"{caller}: {path} is {_described(leaf)}, and only tensors can be vectorised over tasks; make it "
                    "a tensor, or pass vectorize=False, which hands each task's batch to loss_fn as it is"
                )
    if vectorize is False:
        return Batches(len(batches), None, [], build, batches)
    columns = list(zip(*(leaves for leaves, _, _ in found), strict=True)) if _alike(f[2] for f in found) else None
    if columns and all(_alike((t.shape, t.dtype, t.device) for _, t in column) for column in columns):
        stacked = [torch.stack([t for _, t in column]) for column in columns]
        return Batches(len(batches), None, stacked, build, None, found[0][2])
    if vectorize:
        seen = "; ".join(
            f"task {k}: {', '.join(_described(leaf) for _, leaf in leaves)}" for k, (leaves, _, _) in enumerate(found)
        )
        raise ShapeError(
            f"{caller}: vectorize=True needs batches of one structure, shape, dtype and device, got {seen}. Leave "
            "vectorize away: the tasks then run one after the other, for the same arithmetic"
        )
    return Batches(len(batches), None, [], build, batches)


def _flatten(tree: Any, path: str = "batch") -> tuple[list[tuple[str, Any]], Callable[[Sequence[Any]], Any], Any]:
    """Leaves with their paths, how to put others in their places, and the structure, to be compared."""
    if tree is None:
        return [], lambda leaves: None, "none"
    if isinstance(tree, Mapping):
        keys = list(tree)
        items = [(f"{path}[{key!r}]", tree[key]) for key in keys]
        wrap: Callable[[list[Any]], Any] = lambda found: dict(zip(keys, found, strict=True))  # noqa: E731
        kind: tuple[Any, ...] = ("mapping", *keys)
    elif isinstance(tree, tuple | list):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(tree)]
        wrap = (lambda found: type(tree)(*found)) if hasattr(tree, "_fields") else type(tree)
        kind = (type(tree), len(tree))
    elif is_dataclass(tree) and not isinstance(tree, type):
        keys = [field.name for field in fields(tree) if field.init]
        items = [(f"{path}.{key}", getattr(tree, key)) for key in keys]
        wrap = lambda found: replace(tree, **dict(zip(keys, found, strict=True)))  # noqa: E731
        kind = (type(tree), *keys)
    else:
        return [(path, tree)], lambda leaves: leaves[0], "leaf"
    parts = [_flatten(item, where) for where, item in items]
    sizes = [len(leaves) for leaves, _, _ in parts]

    def build(leaves: Sequence[Any]) -> Any:
        found, start = [], 0
        for size, (_, inner, _) in zip(sizes, parts, strict=True):
            found.append(inner(leaves[start : start + size]))
            start += size
        return wrap(found)

    return [leaf for leaves, _, _ in parts for leaf in leaves], build, (kind, *(part[2] for part in parts))


def _alike(items: Any) -> bool:
    first, *rest = items
    return all(item == first for item in rest)


def _described(leaf: Any) -> str:
    return f"{tuple(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"


def _check_detached(leaves: Sequence[tuple[str, Any]], caller: str) -> None:
    for path, leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            raise EngineError(
                f"{caller}: {path}, of shape {tuple(leaf.shape)}, requires grad, but gradients do not go back through "
                "batches; detach it, or compute it inside loss_fn from the model"
            )
