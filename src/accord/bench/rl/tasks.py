"""Meta-World's tasks by name, and the sets of them that papers use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from accord.balancers.registry import suggest
from accord.errors import OptionError, UnknownNameError

VERSION = "v3"
"""Of the environments' interface; rewards have versions of their own."""

STATE, ACTION = 39, 4
"""Numbers in an observation (with the goal, without a task id), and in an action."""

RewardVersion = Literal["v1", "v2"]

MT10 = tuple(
    f"{name}-{VERSION}"
    for name in (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
        "window-open",
        "window-close",
    )
)
"""The ten tasks of MT10, in Meta-World's order."""

_MT50 = """
    assembly basketball bin-picking box-close button-press-topdown button-press-topdown-wall button-press
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock hand-insert drawer-close drawer-open faucet-open faucet-close hammer handle-press-side handle-press
    handle-pull-side handle-pull lever-pull pick-place-wall pick-out-of-hole pick-place plate-slide plate-slide-side
    plate-slide-back plate-slide-back-side peg-insert-side peg-unplug-side soccer stick-push stick-pull push push-wall
    push-back reach reach-wall shelf-place sweep-into sweep window-open window-close
"""
MT50 = tuple(f"{name}-{VERSION}" for name in _MT50.split())
"""All fifty tasks, in Meta-World's order."""


@dataclass(frozen=True)
class Goals:
    """A list of goals: the same seed and count give the same goals.

    Attributes:
        seed: Of the draws.
        count: How many; episodes draw from them at random (training) or go through them in turn (evaluation).
    """

    seed: int
    count: int


def parse_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Full names of tasks; ``reach`` is ``reach-v3``.

    Raises:
        UnknownNameError: Meta-World has no such task; the nearest is suggested.
        OptionError: There are none, or one is named twice.
    """
    found = []
    for name in names:
        full = name.strip() if name.strip().endswith(f"-{VERSION}") else f"{name.strip()}-{VERSION}"
        if full not in MT50:
            raise UnknownNameError(f"Meta-World has no task {name!r}{suggest(full, MT50)}")
        found.append(full)
    if not found:
        raise OptionError("no tasks were named; write for instance mt:reach,push")
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise OptionError(f"tasks are named twice: {', '.join(twice)}; a task has one row of the Jacobian")
    return tuple(found)
