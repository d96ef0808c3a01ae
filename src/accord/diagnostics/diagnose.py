"""``accord.diagnose``: how the tasks' gradients disagree on one batch, and what each method would make of it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from accord.balancers import Balancer
from accord.balancers.inputs import Engine, Features, build_jacobian, report
from accord.balancers.options import check_positive
from accord.diagnostics import shared as sharing
from accord.diagnostics.advice import advise
from accord.diagnostics.costs import FORWARD, Cost, time_backward, time_combine, time_rows
from accord.diagnostics.gradients import NEGLIGIBLE, Gradients
from accord.diagnostics.previews import Preview, Seen, build, labels, preview
from accord.diagnostics.text import render
from accord.errors import AccordError, NonFiniteError, OptionError
from accord.jacobian import FeatureJacobian, Jacobian, Losses, Reduce, Shared, Watched, watch
from accord.jacobian.watching import watched

CALLER = "accord.diagnose"


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis(Gradients):
    """What ``accord.diagnose`` found; ``print`` shows it, and a notebook too.

    Attributes:
        losses: The losses, shape (K,), float64.
        methods: What each method would do, by name; the one whose worst-off task fares best first.
        not_run: Why the others could not be asked, by name.
        cost: Seconds of the parts of a step; None where they were not timed.
        tensors: How many tensors the gradients were taken with respect to.
        size: How many numbers these hold.
        dtype: Their type.
        digits: Binary digits after the leading one in it, or in the coarsest of several.
        device: Where they lie: ``"cpu"``, ``"cuda"``.
        place: What they are: ``"shared parameters"`` or ``"representation"``.
        engine: How the gradients were computed.
        notes: How the shared parameters were chosen.
    """

    losses: np.ndarray
    methods: dict[str, Preview]
    not_run: dict[str, str]
    cost: Cost | None
    tensors: int
    size: int
    dtype: str
    digits: int
    device: str
    place: str
    engine: str
    notes: tuple[str, ...] = ()

    @property
    def plain_rises(self) -> tuple[str, ...]:
        """The tasks whose loss the plain sum of the gradients raises to first order."""
        products = self.gramian.sum(1)
        sizes = self.norms * self.mean_gradient * len(self.tasks)
        rising = products < -NEGLIGIBLE * sizes
        return tuple(task for task, up in zip(self.tasks, rising, strict=True) if up)

    @property
    def advice(self) -> tuple[str, ...]:
        """What follows from the numbers, sentence by sentence."""
        return advise(self)

    def __str__(self) -> str:
        return render(self)

    def __repr__(self) -> str:
        conflicts = f"{len(self.conflicts)} of {len(self.pairs)} pairs conflict"
        return f"Diagnosis({len(self.tasks)} tasks, {conflicts}, stationarity {self.stationarity:.3g})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def diagnose(
    model: Shared | None,
    losses: Losses | Jacobian,
    *,
    shared: Shared | None = None,
    features: Features | None = None,
    methods: str | Balancer | Iterable[str | Balancer] | None = None,
    engine: Engine = "auto",
    heads: Shared | None = None,
    forward: float | None = None,
    reduce: Reduce | str = "auto",
) -> Diagnosis:
    """Say how the tasks' gradients disagree on this batch, and what each method would do.

    K vector-Jacobian products, two plain backwards for the clock, and a decision of each method; what is quick is
    timed several times. Nothing is changed: neither ``.grad``, nor the global generators, nor any balancer, nor the
    buffers of the modules given, which a checkpoint's second forward pass may move; the graph is kept, so that
    ``backward`` can follow.

    Args:
        model: The network. Of its parameters those count as shared that more than one loss reaches, so that the shared
            part alone (``model.trunk``) may be given too. Anything that ``shared`` may be.
        losses: K scalars as in ``balancer.backward``: a dict by task name, a list, a tuple, or a tensor (K,), in whose
            graph heads and shared parameters look alike, so that all of ``model`` counts as shared. Or a Jacobian
            (``accord.jacobian.disjoint``), whose parameters count; its costs are not timed.
        shared: The shared parameters themselves, where the graph should not decide.
        features: The shared representation in their place, as in ``balancer.backward``; ``model`` has no part then.
        methods: Specs (``"cagrad:c=0.5"``), or balancers, of which copies are asked in their present state. All
            registered methods with their defaults if left away; ``()`` for none.
        engine: As in ``balancer.backward``.
        heads: As in ``balancer.backward``.
        forward: Seconds of this batch's forward pass, for the ratios of cost; half a backward if left away.
        reduce: As in ``balancer.backward``; with several processes all must call.

    Returns:
        The numbers, as attributes; as text with ``print``.

    Raises:
        ShapeError: Not K scalars, or a balancer is for other tasks.
        NonFiniteError: A loss or a gradient is NaN or infinite; the task is named.
        EngineError: The losses share no parameter, or cannot be differentiated.
        UnknownNameError, OptionError: A method, an engine or an option is not known.

    Example:
        >>> import accord.diagnostics, torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> found = accord.diagnostics.diagnose(x, {"a": x[0] + x[1], "b": x[0] - 4 * x[1]}, methods=["ls", "mgda"])
        >>> found
        Diagnosis(2 tasks, 1 of 1 pairs conflict, stationarity 0.493)
        >>> found.methods["ls"].rises, found.methods["mgda"].rises
        (('a',), ())
    """
    with kept_buffers(model, shared, features, heads):
        return _diagnose(model, losses, shared, features, methods, engine, heads, forward, reduce)


def _diagnose(
    model: Shared | None,
    losses: Losses | Jacobian,
    shared: Shared | None,
    features: Features | None,
    methods: str | Balancer | Iterable[str | Balancer] | None,
    engine: Engine,
    heads: Shared | None,
    forward: float | None,
    reduce: Reduce | str,
) -> Diagnosis:
    """See ``diagnose``."""
    if forward is not None:
        check_positive(forward, "forward", CALLER)
    if methods is not None:
        methods = [methods] if isinstance(methods, str | Balancer) else list(methods)
    note = ""
    if isinstance(losses, Jacobian):
        if any(given is not None for given in (shared, features, heads, forward)) or engine != "auto":
            raise OptionError(
                f"{CALLER}: a Jacobian was given in the place of losses, which has parameters, heads and an engine of "
                "its own; leave shared=, features=, heads=, engine= and forward= away"
            )
        jacobian, cost, gramian = losses, None, losses.gramian()
    else:
        try:
            found = sharing.find(model, losses, shared, features is not None, CALLER)
        except AccordError as error:
            report(error, CALLER, model, reduce)
            raise
        note = found.note
        options: dict[str, Any] = {"engine": engine, "heads": heads, "reduce": reduce, "retain_graph": True}
        make = partial(build_jacobian, CALLER, found.losses, found.shared, peek(features), **options)
        jacobian = make()
        jacobian.check_reach()
        backward = time_backward(jacobian, CALLER)
        gramian, rows = time_rows(jacobian, make)
        cost = None
        if backward is not None:
            known = FORWARD * backward if forward is None else forward
            cost = Cost(backward, rows, time_combine(jacobian, CALLER), known, forward is not None)
    tasks = tuple(jacobian.names or map(str, range(jacobian.num_tasks)))
    check_gradients(jacobian, gramian, tasks)
    gradients = Gradients(tasks=tasks, gramian=gramian.numpy())
    balancers = build(methods, gradients, jacobian.names is not None, CALLER)
    seen = Seen(jacobian, gramian)
    asked = {
        label: preview(balancer, label, seen, gradients, cost)
        for label, balancer in zip(labels(methods, balancers), balancers, strict=True)
    }
    previews = {name: found for name, found in asked.items() if isinstance(found, Preview)}
    kinds = sorted({p.dtype for p in jacobian.parameters}, key=lambda dtype: torch.finfo(dtype).eps)
    return Diagnosis(
        tasks=tasks,
        gramian=gradients.gramian,
        losses=jacobian.values.numpy(),
        methods=dict(sorted(previews.items(), key=lambda item: item[1].worst)),
        not_run={name: why for name, why in asked.items() if isinstance(why, str)},
        cost=cost,
        tensors=len(jacobian.parameters),
        size=sum(p.numel() for p in jacobian.parameters),
        dtype=" and ".join(str(dtype).removeprefix("torch.") for dtype in kinds),
        digits=round(-np.log2(torch.finfo(kinds[-1]).eps)),
        device=jacobian.parameters[0].device.type,
        place="representation" if isinstance(jacobian, FeatureJacobian) else "shared parameters",
        engine=jacobian.why or jacobian.label,
        notes=(note,) if note else (),
    )


@contextmanager
def kept_buffers(*given: Any) -> Iterator[None]:
    """Give the buffers of the modules among ``given`` their numbers back, where something wrote to them inside."""
    buffers = [b for module in given if isinstance(module, nn.Module) for b in module.buffers()]
    before = [(buffer, buffer.detach().clone()) for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):  # others may be needed, untouched, by the graph
                    buffer.copy_(value)


def peek(features: Features | None) -> Features | None:
    """The representation; where a module is watched its outputs, which stay there for the step that follows."""
    if not isinstance(features, nn.Module | Watched):
        return features if features is None or isinstance(features, torch.Tensor) else list(features)
    outputs = watched(features, CALLER)
    watcher = watch(features) if isinstance(features, nn.Module) else features
    watcher._outputs[:0] = outputs
    return outputs


def check_gradients(jacobian: Jacobian, gramian: torch.Tensor, tasks: tuple[str, ...]) -> None:
    """Raise NonFiniteError, with the tasks' names, unless all inner products are finite."""
    finite = torch.isfinite(gramian)
    if bool(finite.all()):
        return
    bad = [task for task, fine in zip(tasks, finite.diagonal().tolist(), strict=True) if not fine]
    where = ""
    if not getattr(jacobian, "lean", False) and not jacobian.reduce.parts:
        blocks = zip(
            jacobian.parameter_names or map(str, range(len(jacobian.parameters))), jacobian.rows(), strict=True
        )
        first = next((name for name, rows in blocks if rows is not None and not torch.isfinite(rows).all()), None)
        where = f", first in parameter {first!r}" if first is not None else " (their squares overflow)"
    raise NonFiniteError(
        f"{CALLER}: the losses are finite, but the gradient of {', '.join(map(repr, bad or tasks))} on the shared "
        f"parameters is not{where}. Look for a square root, a norm or a logarithm at zero, or losses of a scale out of "
        "the type's range; torch.autograd.set_detect_anomaly(True) names the operation"
    )
