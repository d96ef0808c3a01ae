"""What a step costs for one model: backward passes timed once, in the process that asks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import TypeVar

import torch
from torch import Tensor

from accord.balancers import Balancer
from accord.balancers.gramian import BUDGET, GramianBalancer
from accord.balancers.wrappers import Wrapper
from accord.jacobian import FeatureJacobian, Jacobian, Local, sequential
from accord.jacobian.losses import hides, leaves_before
from accord.jacobian.remedies import explained

FORWARD = 0.5
"""A forward pass that was not timed counts as this many plain backwards, as in the arithmetic of ``budget``."""

TRIES, PATIENCE = 5, 0.2
"""Short work is timed up to so many times, while that takes no longer than so many seconds; the best time counts."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Seconds of a step's parts.

    Attributes:
        backward: One backward of the summed loss, to all leaves.
        rows: K vector-Jacobian products and the Gramian.
        combine: Jᵀw from them, and at a representation the trunk's backward.
        forward: The forward pass: as given, or half a backward.
        timed_forward: Whether it was given.
    """

    backward: float
    rows: float
    combine: float
    forward: float
    timed_forward: bool

    @property
    def plain(self) -> float:
        """Seconds of a plain step: forward, and backward of the summed loss."""
        return self.forward + self.backward

    def of(self, balancer: Balancer, seconds: float) -> float:
        """A step of a balancer that takes ``seconds`` to decide, in plain steps; the optimiser's part is left out."""
        rows = {"losses": 0, "cross-gramian": 2}.get(balancer.needs, 1)
        forwards = max(1, rows) + ("forward" in balancer.cost)  # FAMO's second look is a forward
        combine = 0.0 if balancer.needs == "rows" else self.combine  # such methods combine as they decide
        own = not rows or estimates(balancer)  # these differentiate what they need as they decide
        backward = self.backward if own else rows * self.rows + combine
        return (forwards * self.forward + backward + seconds) / self.plain


def estimates(balancer: Balancer) -> bool:
    """Whether a method, or the one that it wraps, differentiates rows of its own in the place of all K."""
    own = balancer
    while isinstance(own, Wrapper):
        own = own.inner
    return isinstance(own, GramianBalancer) and (own.gramian_part is not None or own.gramian_tasks is not None)


def interval(balancer: Balancer, steps: float, budget: float = BUDGET) -> int | None:
    """The smallest ``update_every`` whose mean step costs no more than a budget, in plain steps.

    Args:
        balancer: Its method; None is returned where it has no such option.
        steps: What a step that solves costs, in plain steps.
        budget: In plain steps, above 1.
    """
    if not isinstance(balancer, GramianBalancer):
        return None
    return max(1, math.ceil((steps - 1.0) / (budget - 1.0) - 1e-9))


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What a call returns, and its seconds.

    On a CPU those of this thread, which walks the graph and takes its part in what several threads do, so that other
    programs on the machine do not count; else those of the clock, until the device has done what is queued.
    """
    clock = thread_time if device.type == "cpu" else perf_counter
    wait(device)
    started = clock()
    found = call()
    wait(device)
    return found, clock() - started


def wait(device: torch.device) -> None:
    """Wait for what is queued on a device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def time_backward(jacobian: Jacobian, caller: str) -> float | None:
    """Seconds of one backward of the summed loss to all leaves; ``.grad`` is left alone and the graph is kept.

    The best of some, and in several processes the only one, after one that pays for what is set up once. None at a
    representation behind a reentrant checkpoint, which only a backward that writes to ``.grad`` could time.
    """
    hidden = hides(jacobian.losses) or getattr(jacobian, "by_backward", False)
    if hidden and isinstance(jacobian, FeatureJacobian):
        return None
    leaves = (*leaves_before(jacobian.parameters), *jacobian.heads)

    def backward() -> None:
        if hidden:  # a real backward whose gradients the engine takes away
            jacobian.pull([1.0] * jacobian.num_tasks)
        else:
            with explained(caller):
                torch.autograd.grad(jacobian.losses, leaves, retain_graph=True, allow_unused=True)

    device = jacobian.parameters[0].device
    warm_up(device)
    backward()
    if jacobian.reduce.size > 1:  # a backward may exchange gradients: as often on every process
        return timed(backward, device)[1]
    return best(lambda: timed(backward, device)[1])


def time_rows(jacobian: Jacobian, again: Callable[[], Jacobian]) -> tuple[Tensor, float]:
    """The Gramian, and the seconds of its K vector-Jacobian products.

    Once; but where that was quick, and in one process alone, the best of some, of Jacobians that ``again`` makes.
    """
    device = jacobian.parameters[0].device
    gramian, seconds = timed(jacobian.gramian, device)
    if seconds > PATIENCE / 2 or jacobian.reduce.size > 1:
        return gramian, seconds
    return gramian, min(seconds, best(lambda: timed(again().gramian, device)[1]))


def best(seconds: Callable[[], float]) -> float:
    """The least of some times."""
    started, times = perf_counter(), [seconds()]
    while len(times) < TRIES and perf_counter() - started < PATIENCE:
        times.append(seconds())
    return min(times)


def warm_up(device: torch.device) -> None:
    """Two rows of one number, so that what is imported and set up at the first rows is not timed with the model's."""
    x = torch.ones((), device=device, requires_grad=True)
    with torch.enable_grad():
        losses = [x * 2.0, x * 3.0]
    sequential(losses, x, reduce=Local()).gramian()


def time_combine(jacobian: Jacobian, caller: str) -> float:
    """Seconds of Jᵀw when the rows are there, and at a representation of the backward through the trunk."""
    weights = [1.0 / jacobian.num_tasks] * jacobian.num_tasks

    def combine() -> None:
        found = jacobian.pull(weights)
        if isinstance(jacobian, FeatureJacobian):
            pairs = [(z, g.to(z.dtype)) for z, g in zip(jacobian.parameters, found, strict=True) if g is not None]
            outputs, cotangents = zip(*pairs, strict=True)
            with explained(caller):
                torch.autograd.grad(outputs, leaves_before(outputs), cotangents, retain_graph=True, allow_unused=True)

    return timed(combine, jacobian.parameters[0].device)[1]
