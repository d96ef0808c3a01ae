"""Where gradients oppose each other: over training, and between which tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from accord.bench.html.drawing import CHART, Drawing, Panel, draw, panel
from accord.bench.html.fragments import plain_table
from accord.bench.html.material import STEPS, Material, Series
from accord.bench.html.svg import inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 40
"""Columns of the heat map over training: stretches of equal length."""

NAMED = 12
"""Tasks whose names fit beside a panel."""

LISTED = 60
"""Pairs in the table, the most opposed first."""


def conflict_figure(material: Material) -> Drawing | None:
    """A heat map: methods down, training across, the share of task pairs with opposed gradients as colour."""
    found = material.series(_conflict)
    series = {method: points for method, points in found.items() if points}
    if not series:
        return None
    last = max(points[-1][0] for points in series.values())
    cells = np.array([_stretches(points, last, CELLS) for points in series.values()])
    top = max(10.0, 10 * math.ceil(10 * float(np.nanmax(cells))))  # to the next ten per cent

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        image = axes.imshow(
            100 * cells,
            aspect="auto",
            interpolation="none",
            cmap="cividis",
            vmin=0,
            vmax=top,
            extent=(0, last, len(series) - 0.5, -0.5),
        )
        axes.set_yticks(range(len(series)), list(series))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(STEPS)
        bar = axes.figure.colorbar(image, ax=axes, location="top", fraction=0.05, pad=0.02, aspect=40)
        bar.set_label("task pairs with opposed gradients (%)")

    means = {method: float(np.mean([v[0] for _, v in points])) for method, points in series.items()}
    low, high = min(means, key=lambda m: means[m]), max(means, key=lambda m: means[m])
    label = (
        f"Conflict over training of {len(series)} methods; on average least for {low} ({100 * means[low]:.0f} %) "
        f"and most for {high} ({100 * means[high]:.0f} %)"
    )
    rows = [
        [method, *("" if np.isnan(v) else f"{100 * v:.1f}" for v in _stretches(points, last, 4))]
        for method, points in series.items()
    ]
    heads = ["method", "first quarter", "second", "third", "last"]
    return Drawing(
        "conflict",
        "Conflict over training",
        f"The share of task pairs whose gradients point against each other (a negative cosine), over {STEPS}; "
        f"bright is much conflict. Methods that do not look at gradients have no row. {material.averaged}",
        [Panel(inline(draw((CHART[0], 1.1 + 0.235 * len(series)), paint), "conflict", label))],
        data=plain_table(heads, rows, "Task pairs with opposed gradients (%)"),
    )


def pairs_figure(material: Material) -> Drawing | None:
    """Heat maps, a panel a method: the mean cosine of the gradients of each two tasks over the epochs of training."""
    tasks = [task.name for task in material.experiment.tasks]
    pairs = list(combinations(range(len(tasks)), 2))
    series = material.series(lambda record: record.get("cosines"))
    found = {method: np.mean([values for _, values in points], 0) for method, points in series.items() if points}
    if not found or not pairs:
        return None
    top = min(1.0, max(0.1, math.ceil(10 * max(float(np.abs(v).max()) for v in found.values())) / 10))
    panels = []
    for i, (method, values) in enumerate(found.items()):
        a, b = pairs[int(values.argmin())]
        most = f"{tasks[a]} and {tasks[b]}, {values.min():.2f}"
        label = f"Cosines between tasks under {method}; lowest between {most}"
        paint = _matrix_painter(tasks, pairs, values, top)
        panels.append(panel(f"pairs-{i}", method, label, paint, {}, (3.1, 1.8 if len(tasks) <= NAMED else 2.6)))
    order = np.argsort(np.mean(list(found.values()), 0), kind="stable")[:LISTED]
    rows = [
        [f"{tasks[pairs[p][0]]} – {tasks[pairs[p][1]]}", *(f"{values[p]:.3f}" for values in found.values())]
        for p in order
    ]
    which = f"the {LISTED} most opposed of {len(pairs)} pairs" if len(pairs) > LISTED else "the most opposed first"
    order_named = "the rows" if len(tasks) <= NAMED else "the table of tasks below, as are rows"
    return Drawing(
        "pairs",
        "Conflict between tasks",
        "The mean cosine of the gradients of each two tasks over the epochs of training: orange is opposed, purple "
        f"agrees; the scale ends at ±{top:.1f} in every panel. Columns are in the order of {order_named}. "
        f"{material.averaged}",
        panels,
        data=plain_table(["tasks", *found], rows, f"Mean cosines, {which}"),
        shown=6,
    )


def _conflict(record: Mapping[str, Any]) -> list[float] | None:
    share = record.get("conflict")
    return [share] if share is not None and math.isfinite(share) else None


def _matrix_painter(
    tasks: Sequence[str], pairs: Sequence[tuple[int, int]], values: np.ndarray, top: float
) -> Callable[[Axes], None]:
    """A symmetric matrix whose diagonal is left blank."""
    matrix = np.full((len(tasks), len(tasks)), np.nan)
    for (a, b), value in zip(pairs, values, strict=True):
        matrix[a, b] = matrix[b, a] = value

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        image = axes.imshow(matrix, interpolation="none", cmap="PuOr", vmin=-top, vmax=top)
        named = len(tasks) <= NAMED
        axes.set_xticks([])
        axes.set_yticks(range(len(tasks)) if named else [], tasks if named else [], fontsize=7)
        axes.tick_params(length=0)
        axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)

    return paint


def _stretches(points: Series, last: int, count: int) -> list[float]:
    """Means over ``count`` equal stretches of training; where a unit is longer than a stretch, it fills several."""
    steps = np.array([0, *(step for step, _ in points)], np.float64)
    values = np.array([value[0] for _, value in points])
    edges = np.linspace(0, last, count + 1)
    # how much of each stretch lies in each unit
    overlap = np.minimum(edges[1:, None], steps[1:]) - np.maximum(edges[:-1, None], steps[:-1])
    overlap = np.clip(overlap, 0, None)
    total = overlap.sum(1)
    sums = overlap @ values
    return [float(s / t) if t > 0 else math.nan for s, t in zip(sums, total, strict=True)]
