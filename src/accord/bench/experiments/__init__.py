"""Experiments by name, imported only when asked for.

Third parties add theirs with an entry point in the group ``accord.experiments`` whose value is the
``Experiment``; ``package.module:EXPERIMENT`` works on the command line without one.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.errors import DependencyError, UnknownNameError

if TYPE_CHECKING:
    from accord.bench.spec import Experiment

ENTRY_POINT_GROUP = "accord.experiments"

_BUILT_IN = {
    "toy": "accord.bench.experiments.toy",
    "qm9": "accord.bench.experiments.qm9",
    "nyuv2": "accord.bench.experiments.nyuv2",
    "cityscapes": "accord.bench.experiments.cityscapes",
    "multimnist": "accord.bench.experiments.multimnist",
    "multi-fashion": "accord.bench.experiments.multi_fashion",
    "multi-fashion-mnist": "accord.bench.experiments.multi_fashion_mnist",
    "rooms": "accord.bench.experiments.rooms",
    "toxcast40": "accord.bench.experiments.toxcast40",
    "celeba": "accord.bench.experiments.celeba",
    "mt10": "accord.bench.experiments.mt:MT10_EXPERIMENT",
    "mt50": "accord.bench.experiments.mt:MT50_EXPERIMENT",
    "mt10-imitation": "accord.bench.experiments.mt10_imitation",
}
_EXTRAS = {
    "toy": "bench",
    "qm9": "qm9",
    "nyuv2": "bench",
    "cityscapes": "bench",
    "multimnist": "experiments",
    "multi-fashion": "experiments",
    "multi-fashion-mnist": "experiments",
    "rooms": "experiments",
    "toxcast40": "experiments",
    "celeba": "experiments",
    "mt10": "rl",
    "mt50": "rl",
    "mt10-imitation": "rl",
}


def names() -> tuple[str, ...]:
    """Every experiment's name, built in first."""
    others = sorted(point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP))
    return tuple(dict.fromkeys([*_BUILT_IN, *others]))


def load(name: str) -> Experiment:
    """The experiment of that name, at ``package.module:ATTRIBUTE``, or on named tasks: ``mt:reach,push``.

    Raises:
        UnknownNameError: No such experiment; the nearest is suggested.
        DependencyError: It needs a package that is not installed; the extra that brings it is named.
    """
    if name.startswith("mt:"):
        from accord.bench.experiments.mt import by_tasks

        return by_tasks(name)
    if ":" in name:
        return _by_path(name)
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute or "EXPERIMENT")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "accord":
                raise
            raise DependencyError(
                f"experiment {name!r} needs the package {error.name!r}, which is not installed: "
                f"pip install 'accord[{_EXTRAS[name]}]'"
            ) from error
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return _checked(point.load(), f"the entry point {name} = {point.value}")
    from accord.balancers.registry import suggest

    raise UnknownNameError(f"unknown experiment {name!r}{suggest(name, names())}")


def _by_path(name: str) -> Experiment:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does; a console script does not
        sys.path.insert(0, here)
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UnknownNameError(
            f"experiment {name!r}: cannot import {module!r} ({error}); write package.module:EXPERIMENT, "
            f"or one of {', '.join(names())}"
        ) from error
    except AttributeError as error:
        raise UnknownNameError(f"experiment {name!r}: module {module!r} has no {attribute!r}") from error
    return _checked(value, name)


def _checked(value: Any, where: str) -> Experiment:
    from accord.bench.spec import Experiment

    if not isinstance(value, Experiment):
        raise UnknownNameError(f"{where} is a {type(value).__name__}, not an accord.bench.spec.Experiment")
    return value
