"""The figures of studies: those that several have, and the one function that draws them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accord.bench.plots import INK, PALETTE, SOFT, line_style, save, style
from accord.bench.spec import MethodSpec
from accord.bench.studies.columns import time_over_ls
from accord.bench.studies.study import Line, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"


def draw_study(report: StudyReport, folder: str | Path, kind: str = "png") -> list[Path]:
    """Draw every figure of a study that its runs allow.

    Args:
        report: What ``run_study`` returned.
        folder: Where the files go; made if absent.
        kind: ``"png"`` or ``"svg"``.

    Returns:
        The files written.

    Raises:
        StoreError: The folder cannot be written.
    """
    paths = []
    with style(kind):
        for stem, draw in report.study.figures:
            figure = draw(report)
            if figure is not None:
                paths.append(save(figure, Path(folder), stem))
    return paths


def curves(report: StudyReport) -> Figure | None:
    """Δm and the cost of a step against the knob's settings, one line a group; references are level lines."""
    from matplotlib.figure import Figure

    references = [line for line in report.lines if line.setting.method in report.study.references]
    rows = [line for line in report.lines if line not in references and line.row is not None]
    rows = [line for line in rows if line.row is not None and line.row.delta_m is not None]
    if not rows:
        return None
    places = {value: i for i, value in enumerate(dict.fromkeys(line.setting.value for line in rows))}
    groups = list(dict.fromkeys(line.setting.group for line in rows))
    figure = Figure(figsize=(max(8.0, 4.0 + 0.5 * len(places)), 3.6))
    left, right = figure.subplots(1, 2)
    for i, group in enumerate(groups):
        mine = [line for line in rows if line.setting.group == group]
        look = {**line_style(i), "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        _line(left, mine, places, look, group or MethodSpec.parse(mine[0].method).name)
        costs = [time_over_ls(line) for line in mine]
        if all(cost is not None for cost in costs):
            right.plot([places[line.setting.value] for line in mine], costs, **look)
    for i, line in enumerate(references):
        look = {"color": SOFT, "linestyle": ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))[i % 3], "linewidth": 1.0}
        if line.row is not None and line.row.delta_m is not None:
            left.axhline(line.row.delta_m.mean, label=line.setting.value, **look)
        cost = time_over_ls(line)
        if cost is not None:
            right.axhline(cost, **look)
    for axes in (left, right):
        axes.set_xticks(range(len(places)), list(places))
        axes.set_xlabel(report.study.knob)
        axes.grid(axis="y")
    left.set_ylabel("Δm (%), lower is better")
    right.set_ylabel("time of a step (LS = 1)")
    right.set_ylim(bottom=0.0)
    left.set_title(f"{report.experiment.name}, preset {report.preset}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def against_cost(report: StudyReport) -> Figure | None:
    """Δm against the cost of a step, one named point a row; those that no other beats in both are joined."""
    from matplotlib.figure import Figure

    points = []
    for line in report.lines:
        cost = time_over_ls(line)
        if cost is not None and line.row is not None and line.row.delta_m is not None:
            points.append((cost, line.row.delta_m, line.setting.value))
    if not points:
        return None
    figure = Figure(figsize=(7.0, 4.2))
    axes = figure.subplots()
    for i, (cost, delta, name) in enumerate(points):
        colour = PALETTE[i % len(PALETTE)]
        axes.errorbar(
            cost,
            delta.mean,
            yerr=delta.error,
            fmt=MARKERS[(i + i // len(MARKERS)) % len(MARKERS)],
            color=colour,
            label=name,
        )
    front = _front([(cost, delta.mean) for cost, delta, _ in points])
    axes.plot(*zip(*front, strict=True), color=SOFT, linewidth=0.8, zorder=0)
    axes.set_xlabel("time of a step (LS = 1)")
    axes.set_ylabel("Δm (%), lower is better")
    axes.set_title(f"{report.experiment.name}, preset {report.preset}")
    axes.grid()
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that none is at most as dear and better than, in order of cost."""
    kept: list[tuple[float, float]] = []
    for cost, delta in sorted(points):
        if not kept or delta < kept[-1][1]:
            kept.append((cost, delta))
    return kept


def _line(axes: Axes, lines: Sequence[Line], places: dict[str, int], look: dict, label: str) -> None:
    values = [line.row.delta_m for line in lines if line.row is not None and line.row.delta_m is not None]
    at = [places[line.setting.value] for line in lines]
    errors = [value.error or 0.0 for value in values]
    axes.errorbar(
        at,
        [value.mean for value in values],
        yerr=errors if any(errors) else None,
        capsize=2,
        ecolor=INK,
        elinewidth=0.7,
        label=label,
        **look,
    )
