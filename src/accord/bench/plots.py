"""Figures that every experiment has: Δm, task weights and conflict over time; and the style of all figures.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; figures are drawn without pyplot, so
there is no global state.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.bench.files import write_atomic
from accord.bench.reading import read
from accord.bench.report import STL, Report, summarise
from accord.bench.spec import Experiment
from accord.bench.store import Run, Store
from accord.metrics import delta_m

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.2, 1, 1.2)), (0, (3, 1.2, 1, 1.2, 1, 1.2)))
INK, SOFT, FAINT = "#222222", "#8A8A8A", "#DDDDDD"

STYLE: dict[str, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "svg.hashsalt": "accord",
}


def draw(store: Store, experiment: Experiment, preset: str, folder: Path, kind: str = "png") -> list[Path]:
    """Draw every figure that the runs of a preset allow.

    Args:
        store: Where the runs are.
        experiment: Whose runs.
        preset: Which preset.
        folder: Where the files go; made if absent.
        kind: ``"png"`` or ``"svg"``.

    Returns:
        The files written.

    Raises:
        StoreError: There are no runs, or the folder cannot be written.
    """
    reading = read(store, experiment, preset)
    report = summarise(store, experiment, preset, reading=reading)
    order = {row.method: i for i, row in enumerate(report.rows)}
    runs = sorted(reading.done, key=lambda run: order.get(str(run.key.method), -1))
    paths = []
    with style(kind):
        makers = {"delta-m": _delta_m, "progress": progress_figure, "weights": weights_figure, "conflict": _conflict}
        for stem, make in makers.items():
            figure = make(report, runs)
            if figure is not None:
                paths.append(save(figure, folder, stem))
        if experiment.figures is not None and runs:
            paths += experiment.figures(experiment.presets[preset], runs, folder)
    return paths


@contextmanager
def style(kind: str = "png") -> Iterator[None]:
    """The look of accord, and the file format that ``save`` writes, inside the block."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, "savefig.format": kind}):
        yield


def save(figure: Figure, folder: Path, stem: str) -> Path:
    """Write a figure as ``folder/stem.png`` (or ``.svg``, as ``style`` says), whole or not at all."""
    import matplotlib

    kind = matplotlib.rcParams["savefig.format"]
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None  # the same runs give the same bytes
    figure.savefig(buffer, format=kind, metadata=metadata)
    path = folder / f"{stem}.{kind}"
    write_atomic(path, buffer.getvalue())
    return path


def grid(panels: int, width: float = 2.6, height: float = 2.0, most: int = 5, **axes: Any) -> tuple[Figure, list[Axes]]:
    """A figure with ``panels`` equal panels, at most ``most`` in a row, with few places left empty."""
    from matplotlib.figure import Figure

    choices = range(min(panels, 3), min(panels, most) + 1)
    across = min(choices, key=lambda n: (-panels % n, abs(n / math.ceil(panels / n) - 1.5)))
    down = math.ceil(panels / across)
    figure = Figure(figsize=(max(width * across, 4.5), height * down + 0.5))
    every = list(figure.subplots(down, across, squeeze=False, **axes).flat)
    for spare in every[panels:]:
        spare.set_visible(False)
    for above in every[:panels]:  # an axis shared with a hidden panel below it still needs its labels
        if every.index(above) + across >= panels:
            above.tick_params(labelbottom=True)
    return figure, every[:panels]


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend above all panels, in as many columns as the figure has room for.

    The figure grows with its rows, so that there is room for the panels however many it has.
    """
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(figure.get_figwidth() / (0.5 + 0.07 * longest))  # inches: a line and a gap, then the letters
    columns = max(1, min(columns, len(handles)))
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + max(0, rows - 2) * 0.17)  # inches a row; ``grid`` has room for two
    figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, fontsize=8, columnspacing=1.2, handlelength=1.5
    )


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the ``index``-th line: 40 combinations."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": DASHES[index // len(PALETTE) % len(DASHES)]}


def by_method(report: Report, runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each multi-task method, in the order of the report's rows."""
    groups: dict[str, list[Run]] = {row.method: [] for row in report.rows if row.method != "stl"}
    for run in runs:
        if run.key.method.name != "stl":
            groups[str(run.key.method)].append(run)
    return groups


def _delta_m(report: Report, runs: Sequence[Run]) -> Figure | None:
    """Horizontal bars, best method on top."""
    from matplotlib.figure import Figure

    rows = sorted((r for r in report.rows if r.delta_m is not None), key=lambda r: -r.delta_m.mean)  # pyrefly: ignore
    if not rows:
        return None
    values = [row.delta_m for row in rows if row.delta_m is not None]
    figure = Figure(figsize=(6.0, 0.9 + 0.27 * len(rows)))
    axes = figure.subplots()
    colours = [PALETTE[2] if value.mean < 0 else PALETTE[0] for value in values]
    errors = [value.error or 0.0 for value in values]
    bars = axes.barh(
        range(len(rows)),
        [v.mean for v in values],
        xerr=errors if any(errors) else None,
        color=colours,
        height=0.7,
    )
    places = 1 if max(abs(v.mean) for v in values) >= 1 else 2
    axes.bar_label(bars, [f"{v.mean:.{places}f}" for v in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x")
    axes.margins(x=0.12)
    axes.set_xlabel("Δm (%) against single-task learning; lower is better")
    axes.set_title(f"{report.experiment.name}, preset {report.preset}")
    return figure


def progress_figure(report: Report, runs: Sequence[Run]) -> Figure | None:
    """Δm on the test set after each evaluation, one line a method, best at the end first in the legend."""
    from matplotlib.figure import Figure

    change = change_of(report)
    if change is None:
        return None
    series = {method: series_of(group, change) for method, group in by_method(report, runs).items()}
    series = {method: points for method, points in series.items() if len(points) > 1}
    window = change_window(series)
    if window is None:
        return None
    figure = Figure(figsize=(6.5, 4.0))
    axes = figure.subplots()
    places = {method: i for i, method in enumerate(series)}
    for method in sorted(series, key=lambda m: (math.isnan(series[m][-1][1][0]), series[m][-1][1][0])):
        steps, values = zip(*series[method], strict=True)
        axes.plot(steps, [v[0] for v in values], label=method, **line_style(places[method]))
    axes.set_ylim(*window)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.grid()
    axes.margins(x=0)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("test Δm (%) against single-task learning")
    axes.set_title(f"{report.experiment.name}, preset {report.preset}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def change_of(report: Report) -> Callable[[Mapping[str, Any]], list[float] | None] | None:
    """A function of a record: its Δm against single-task learning at the end, [Δm].

    It gives None where the record lacks a metric, and NaN where one is not finite. None where there is no Δm at all:
    single-task learning is not there, not whole, not finite, or 0.
    """
    base = next((row for row in report.rows if row.method == STL), None)
    higher = {name: metric.higher_is_better for name, metric in report.experiment.metrics}
    if not report.experiment.baseline or base is None or set(base.metrics) != set(higher):
        return None
    single = {name: value.mean for name, value in base.metrics.items()}
    if not all(value and math.isfinite(value) for value in single.values()):
        return None

    def change(record: Mapping[str, Any]) -> list[float] | None:
        found = record.get("metrics") or {}
        if not set(found) >= set(higher):
            return None
        finite = all(math.isfinite(found[name]) for name in higher)
        return [delta_m(found, single, higher) if finite else math.nan]

    return change


def change_window(series: Mapping[str, Sequence[tuple[int, list[float]]]]) -> tuple[float, float] | None:
    """From which to which Δm a figure shows; None where no value is finite.

    The first epochs, and a method that fails, can lie far above: they are cut at 2.5 times where three quarters of the
    methods end, and not below 25 %.
    """
    every = [v for points in series.values() for _, (v,) in points if math.isfinite(v)]
    if not every:
        return None
    ends = sorted(points[-1][1][0] for points in series.values() if math.isfinite(points[-1][1][0])) or sorted(every)
    low, high = min(0.0, *every), max(0.0, min(max(every), 2.5 * max(10.0, ends[3 * len(ends) // 4])))
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def weights_figure(report: Report, runs: Sequence[Run]) -> Figure | None:
    """One panel a method: each task's share of the weights over the steps."""
    series = {m: series_of(group, shares) for m, group in by_method(report, runs).items()}
    series = {m: points for m, points in series.items() if points}
    if not series:
        return None
    tasks = [task.name for task in report.experiment.tasks]
    figure, panels = grid(len(series), sharex=True, sharey=True)
    for axes, (method, points) in zip(panels, series.items(), strict=True):
        steps = [step for step, _ in points]
        for k in range(len(tasks)):
            axes.plot(steps, [shares[k] for _, shares in points], **line_style(k))
        axes.axhline(1 / len(tasks), color=FAINT, zorder=0)
        axes.set_title(method, fontsize=9)
        axes.margins(x=0)
    handles = [panels[0].plot([], [], label=task, **line_style(k))[0] for k, task in enumerate(tasks)]
    legend(figure, handles)
    figure.supylabel("share of the task weights, w / Σ|w|", fontsize=9)
    figure.supxlabel("optimiser steps", fontsize=9)
    return figure


def _conflict(report: Report, runs: Sequence[Run]) -> Figure | None:
    """One panel a method, the others in grey behind it: share of conflicting task pairs over the steps."""
    series = {m: series_of(group, lambda r: _one(r.get("conflict"))) for m, group in by_method(report, runs).items()}
    series = {m: points for m, points in series.items() if points}
    if not series:
        return None
    figure, panels = grid(len(series), sharex=True, sharey=True)
    for axes, (method, points) in zip(panels, series.items(), strict=True):
        for other in series.values():
            axes.plot([s for s, _ in other], [100 * v[0] for _, v in other], color=FAINT, linewidth=0.8)
        axes.plot([s for s, _ in points], [100 * v[0] for _, v in points], color=PALETTE[0], linewidth=1.8)
        axes.set_title(method, fontsize=9)
        axes.set_ylim(-3, 103)
        axes.margins(x=0)
    figure.supylabel("task pairs with opposed gradients (%)", fontsize=9)
    figure.supxlabel("optimiser steps", fontsize=9)
    return figure


def series_of(
    runs: Sequence[Run], value: Callable[[dict[str, Any]], list[float] | None]
) -> list[tuple[int, list[float]]]:
    """``(steps so far, values)`` per unit, averaged over the seeds that have that unit."""
    found: dict[int, list[list[float]]] = defaultdict(list)
    for run in runs:
        steps = 0
        for record in run.records():
            steps += record.get("steps", 0)
            numbers = value(record)
            if numbers is not None:
                found[steps].append(numbers)
    return [(s, [sum(column) / len(column) for column in zip(*found[s], strict=True)]) for s in sorted(found)]


def shares(record: dict[str, Any]) -> list[float] | None:
    """Each task's share of the mean weights of a unit, w / Σ|w|, (K,); None where the unit has none."""
    weights = record.get("weights")
    total = sum(abs(w) for w in weights) if weights else 0.0
    return [w / total for w in weights] if weights and math.isfinite(total) and total > 0 else None


def _one(value: float | None) -> list[float] | None:
    return None if value is None else [value]
