"""Which tasks do the methods favour, and when? Figure 7 of the Nash-MTL paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from accord.bench.plots import shares, weights_figure
from accord.bench.report import Value
from accord.bench.store import Run
from accord.bench.studies.columns import DELTA, SEEDS, over_seeds
from accord.bench.studies.study import Cell, Column, Context, Line, Setting, Study, StudyReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("nash-mtl", "fairgrad", "cagrad", "imtl-g", "mgda", "uw", "dwa")


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(method, method) for method in METHODS]


def _shares(run: Run) -> list[list[float]]:
    """The shares (K,) of each unit that has weights."""
    return [found for record in run.records() if (found := shares(record)) is not None]


def _last(measure: Callable[[list[float]], float]) -> Callable[[Run], float | None]:
    """A number of the shares in the last unit."""

    def of(run: Run) -> float | None:
        every = _shares(run)
        return measure(every[-1]) if every else None

    return of


def _effective(found: list[float]) -> float:
    """How many tasks of equal weight would be as spread: the exponential of the entropy of |shares|."""
    return math.exp(-sum(abs(s) * math.log(abs(s)) for s in found if s))


def _moved(run: Run) -> float | None:
    """Half the summed change of the shares from the first unit to the last, in percent."""
    every = _shares(run)
    if len(every) < 2:
        return None
    return 50.0 * sum(abs(b - a) for a, b in zip(every[0], every[-1], strict=True))


def _extreme(choose: Callable[..., int]) -> Callable[[Line], Cell]:
    """The task with the largest or smallest share in the last unit, of the mean over the seeds, and that share."""

    def of(line: Line) -> Cell:
        last = [every[-1] for run in line.runs if (every := _shares(run))]
        if not last:
            return None
        means = [sum(column) / len(column) for column in zip(*last, strict=True)]
        place = choose(range(len(means)), key=means.__getitem__)
        losses = line.runs[0].records()[-1].get("train_loss") or {}
        tasks = list(losses) if len(losses) == len(means) else [f"task {k}" for k in range(len(means))]
        return f"{tasks[place]} {100.0 * means[place]:.1f} %"

    return of


def _effective_share(line: Line) -> Cell:
    value = over_seeds(_last(_effective))(line)
    return value if isinstance(value, Value) else None


def _picture(report: StudyReport) -> Figure | None:
    return weights_figure(report.report, [run for line in report.lines for run in line.runs])


STUDY = Study(
    name="task-weights",
    title="the weights of the tasks during training",
    source="Navon et al., ICML 2022, Appendix D.4, Figures 7 (NYUv2) and 7(b) (MT10), for Nash-MTL",
    question="Which tasks does a method give weight to, how unevenly, and how does that change during training?",
    knob="method",
    settings=_settings,
    columns=(
        DELTA,
        Column("most weight at the end", _extreme(max)),
        Column("least", _extreme(min)),
        Column("tasks of equal weight", _effective_share, ".1f"),
        Column("moved since the first epoch (%)", over_seeds(_moved), ".1f"),
        SEEDS,
    ),
    figures=(("task-weights", _picture),),
    references=(),
    judged=False,
)
