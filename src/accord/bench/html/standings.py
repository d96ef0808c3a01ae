"""Where the methods stand at the end: Δm, mean rank, and two chosen metrics against each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from accord.balancers.registry import suggest
from accord.bench.html.drawing import CHART, Drawing, Entry, Panel, colour_of, draw, marker_of, number
from accord.bench.html.fragments import plain_table
from accord.bench.html.material import Material, rank_errors
from accord.bench.html.svg import inline
from accord.bench.plots import INK, PALETTE, SOFT
from accord.bench.report import STL, Row, Value
from accord.bench.spec import Experiment
from accord.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def delta_m_figure(material: Material) -> Drawing | None:
    """Δm of each method, the best on top."""
    values = {row.method: row.delta_m for row in material.report.rows if row.delta_m is not None}
    axis = "Δm (%) against single-task learning; lower is better"
    return _dots(material, "delta-m", "Δm", axis, values)


def rank_figure(material: Material) -> Drawing | None:
    """The mean rank of each method, the best on top; none for one method alone."""
    rows = [row for row in material.report.rows if row.mean_rank is not None]
    if len(rows) < 2:
        return None
    errors = rank_errors(material)
    values = {row.method: Value(row.mean_rank or math.nan, errors.get(row.method)) for row in rows}
    return _dots(material, "rank", "Mean rank", "mean rank over the metrics; 1 is best", values)


def _dots(material: Material, key: str, title: str, axis: str, values: Mapping[str, Value]) -> Drawing | None:
    if not values:
        return None
    order = sorted(values, key=lambda method: -values[method].mean)
    bars = any(value.error is not None for value in values.values())

    def paint(axes: Axes) -> None:
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=INK, linewidth=0.8) if key == "delta-m" else None
        for place, method in enumerate(order):
            value, gid = values[method], f"series-{material.keys[method]}"
            axes.plot(value.mean, place, "o", color=PALETTE[0], markersize=5, gid=gid, zorder=3)
            if value.error:
                ends = [value.mean - value.error, value.mean + value.error]
                axes.plot(ends, [place, place], color=PALETTE[0], linewidth=1.6, gid=gid)
                axes.plot(ends, [place, place], "|", color=PALETTE[0], markersize=6, gid=gid)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.set_xlabel(axis)

    best = order[-1]
    label = f"{title} of {len(order)} methods, from {number(values[best].mean)} ({best}), the best, to "
    label += f"{number(values[order[0]].mean)} ({order[0]})"
    figure = draw((CHART[0], 0.7 + 0.235 * len(order)), paint)
    heads = ["method", title, *(["± standard error"] if bars else [])]
    cells = [[m, number(values[m].mean), *([_error(values[m])] if bars else [])] for m in reversed(order)]
    several = len({run.key.seed for run in material.done}) > 1
    lacking = "fewer than two seeds that all methods have" if several else "one seed"
    spread = "the bars are standard errors over seeds" if bars else f"{lacking}, so that there are no error bars"
    return Drawing(
        key,
        title,
        f"{axis[0].upper()}{axis[1:]}. The dots are the values of the table; {spread}.",
        [Panel(inline(figure, key, label, _names(material)))],
        data=plain_table(heads, cells, title),
    )


def front_figure(material: Material, pair: tuple[str, str] | None) -> Drawing | None:
    """Two metrics against each other, and the methods that no other beats in both.

    Args:
        material: The runs.
        pair: ``"task/metric"`` twice; None for the two over which the methods disagree most.
    """
    chosen = pair or conflicting_pair(material)
    if chosen is None:
        return None
    rows = [row for row in material.report.rows if all(_finite(row.metrics.get(name)) for name in chosen)]
    points = {row.method: tuple(row.metrics[name].mean for name in chosen) for row in rows if row.method != STL}
    if len(points) < 2:
        return None
    metrics = dict(material.experiment.metrics)
    higher = [metrics[name].higher_is_better for name in chosen]
    front = front_of(points, higher)
    looks = {method: i for i, method in enumerate(material.methods)}
    entries = [Entry(material.keys[method], method, looks[method], marker=True) for method in points]
    absent = [method for method in looks if method not in points]
    single = next((row for row in rows if row.method == STL), None)

    def paint(axes: Axes) -> None:
        _step(axes, [points[method] for method in front], higher)
        for entry in entries:
            row = next(row for row in rows if row.method == entry.name)
            _point(axes, row, chosen, entry)
        if single is not None:
            x, y = (single.metrics[name].mean for name in chosen)
            axes.plot(x, y, "+", color=INK, markersize=11, markeredgewidth=2, gid="series-stl")
            axes.annotate(STL, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8, color=INK)
        names = [f"{name}{f' ({metrics[name].unit})' if metrics[name].unit else ''}" for name in chosen]
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.margins(0.1)

    corner = f"{'upper' if higher[1] else 'lower'} {'right' if higher[0] else 'left'}"
    why = "as chosen" if pair else "those over which the methods disagree most"
    caption = (
        f"{chosen[0]} and {chosen[1]} ({why}); the better corner is {corner}. The line joins the methods that no other "
        "beats in both. Bars, where there are several seeds, are standard errors."
        + (f" Without both numbers: {', '.join(absent)}." if absent else "")
    )
    label = f"{chosen[0]} against {chosen[1]}; not beaten in both: {', '.join(front)}"
    cells = [
        [row.method, *(number(row.metrics[name].mean) for name in chosen), "yes" if row.method in front else ""]
        for row in rows
    ]
    return Drawing(
        "front",
        f"{chosen[0]} against {chosen[1]}",
        caption,
        [Panel(inline(draw((4.5, 3.8), paint), "front", label, _names(material)))],
        entries,
        plain_table(["method", *chosen, "on the front"], cells, "Both metrics"),
    )


def check_pair(experiment: Experiment, pair: Sequence[str]) -> tuple[str, str]:
    """Two metrics by name; the task alone is enough where it has one metric.

    Raises:
        UnknownNameError: The experiment has no such metric.
        OptionError: Both are the same.
    """
    known = dict(experiment.metrics)
    short = {task.name: f"{task.name}/{task.metrics[0].name}" for task in experiment.tasks if len(task.metrics) == 1}
    names = []
    for text in pair:
        name = short.get(text, text)
        if name not in known:
            raise UnknownNameError(
                f"--fronts: {experiment.name} has no metric {text!r}{suggest(text, known)}; it has {', '.join(known)}"
            )
        names.append(name)
    if names[0] == names[1]:
        raise OptionError(f"--fronts: {names[0]} is given twice; a front needs two metrics")
    return names[0], names[1]


def conflicting_pair(material: Material) -> tuple[str, str] | None:
    """The two metrics whose orders of the methods agree least, of two tasks where there are several."""
    names = material.directions
    rows = [row for row in material.report.rows if row.method != STL]
    whole = [row for row in rows if all(_finite(row.metrics.get(name)) for name in names)]
    if len(whole) < 2:
        return None
    columns = {
        name: (-1 if higher else 1) * np.array([row.metrics[name].mean for row in whole])
        for name, higher in names.items()
    }
    pairs = list(itertools.combinations(columns, 2))
    apart = [pair for pair in pairs if pair[0].rpartition("/")[0] != pair[1].rpartition("/")[0]]
    if not pairs:
        return None
    return min(apart or pairs, key=lambda pair: _agreement(columns[pair[0]], columns[pair[1]]))


def front_of(points: Mapping[str, Sequence[float]], higher: Sequence[bool]) -> list[str]:
    """The names of those points that no other equals or beats in both and beats in one, by the first number."""
    signs = [-1.0 if better else 1.0 for better in higher]
    low = {name: tuple(s * v for s, v in zip(signs, point, strict=True)) for name, point in points.items()}

    def beaten(name: str) -> bool:
        mine = low[name]
        return any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in low.values())

    return sorted((name for name in low if not beaten(name)), key=lambda name: (points[name][0], points[name][1]))


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of pairs of methods that both metrics order alike, less that of those they order otherwise (Kendall)."""
    signs = np.sign(one[:, None] - one) * np.sign(other[:, None] - other)
    return float(signs.sum() / max(1, len(one) * (len(one) - 1)))


def _step(axes: Axes, front: Sequence[Sequence[float]], higher: Sequence[bool]) -> None:
    """The edge of what is dominated, as a staircase through the front."""
    xs, ys = zip(*front, strict=True)
    where = "pre" if higher[0] else "post"  # the corner between two points is the worse of both in each metric
    axes.step(xs, ys, where=where, color=SOFT, linewidth=1.2, zorder=1)


def _point(axes: Axes, row: Row, chosen: Sequence[str], entry: Entry) -> None:
    x, y = (row.metrics[name] for name in chosen)
    gid, colour = f"series-{entry.key}", colour_of(entry.look)
    if x.error:
        axes.plot([x.mean - x.error, x.mean + x.error], [y.mean] * 2, color=colour, linewidth=1, gid=gid)
    if y.error:
        axes.plot([x.mean] * 2, [y.mean - y.error, y.mean + y.error], color=colour, linewidth=1, gid=gid)
    axes.plot(
        x.mean, y.mean, marker_of(entry.look), color=colour, markersize=7, markeredgecolor="white", gid=gid, zorder=3
    )


def _names(material: Material) -> dict[str, str]:
    return {key: method for method, key in material.keys.items()} | {"stl": STL}


def _error(value: Value) -> str:
    return "" if value.error is None else number(value.error)


def _finite(value: Value | None) -> bool:
    return value is not None and math.isfinite(value.mean)
