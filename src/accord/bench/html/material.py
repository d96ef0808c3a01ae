"""What the page is made from: the report, the runs behind it, those that are not in it, and where all came from."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from accord.bench.plots import by_method, series_of
from accord.bench.reading import read
from accord.bench.report import STL, Report, summarise
from accord.bench.spec import Experiment, RunKey
from accord.bench.store import Run, Store
from accord.errors import StoreError
from accord.metrics import mean_rank

Series = Sequence[tuple[int, list[float]]]
"""Steps so far and the values there, in order."""

STEPS = "optimiser steps"


@dataclass(frozen=True)
class LeftOut:
    """A run that is not in the table.

    Attributes:
        name: Method and seed.
        state: ``"failed"``, ``"unfinished"`` or ``"damaged"``.
        cause: What is known about why.
        remedy: What to do, in words.
        command: What to type; empty where that cannot be said.
        trace: The traceback of a failure.
    """

    name: str
    state: str
    cause: str
    remedy: str
    command: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Material:
    """All that the page shows.

    Attributes:
        report: The table.
        methods: The finished runs of each multi-task method, in the order of the table.
        single: The finished runs of single-task learning.
        left_out: The other runs.
    """

    report: Report
    methods: Mapping[str, Sequence[Run]]
    single: Sequence[Run]
    left_out: tuple[LeftOut, ...]

    @property
    def experiment(self) -> Experiment:
        """Whose runs these are."""
        return self.report.experiment

    @property
    def done(self) -> list[Run]:
        """All finished runs, single-task learning first."""
        return [*self.single, *(run for runs in self.methods.values() for run in runs)]

    @property
    def directions(self) -> dict[str, bool]:
        """``{"task/metric": higher is better}``."""
        return {name: metric.higher_is_better for name, metric in self.experiment.metrics}

    @property
    def keys(self) -> dict[str, str]:
        """``{method: a short name}`` that ties a method's row, lines and legend together."""
        return {method: f"m{i}" for i, method in enumerate(self.methods)}

    @property
    def averaged(self) -> str:
        """What a caption says of several seeds; empty for one."""
        return "Means over seeds." if len({run.key.seed for run in self.done}) > 1 else ""

    def series(self, value: Callable[[dict[str, Any]], list[float] | None]) -> dict[str, Series]:
        """``{method: what value reads in its records}``, averaged over the seeds; see ``series_of``."""
        return {method: series_of(runs, value) for method, runs in self.methods.items()}


class Reread(Run):
    """A run whose records are read from the disk once, for the many figures that go through them."""

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        return super().records()

    def records(self) -> list[dict[str, Any]]:
        """As ``Run``."""
        return self._records


def collect(
    store: Store,
    experiment: Experiment,
    preset: str,
    only: Collection[RunKey] | None = None,
    without_baseline: str | None = None,
    name: str | None = None,
) -> Material:
    """Read a store.

    Args:
        store: Where the runs are.
        experiment: Whose runs.
        preset: Which preset.
        only: The runs to take; None for all.
        without_baseline: See ``summarise``.
        name: The experiment as typed on the command line; without it no commands are named.

    Raises:
        UnknownNameError, StoreError: As ``summarise``.
    """
    reading = read(store, experiment, preset, only)
    report = summarise(store, experiment, preset, only, without_baseline, name, reading)
    begin = f"accord run {shlex.quote(name)} --preset {shlex.quote(preset)}" if name else ""
    done = [Reread(run.key, run.folder) for run in reading.done]
    left_out = [_damaged(path, error) for path, error in reading.damaged]
    left_out += [_left_out(run, begin, store.root) for run in reading.other]
    single = [run for run in done if run.key.method.name == STL]
    methods = {method: runs for method, runs in by_method(report, done).items() if runs}
    return Material(report, methods, single, tuple(left_out))


def rank_errors(material: Material) -> dict[str, float]:
    """The standard error of each method's mean rank over the seeds that every ranked method has; empty for one seed."""
    names = material.directions
    ranked = [row.method for row in material.report.rows if row.mean_rank is not None]
    found: dict[str, dict[int, Mapping[str, float]]] = {
        method: {run.key.seed: run.result()["metrics"] for run in material.methods[method]} for method in ranked
    }
    if not ranked:
        return {}
    seeds = [
        seed
        for seed in sorted(set.intersection(*(set(per) for per in found.values())))
        if all(math.isfinite(found[method][seed].get(name, math.nan)) for method in ranked for name in names)
    ]
    if len(seeds) < 2:
        return {}
    each = [mean_rank({method: found[method][seed] for method in ranked}, names) for seed in seeds]
    return {method: statistics.stdev([e[method] for e in each]) / math.sqrt(len(seeds)) for method in ranked}


def facts(material: Material) -> list[tuple[str, str]]:
    """When, with which code and on what kind of machine the finished runs were trained, in words."""
    attempts = [attempt for run in material.done for attempt in run.info()["attempts"]]
    seeds = sorted({run.key.seed for run in material.done})
    states = Counter(run.state for run in material.left_out)
    counts = [f"{len(material.done)} done", *(f"{number} {state}" for state, number in sorted(states.items()))]
    found = [("Preset", material.report.preset), ("Runs", ", ".join(counts))]
    if material.done:
        found += [("Methods", str(len(material.report.rows))), ("Seeds", ", ".join(map(str, seeds)))]
    if attempts:
        days = sorted(str(attempt.get("started", ""))[:10] for attempt in attempts)
        found.append(("Trained", days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"))
        commits = Counter(_commit(attempt) for attempt in attempts)
        found.append(("Commit" if len(commits) == 1 else "Commits", _counted(commits)))
        for title, keys in (("Versions", ("accord", "torch", "numpy", "python")), ("Machine", ("platform", "threads"))):
            kinds = Counter(", ".join(f"{key} {attempt.get(key, '?')}" for key in keys) for attempt in attempts)
            found.append((title, _counted(kinds)))
        seconds = sum(record.get("seconds", 0.0) for run in material.done for record in run.records())
        found.append(("Time in training steps", duration(seconds)))
    return found


def settings(material: Material) -> dict[str, Any]:
    """Those of the preset, as the runs were made with them."""
    for run in material.done:
        made = run.info().get("settings")
        return made if isinstance(made, dict) else {"settings": made}
    return {}


def duration(seconds: float) -> str:
    """Such as ``"2 h 05 min"``, ``"3 min 20 s"`` or ``"1.5 s"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _commit(attempt: Mapping[str, Any]) -> str:
    commit = attempt.get("commit")
    if not commit:
        return "not known (installed, or no checkout)"
    return f"{commit[:9]}{' with changes that are not committed' if attempt.get('modified') else ''}"


def _counted(kinds: Counter[str]) -> str:
    """The kinds, with the number of attempts where they differ."""
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{kind} ({count} attempts)" for kind, count in kinds.most_common())


def _damaged(folder: Path, error: StoreError) -> LeftOut:
    name = f"{folder.parent.name} {folder.name.replace('-', ' ')}"
    return LeftOut(name, "damaged", str(error), "The cause names the file and what helps.")


def _left_out(run: Run, begin: str, store: Path) -> LeftOut:
    """A run that failed or is unfinished; ``begin`` is the command that trains such runs, as far as the preset."""
    name = f"{run.key.method} seed {run.key.seed}"
    method = shlex.quote(str(run.key.method))
    command = f"{begin} --methods {method} --seeds {run.key.seed} --store {shlex.quote(str(store))}" if begin else ""
    again = (
        "goes on from its last checkpoint:" if begin else "goes on from its last checkpoint, by the call that began it."
    )
    if run.status == "failed":
        failure = run.failure()
        cause = f"after unit {failure['unit']}: {failure['type']}: {failure['message'].strip()}"
        trace = str(failure.get("traceback", "")).strip()
        return LeftOut(name, "failed", cause, f"Mend the cause and run it again; it {again}", command, trace)
    units = len(run.records())
    cause = f"{units} unit{'s' * (units != 1)} done; it was interrupted, or is being trained now."
    return LeftOut(name, "unfinished", cause, f"If nothing trains it now, it {again}", command)
