"""Are the gradients linearly independent? Figure 8 of the Nash-MTL paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accord.bench.plots import grid, legend, line_style, series_of
from accord.bench.store import Run
from accord.bench.studies.columns import SEEDS, over_seeds
from accord.bench.studies.study import Column, Context, Setting, Study, StudyReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("nash-mtl", "fairgrad", "cagrad", "mgda")
"""Methods that compute the Gramian at every step; the first is the paper's."""

KEYS = {
    "singular": "of the Gramian of the gradients",
    "singular_cosines": "of that of the gradients brought to norm 1",
}


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(method, method) for method in METHODS]


def _found(run: Run, key: str) -> list[dict[str, float]]:
    return [record[key] for record in run.records() if record.get(key)]


def _epoch(key: str, place: int) -> Callable[[Run], float | None]:
    """The mean over an epoch's steps."""

    def of(run: Run) -> float | None:
        found = _found(run, key)
        return found[place]["mean"] if found else None

    return of


def _least(key: str) -> Callable[[Run], float | None]:
    def of(run: Run) -> float | None:
        return min((each["min"] for each in _found(run, key)), default=None)

    return of


def _finish(context: Context, report: StudyReport) -> StudyReport:
    """Say so where the runs were made by a version that did not record singular values."""
    blank = [line.method for line in report.lines for run in line.runs[:1] if not _found(run, "singular")]
    if not blank:
        return report
    note = (
        f"The runs of {', '.join(blank)} have no singular values: they were made before these were recorded. "
        f"`accord run {report.experiment.name} --preset {report.preset} --methods {' '.join(blank)} --fresh` makes "
        "them anew."
    )
    return replace(report, notes=(*report.notes, note))


def _value(key: str, which: str) -> Callable[[dict[str, Any]], list[float] | None]:
    return lambda record: [record[key][which]] if record.get(key) else None


def _picture(report: StudyReport) -> Figure | None:
    """A panel for each of the two Gramians; lines are means over the epochs' steps, dots their minima."""
    series = {
        (key, line.setting.value, which): series_of(line.runs, _value(key, which))
        for key in KEYS
        for line in report.lines
        for which in ("mean", "min")
    }
    if not any(series.values()):
        return None
    figure, panels = grid(len(KEYS), width=4.2, height=3.2, most=2, sharex=True)
    for axes, (key, title) in zip(panels, KEYS.items(), strict=True):
        for i, line in enumerate(report.lines):
            dots: dict[str, Any] = {"color": line_style(i)["color"], "marker": ".", "linestyle": "none"}
            for which, look in (("mean", line_style(i)), ("min", dots)):
                points = [(s, v[0]) for s, v in series[key, line.setting.value, which] if v[0] > 0]
                if points:
                    axes.plot([step for step, _ in points], [value for _, value in points], **look)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.grid(axis="y")
    marks = [
        panels[0].plot([], [], label=each.setting.value, **line_style(i))[0] for i, each in enumerate(report.lines)
    ]
    legend(figure, marks)
    figure.supylabel("smallest singular value: mean and (dots) minimum", fontsize=9)
    figure.supxlabel("optimiser steps", fontsize=9)
    return figure


STUDY = Study(
    name="singular-value",
    title="the smallest singular value of the gradients' Gramian during training",
    source="Navon et al., ICML 2022, Appendix D.5, Figure 8 (NYUv2 and QM9)",
    question="Do the task gradients stay linearly independent, as the analysis of Nash-MTL assumes?",
    knob="method",
    settings=_settings,
    columns=(
        Column("first epoch", over_seeds(_epoch("singular", 0)), ".2e"),
        Column("last epoch", over_seeds(_epoch("singular", -1)), ".2e"),
        Column("least of any step", over_seeds(_least("singular")), ".2e"),
        Column("norm 1: first epoch", over_seeds(_epoch("singular_cosines", 0)), ".2e"),
        Column("last epoch", over_seeds(_epoch("singular_cosines", -1)), ".2e"),
        Column("least of any step", over_seeds(_least("singular_cosines")), ".2e"),
        SEEDS,
    ),
    figures=(("singular-value", _picture),),
    references=(),
    judged=False,
    measured=False,
    finish=_finish,
)
