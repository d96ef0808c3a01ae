"""The toy's figures: every method's five descents in the plane, and in the space of the two losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from accord.bench.experiments.toy_problem import FRONT_X2, STARTS, losses, pareto_front
from accord.bench.plots import FAINT, PALETTE, grid, legend, save
from accord.bench.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm
    from matplotlib.figure import Figure

NEAR = 0.01
"""An end this close to the front, as a share of its extent, counts as on it."""

REACH = 10.5  # the plane is drawn from −REACH to REACH
FRONT = "#D55E00"
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#000000")


@dataclass(frozen=True)
class _Descents:
    """One method's five trails (N, 4) of (x1, x2, L1, L2), and the distance of each end from the front."""

    title: str
    trails: list[torch.Tensor]
    gaps: list[float]


def figures(preset: Any, runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw ``plane`` and ``losses``, one panel a method, from the first seed of each."""
    del preset
    first: dict[str, Run] = {}
    for run in runs:
        method = str(run.key.method)
        if method not in first or run.key.seed < first[method].key.seed:
            first[method] = run
    methods = [_read(name, run) for name, run in first.items()]
    return [
        save(_draw(methods, _plane, (0, 1), "x₁", "x₂"), folder, "plane"),
        save(_draw(methods, _loss_space, (2, 3), "L₁", "L₂"), folder, "losses"),
    ]


def _read(name: str, run: Run) -> _Descents:
    records, result = run.records(), run.result()
    trails = [
        torch.tensor([point for record in records for point in record["trajectory"][k]] + [result["ends"][k]])
        for k in range(len(STARTS))
    ]
    return _Descents(name, trails, result["gaps"])


def _draw(
    methods: Sequence[_Descents],
    background: Callable[[Axes], None],
    columns: tuple[int, int],
    across: str,
    up: str,
) -> Figure:
    figure, panels = grid(len(methods), width=2.5, height=2.45, sharex=True, sharey=True)
    for axes, method in zip(panels, methods, strict=True):
        background(axes)
        for trail, colour, distance in zip(method.trails, COLOURS, method.gaps, strict=True):
            x, y = trail[:, columns[0]], trail[:, columns[1]]
            axes.plot(x, y, color="white", linewidth=2.6, zorder=3)  # a rim keeps crossing trails apart
            axes.plot(x, y, color=colour, linewidth=1.3, zorder=3)
            axes.plot(x[0], y[0], "o", color="white", markeredgecolor=colour, markersize=6, zorder=4)
            arrived = distance <= NEAR
            axes.plot(
                x[-1], y[-1], "o" if arrived else "X", color=colour, markeredgecolor="white", markersize=7, zorder=5
            )
        arrivals = sum(distance <= NEAR for distance in method.gaps)
        axes.set_title(method.title, fontsize=9)
        told = f"{arrivals} of {len(STARTS)} on the front"
        axes.text(0.5, 0.97, told, transform=axes.transAxes, ha="center", va="top", fontsize=7.5)
    figure.supxlabel(across, fontsize=9)
    figure.supylabel(up, fontsize=9)
    _legend(figure, panels[0])
    return figure


def _plane(axes: Axes) -> None:
    """Level lines of both losses, each on the scale of its own range, and the front."""
    ticks = torch.linspace(-REACH, REACH, 241, dtype=torch.float64)
    x2, x1 = torch.meshgrid(ticks, ticks, indexing="ij")  # (241, 241)
    l1, l2 = losses(torch.stack([x1, x2], dim=-1))
    both = (l1 - l1.min()) / (l1.max() - l1.min()) + (l2 - l2.min()) / (l2.max() - l2.min())
    levels = both.flatten().quantile(torch.linspace(0, 1, 17, dtype=both.dtype))  # equal areas
    axes.contourf(ticks, ticks, both, levels=levels, cmap="Greys", norm=_even(levels), alpha=0.35, zorder=0)
    axes.contour(ticks, ticks, both, levels=levels, colors="white", linewidths=0.5, zorder=1)
    axes.plot([-7, 7], [FRONT_X2, FRONT_X2], color=FRONT, linewidth=3.5, alpha=0.75, solid_capstyle="round", zorder=2)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=(-8, 0, 8), yticks=(-8, 0, 8))


def _loss_space(axes: Axes) -> None:
    _, front = pareto_front()
    axes.plot(front[:, 0], front[:, 1], color=FRONT, linewidth=3.5, alpha=0.75, solid_capstyle="round", zorder=2)
    axes.grid(color=FAINT)
    axes.set(xlim=(-2.25, 1.15), ylim=(-22, 9.5), xticks=(-2, -1, 0, 1), yticks=(-20, -10, 0))


def _even(levels: torch.Tensor) -> BoundaryNorm:
    """One shade a level, whatever the distances between levels."""
    from matplotlib.colors import BoundaryNorm

    return BoundaryNorm(levels.tolist(), ncolors=256)


def _legend(figure: Figure, axes: Axes) -> None:
    handles = [
        axes.plot([], [], color=colour, marker="o", markerfacecolor="white", markersize=5, label=f"start {start}")[0]
        for start, colour in zip(STARTS, COLOURS, strict=True)
    ]
    handles += [
        axes.plot([], [], "o", color=PALETTE[6], markersize=6, label="ends on the front")[0],
        axes.plot([], [], "X", color=PALETTE[6], markersize=7, label="ends elsewhere")[0],
        axes.plot([], [], color=FRONT, linewidth=3.5, alpha=0.75, label="Pareto front")[0],
    ]
    legend(figure, handles)
