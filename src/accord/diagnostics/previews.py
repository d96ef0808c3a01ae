"""What each method would do with gradients that are there already, without a step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from accord.balancers import Balancer, Decision, available, make
from accord.balancers.randomness import Seeded
from accord.balancers.result import clip_factor, named_cause
from accord.balancers.wrappers import CRMOGM, Wrapper
from accord.diagnostics.costs import Cost, interval, timed
from accord.diagnostics.gradients import NEGLIGIBLE, Gradients
from accord.errors import AccordError, OptionError, ShapeError
from accord.jacobian import Jacobian, ScaledJacobian
from accord.jacobian.storage import Block, inner_products

COMMON = {"schedule", "head_weights", "estimate", "generator", "of"}
"""State on which the weights of a first step do not depend."""


@dataclass(frozen=True, eq=False)
class Preview:
    """What a method would do with these gradients.

    Attributes:
        method: Its spec.
        weights: Of the task gradients, shape (K,), as the method gives them; None where none describe it.
        shares: The weights over the sum of their magnitudes, shape (K,), comparable between methods.
        length: The norm of its shared gradient d over that of the mean gradient; infinity where that is zero.
        change: First-order change of every loss per unit step along −d, shape (K,): −(Gw)_k.
        relative: ``change`` over ‖g_k‖‖d‖, shape (K,): −1 is what a step of this length along the task's own gradient
            would bring, above 0 the loss rises. 0 for a task without a gradient.
        worst: The largest relative change: how the worst-off of the tasks that have a gradient fares.
        rises: The tasks whose loss rises to first order.
        outcome: As in ``accord.Balance``.
        cause: As in ``accord.Balance``.
        residual: The certificate, where the method has one.
        seconds: What it took to decide, once the Gramian was there.
        steps: What its step costs, in plain steps; None where that was not measured.
        every: The smallest ``update_every`` that costs 1.2 plain steps; None where the method has no such option.
        first: Whether this is its first step, and later ones go by what it remembers.
        random: Whether this is one draw.
    """

    method: str
    weights: np.ndarray | None
    shares: np.ndarray | None
    length: float
    change: np.ndarray
    relative: np.ndarray
    worst: float
    rises: tuple[str, ...]
    outcome: str
    cause: str
    residual: float | None
    seconds: float
    steps: float | None
    every: int | None
    first: bool
    random: bool


class Seen(ScaledJacobian):
    """A Jacobian as it is, with its Gramian computed once for all methods."""

    def __init__(self, jacobian: Jacobian, gramian: Tensor) -> None:
        super().__init__(jacobian, torch.ones(jacobian.num_tasks), jacobian.values)
        self._known = gramian
        self.second = jacobian.second

    def gramian(self) -> Tensor:
        """The known one, in memory of its own."""
        return self._known.clone()

    def rows(self) -> list[Block]:
        """Those of the Jacobian."""
        return self.unscaled.rows()


def build(methods: Sequence[str | Balancer] | None, gradients: Gradients, named: bool, caller: str) -> list[Balancer]:
    """Balancers from specs, or copies of those given; by default of every method but the wrappers.

    Raises:
        UnknownNameError, OptionError: A spec is wrong.
        ShapeError: A balancer is for other tasks.
    """
    names: int | Sequence[str] = gradients.tasks if named else len(gradients.tasks)
    if methods is None:
        found = [make(name, tasks=names) for name in available()]
        return [balancer for balancer in found if not isinstance(balancer, Wrapper)]
    balancers = []
    for method in methods:
        if isinstance(method, str):
            balancers.append(make(method, tasks=names))
            continue
        if not isinstance(method, Balancer):
            raise OptionError(f"{caller}: methods holds a {type(method).__name__}; give specs or balancers")
        if method.num_tasks != len(gradients.tasks) or (named and method.named and method.tasks != gradients.tasks):
            raise ShapeError(
                f"{caller}: {type(method).__name__} is a balancer of {list(method.tasks)}, but the losses are those of "
                f"{list(gradients.tasks)}; give the losses of its tasks in its order"
            )
        balancers.append(copy.deepcopy(method))
    return balancers


def labels(methods: Sequence[str | Balancer] | None, balancers: Sequence[Balancer]) -> list[str]:
    """A distinct name for each: its spec as given, or the method's."""
    given = [None] * len(balancers) if methods is None else methods
    found: list[str] = []
    for method, balancer in zip(given, balancers, strict=True):
        name = method.strip() if isinstance(method, str) else balancer.method or type(balancer).__name__
        number = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({number + 1})" if number else name)
    return found


def preview(balancer: Balancer, label: str, jacobian: Seen, gradients: Gradients, cost: Cost | None) -> Preview | str:
    """What a balancer would do; or why it cannot be said. The balancer's state moves on: give it a copy."""
    if balancer.needs == "rows" and getattr(jacobian.unscaled, "lean", False):
        return "it needs all task gradients at once, and lean mode keeps none; give engine='sequential'"
    first = not balancer.steps and any(map(remembers, layers(balancer)))
    times = []
    twin = balancer if balancer.needs == "rows" else copy.deepcopy(balancer)  # asked first, for what is set up once
    try:
        for one in dict.fromkeys((twin, balancer)):
            decision, seconds = timed(partial(one._decide, jacobian), jacobian.parameters[0].device)
            times.append(seconds)
    except AccordError as error:
        return str(error)
    products, length = _along(decision, jacobian, gradients)
    scale = clip_factor(decision, lambda: length)
    products, length = products * scale, length * scale
    sizes = gradients.norms * length
    relative = np.divide(-products, sizes, out=np.zeros_like(products), where=sizes > 0.0).clip(-1.0, 1.0)
    weights = decision.weights if np.isfinite(decision.weights).all() else None
    total = 0.0 if weights is None else float(np.abs(weights).sum())
    mean = gradients.mean_gradient
    steps = None if cost is None else cost.of(balancer, min(times))
    return Preview(
        method=label,
        weights=weights,
        shares=None if weights is None else weights / total if total > 0.0 else weights,
        length=length / mean if mean > 0.0 else float("inf") if length > 0.0 else 0.0,
        change=-products,
        relative=relative,
        worst=float(relative[gradients.norms > 0.0].max(initial=-1.0)) if gradients.norms.any() else 0.0,
        rises=tuple(t for t, change in zip(gradients.tasks, relative, strict=True) if change > NEGLIGIBLE),
        outcome=decision.outcome,
        cause=named_cause(decision, gradients.tasks),
        residual=None if decision.solution is None else decision.solution.residual,
        seconds=min(times),
        steps=steps,
        every=None if steps is None else interval(balancer, steps),
        first=first,
        random=any(map(draws, layers(balancer))),
    )


def layers(balancer: Balancer) -> list[Balancer]:
    """A method and those that it wraps, from outside in."""
    found = [balancer]
    while isinstance(balancer, Wrapper):
        found.append(balancer := balancer.inner)
    return found


def remembers(balancer: Balancer) -> bool:
    """Whether later steps go by more than their own gradients."""
    state = {key for key, value in balancer.own_state().items() if value is not None} - COMMON
    averages = isinstance(balancer, CRMOGM) or getattr(balancer, "gramian_ema", None) is not None
    return bool(state or averages or list(balancer.parameters()))


def draws(balancer: Balancer) -> bool:
    """Whether another draw of random numbers would give other weights."""
    return isinstance(balancer, Seeded) or bool(
        getattr(balancer, "gramian_tasks", None) or getattr(balancer, "gramian_batch", None)
    )


def _along(decision: Decision, jacobian: Jacobian, gradients: Gradients) -> tuple[np.ndarray, float]:
    """Jd, shape (K,), and ‖d‖ of the decided shared gradient d."""
    if decision.directions is None:
        w = decision.weights
        products = gradients.gramian @ w
        return products, float(np.sqrt(max(0.0, float(w @ products))))
    columns: list[Block] = [None if d is None else d[None] for d in decision.directions]
    part = inner_products(jacobian.rows(), columns, jacobian.num_tasks, 1)
    if jacobian.reduce.parts:
        part = jacobian.reduce.total(part)
    return part[:, 0].numpy(), jacobian.norm(decision.directions)
