"""Checks of a balancer's state: saved, copied, moved, frozen, forgotten, and kept when a step fails."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from accord import jacobian
from accord.balancers import Balancer
from accord.errors import EngineError
from accord.jacobian.base import Block, Weights
from accord.testing.contract import TASKS, Row, check
from accord.testing.expect import close, refused, require, same, same_state
from accord.testing.problems import (
    Net,
    backward,
    gradients,
    head_factors,
    load,
    optimizer_of,
    saved,
    task_gradients,
    tell,
    train,
    trained,
)

TOTAL = 8  # steps of an uninterrupted run
SAVED_AFTER = (0, 1, 3, 6)


@check
def resume(row: Row) -> None:
    """A state_dict saved mid-run and loaded into a fresh instance goes on as if uninterrupted, bit for bit."""
    balancer, net = row.make(), Net()
    blobs: dict[tuple[int, bool], bytes] = {(0, True): saved(balancer, net)}
    weights = []
    for step in range(TOTAL):
        weights.append(train(balancer, net, [step], told=False))
        blobs[step + 1, False] = saved(balancer, net)  # a step that awaits after_step
        tell(balancer, net, step)
        blobs[step + 1, True] = saved(balancer, net)
    wanted = [torch.cat(weights), *_numbers(balancer, net)]
    for done in SAVED_AFTER:
        for told in (True, False):
            if (done, told) not in blobs:
                continue
            fresh, other = row.make(), Net(seed=1)
            load(blobs[done, told], fresh, other)
            if not told:
                tell(fresh, other, done - 1)
            found = train(fresh, other, range(done, TOTAL))
            what = f"of a run resumed after {done} steps{'' if told else ', before after_step'}"
            same([found, *_numbers(fresh, other)], [wanted[0][done:], *wanted[1:]], f"a number {what}")
            same_state(fresh, balancer, what.removeprefix("of "))


@check
def state_is_a_copy(row: Row) -> None:
    """A state that was taken does not change when training goes on, nor when it is loaded elsewhere."""
    balancer, net = trained(row, 2)
    taken = balancer.get_extra_state()
    kept = copy.deepcopy(taken)
    other = row.make()
    other.set_extra_state(taken)
    train(balancer, net, range(2, 5))
    same(taken, kept, "a state taken before more steps")
    train(other, Net(), range(2, 5))
    same(taken, kept, "a state taken, after another balancer went on from it")


@check
def copies(row: Row) -> None:
    """Deep copies and pickles go on as the original does, and apart from it.

    A class that cannot be found by its name, such as one made inside a function, is deep-copied alone.
    """
    copiers: dict[str, Callable[[Any], Any]] = {"deep copy": copy.deepcopy}
    if getattr(sys.modules.get(row.cls.__module__), row.cls.__qualname__, None) is row.cls:
        copiers["pickle"] = lambda item: pickle.loads(pickle.dumps(item))
    for name, copier in copiers.items():
        balancer, net = trained(row)
        other, other_net = copier(balancer), copy.deepcopy(net)
        before = copy.deepcopy(balancer.state_dict())
        found = [train(other, other_net, range(3, 6)), *_numbers(other, other_net)]
        same(balancer.state_dict(), before, f"the original's state after its {name} went on")
        wanted = [train(balancer, net, range(3, 6)), *_numbers(balancer, net)]
        same(found, wanted, f"a number of the {name}")


@check
def moves(row: Row) -> None:
    """A parent's .to(), .half() and the like leave the state alone, and training goes on as without."""
    balancer, net = trained(row)
    plain, plain_net = trained(row)
    before = copy.deepcopy(balancer.state_dict())
    parent = nn.ModuleList([balancer, nn.Linear(1, 1)])
    parent.half().to("cpu").to(torch.float64).bfloat16()
    same(balancer.state_dict(), before, "the state after the parent's .half(), .to() and .bfloat16()")
    weights = train(balancer, net, range(3, 6))
    wanted = train(plain, plain_net, range(3, 6))
    same([weights, *_numbers(balancer, net)], [wanted, *_numbers(plain, plain_net)], "a number after the moves")


@check
def eval_freezes(row: Row) -> None:
    """In eval mode the last weights hold and nothing is learnt; training goes on as if that had not been."""
    balancer, net = trained(row)
    plain, plain_net = trained(row)
    for item, at in ((balancer, net), (plain, plain_net)):
        at.zero_grad()
        last = backward(item, at, 3).weights
        tell(item, at, 3)
    factors = head_factors(net, 3)
    before = copy.deepcopy(balancer.state_dict())
    balancer.eval()
    for step in (10, 11):
        frozen = _frozen_step(balancer, net, step)
        if balancer.needs != "rows":
            same(frozen, last, "the frozen weights")
            close(head_factors(net, step), factors, "the frozen weights of the heads", rtol=1e-5)
    same(balancer.state_dict(), before, "the state after eval mode")
    balancer.train()
    wanted = [train(plain, plain_net, range(4, 7)), *_numbers(plain, plain_net)]
    same([train(balancer, net, range(4, 7)), *_numbers(balancer, net)], wanted, "a number after eval mode")
    fresh = row.make().eval()
    _frozen_step(fresh, Net(), 0)
    same_state(fresh, row.make(), "a fresh balancer after a step in eval mode")


@check
def reset(row: Row) -> None:
    """A balancer that was reset is like a fresh one."""
    balancer, _ = trained(row, 5)
    fresh = row.make()
    balancer.reset()
    same_state(balancer, fresh, "a balancer that was reset")
    net, other = Net(), Net()
    found, wanted = train(balancer, net, range(4)), train(fresh, other, range(4))
    same([found, *_numbers(balancer, net)], [wanted, *_numbers(fresh, other)], "a number after a reset")


@check
def failed_step(row: Row) -> None:
    """A step that fails has not happened: state and gradients stay, and the next gives the same numbers."""
    balancer, net = trained(row)
    plain, plain_net = trained(row)
    before, untouched = copy.deepcopy(balancer.state_dict()), gradients(net, balancer)
    freed = net.losses(3)
    task_gradients(freed.values(), net.parameters(), keep=False)
    attempts: dict[str, Callable[[], object]] = {
        "on a graph already freed": lambda: balancer.backward(freed, net.trunk),
        "while gradients are written": lambda: balancer.backward(net.losses(3), net.trunk, engine=_Failing),
        "on parameters that no loss reaches": lambda: balancer.backward(net.losses(3), nn.Linear(2, 2)),
    }
    for what, attempt in attempts.items():
        refused(attempt, EngineError, f"a step {what}")
        same(balancer.state_dict(), before, f"the state after a step that failed {what}")
        same(gradients(net, balancer), untouched, f"a gradient after a step that failed {what}")
    found, wanted = train(balancer, net, range(3, 6)), train(plain, plain_net, range(3, 6))
    same([found, *_numbers(balancer, net)], [wanted, *_numbers(plain, plain_net)], "a number after failed steps")


class _Failing(jacobian.SequentialJacobian):
    """An engine that differentiates and then cannot write."""

    engine = "failing"

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        raise EngineError("jacobian.failing: as intended")

    def add(self, shared: Sequence[Block], heads: Sequence[Block]) -> None:
        raise EngineError("jacobian.failing: as intended")


def _numbers(balancer: Balancer, net: Net) -> list[Any]:
    """All parameters and gradients."""
    parameters: list[Tensor] = [p.detach() for module in (net, balancer) for p in module.parameters()]
    return [*parameters, *gradients(net, balancer)]


def _frozen_step(balancer: Balancer, net: Net, step: int) -> Tensor:
    """The weights of a step in eval mode, which learns nothing."""
    optimizer_of(balancer, net).zero_grad()
    balance = backward(balancer, net, step)
    tell(balancer, net, step)
    require(balance.outcome == "frozen", f"the outcome in eval mode is {balance.outcome!r}, not 'frozen'")
    require(balance.weights.shape == (len(TASKS),), "the frozen weights are not one a task")
    require(
        not any(g is not None and g.any() for g in gradients(balancer)), "own parameters got gradients in eval mode"
    )
    if balancer.needs != "rows":
        other = copy.deepcopy(net)
        other.zero_grad()
        balancer(other.losses(step), other.trunk).backward()
        close(gradients(other.trunk), gradients(net.trunk), "the frozen scalar's gradient", rtol=1e-5)
    return balance.weights
