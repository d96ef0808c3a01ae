"""Balancers for trials: as the method spec says, with random ones drawing from the trial's seed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import accord
from accord.balancers.registry import balancer_class, parse_spec
from accord.bench.spec import MethodSpec
from accord.errors import OptionError

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
    return accord.make(str(_seeded(method, seed)), tasks)


def place_of(method: MethodSpec) -> tuple[MethodSpec, Literal["parameters", "features"]]:
    """The method without the harness's own option ``at``, and where it balances.

    ``nash-mtl:at=features`` balances at the shared representation; ``at=parameters`` is what is done without it.

    Raises:
        OptionError: ``at`` is neither.
    """
    options = dict(method.options)
    place = options.pop("at", "parameters")
    if place not in ("parameters", "features"):
        raise OptionError(f"method {str(method)!r}: at={place!r} must be parameters or features")
    return MethodSpec(method.name, options), place


def _seeded(method: MethodSpec, seed: int) -> MethodSpec:
    """The spec with the trial's seed for a generator that it, or the method it wraps, has."""
    parameters = inspect.signature(balancer_class(method.name)).parameters
    options = dict(method.options)
    if "of" in parameters:
        name, inner = parse_spec(str(options.get("of", parameters["of"].default)))
        options["of"] = str(_seeded(MethodSpec(name, inner), seed))
    if "seed" in parameters:
        options.setdefault("seed", seed)
    if "gramian_batch" in options or "gramian_tasks" in options:
        options.setdefault("gramian_seed", seed)
    return MethodSpec(method.name, options)
