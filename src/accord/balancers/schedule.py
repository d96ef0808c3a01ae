"""When a Gramian method solves, and when it reuses its last weights: every n-th step, or as often as a budget allows.

Pure arithmetic on plain numbers: no clock is read and nothing is drawn, so that a run repeats itself on any machine,
all processes of one job agree, and a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

CALM = 0.1
"""Weights that have moved less than this between two solves were solved for too often."""
ROUSED = 0.3
"""Weights that have moved more than this were solved for too seldom."""
LONGEST = 128
"""An ``Auto`` schedule never asks for fewer solves than one in this many steps."""
SAVED = 3
"""So many solves may be saved up in calm times, for a time when the weights move."""


class Schedule(ABC):
    """Decides at which steps to solve.

    At each training step ask ``due``, then tell by ``reused`` or ``solved`` what was done. A step that failed, or
    whose gradients were not finite, has not happened: the state before it is loaded again.

    Attributes:
        age: Steps since the last solve, that of the solve included; 0 before the first.
        interval: Steps that are wanted between two solves.
    """

    interval: int

    def __init__(self) -> None:
        self.age = 0

    @abstractmethod
    def due(self, cost: float) -> bool:
        """Whether to solve at this step; to be asked once a step.

        Args:
            cost: What a solve costs beyond a plain step, in plain steps (forward, backward of the summed loss).
        """

    def reused(self) -> None:
        """The step reused the last weights."""
        self.age += 1

    def solved(self, drift: float | None, cost: float) -> None:
        """The step solved.

        Args:
            drift: How far the weights have moved since the last solve, in [0, 1]; None at the first.
            cost: As in ``due``.
        """
        del drift, cost
        self.age = 1

    def state(self) -> dict[str, float]:
        """Plain numbers from which ``load`` goes on."""
        return {"age": self.age}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``; what another kind of schedule saved beyond the age has no effect."""
        self.age = int(state["age"])

    def reset(self) -> None:
        """Start anew."""
        self.age = 0


class Every(Schedule):
    """Solve at every n-th step.

    Args:
        interval: n.
    """

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval = interval

    def due(self, cost: float) -> bool:
        """Whether n steps have passed."""
        del cost
        return self.age % self.interval == 0


class Auto(Schedule):
    """Solve as often as the weights move, and never more often than a budget allows.

    A step is due when the interval has passed and the account is not in debt. The account earns ``budget`` − 1 plain
    steps at each step and pays for each solve, one of which it lends, so that the first n steps cost at most n·budget
    plain steps and one solve. What can be saved up is bounded, so that any n steps in a row, from wherever counted,
    cost at most n·budget and ``SAVED`` + 1 solves.

    The interval starts at 1. Where the weights moved by at most ``CALM`` it becomes twice the steps that have just
    passed, at most ``LONGEST``; where they moved by ``ROUSED`` or more it is halved. A solve that costs nothing, as
    where the tasks have samples of their own, is made at every step.

    Args:
        budget: Mean cost of a step in plain steps, above 1.
    """

    def __init__(self, budget: float) -> None:
        super().__init__()
        self.budget = budget
        self.interval = 1
        self.credit = 0.0

    def due(self, cost: float) -> bool:
        """Whether it is time, and paid for; earns this step's share."""
        self.credit = min(self.credit + self.budget - 1.0, SAVED * cost)
        if self.age == 0 or cost <= 0.0:
            return True
        return self.age >= self.interval and self.credit >= 0.0

    def solved(self, drift: float | None, cost: float) -> None:
        """Pay, and set the interval by how far the weights have moved."""
        if cost <= 0.0:
            self.interval = 1
        elif drift is not None and drift <= CALM:
            self.interval = min(LONGEST, 2 * self.age)
        elif drift is not None and drift >= ROUSED:
            self.interval = max(1, self.interval // 2)
        self.credit -= cost
        super().solved(drift, cost)

    def state(self) -> dict[str, float]:
        """Age, interval and account."""
        return {**super().state(), "interval": self.interval, "credit": self.credit}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``; from that of another schedule with the age alone."""
        super().load(state)
        self.interval = int(state.get("interval", 1))
        self.credit = float(state.get("credit", 0.0))

    def reset(self) -> None:
        """Start anew."""
        super().reset()
        self.interval, self.credit = 1, 0.0


def drift_of(before: np.ndarray, after: np.ndarray, gramian: np.ndarray) -> float:
    """How far weights have moved: the sine of the angle from the old to the new, each times its gradient's norm.

    In [0, 1]; 1 also for vectors more than a right angle apart. With w_k‖g_k‖ in the place of w_k a loss in other units
    changes nothing, though its weight changes by their factor. The angle leaves out a common factor, which is free in
    several methods (the sum of MGDA's weights) and follows the gradients' lengths in others (Nash-MTL's weights double
    when all gradients halve), so that it would move in calm times too; an adaptive optimiser ignores it. The angle is
    between weights and not between directions, because weights may move where the direction does not, when gradients
    are nearly parallel, and heads feel that.

    Args:
        before: Weights of the last solve, shape (K,).
        after: Weights of this one, shape (K,).
        gramian: This solve's Gramian, shape (K, K); its diagonal alone is read.
    """
    norms = np.sqrt(np.maximum(np.diagonal(gramian), 0.0))
    old, new = _unit(before, norms), _unit(after, norms)
    if old is None or new is None:
        return 0.0 if old is new else 1.0
    cosine = float(old @ new)
    if cosine <= 0.0:
        return 1.0
    return min(1.0, float(np.linalg.norm(new - cosine * old)))


def _unit(weights: np.ndarray, norms: np.ndarray) -> np.ndarray | None:
    """Weights times norms, of length 1; None where nothing is left. Brought to range first: nothing overflows."""
    product = _in_range(_in_range(weights) * _in_range(norms))
    length = float(np.linalg.norm(product))
    return product / length if length > 0.0 else None


def _in_range(values: np.ndarray) -> np.ndarray:
    """Values over the largest magnitude among them."""
    largest = np.abs(values).max()
    return values / largest if largest > 0.0 else values
