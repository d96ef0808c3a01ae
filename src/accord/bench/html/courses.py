"""What happened during training: learning curves, and the weights of the tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from accord.bench.html.drawing import CHART, Drawing, Entry, Panel, draw, line, number, panel
from accord.bench.html.fragments import plain_table
from accord.bench.html.material import STEPS, Material, Series
from accord.bench.html.svg import inline
from accord.bench.plots import DASHES, FAINT, INK, PALETTE, change_of, change_window, series_of, shares
from accord.bench.report import STL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SINGLE = len(PALETTE) * len(DASHES) - 1
"""The look of single-task learning: the last, which 39 methods leave free."""


def progress_figure(material: Material) -> Drawing | None:
    """Δm on the test set after each evaluation."""
    change = change_of(material.report)
    if change is None:
        return None
    series = {method: points for method, points in material.series(change).items() if points}
    if not any(len(points) > 1 for points in series.values()):
        return None
    window = change_window(series)
    if window is None:
        return None
    entries = _entries(material, series)
    ends = sorted(points[-1][1][0] for points in series.values() if math.isfinite(points[-1][1][0]))
    lost = len(series) - len(ends)

    def paint(axes: Axes) -> None:
        axes.axhline(0, color=INK, linewidth=0.8)
        for entry in entries:
            _course(axes, entry, series[entry.name])
        axes.set_ylim(*window)
        axes.margins(x=0)
        axes.set(xlabel=STEPS, ylabel="test Δm (%)")

    where = f"ends between {number(ends[0])} and {number(ends[-1])} %" if ends else "ends nowhere finite"
    label = f"Test Δm over training of {len(series)} methods; it {where}"
    label += f"; {lost} ended without a finite value" if lost and ends else ""
    caption = "Δm (%) on the test set against single-task learning, after each evaluation; lower is better."
    if max(v for points in series.values() for _, (v,) in points if math.isfinite(v)) > window[1]:
        caption += " What lies above the scale is cut off; the table has where each method ended."
    return Drawing(
        "progress",
        "Δm over training",
        f"{caption} {material.averaged}",
        [Panel(inline(draw((CHART[0], 3.4), paint), "progress", label, _titles(entries)))],
        entries,
        _ends(series, ["Δm (%)"], "Δm at the end of training"),
    )


def metrics_figure(material: Material) -> Drawing | None:
    """A panel a metric over training, single-task learning included; the training losses where none was measured."""
    panels, ends, used = [], {}, {}
    looks = {method: i for i, method in enumerate(material.methods)} | {STL: SINGLE}
    metrics = dict(material.experiment.metrics)
    curves = {name: _curves(material, "metrics", name) for name in metrics}
    measured = any(len(points) > 1 for found in curves.values() for points in found.values())
    if not measured:
        curves = {task.name: _curves(material, "train_loss", task.name) for task in material.experiment.tasks}
    for k, (name, found) in enumerate(curves.items()):
        found = {method: points for method, points in found.items() if len(points) > 1}
        if not found:
            continue
        entries = [Entry(material.keys.get(method, STL), method, looks[method]) for method in found]
        used |= {entry.name: entry for entry in entries}
        last = {method: points[-1][1][0] for method, points in found.items()}
        ends[name] = last
        metric = metrics.get(name)
        unit = f" ({metric.unit})" if metric and metric.unit else ""
        arrow = " ↑" if metric and metric.higher_is_better else " ↓"
        paint = _metric_painter(entries, found)
        low, high = min(last.values()), max(last.values())
        label = f"{name} over training of {len(found)} methods; it ends between {number(low)} and {number(high)}"
        panels.append(panel(f"metric-{k}", f"{name}{unit}{arrow}", label, paint, _titles(entries)))
    if not panels:
        return None
    what = "Each metric after each evaluation" if measured else "The mean training loss of each task"
    rows = [[m, *(number(ends[n][m]) if m in ends[n] else "" for n in ends)] for m in used]
    return Drawing(
        "metrics",
        "Metrics over training" if measured else "Training losses",
        f"{what}, over {STEPS}. ↓: lower is better, ↑: higher. {material.averaged}",
        panels,
        sorted(used.values(), key=lambda entry: entry.look),
        plain_table(["method", *ends], rows, "At the last evaluation"),
    )


def weights_figure(material: Material) -> Drawing | None:
    """A panel a method: each task's share of the weights."""
    series = {method: points for method, points in material.series(shares).items() if points}
    if not series:
        return None
    tasks = [task.name for task in material.experiment.tasks]
    entries = [Entry(f"t{k}", task, k) for k, task in enumerate(tasks)]
    every = [value for points in series.values() for _, values in points for value in values]
    span = min(every), max(every)  # one scale, so that panels compare
    panels = []
    for i, (method, points) in enumerate(series.items()):
        last = points[-1][1]
        most = max(range(len(tasks)), key=lambda k: abs(last[k]))
        label = f"Weights of {method} over training; {tasks[most]} ends with the largest share, {number(last[most])}"
        panels.append(panel(f"weights-{i}", method, label, _weights_painter(entries, points, span), _titles(entries)))
    return Drawing(
        "weights",
        "Task weights over training",
        f"Each task's share of the weights, w / Σ|w|, over {STEPS}; the level line is that of equal weights. "
        f"{material.averaged}",
        panels,
        entries,
        _ends(series, tasks, "Shares at the end of training"),
        shown=15,
    )


def _curves(material: Material, kind: str, name: str) -> dict[str, Series]:
    """One number of the records of each method, and of single-task learning."""

    def value(record: Mapping[str, Any]) -> list[float] | None:
        found = (record.get(kind) or {}).get(name)
        return None if found is None else [found]

    task = name if kind == "train_loss" else name.rpartition("/")[0]
    own = [run for run in material.single if run.key.method.options.get("task") == task]
    return {**material.series(value), STL: series_of(own, value)}


def _metric_painter(entries: Sequence[Entry], found: Mapping[str, Series]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for entry in entries:
            _course(axes, entry, found[entry.name])
        axes.margins(x=0)
        values = np.array([v[0] for points in found.values() for _, v in points])
        ends = np.array([points[-1][1][0] for points in found.values()])
        values, ends = values[np.isfinite(values)], ends[np.isfinite(ends)]
        if len(values) and len(ends):
            axes.set_ylim(*_window(values, ends))

    return paint


def _weights_painter(entries: Sequence[Entry], points: Series, span: tuple[float, float]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        axes.axhline(1 / len(entries), color=FAINT, zorder=0)
        for k, entry in enumerate(entries):
            line(axes, entry, [step for step, _ in points], [v[k] for _, v in points])
        pad = 0.04 * (span[1] - span[0]) or 0.1
        axes.set_ylim(span[0] - pad, span[1] + pad)
        axes.margins(x=0)

    return paint


def _window(values: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """From which to which value a panel shows: the ends in full, early outliers cut where they would flatten all."""
    low, high = np.quantile(values, [0.02, 0.98])
    low, high = min(low, ends.min()), max(high, ends.max())
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
    return float(low - pad), float(high + pad)


def _course(axes: Axes, entry: Entry, points: Series) -> None:
    line(axes, entry, [step for step, _ in points], [v[0] for _, v in points])


def _entries(material: Material, series: Mapping[str, Series]) -> list[Entry]:
    """In the look that a method has in all figures."""
    looks = {method: i for i, method in enumerate(material.methods)}
    return [Entry(material.keys[method], method, looks[method]) for method in series if series[method]]


def _titles(entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.key: entry.name for entry in entries}


def _ends(series: Mapping[str, Series], heads: Sequence[str], caption: str) -> Any:
    rows = [[method, *map(number, points[-1][1])] for method, points in series.items() if points]
    return plain_table(["method", *heads], rows, caption)
