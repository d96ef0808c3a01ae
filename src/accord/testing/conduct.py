"""Checks of how a balancer behaves as an object: its text, its warnings, what it refuses, what the loop tells it."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

from accord import jacobian
from accord.errors import OptionError, ShapeError
from accord.testing.contract import TASKS, Row, check
from accord.testing.expect import refused, require, same, same_state
from accord.testing.problems import Net, backward, gradients, train, trained

BAD_TASKS: tuple[Any, ...] = (0, -1, [], ["a", "a"], "abc", 2.5, True, None)


@check
def text(row: Row) -> None:
    """repr(balancer) evaluates to a balancer alike."""
    for tasks in (TASKS, len(TASKS)):
        balancer = row.make(tasks)
        again = eval(repr(balancer), {type(balancer).__name__: type(balancer)})
        require(type(again) is type(balancer), f"{balancer!r} evaluates to a {type(again).__name__}")
        require(repr(again) == repr(balancer), f"{balancer!r} evaluates to {again!r}")
        same_state(again, balancer, f"what {balancer!r} evaluates to")
        net, other = Net(), Net()
        same(
            train(again, net, range(3)), train(balancer, other, range(3)), f"a weight of what {balancer!r} evaluates to"
        )


@check
def quiet(row: Row) -> None:
    """Ordinary use gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(row.make(), Net(), range(4))
        train(row.make(), Net(), range(4), by="features")


@check
def bad_tasks(row: Row) -> None:
    """Task counts that are none, and losses of another number or other names, are refused and write nothing."""
    for tasks in BAD_TASKS:
        refused(partial(row.make, tasks), ShapeError, f"tasks={tasks!r}")
    net = Net()
    losses = list(net.losses(0).values())
    given: dict[str, Any] = {
        "two losses": losses[:2],
        "four losses": [*losses, losses[0]],
        "no losses": [],
        "losses that are no scalars": [loss.expand(2) for loss in losses],
        "losses summed to one": sum(losses),
        "None": None,
    }
    others = {"losses of other names": dict(zip(("a", "b", "x"), losses, strict=True))}
    for tasks, wrong in ((TASKS, {**given, **others}), (len(TASKS), given)):
        balancer = row.make(tasks)
        for what, bad in wrong.items():
            refused(partial(balancer.backward, bad, net.trunk), ShapeError, f"{what} for three tasks")
        refused(partial(balancer.backward, losses), OptionError, "neither shared= nor features=")
        require(not any(g is not None for g in gradients(net, balancer)), "refused losses wrote a gradient")
        same_state(balancer, row.make(tasks), "a balancer that refused losses")


@check
def names(row: Row) -> None:
    """Losses go by their names, in whatever order they come; a balancer of K tasks takes up the names."""
    net, other = Net(), Net()
    balancer, counted = row.make(), row.make(len(TASKS))
    backwards = dict(reversed(net.losses(0).items()))
    a = balancer.backward(backwards, net.trunk)
    b = counted.backward(other.losses(0), other.trunk)
    require(counted.tasks == TASKS, f"a balancer of three tasks given {TASKS} has the tasks {counted.tasks}")
    same(a.weights, b.weights, "a weight of losses in another order")
    same_state(counted, balancer, "a balancer that took up the tasks' names")


@check
def module_apply(row: Row) -> None:
    """nn.Module.apply reaches it, and apply(jacobian) is backward."""
    seen: list[nn.Module] = []
    balancer = row.make()
    nn.ModuleList([balancer]).apply(seen.append)
    require(balancer in seen, "nn.Module.apply of the parent does not reach the balancer")
    net, other = Net(), Net()
    found = balancer.apply(jacobian.sequential(net.losses(0), net.trunk)).weights
    wanted = row.make().backward(other.losses(0), other.trunk).weights
    same([found, *gradients(net)], [wanted, *gradients(other)], "a number of apply(jacobian)")


@check
def after_step(row: Row) -> None:
    """after_step takes losses or a function of them, calls it without gradients, and may come too early."""
    balancer, net = row.make(), Net()
    before = balancer.state_dict()
    balancer.after_step(net.losses(0))
    same(balancer.state_dict(), before, "the state after an after_step before the first step")
    (balancer, net), (other, other_net) = trained(row, told=False, steps=1), trained(row, told=False, steps=1)
    calls: list[bool] = []
    untouched = gradients(net, balancer)

    def losses() -> dict[str, torch.Tensor]:
        calls.append(torch.is_grad_enabled())
        return net.losses(0)

    balancer.after_step(losses)
    require(len(calls) <= 1, f"after_step called the function {len(calls)} times")
    require(not any(calls), "after_step called the function with gradients enabled")
    same(gradients(net, balancer), untouched, "a gradient after after_step")
    other.after_step(torch.stack(list(other_net.losses(0).values())).detach())
    same_state(other, balancer, "a balancer given a tensor of losses in the place of a function")
    weights = [backward(item, at, 1).weights for item, at in ((balancer, net), (other, other_net))]
    same(weights[0], weights[1], "a weight after after_step")
