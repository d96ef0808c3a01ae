"""One method may be spelled in several ways: with an option at its default, or without it."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accord.balancers.registry import balancer_class
from accord.bench.balancing import place_of
from accord.bench.spec import Experiment, MethodSpec
from accord.bench.store import Store
from accord.errors import UnknownNameError

DRAWN = ("seed", "gramian_seed")
"""Options whose default in a run is the run's own seed, not the one in the signature."""


def shortest(text: str) -> str:
    """The spec of the same method without the options that stand at their defaults.

    ``cagrad:c=0.4`` and ``cagrad`` train alike; the second is what the experiments' lists of methods say.
    """
    spec = MethodSpec.parse(text)
    if spec.name == "stl":
        return str(spec)
    plain, place = place_of(spec)
    parameters = inspect.signature(balancer_class(plain.name)).parameters
    options = {
        name: value
        for name, value in plain.options.items()
        if name in DRAWN or name not in parameters or not _equal(value, parameters[name].default)
    }
    return str(MethodSpec(plain.name, options | ({"at": place} if place == "features" else {})))


def spelled(specs: Iterable[str], experiment: Experiment, preset: str, store: str | Path) -> dict[str, str]:
    """Each spec as the store spells it: as most of its finished runs do, or the shortest where there are none.

    Args:
        specs: Methods, in any spelling.
        experiment: Whose runs.
        preset: Which preset.
        store: The folder of the runs; it may be absent.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    if (Path(store) / "store.json").exists():
        for run in Store(store).runs(experiment.name, experiment.version, preset, lambda folder, error: None):
            if run.status == "done":
                found[_shortest_known(run.key.method)][str(run.key.method)] += 1
    short = {spec: shortest(spec) for spec in specs}
    return {spec: found[each].most_common(1)[0][0] if found[each] else each for spec, each in short.items()}


def _shortest_known(spec: MethodSpec) -> str:
    """The shortest spelling, or the spec itself where its method comes from a package that is not installed."""
    try:
        return shortest(str(spec))
    except UnknownNameError:
        return str(spec)


def _equal(value: Any, default: Any) -> bool:
    return value == default and isinstance(value, bool) == isinstance(default, bool)
