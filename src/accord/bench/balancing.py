"""Balancers for trials: as the method spec says, with random ones drawing from the trial's seed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import accord
from accord.balancers.registry import balancer_class
from accord.bench.spec import MethodSpec

if TYPE_CHECKING:
    from accord.balancers.base import Balancer


def make_balancer(method: MethodSpec, tasks: Sequence[str], seed: int) -> Balancer:
    """The balancer of a trial.

    Args:
        method: Its name and options.
        tasks: The tasks' names.
        seed: For the generator of a method that has one, unless the spec names a seed itself.

    Raises:
        UnknownNameError, OptionError: As ``accord.make``.
    """
    takes_seed = "seed" in inspect.signature(balancer_class(method.name)).parameters
    extra = {"seed": seed} if takes_seed and "seed" not in method.options else {}
    return accord.make(str(method), tasks, **extra)
