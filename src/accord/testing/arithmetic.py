"""Checks over dtypes, numbers of tasks, and gradients that are hard or broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from accord.balancers import Balance, Balancer
from accord.errors import NonFiniteError, NumericalWarning
from accord.testing.contract import Row, check
from accord.testing.expect import close, finite, refused, require, same
from accord.testing.problems import Net, gradients, play, stream, train, trained

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)
COUNTS = (1, 2, 5, 40)
HARD: dict[str, list[list[float]]] = {
    "opposite": [[1.0, 2.0, -1.0, 0.5], [-1.0, -2.0, 1.0, -0.5]],
    "zero": [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
    "one zero": [[1.0, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0]],
    "equal": [[1.0, 2.0, -1.0, 0.5], [1.0, 2.0, -1.0, 0.5]],
    "parallel": [[1.0, 2.0, -1.0, 0.5], [1e3, 2e3, -1e3, 5e2]],
    "tiny": [[1e-30, 2e-30, 0.0, 0.0], [-1e-30, 0.0, 3e-30, 0.0]],
    "huge": [[1e30, 2e30, 0.0, 0.0], [-1e30, 0.0, 3e30, 0.0]],
    "far apart": [[1e-6, 2e-6, 0.0, 0.0], [-1e6, 0.0, 3e6, 0.0]],
}


@check
def dtypes(row: Row) -> None:
    """Parameters and losses of any floating dtype give finite gradients of it, by weights computed in float64."""
    given = stream("integer")
    wanted = play(row.make(given.num_tasks), given)
    for dtype in FLOATS:
        found = play(row.make(given.num_tasks), given, dtype=dtype)
        require(found.directions.dtype == dtype, f"gradients of {dtype} parameters are {found.directions.dtype}")
        close(found.weights, wanted.weights, f"weights of gradients that are exact in {dtype}", rtol=1e-5, atol=1e-6)
        net, balancer = Net(dtype=dtype), row.make()
        weights = train(balancer, net, range(2))
        finite([weights] if balancer.needs != "rows" else [], f"a weight in {dtype}")
        for gradient in gradients(net):
            require(gradient is not None and gradient.dtype == dtype, f"a {dtype} parameter's gradient is not {dtype}")
        finite(gradients(net, balancer), f"a gradient in {dtype}")


@check
def mixed_dtypes(row: Row) -> None:
    """Half-precision losses of float32 parameters, as under autocast, give finite float32 gradients."""
    for dtype in HALVES:
        _train_in_half(row, lambda net, step, dtype=dtype: {n: v.to(dtype) for n, v in net.losses(step).items()})

    def under_autocast(net: Net, step: int) -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net.losses(step)

    _train_in_half(row, under_autocast)


@check
def task_counts(row: Row) -> None:
    """One task, two, five and forty work alike."""
    for k in COUNTS:
        tasks = [f"task {i}" for i in range(k)]
        net, balancer = Net(tasks), row.make(tasks)
        weights = train(balancer, net, range(2))
        require(weights.shape == (2, k), f"weights of {k} tasks have shape {tuple(weights.shape[1:])}")
        if balancer.needs != "rows":
            finite([weights], f"a weight of {k} tasks")
        finite(gradients(net, balancer), f"a gradient of {k} tasks")


@check
def hard_gradients(row: Row) -> None:
    """Opposite, zero, equal, tiny and huge gradients: a direction, or a named outcome, but never junk or a warning."""
    for name, rows in HARD.items():
        balancer = row.make(2)
        for _ in range(2):
            x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                balance = balancer.backward(torch.tensor(rows, dtype=torch.float64) @ x + 1.0, [x])
            balancer.after_step(balance.losses)
            finite([x.grad], f"the gradient from {name} ones")
            if balancer.needs != "rows":
                finite([balance.weights], f"a weight of {name} gradients")
            named = balance.outcome in ("solved", "reused") or balance.cause
            require(named, f"{name} gradients give the outcome {balance.outcome!r} without a cause")


@check
def unreached_task(row: Row) -> None:
    """A task that does not reach the shared parameters is no error."""
    net, balancer = Net(), row.make()
    for step in range(2):
        losses = net.losses(step)
        losses["b"] = (net.heads[1](torch.ones(2, 6, dtype=torch.float64)) - 2.0 - step).square().mean() + 0.1
        net.zero_grad()
        balancer.backward(losses, net.trunk)
        balancer.after_step(losses)
        finite(gradients(net, balancer), "a gradient beside an unreached task's")


@check
def non_finite_gradient(row: Row) -> None:
    """A NaN or infinite gradient shows in .grad, is warned of where gradients are looked at, and leaves no trace."""
    for bad in (float("nan"), float("inf"), -float("inf")):
        for steps in (0, 3):
            balancer, net = trained(row, steps)
            before = balancer.state_dict()
            net.zero_grad()
            balance, warned = _spoiled_step(balancer, net, steps, bad)
            shown = any(g is not None and not bool(torch.isfinite(g).all()) for g in gradients(net.trunk))
            require(shown, f"a gradient of {bad} does not show in .grad: the step looks sound")
            if balance.gramian is not None:
                require(balance.outcome == "skipped", f"the outcome is {balance.outcome!r}, not 'skipped'")
                require(warned, "no NumericalWarning was given")
                same(balancer.state_dict(), before, "the state after a skipped step", ignore=("steps",))
            finite([balance.weights] if balancer.needs != "rows" else [], "a weight after a step without a gradient")
            net.zero_grad()
            train(balancer, net, range(steps + 1, steps + 3))
            finite(gradients(net, balancer), "a later gradient")


@check
def non_finite_loss(row: Row) -> None:
    """A NaN or infinite loss is refused, nothing is written, and the state stays."""
    for bad in (float("nan"), float("inf")):
        balancer, net = trained(row)
        before, untouched = balancer.state_dict(), gradients(net, balancer)
        losses = net.losses(3)
        losses["b"] = losses["b"] * bad
        refused(lambda: balancer.backward(losses, net.trunk), NonFiniteError, f"a loss of {bad}")  # noqa: B023
        same(balancer.state_dict(), before, "the state after a refused loss")
        same(gradients(net, balancer), untouched, "a gradient after a refused loss")


def _train_in_half(row: Row, losses_of: Callable[[Net, int], dict[str, Tensor]]) -> None:
    net, balancer = Net(dtype=torch.float32), row.make()
    for step in range(2):
        net.zero_grad()
        losses = losses_of(net, step)
        balance = balancer.backward(losses, net.trunk)
        balancer.after_step(lambda step=step: losses_of(net, step))
        finite([balance.weights] if balancer.needs != "rows" else [], "a weight of half-precision losses")
        finite(gradients(net, balancer), "a gradient of half-precision losses")
        for gradient in gradients(net):
            require(gradient is not None and gradient.dtype == torch.float32, "a float32 parameter's gradient is not")


def _spoiled_step(balancer: Balancer, net: Net, step: int, bad: float) -> tuple[Balance, bool]:
    """A step in which the gradient of task b is not finite, and whether it was warned of."""
    losses, z = net(step)
    spoiled = z * 1.0
    spoiled.register_hook(lambda gradient: torch.full_like(gradient, bad))
    losses["b"] = net.heads[1](spoiled).square().mean() + 0.1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        balance = balancer.backward(losses, net.trunk)
        balancer.after_step(losses)
    return balance, any(issubclass(w.category, NumericalWarning) for w in caught)
