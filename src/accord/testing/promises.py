"""Checks of what a class promises: descent, homogeneity, equivariance; and of its randomness."""

from __future__ import annotations

import inspect
import random

import numpy as np
import torch
from torch import Tensor

from accord.testing.contract import Row, check
from accord.testing.expect import close, require, same
from accord.testing.problems import Net, gradients, play, stream, train

KINDS = ("random", "conflicting", "spread")
SCALES = (1e-4, 1e3)
DESCENT = 1e-6  # cosine to which no task is hurt
NEEDS = ("losses", "gramian", "cross-gramian", "rows")


@check
def declarations(row: Row) -> None:
    """The class says what it needs and promises, and stores its options under their own names."""
    balancer = row.make()
    require(balancer.needs in NEEDS, f"needs = {balancer.needs!r} is none of {', '.join(NEEDS)}")
    for name in ("descent", "equivariant", "relative"):
        require(isinstance(getattr(balancer, name), bool), f"{name} = {getattr(balancer, name)!r} is no bool")
    power = balancer.homogeneity
    require(power is None or isinstance(power, (int, float)), f"homogeneity = {power!r} is neither a number nor None")
    require(getattr(balancer, "heads", "plain") in ("plain", "weighted"), "heads is neither 'plain' nor 'weighted'")
    for name in ("method", "reference", "cost"):
        require(isinstance(getattr(balancer, name), str), f"{name} = {getattr(balancer, name)!r} is no text")
    parameters = list(inspect.signature(row.cls).parameters.values())
    require(parameters and parameters[0].name == "tasks", "the first parameter is not tasks")
    for option in parameters[1:]:
        require(option.default is not option.empty, f"the option {option.name!r} has no default")
        require(hasattr(balancer, option.name), f"the option {option.name!r} is not stored under its own name")


@check
def descent(row: Row) -> None:
    """Where descent is promised, no task's loss increases to first order along −d."""
    if not row.make().descent:
        return
    for kind in KINDS:
        for k in (2, 4):
            given = stream(kind, tasks=k)
            played = play(row.make(k), given)
            solved = [t for t, outcome in enumerate(played.outcomes) if outcome == "solved"]
            require(solved, f"no step on {kind} gradients was solved: {played.outcomes}")
            for t in solved:
                cosines = _cosines(given.rows[t], played.directions[t])
                least = float(cosines.min())
                require(
                    least >= -DESCENT, f"on {kind} gradients the direction has the cosine {least:.3g} with a task's"
                )


@check
def homogeneity(row: Row) -> None:
    """Gradients times s at the same losses give weights times s to the declared power."""
    power = row.make().homogeneity
    if power is None:
        return
    given = stream()
    wanted = play(row.make(given.num_tasks), given)
    for scale in SCALES:
        found = play(row.make(given.num_tasks), given.scaled(scale))
        what = f"weights of gradients times {scale:g}, which should be s**{power:g} times"
        close(found.weights / scale**power, wanted.weights, what, rtol=1e-5, atol=1e-7)


@check
def equivariance(row: Row) -> None:
    """Tasks in another order have the same weights in that order, and the same direction."""
    if not row.make().equivariant:
        return
    order = [2, 0, 3, 1]
    for kind in KINDS:
        given = stream(kind)
        wanted = play(row.make(given.num_tasks), given)
        found = play(row.make(given.num_tasks), given.ordered(order))
        close(found.weights, wanted.weights[:, order], f"weights of reordered {kind} tasks", rtol=1e-5, atol=1e-7)
        scale = float(wanted.directions.abs().max())
        close(
            found.directions, wanted.directions, f"directions of reordered {kind} tasks", rtol=1e-5, atol=1e-6 * scale
        )


@check
def determinism(row: Row) -> None:
    """The same run again gives the same numbers, bit for bit."""
    same(_run(row), _run(row), "a number of the same run again")


@check
def private_generators(row: Row) -> None:
    """Global generators are neither used nor touched; another seed gives other numbers."""
    before = _global_states()
    first = _run(row)
    same(_global_states(), before, "the global generators' state")
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    random.random()
    try:
        same(_run(row), first, "a number of the same run after the global generators moved on")
    finally:
        _restore(before)
    if row.takes("seed"):
        given = stream("conflicting")
        seeds = [play(row.make(given.num_tasks, seed=seed), given) for seed in (0, 1, 0)]
        require(_differ(seeds[0].directions, seeds[1].directions), "seeds 0 and 1 give the same numbers")
        same(seeds[2].directions, seeds[0].directions, "a direction of the same seed again")


def _run(row: Row) -> list[Tensor]:
    """Weights, parameters and gradients of a training and of a stream."""
    net, balancer, given = Net(), row.make(), stream("conflicting")
    weights = train(balancer, net, range(4))
    played = play(row.make(given.num_tasks), given)
    found = [p.detach() for p in (*net.parameters(), *balancer.parameters())]
    return [weights, *found, *(g for g in gradients(net) if g is not None), played.weights, played.directions]


def _cosines(rows: Tensor, direction: Tensor) -> Tensor:
    """Of the direction (P,) with each row (K, P); 0 where one vanishes beside the rows."""
    size = float(direction.norm())
    return rows @ direction / rows.norm(dim=1).clamp(min=1e-300) / (size if size > 0 else 1.0)


def _differ(a: Tensor, b: Tensor) -> bool:
    return not torch.equal(a, b)


def _global_states() -> list[object]:
    legacy = np.random.get_state(legacy=True)  # noqa: NPY002
    return [torch.get_rng_state(), list(legacy), random.getstate()]


def _restore(states: list[object]) -> None:
    torch.set_rng_state(states[0])  # type: ignore[arg-type]
    np.random.set_state(tuple(states[1]))  # type: ignore[arg-type]  # noqa: NPY002
    random.setstate(states[2])  # type: ignore[arg-type]
