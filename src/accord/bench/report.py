"""From runs to one row a method: means over seeds, mean rank, Δm against STL, speed and certificates."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.bench.reading import STL, Reading, damage_of, read
from accord.bench.runner import check_preset
from accord.bench.spec import Experiment, RunKey
from accord.bench.store import Run, Store
from accord.errors import StoreError
from accord.metrics import delta_m, mean_rank

if TYPE_CHECKING:
    import polars

SOLVED = ("solved", "reused")
"""Outcomes of a step whose weights meet the method's definition, now or when they were solved for."""


@dataclass(frozen=True)
class Value:
    """A mean over seeds, and its standard error when there is more than one seed."""

    mean: float
    error: float | None = None

    @classmethod
    def of(cls, samples: Sequence[float]) -> Value:
        """Summarise one number a seed, at least one; NaN where one of several is not finite."""
        if len(samples) == 1:
            return cls(samples[0])
        if not all(map(math.isfinite, samples)):
            return cls(math.nan, math.nan)
        return cls(statistics.fmean(samples), statistics.stdev(samples) / math.sqrt(len(samples)))


@dataclass(frozen=True)
class Row:
    """One method's line.

    Attributes:
        method: The canonical spec; ``"stl"`` stands for all its per-task runs.
        seeds: How many seeds are done (for STL: of the task with the fewest, 0 where a task has none).
        metrics: ``{"task/metric": Value}``; those that no run has measured are absent.
        mean_rank: Average rank over the metrics among the multi-task methods; None for STL, and in
            experiments without a baseline, whose metrics are not there to be ranked.
        delta_m: Mean relative change against STL in percent, lower is better; None without a full baseline. Each seed
            is compared with the mean of STL over its seeds, so that the error is the method's own: how uncertain STL is
            does not enter, nor that a seed may have been hard for both.
        seconds_per_step: Training time per optimiser step; for STL the sum over its networks, None where one lacks.
        residual: The worst certificate seen in any step that has a solution; None for methods without one.
        unsolved: Share of the steps whose weights do not meet the method's definition, such as those at a Pareto
            stationary point; None where the runs do not say.
        averages: ``{metric: Value}``, the means over tasks of the experiment's ``averages``; of seeds with all tasks.
    """

    method: str
    seeds: int
    metrics: Mapping[str, Value]
    mean_rank: float | None = None
    delta_m: Value | None = None
    seconds_per_step: float | None = None
    residual: float | None = None
    unsolved: float | None = None
    averages: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The table of one preset of an experiment.

    Attributes:
        experiment: Its tasks and metrics give the columns.
        preset: Which preset.
        rows: STL first, then in the experiment's order of methods.
        left_out: One line for each run that is not in the rows, with its cause.
        notes: What a reader must know about blanks.
    """

    experiment: Experiment
    preset: str
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def summarise(
    store: Store,
    experiment: Experiment,
    preset: str,
    only: Collection[RunKey] | None = None,
    without_baseline: str | None = None,
    name: str | None = None,
    reading: Reading | None = None,
) -> Report:
    """Collect everything the store holds for one preset, or some of its runs.

    Args:
        store: Where the runs are.
        experiment: Its tasks and metrics give the columns.
        preset: Which preset.
        only: The runs to take; None for all.
        without_baseline: What to do when none of them is of single-task learning, said where Δm is blank; by default
            the command that makes such runs.
        name: The experiment as typed on the command line, for the commands that are named; by default its own name.
        reading: What ``read`` found with the same arguments; by default it is read now.

    Raises:
        UnknownNameError: The experiment has no such preset.
        StoreError: There are no runs of it.
    """
    check_preset(experiment, preset)
    typed = f"accord run {shlex.quote(name or experiment.name)} --preset {shlex.quote(preset)}"
    found = read(store, experiment, preset, only) if reading is None else reading
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in found.done:
        groups[STL if run.key.method.name == STL else str(run.key.method)].append(run)
    left_out = [*(damage_of(path, error) for path, error in found.damaged), *map(_why, found.other)]
    if not groups and not left_out:
        others = store.presets(experiment.name, experiment.version)
        instead = f"; it has runs of preset {', '.join(others)}" if others else ""
        raise StoreError(
            f"store {store.root} has no runs of {experiment.name} version {experiment.version} with preset "
            f"{preset!r}{instead}: make them with `{typed}`"
        )
    higher = {name: metric.higher_is_better for name, metric in experiment.metrics}
    samples = {method: _samples(runs, higher) for method, runs in groups.items()}
    summaries = {m: {n: Value.of(list(v.values())) for n, v in per.items()} for m, per in samples.items()}
    means = {method: {n: value.mean for n, value in per.items()} for method, per in summaries.items()}
    whole = {method: values for method, values in means.items() if _complete(values, higher)}
    rivals = {method: values for method, values in whole.items() if method != STL}
    ranks = mean_rank(rivals, higher) if rivals and experiment.baseline else {}
    make = without_baseline or f"`{typed} --methods {STL}`"
    notes = [*_data(groups.values()), *_notes(experiment, means, higher, make)]
    notes += experiment.remarks(experiment.presets[preset], [run for runs in groups.values() for run in runs])
    rows = []
    for method in sorted(groups, key=_order(experiment)):
        delta = None
        if experiment.baseline and STL in whole and method in whole and method != STL and all(whole[STL].values()):
            each = [delta_m(m, whole[STL], higher) for m in _per_seed(samples[method], higher)]
            delta = Value.of(each) if each else None
        runs = groups[method]
        lacking = method == STL and {str(run.key.method.options.get("task")) for run in runs} < {
            task.name for task in experiment.tasks
        }
        seeds = 0 if lacking else min((len(per) for per in samples[method].values()), default=0)
        costs = None if lacking else _seconds(runs), _residual(runs), _unsolved(runs)
        averages = {metric: _average(experiment, samples[method], metric) for metric in experiment.averages}
        means_of = {metric: value for metric, value in averages.items() if value is not None}
        rows.append(Row(method, seeds, summaries[method], ranks.get(method), delta, *costs, averages=means_of))
    return Report(experiment, preset, tuple(rows), tuple(left_out), tuple(notes))


def frame(report: Report) -> polars.DataFrame:
    """The table with one column a number, for further computation.

    Columns: ``method``, ``seeds``, then ``task/metric`` and ``task/metric ±`` (standard error, null with one
    seed) for each metric, ``mean metric`` for those that the experiment averages over tasks, ``mean_rank``,
    ``delta_m`` and ``delta_m ±`` in percent, ``seconds_per_step``, ``residual``, ``unsolved``.
    """
    import polars

    schema: dict[str, Any] = {"method": polars.String, "seeds": polars.Int64}
    numbers = [f"{name}{suffix}" for name, _ in report.experiment.metrics for suffix in ("", " ±")]
    numbers += [f"mean {name}{suffix}" for name in report.experiment.averages for suffix in ("", " ±")]
    numbers += ["mean_rank", "delta_m", "delta_m ±", "seconds_per_step", "residual", "unsolved"]
    schema.update(dict.fromkeys(numbers, polars.Float64))
    return polars.DataFrame([_flat(row) for row in report.rows], schema=schema)


def to_json(report: Report) -> str:
    """The report as JSON text; numbers that are not finite become null."""
    data = {
        "experiment": report.experiment.name,
        "version": report.experiment.version,
        "preset": report.preset,
        "units": {name: metric.unit for name, metric in report.experiment.metrics},
        "higher_is_better": {name: metric.higher_is_better for name, metric in report.experiment.metrics},
        "rows": [{k: _finite(v) for k, v in _flat(row).items()} for row in report.rows],
        "left_out": list(report.left_out),
        "notes": list(report.notes),
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"method": row.method, "seeds": row.seeds}
    for name, value in row.metrics.items():
        flat |= {name: value.mean, f"{name} ±": value.error}
    for name, value in row.averages.items():
        flat |= {f"mean {name}": value.mean, f"mean {name} ±": value.error}
    delta = row.delta_m
    return flat | {
        "mean_rank": row.mean_rank,
        "delta_m": delta and delta.mean,
        "delta_m ±": delta and delta.error,
        "seconds_per_step": row.seconds_per_step,
        "residual": row.residual,
        "unsolved": row.unsolved,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _samples(runs: Iterable[Run], known: Iterable[str]) -> dict[str, dict[int, float]]:
    """``{"task/metric": {seed: value}}`` in the order of the tables; STL's per-task runs fall into one."""
    found: dict[str, dict[int, float]] = {name: {} for name in known}
    for run in runs:
        for name, value in run.result()["metrics"].items():
            if name in found:
                found[name][run.key.seed] = value
    return {name: per for name, per in found.items() if per}


def _average(experiment: Experiment, samples: Mapping[str, Mapping[int, float]], metric: str) -> Value | None:
    """A metric's mean over tasks, and its standard error over the seeds that have all tasks."""
    names = [f"{task.name}/{metric}" for task in experiment.tasks]
    if any(name not in samples for name in names):
        return None
    each = [statistics.fmean(values.values()) for values in _per_seed(samples, names)]
    return Value.of(each) if each else None


def _per_seed(samples: Mapping[str, Mapping[int, float]], names: Iterable[str]) -> list[dict[str, float]]:
    """The metrics of each seed that has them all."""
    seeds = sorted(set.intersection(*(set(samples[name]) for name in names)))
    return [{name: samples[name][seed] for name in names} for seed in seeds]


def _complete(values: Mapping[str, float], names: Iterable[str]) -> bool:
    return all(math.isfinite(values.get(name, math.nan)) for name in names)


def _seconds(runs: Sequence[Run]) -> float | None:
    """Seconds per step; summed over the networks of STL, which has one per task."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for run in runs:
        for record in run.records():
            totals[str(run.key.method)][0] += record.get("seconds", 0.0)
            totals[str(run.key.method)][1] += record.get("steps", 0)
    return sum(s / n for s, n in totals.values()) if all(n for _, n in totals.values()) else None


def _residual(runs: Sequence[Run]) -> float | None:
    found = [record["residual"] for run in runs for record in run.records() if record.get("residual") is not None]
    return max(found, key=lambda r: (math.isnan(r), r)) if found else None  # NaN is the worst


def _unsolved(runs: Sequence[Run]) -> float | None:
    counts: Counter[str] = Counter()
    for run in runs:
        for record in run.records():
            counts.update(record.get("outcomes") or {})
    total = counts.total()
    return (total - sum(counts[outcome] for outcome in SOLVED)) / total if total else None


def _data(groups: Iterable[Sequence[Run]]) -> list[str]:
    """What the data were, where the runs say so: synthetic ones must not pass for real."""
    found: dict[str, None] = {}
    for run in (run for runs in groups for run in runs):
        data = run.result().get("data")
        if data is not None:
            parts = data.items() if isinstance(data, dict) else [("", data)]
            found["; ".join(f"{name}: {text}" if name else str(text) for name, text in parts)] = None
    return [f"Data: {text}" for text in found]


def _notes(
    experiment: Experiment, means: Mapping[str, Mapping[str, float]], names: Iterable[str], without_baseline: str
) -> list[str]:
    names = list(names)
    notes = []
    for method, values in means.items():
        if method != STL and not _complete(values, names):
            bad = [name for name in names if not math.isfinite(values.get(name, math.nan))]
            notes.append(f"{method} has no finite {', '.join(bad)}: it is left out of the mean rank and of Δm")
    if experiment.baseline and not _complete(means.get(STL, {}), names):
        have = means.get(STL, {})
        missing = dict.fromkeys(n.rpartition("/")[0] for n in names if not math.isfinite(have.get(n, math.nan)))
        which = f"of {', '.join(missing)}" if have else f"of any task: {without_baseline}"
        notes.append(f"Δm is blank: there is no finished STL run {which}")
    elif experiment.baseline and not all(means[STL].values()):
        zero = ", ".join(name for name, value in means[STL].items() if value == 0)
        notes.append(f"Δm is blank: single-task learning has 0 for {zero}, and a change relative to 0 is not defined")
    return notes


def _order(experiment: Experiment) -> Any:
    """STL, then the experiment's own order, then by name."""
    known = {method: i for i, method in enumerate(experiment.methods)}
    return lambda method: (method != STL, known.get(method, len(known)), method)


def _why(run: Run) -> str:
    name = f"{run.key.method} seed {run.key.seed}"
    if run.status == "failed":
        failure = run.failure()
        cause = failure["message"].strip().split("\n")[0]
        where = Path(run.folder, "failure.json")
        return f"{name}: failed after unit {failure['unit']}: {failure['type']}: {cause} (see {where})"
    return f"{name}: unfinished, {len(run.records())} units done"
