"""What a store holds for the rows of a published table: metrics, times, and where the runs come from."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accord.bench.published.item import AVERAGE
from accord.bench.reading import readable
from accord.bench.report import STL, Report, Row, Value, summarise
from accord.bench.runner import expand
from accord.bench.spec import Experiment
from accord.bench.spelling import spelled
from accord.bench.store import Run, Store

SHORT = 7  # digits of a commit that people read


class Runs:
    """The runs of some methods of one preset.

    Args:
        store: The folder of the runs; it may be absent.
        experiment: Whose runs.
        preset: Which preset.
        specs: The methods, in any spelling.
    """

    def __init__(self, store: str | Path, experiment: Experiment, preset: str, specs: Sequence[str]) -> None:
        self._stored = spelled(specs, experiment, preset, store)
        self._runs: dict[str, list[Run]] = {spec: [] for spec in specs}
        self._rows: dict[str, Row] = {}
        self._names = [task.name for task in experiment.tasks]
        self.data: tuple[str, ...] = ()  # what the data were, where the runs say so
        self.notes: tuple[str, ...] = ()  # on the mean rank and Δm
        self.left_out: tuple[str, ...] = ()
        if not (Path(store) / "store.json").exists():
            return
        home = Store(store)
        keys = {str(each): spec for spec, text in self._stored.items() for each in expand(experiment, text)}
        broken: list[Path] = []  # cannot say which runs they are
        known = home.runs(experiment.name, experiment.version, preset, lambda folder, error: broken.append(folder))
        wanted = {run.key for run in known if str(run.key.method) in keys}
        if wanted or broken:
            for run in readable(
                home, experiment, preset, lambda folder, error: None, wanted
            ):  # the report names others
                if run.status == "done":
                    self._runs[keys[str(run.key.method)]].append(run)
            self._take(summarise(home, experiment, preset, only=wanted))

    def _take(self, report: Report) -> None:
        self._rows = {row.method: row for row in report.rows}
        notes = [f"{note.rstrip('.')}." for note in report.notes]
        self.data = tuple(note for note in notes if note.startswith("Data:"))
        self.notes = tuple(note for note in notes if note not in self.data)
        self.left_out = tuple(f"Not in the table: {each}" for each in report.left_out)

    def has(self, spec: str) -> bool:
        """Whether any run of a method is done."""
        return bool(self._runs[spec])

    def method(self, spec: str) -> str:
        """The spelling that the store has."""
        return self._stored[spec]

    def value(self, spec: str, metric: str) -> Value | None:
        """A metric of the report, its mean over tasks, or one of ``accord.bench.published.item.MEASURED``."""
        row = self._rows.get(self._stored[spec])
        if row is None:
            return None
        if metric == "delta_m":
            return row.delta_m
        plain = {
            "mean_rank": row.mean_rank,
            "seconds_per_step": row.seconds_per_step,
            "time_over_ls": _ratio(row, self._rows.get("ls")),
            "solved": None if row.unsolved is None else 100 * (1 - row.unsolved),
        }
        if metric in plain:
            number = plain[metric]
            return None if number is None else Value(number)
        if metric == "minutes_per_epoch":
            return self._over_seeds(spec, _minutes)
        if metric == "train_loss":
            return self._over_seeds(spec, _train_loss)
        if metric == "best_success":
            return self._best_success(spec)
        if metric.startswith(AVERAGE):
            return row.averages.get(metric.removeprefix(AVERAGE))
        return row.metrics.get(metric)

    def seeds(self, spec: str) -> tuple[int, ...]:
        """The seeds of which all is done."""
        counts: dict[int, int] = defaultdict(int)
        for run in self._runs[spec]:
            counts[run.key.seed] += 1
        needed = len(self._names) if self._stored[spec] == STL else 1
        return tuple(sorted(seed for seed, count in counts.items() if count >= needed))

    def commits(self, spec: str) -> tuple[str, ...]:
        """The commits of all attempts, shortened; ``+`` marks files that differed; empty where none was recorded."""
        found: dict[str, None] = {}
        for attempt in self._attempts(spec):
            if attempt.get("commit"):
                found[attempt["commit"][:SHORT] + ("+" if attempt.get("modified") else "")] = None
        return tuple(found)

    def dates(self, spec: str) -> tuple[str, ...]:
        """The first and the last day on which an attempt began; one if they are the same."""
        days = sorted(attempt["started"][:10] for attempt in self._attempts(spec))
        return tuple(dict.fromkeys((days[0], days[-1]))) if days else ()

    def _attempts(self, spec: str) -> list[dict[str, Any]]:
        return [attempt for run in self._runs[spec] for attempt in run.info()["attempts"]]

    def _best_success(self, spec: str) -> Value | None:
        """Of the evaluation that is best on average, with the standard error over seeds at that evaluation."""
        from accord.bench.rl.success import successes

        for success in successes(self._runs[spec], self._names):
            return Value.of(success.curves[:, int(success.curves.mean(0).argmax())].tolist())
        return None

    def _over_seeds(self, spec: str, measure: Any) -> Value | None:
        """One number a seed; for single-task learning, whose seeds have several runs, their sum."""
        found: dict[int, float] = defaultdict(float)
        for run in self._runs[spec]:
            number = measure(run)
            if number is None:
                return None
            found[run.key.seed] += number
        return Value.of([found[seed] for seed in sorted(found)]) if found else None


def _ratio(row: Row, unit: Row | None) -> float | None:
    if row.seconds_per_step is None or unit is None or not unit.seconds_per_step:
        return None
    return row.seconds_per_step / unit.seconds_per_step


def _minutes(run: Run) -> float | None:
    seconds = [record["seconds"] for record in run.records() if "seconds" in record]
    return statistics.fmean(seconds) / 60 if seconds else None


def _train_loss(run: Run) -> float | None:
    records = run.records()
    losses = records[-1].get("train_loss") if records else None
    return statistics.fmean(losses.values()) if losses else None
