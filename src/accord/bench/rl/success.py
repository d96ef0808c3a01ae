"""What runs of several seeds say about success: the papers' statistic, the honest one, and an interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accord.bench.report import Value

STL = "stl"


@dataclass(frozen=True)
class Success:
    """The success of one method, a mean over tasks, from 0 to 1.

    Attributes:
        method: Its spec; ``"stl"`` for single-task learning, one run a task.
        seeds: How many seeds have every task.
        steps: Environment steps at each evaluation, (E,).
        curves: Success at each evaluation, (seeds, E).
        best: The largest mean over seeds of all evaluations: what the published tables of MT10 have. It is chosen after
            the fact, and so too large, the more so the fewer episodes an evaluation has.
        best_at: The environment steps of that evaluation.
        last: Of the last evaluation, with its standard error over seeds.
        interquartile: The mean of the middle half of the seeds at the last evaluation.
        interval: Its 95 % bootstrap interval (percentiles over resampled seeds); None with one seed.
        solved: How many seeds had an evaluation in which every episode of every task succeeded. Like ``best`` it is
            looked for after the fact.
    """

    method: str
    seeds: int
    steps: npt.NDArray[np.float64]
    curves: npt.NDArray[np.float64]
    best: float
    best_at: float
    last: Value
    interquartile: float
    interval: tuple[float, float] | None
    solved: int

    def __str__(self) -> str:
        error = "" if self.last.error is None else f" ± {self.last.error:.3f}"
        interval = "" if self.interval is None else f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return (
            f"{self.method}: mean success {self.last.mean:.3f}{error} at the last evaluation, interquartile mean "
            f"{self.interquartile:.3f}{interval}, best average over evaluations {self.best:.3f} (at "
            f"{self.best_at:,.0f} environment steps), of {self.seeds} seed{'s' * (self.seeds != 1)}; all tasks "
            f"solved at some evaluation by {self.solved} of {self.seeds}"
        )


def successes(runs: Sequence[Any], tasks: Sequence[str]) -> list[Success]:
    """One entry a method, in the order in which its runs come.

    Args:
        runs: Finished runs (``accord.bench.store.Run``) whose evaluated records have ``metrics`` and ``env_steps``.
        tasks: Of the experiment.
    """
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        method = method_of(run)
        records = [record for record in run.records() if record.get("metrics")]
        for task in tasks:
            values = [
                record["metrics"][f"{task}/success"] for record in records if f"{task}/success" in record["metrics"]
            ]
            if values:
                steps = [record["env_steps"] * (len(tasks) if method == STL else 1) for record in records]
                groups[method][run.key.seed][task] = steps, values
    found = []
    for method, seeds in groups.items():
        whole = [per for _, per in sorted(seeds.items()) if len(per) == len(tasks)]
        if whole:
            found.append(_summary(method, whole, tasks))
    return found


def method_of(run: Any) -> str:
    """A run's method; all runs of single-task learning are one."""
    return STL if run.key.method.name == STL else str(run.key.method)


def _summary(method: str, seeds: Sequence[dict[str, Any]], tasks: Sequence[str]) -> Success:
    length = min(len(values) for per in seeds for _, values in per.values())
    curves = np.array([np.mean([per[task][1][:length] for task in tasks], axis=0) for per in seeds])
    steps = np.array(seeds[0][tasks[0]][0][:length], float)
    at = int(curves.mean(0).argmax())
    last = curves[:, -1]
    middle, interval = interquartile_mean(last)
    best, ended = float(curves.mean(0)[at]), Value.of(last.tolist())
    solved = int((curves > 1 - 1e-9).any(1).sum())  # a mean of ones may round
    return Success(method, len(seeds), steps, curves, best, float(steps[at]), ended, middle, interval, solved)


def interquartile_mean(
    values: npt.NDArray[np.float64], level: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """The mean of the middle half of values (n,), and its bootstrap interval; None where n is 1 or all are equal."""
    from scipy import stats

    def middle(sample: npt.NDArray[np.float64], axis: int = -1) -> Any:
        return stats.trim_mean(sample, 0.25, axis=axis)

    found = float(middle(values))
    if len(values) < 2 or not np.ptp(values):
        return found, None
    draws = stats.bootstrap(
        (values,), middle, confidence_level=level, n_resamples=9_999, method="percentile", rng=np.random.default_rng(0)
    )
    return found, (float(draws.confidence_interval.low), float(draws.confidence_interval.high))
