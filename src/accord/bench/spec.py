"""What an experiment is, what a method is, and what identifies a run.

Everything here is a frozen value: a run's key is a pure function of what was asked for, and every random
seed is a hash of named parts, so that all methods of one seed see the same data and the same initial weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accord.balancers.registry import format_spec, parse_spec


@dataclass(frozen=True)
class Metric:
    """One evaluated quantity of a task.

    Attributes:
        name: Such as ``"mae"``.
        higher_is_better: Decides the sign in Δm and the order in the mean rank.
        unit: Shown in tables, such as ``"meV"``.
    """

    name: str
    higher_is_better: bool = False
    unit: str = ""


@dataclass(frozen=True)
class TaskSpec:
    """A task's name and the metrics it is judged by."""

    name: str
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class MethodSpec:
    """A method and its options: ``MethodSpec("nash-mtl", {"update_every": 25})``.

    ``str(spec)`` is the canonical text (``"nash-mtl:update_every=25"``) and ``MethodSpec.parse`` reads it back.
    The method ``stl`` (one task alone) takes ``task=NAME``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MethodSpec:
        """Read ``name`` or ``name:option=value,option=value``."""
        return cls(*parse_spec(text))

    def __str__(self) -> str:
        return format_spec(self.name, self.options)

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MethodSpec) and str(self) == str(other)


@dataclass(frozen=True)
class RunKey:
    """The identity of one training run; equal keys mean the same run."""

    experiment: str
    version: int
    preset: str
    method: MethodSpec
    seed: int


class Trial(Protocol):
    """One training run, advanced one unit (an epoch or a block of iterations) at a time.

    ``state_dict`` holds all that the rest of the run depends on (weights, optimiser, balancer, schedule,
    generators, best-so-far results), so that a run loaded from it goes on to the same numbers.
    """

    length: int
    """How many units the run has in all."""

    def advance(self) -> dict[str, Any]:
        """Train one unit and return its record, which must be plain JSON data.

        Keys that reports and figures know: ``steps`` (optimiser steps in this unit), ``seconds`` (time spent
        in them), ``weights`` (K mean task weights), ``conflict`` (share of task pairs with a negative cosine),
        ``residual`` (worst certificate), ``outcomes`` (counts of solved, stationary, degenerate), and
        ``metrics`` (``{"task/metric": value}``).
        """
        ...

    def result(self) -> dict[str, Any]:
        """Final record: ``metrics`` (``{"task/metric": value}``) and what else is worth keeping."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state saved by ``state_dict``."""
        ...


@dataclass(frozen=True)
class Experiment:
    """A problem, its tasks, its presets and how to train on it.

    Attributes:
        name: As typed on the command line.
        version: Raised when a change alters numbers; part of the run key.
        summary: One line for ``accord list``.
        tasks: The tasks in order.
        presets: Name to a frozen dataclass with every setting (``smoke``, ``laptop``, ``paper``).
        methods: The method specs run when none are named; ``stl`` stands for one run per task.
        trial: ``trial(preset, method, seed)`` builds a fresh, deterministic run. ``method.name`` is ``"stl"``
            with ``options["task"]``, or a name that ``accord.make`` knows.
        prepare: ``prepare(preset)`` makes and caches the data a preset needs, once, in the parent process.
        figures: ``figures(preset, runs, folder)`` draws the experiment's own figures and returns their paths;
            ``runs`` is a sequence of finished runs (see ``accord.bench.store.Run``).
        remarks: ``remarks(preset, runs)`` gives lines that go with the table, computed from finished runs.
        averages: Names of metrics that every task has and whose mean over tasks gets a column.
        own_options: Gives back a method without the options that are the experiment's own, having checked them.
        baseline: Whether Δm against STL is defined (it is not for the toy problem).
        at_features: Whether its trials know the option ``at=features`` of methods (see ``accord.bench.balancing``).
    """

    name: str
    version: int
    summary: str
    tasks: tuple[TaskSpec, ...]
    presets: Mapping[str, Any]
    methods: tuple[str, ...]
    trial: Callable[[Any, MethodSpec, int], Trial]
    prepare: Callable[[Any], None] = lambda preset: None
    figures: Callable[[Any, Sequence[Any], Path], list[Path]] | None = None
    remarks: Callable[[Any, Sequence[Any]], Sequence[str]] = lambda preset, runs: ()
    averages: tuple[str, ...] = ()
    own_options: Callable[[MethodSpec], MethodSpec] = lambda method: method
    baseline: bool = True
    at_features: bool = False

    @property
    def metrics(self) -> tuple[tuple[str, Metric], ...]:
        """All ``("task/metric", Metric)`` in the order of the tables."""
        return tuple((f"{t.name}/{m.name}", m) for t in self.tasks for m in t.metrics)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from named parts, the same on every machine: ``derive_seed("qm9", seed, "init")``."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
