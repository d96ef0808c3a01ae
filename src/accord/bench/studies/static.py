"""What does a random search over static weights reach in the same time? The baseline of every weighting method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from accord.bench.plots import PALETTE, SOFT
from accord.bench.problem import Problem
from accord.bench.report import STL, Row, Value
from accord.bench.runner import plan
from accord.bench.spec import Experiment, MethodSpec, RunKey, derive_seed
from accord.bench.spelling import spelled
from accord.bench.store import Run, Store
from accord.bench.studies.columns import time_over_ls
from accord.bench.studies.running import lines_of
from accord.bench.studies.study import LS, Cell, Column, Context, Setting, Study, StudyReport, Table, Work
from accord.bench.trial import TrialOf
from accord.errors import OptionError
from accord.metrics import delta_m, mean_rank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED = "nash-mtl"
SMALLEST, LARGEST = 0.1, 10.0
"""Weights are log-uniform between these, then scaled to the sum K, which is that of LS."""


def draw(experiment: str, tasks: int, seed: int, count: int) -> list[str]:
    """Specs of LS with random weights: the first ``count`` of a sequence that the seed begins.

    Args:
        experiment: Its name; each has weights of its own.
        tasks: K.
        seed: That of the runs; each seed is a search of its own.
        count: How many.
    """
    random = np.random.default_rng(derive_seed("static-weights", experiment, seed))
    specs = []
    for _ in range(count):
        weights = np.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST), tasks))
        weights *= tasks / weights.sum()
        specs.append(str(MethodSpec(LS, {"weights": [float(f"{weight:.4g}") for weight in weights]})))
    return specs


@dataclass(frozen=True)
class Budget:
    """How many static runs a search may have.

    Attributes:
        time: As many as take the time of one run of the method compared; at least one.
        runs: As many as comparing the methods of the experiment takes.
    """

    time: int
    runs: int

    @property
    def most(self) -> int:
        """Those that are trained."""
        return max(self.time, self.runs)


@dataclass(frozen=True)
class Candidate:
    """A run with static weights.

    Attributes:
        method: Its spec.
        score: On the validation set; smaller is better. It alone decides.
        metrics: On the test set.
        delta: Δm of those; None without single-task runs.
    """

    method: str
    score: float
    metrics: Mapping[str, float]
    delta: float | None


def winner(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the best validation score; the test set has no say."""
    return min(candidates, key=lambda candidate: candidate.score)


def expected(candidates: Sequence[Candidate]) -> list[float]:
    """Mean Δm of the winner of n of the runs, over all choices of n, for n from 1 to all."""
    ordered = [c.delta for c in sorted(candidates, key=lambda c: c.score) if c.delta is not None]
    total = len(ordered)
    return [
        sum(delta * math.comb(total - i - 1, n - 1) for i, delta in enumerate(ordered)) / math.comb(total, n)
        for n in range(1, total + 1)
    ]


def budget_of(context: Context) -> Budget | None:
    """From the times in the runs; None where LS or the method compared has no finished run.

    Raises:
        OptionError: The runs have no validation score.
    """
    names = spelled([LS, COMPARED], context.experiment, context.preset, context.store)
    lines, _ = lines_of(context, [Setting(LS, LS), Setting(COMPARED, COMPARED)], names)
    if any(run.result().get("score") is None for line in lines for run in line.runs):
        raise _no_validation(context.experiment)
    ratio = time_over_ls(lines[1])
    if ratio is None:
        return None
    others = {MethodSpec.parse(method).name for method in context.experiment.methods} - {STL, LS}
    return Budget(max(1, math.floor(ratio)), max(1, len(others)))


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(COMPARED, COMPARED)]


def _check(context: Context) -> None:
    trial = context.experiment.trial
    if isinstance(trial, TrialOf):
        problem = trial.problem(context.experiment.presets[context.preset])
        if type(problem).validate is Problem.validate:
            raise _no_validation(context.experiment)


def _no_validation(experiment: Experiment) -> OptionError:
    return OptionError(
        f"study 'static-weights' chooses weights on a validation set, which experiment {experiment.name!r} does not "
        "have; chosen on the test set they would flatter themselves. A problem that has one says so with validate()"
    )


def _more(context: Context) -> Iterable[Work]:
    """Random weights, as many as the budget has."""
    budget = budget_of(context)
    if budget is None:
        return
    for seed in context.seeds:
        specs = draw(context.experiment.name, len(context.experiment.tasks), seed, budget.most)
        yield Work(context.experiment, tuple(specs), (seed,))


def _done(context: Context, keys: Sequence[RunKey]) -> list[Run]:
    home = Store(context.store)
    return [run for run in map(home.run, keys) if run.status == "done"]


def _candidates(context: Context, seed: int, count: int, base: Row | None) -> list[Candidate]:
    experiment = context.experiment
    specs = draw(experiment.name, len(experiment.tasks), seed, count)
    return [
        _candidate(experiment, run, base) for run in _done(context, plan(experiment, context.preset, specs, [seed]))
    ]


def _candidate(experiment: Experiment, run: Run, base: Row | None) -> Candidate:
    result = run.result()
    higher = {name: metric.higher_is_better for name, metric in experiment.metrics}
    single = {} if base is None else {name: value.mean for name, value in base.metrics.items()}
    delta = delta_m(result["metrics"], single, higher) if set(single) == set(higher) else None
    return Candidate(str(run.key.method), result["score"], result["metrics"], delta)


Pick = Callable[[Sequence[Candidate]], Candidate]


def _finish(context: Context, report: StudyReport) -> StudyReport:
    budget = budget_of(context)
    base = next((row for row in report.report.rows if row.method == STL), None)
    seeds = {} if budget is None else {seed: _candidates(context, seed, budget.most, base) for seed in context.seeds}
    whole = {seed: found for seed, found in seeds.items() if budget is not None and len(found) == budget.most}
    if budget is None or not whole:
        return replace(report, notes=(*report.notes, "The search is not finished: see the runs that failed."))
    picks: dict[str, tuple[int, Pick]] = {
        f"static, best of {budget.time}: the time of one {COMPARED} run": (budget.time, winner),
        f"static, best of {budget.runs}: as many runs as other methods": (budget.runs, winner),
    }
    rivals = {name: [pick(found[:count]) for found in whole.values()] for name, (count, pick) in picks.items()}
    spread = {
        f"static, median of {budget.most} (test Δm)": [_by_delta(found, 0.5) for found in whole.values()],
        f"static, worst of {budget.most} (test Δm)": [_by_delta(found, 1.0) for found in whole.values()],
    }
    ranks = _ranks(context, report, rivals)
    ratio = next((time_over_ls(line) for line in report.lines if line.setting.method == COMPARED), None) or math.nan
    rows: list[tuple[Cell, ...]] = []
    for line in report.lines:
        cost = time_over_ls(line)
        scores = [run.result()["score"] for run in line.runs]
        name = "ls, equal weights" if line.setting.method == LS else line.setting.value
        delta = None if line.row is None else line.row.delta_m
        time = None if cost is None else Value(cost / ratio)
        rows.append((name, delta, _value(ranks.get(line.method)), _mean(scores), "1", time))
    for name, chosen in (rivals | spread).items():
        deltas = [each.delta for each in chosen if each.delta is not None]
        count = picks[name][0] if name in picks else None
        scores = [each.score for each in chosen] if name in picks else []
        cells = _value(ranks.get(name)), _mean(scores), str(count or ""), _value(count and count / ratio)
        rows.append((name, _mean(deltas), *cells))
    headings = ("weights", "Δm (%) ↓", "mean rank ↓", "validation score ↓", "runs", f"time ({COMPARED} = 1)")
    table = Table(report.tables[0].title, headings, ("", ".2f", ".2f", ".4g", "", ".2f"), tuple(rows))
    notes = [f"Weights are log-uniform from {SMALLEST:g} to {LARGEST:g}, scaled to the sum K; each seed draws its own."]
    notes.append("The best is chosen by its validation score; time is that of the training steps.")
    notes += [
        f"Seed {seed}, best of {budget.most}: {winner(found).method} (Δm {_shown(winner(found).delta)})"
        for seed, found in whole.items()
    ]
    return replace(report, tables=(table,), notes=(*report.notes, *notes), data=(budget, whole))


def _by_delta(candidates: Sequence[Candidate], quantile: float) -> Candidate:
    """The candidate at that place among those ordered by test Δm, the upper one of two."""
    ordered = sorted(candidates, key=lambda c: math.inf if c.delta is None else c.delta)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def _ranks(context: Context, report: StudyReport, rivals: Mapping[str, Sequence[Candidate]]) -> dict[str, float]:
    """Mean ranks of the methods and the winners, on means over the seeds."""
    higher = {name: metric.higher_is_better for name, metric in context.experiment.metrics}
    table = {
        name: {metric: statistics.fmean(c.metrics[metric] for c in chosen) for metric in higher}
        for name, chosen in rivals.items()
    }
    for line in report.lines:
        if line.row is not None and set(line.row.metrics) == set(higher):
            table[line.method] = {metric: value.mean for metric, value in line.row.metrics.items()}
    return mean_rank(table, higher)


def _mean(numbers: Sequence[float]) -> Value | None:
    return Value.of(list(numbers)) if numbers else None


def _value(number: float | None) -> Value | None:
    return None if number is None else Value(number)


def _shown(delta: float | None) -> str:
    return "unknown" if delta is None else f"{delta:.2f} %"


def _picture(report: StudyReport) -> Figure | None:
    """Δm of the winner against the number of runs, and every run's validation score against its test Δm."""
    from matplotlib.figure import Figure

    if report.data is None or any(c.delta is None for found in report.data[1].values() for c in found):
        return None
    budget, whole = report.data
    figure = Figure(figsize=(8.6, 3.6))
    left, right = figure.subplots(1, 2)
    lines = [expected(found) for found in whole.values()]
    means = [statistics.fmean(column) for column in zip(*lines, strict=True)]
    left.plot(
        range(1, len(means) + 1), means, color=PALETTE[0], marker="o", markersize=3, label="static, random search"
    )
    for i, line in enumerate(report.lines):
        if line.row is not None and line.row.delta_m is not None:
            look = {"color": PALETTE[i + 1], "linestyle": "--", "linewidth": 1.0}
            left.axhline(line.row.delta_m.mean, label=line.setting.value, **look)
    left.axvline(budget.time, color=SOFT, linewidth=0.8, label=f"time of one {COMPARED} run")
    left.set_xlabel("runs of the search")
    left.set_ylabel("test Δm (%) of the one chosen")
    left.set_title(f"{report.experiment.name}, preset {report.preset}")
    left.grid(axis="y")
    for i, (seed, found) in enumerate(whole.items()):
        colour = PALETTE[i % len(PALETTE)]
        right.plot([c.score for c in found], [c.delta for c in found], ".", color=colour, label=f"seed {seed}")
        best = winner(found)
        right.plot(best.score, best.delta, "*", color=colour, markersize=10)
    right.set_xlabel("validation score (star: chosen)")
    right.set_ylabel("test Δm (%)")
    right.grid()
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


STUDY = Study(
    name="static-weights",
    title="a random search over static weights with the budget of Nash-MTL",
    source="this library's own question: the baseline that any method should be held against",
    question="What do well-chosen static weights reach in the time of one run of Nash-MTL?",
    knob="weights",
    settings=_settings,
    columns=(Column("Δm (%) ↓", lambda line: None if line.row is None else line.row.delta_m),),
    figures=(("static-weights", _picture),),
    check=_check,
    more=_more,
    finish=_finish,
)
