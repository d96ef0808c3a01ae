"""Per-task gradients of tasks that bring their own samples: all K rows for the arithmetic of one backward.

``rows_at_once`` maps the gradient over the task axis, with the shared
parameters common to all tasks, so that every matrix product of the forward and of the backward through activations is
that of the joint batch, and only the last product, which sums over samples, stops at the task's own. ``losses_at_once``
is the same forward with an ordinary graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from accord.errors import AccordError, EngineError, ShapeError
from accord.jacobian.losses import head_leaves
from accord.jacobian.storage import Rows
from accord.jacobian.taskbatches import Batches

Named = dict[str, Tensor]


class TaskLoss(nn.Module):
    """A loss function around a model, as one module, so that its parameters can be exchanged by name.

    Parameters and buffers are named ``model.…`` and, with heads chosen by task, ``head.…``. A tensor may stand in
    several places (tied weights), and a module too (a head inside the model); all are exchanged, each once.

    Args:
        model: What all tasks share.
        loss_fn: Called with the model, a task's batch and, where there is one, the task's head; returns a scalar.
        head: A module whose parameters are exchanged for those of the task's own head.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Any], head: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.calls = (loss_fn,)  # in a tuple, or a loss that is a module would be a part of this one
        self.places: dict[str, list[str]] = {}
        self.recurrent = False
        self._find_places()
        kind = next((p.device.type for p in model.parameters()), "cpu")
        # the forward runs later than it is asked for: under the mixed precision that was on when it was
        self.precision = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind), "cache_enabled": False}
        self.mixed = torch.is_autocast_enabled(kind)

    def forward(self, batch: Any, head: nn.Module | None = None, *, fixed: bool = False) -> Tensor:
        """The task's loss, shape (); ``fixed`` refuses that the model's buffers are replaced."""
        head = self.head if head is None else head
        before = dict(self.model.named_buffers()) if fixed else {}
        with torch.autocast(**self.precision, enabled=self.mixed):
            loss = self.calls[0](self.model, batch) if head is None else self.calls[0](self.model, batch, head)
        replaced = [name for name, tensor in self.model.named_buffers() if tensor is not before[name]] if fixed else []
        if replaced:
            raise EngineError(f"jacobian.disjoint: {_OUT_OF_PLACE}. Replaced: {', '.join(replaced)}")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ShapeError(
                f"jacobian.disjoint: loss_fn returned {shape}, but a task's loss is a scalar; reduce it over the "
                "batch, for instance with .mean()"
            )
        return loss.reshape(())

    def exchanged(self, tensors: Named) -> Named:
        """Tensors by name as tensors by place."""
        return {place: tensor for name, tensor in tensors.items() for place in self.places[name]}

    def _find_places(self) -> None:
        where: dict[int, list[str]] = {}
        for prefix, module in self.named_modules():  # each module once, or it would be left with what it was lent
            self.recurrent |= isinstance(module, nn.RNNBase | nn.RNNCellBase)
            for tensors in (module.named_parameters, module.named_buffers):
                for name, tensor in tensors(recurse=False, remove_duplicate=False):
                    where.setdefault(id(tensor), []).append(f"{prefix}.{name}")
        for prefix, root in (("model", self.model), ("head", self.head)):
            for tensors in (root.named_parameters, root.named_buffers) if root is not None else ():
                self.places.update({f"{prefix}.{name}": where[id(tensor)] for name, tensor in tensors()})


def check_graph(losses: Tensor) -> None:
    """Raise EngineError unless losses have a graph."""
    if not losses.requires_grad:
        raise EngineError(
            "jacobian.disjoint: the loss does not require grad: loss_fn computes it under torch.no_grad(), or "
            "detaches it, or does not use the model that it is given"
        )


@dataclass
class Exchange:
    """What the model is called with instead of its own, by name, when all tasks run at once.

    Attributes:
        shared: Trainable parameters that all tasks have in common.
        own: Trainable parameters of which each task has its own, (K, …).
        each: Other tensors of which each task has its own, (K, …); the forward may change them.
        counters: Buffers that all tasks have in common, and that the forward may change.
        common: Those that it must leave as they are.
    """

    shared: Named
    own: Named
    each: Named
    counters: Named
    common: Named


@dataclass
class Found:
    """What K tasks gave.

    Attributes:
        values: The losses, shape (K,).
        rows: A block (K, *shape) for each trainable name, shared and own; None where no loss reaches it.
        each: What became of ``Exchange.each``, (K, …).
    """

    values: Tensor
    rows: dict[str, Rows]
    each: Named


def rows_at_once(task: TaskLoss, give: Exchange, batches: Batches, scale: float, caller: str) -> Found:
    """The losses and each one's gradient, times ``scale``, mapped over the task axis.

    Raises:
        EngineError: An operation cannot be mapped, or the forward changes what all tasks have in common.
    """
    names = (*give.shared, *give.own)
    shared = [parameter.detach() for parameter in give.shared.values()]
    own = [parameter.detach() for parameter in give.own.values()]
    reached: set[int] = set()

    def one(leaves: list[Tensor], own: list[Tensor], each: list[Tensor]) -> Any:
        # what the forward may change is an argument of what is differentiated: torch.func guards all else
        def loss_of(parameters: list[Tensor], each: list[Tensor], counters: list[Tensor]) -> Any:
            loss = _called(task, give, batches.build(leaves), dict(zip(names, parameters, strict=True)), each, counters)
            check_graph(loss)
            reached.update(_reached(loss, parameters))
            return loss * scale if scale != 1.0 else loss, (loss, each)

        return grad(loss_of, has_aux=True)([*shared, *own], each, list(give.counters.values()))

    with mapped(task, give, caller), torch.enable_grad():
        rows, (values, each) = vmap(one, randomness="different")(batches.leaves, own, list(give.each.values()))
        if values.requires_grad:
            refuse_captured(values, (), caller)
    found = {name: block if i in reached else None for i, (name, block) in enumerate(zip(names, rows, strict=True))}
    return Found(values, found, dict(zip(give.each, each, strict=True)))


def losses_at_once(task: TaskLoss, give: Exchange, batches: Batches, caller: str) -> tuple[Tensor, Named]:
    """The losses (K,) with an ordinary graph to the parameters, and what became of ``Exchange.each``."""

    def one(leaves: list[Tensor], own: list[Tensor], each: list[Tensor]) -> Any:
        parameters = {**give.shared, **dict(zip(give.own, own, strict=True))}

        def loss_of(nothing: Tensor, each: list[Tensor], counters: list[Tensor]) -> Any:
            return nothing, (_called(task, give, batches.build(leaves), parameters, each, counters), each)

        if direct:
            return _called(task, give, batches.build(leaves), parameters, (), ()), each
        # a gradient of nothing, because torch.func splits into their parts, and guards, what it differentiates
        return grad(loss_of, has_aux=True)(torch.zeros(()), each, list(give.counters.values()))[1]

    # without buffers there is nothing to guard, without recurrent layers nothing to split: a level less is quicker
    direct = not (give.each or give.counters or give.common or task.recurrent)

    with mapped(task, give, caller), torch.enable_grad():
        own, each = list(give.own.values()), list(give.each.values())
        losses, each = vmap(one, randomness="different")(batches.leaves, own, each)
    check_graph(losses)
    return losses, dict(zip(give.each, each, strict=True))


def _called(
    task: TaskLoss, give: Exchange, batch: Any, parameters: Named, each: Sequence[Tensor], counters: Sequence[Tensor]
) -> Tensor:
    """The loss of one task's batch with what is exchanged in its place."""
    changing = zip((*give.each, *give.counters), (*each, *counters), strict=True)
    exchanged = task.exchanged({**give.common, **parameters, **dict(changing)})
    # ties are in the exchange already; torch's own would not set back a module that has two names
    return functional_call(task, exchanged, (batch,), {"fixed": True}, tie_weights=False)


def refuse_captured(losses: Tensor, known: Sequence[Tensor], caller: str) -> None:
    """Raise unless every trainable leaf of the losses' graph is known.

    Raises:
        EngineError: loss_fn uses others, which would get no gradient.
    """
    own = {id(leaf) for leaf in known}
    others = [leaf for leaf in head_leaves([losses], ()) if id(leaf) not in own]
    if others:
        raise EngineError(
            f"{caller}: loss_fn uses {len(others)} trainable tensor(s) that are neither the model's nor a head's, of "
            f"shape {', '.join(str(tuple(leaf.shape)) for leaf in others[:4])}, and they would get no gradient. Make "
            "them parameters of the model, or, where they are to be constants, use them under torch.no_grad() or with "
            "requires_grad_(False)"
        )


def _reached(loss: Tensor, parameters: Sequence[Tensor]) -> set[int]:
    """Which parameters a loss's graph leads to; the walk ends when all are found."""
    wanted = {id(parameter): i for i, parameter in enumerate(parameters)}
    found: set[int] = set()
    seen: set[Any] = set()
    todo: list[Any] = [loss.grad_fn]
    while todo and len(found) < len(wanted):
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        index = wanted.get(id(getattr(node, "variable", None)))
        if index is not None:
            found.add(index)
        todo.extend(edge[0] for edge in node.next_functions)
    return found


_OUT_OF_PLACE = (
    "the forward changes a tensor that all tasks have in common: a buffer, or one made without a task's data, as "
    "torch.zeros(n). Write out of place (for the latter, take torch.zeros_like of a task's tensor), put what updates "
    "the buffer in eval mode, or pass vectorize=False, which runs one task after the other"
)

_DTYPE = (
    "a tensor of the batch has another dtype than the model's parameters; convert it (x.float(), x.to(weight.dtype); "
    "indices to torch.long), or make this Jacobian under torch.autocast"
)
_DEVICE = "a tensor of the batch is on another device than the model; move it there, with .to(device), before"
_INPUTS = (
    ("same dtype", _DTYPE),
    ("scalar type", _DTYPE),
    ("should be the same", _DTYPE),
    ("expected device", _DEVICE),
    ("same device", _DEVICE),
    ("is not on the expected device", _DEVICE),
)
"""Causes that lie in the batches, however tasks are run."""

_CAUSES = (
    ("mutate a captured", _OUT_OF_PLACE),
    ("inplace arithmetic", _OUT_OF_PLACE),
    (
        "match the broadcast shape",
        "an operation writes into a tensor that all tasks have in common, as recurrent layers do with the state that "
        "they start from; give them one made of the task's data (torch.zeros_like), or pass vectorize=False",
    ),
    (
        "inplace randomness",
        "the forward draws random numbers in place for all tasks at once, as torch.distributions.Normal.rsample does; "
        "write mean + std * torch.randn_like(mean), or pass vectorize=False",
    ),
    (
        ".item()",
        "the forward takes a number out of a tensor or branches on data (.item(), float(), if x > 0, checks of "
        "torch.distributions without validate_args=False), which cannot differ between tasks that run at once; use "
        "torch.where, or pass vectorize=False",
    ),
    (
        "data-dependent control flow",
        "the forward branches on data (if x > 0), which cannot differ between tasks that run at once; use torch.where, "
        "or pass vectorize=False",
    ),
    (
        "dynamic shape",
        "the size of a result depends on the data (indexing with a mask, nonzero, unique), which cannot differ between "
        "tasks that run at once; weight with the mask instead, or pass vectorize=False",
    ),
    (
        "autograd.Function",
        "a torch.autograd.Function of this model has no rule for torch.func; give it setup_context and "
        "generate_vmap_rule = True, or pass vectorize=False",
    ),
    (
        "vmap support",
        "a torch.autograd.Function of this model has no rule for vmap; set its generate_vmap_rule = True, or pass "
        "vectorize=False",
    ),
    (
        "saved tensor hooks",
        "activation checkpointing and saved-tensor hooks do not run over all tasks at once; leave checkpointing off, "
        "or pass vectorize=False",
    ),
    ("Sparse", "sparse gradients do not run over all tasks at once; use sparse=False, or pass vectorize=False"),
)


def cause_of(text: str) -> str | None:
    """What a message of torch's says of the batches, with the remedy; None where it is about something else."""
    return next((cause for part, cause in _INPUTS if part in text), None)


@contextmanager
def mapped(task: TaskLoss, give: Exchange, caller: str) -> Iterator[None]:
    """Explain what torch says where tasks cannot run at once; refuse a forward that changes common buffers."""
    versions = {name: tensor._version for name, tensor in give.common.items()}
    try:
        with torch.autocast(task.precision["device_type"], enabled=False):  # the forward has its own; the rest has none
            yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, AccordError | torch.OutOfMemoryError):
            raise
        text = str(error)
        cause = cause_of(text) or next(
            (cause for part, cause in _CAUSES if part in text),
            "this model does not run over all tasks at once; if loss_fn runs on one task's batch alone, pass "
            "vectorize=False",
        )
        raise EngineError(f"{caller}: {cause} [torch: {text}]") from error
    changed = [name for name, version in versions.items() if give.common[name]._version != version]
    if changed:
        raise EngineError(f"{caller}: {_OUT_OF_PLACE}. Changed: {', '.join(changed)}")
