"""The toy problem's descents, a panel a method: in the plane, and in the space of the two losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from accord.bench.experiments.toy_figures import COLOURS, FRONT, NEAR, REACH
from accord.bench.experiments.toy_problem import FRONT_X2, STARTS, losses, pareto_front
from accord.bench.html.drawing import Drawing, Entry, panel, thin
from accord.bench.html.fragments import plain_table
from accord.bench.html.material import Material
from accord.bench.html.palette import drawn
from accord.bench.plots import PALETTE, SOFT
from accord.bench.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (2.7, 2.6)
TICKS, LEVELS = 61, 11
"""The level lines are sampled coarsely: they are a ground to read the trails against, and each panel has its own."""


def trajectory_figures(material: Material) -> list[Drawing]:
    """``plane`` and ``losses``, from the first seed of each method; none without finished runs."""
    first: dict[str, Run] = {}
    for run in material.done:
        method = str(run.key.method)
        if method not in first or run.key.seed < first[method].key.seed:
            first[method] = run
    if not first:
        return []
    entries = [
        Entry(f"d{k}", f"start {start}", _PLACES[colour])
        for k, (start, colour) in enumerate(zip(STARTS, COLOURS, strict=True))
    ]
    titles = {entry.key: entry.name for entry in entries}
    plane, space, rows = [], [], []
    for i, (method, run) in enumerate(first.items()):
        trails, gaps = _trails(run), run.result()["gaps"]
        arrived = [start for start, gap in zip(STARTS, gaps, strict=True) if gap <= NEAR]
        title = f"{method}: {len(arrived)} of {len(STARTS)} on the front"
        label = f"Descents of {method}; on the front from {', '.join(arrived) or 'no start'}"
        for found, key, columns, back in ((plane, "plane", (0, 1), _plane), (space, "losses", (2, 3), _space)):
            paint = _painter(trails, gaps, columns, back)
            found.append(panel(f"{key}-{i}", title, f"{label}, seen in {_WHERE[key]}", paint, titles, SIZE))
        rows.append([method, *(f"{100 * gap:.2f}" for gap in gaps)])
    data = plain_table(["method", *STARTS], rows, "Distance of each end from the front, in % of its extent")
    how = "Circles are starts, dots ends on the Pareto front, crosses ends elsewhere; the broad line is the front."
    ground = "x₁ across, x₂ up, with level lines of both losses."
    return [
        Drawing("plane", "Descents in the plane", f"{ground} {how}", plane, entries, data),
        Drawing("losses", "Descents in the space of losses", f"L₁ across, L₂ up. {how}", space, entries, data),
    ]


_PLACES = {colour: PALETTE.index(colour) for colour in COLOURS}
_WHERE = {"plane": "the plane", "losses": "the space of the two losses"}


def _trails(run: Run) -> list[torch.Tensor]:
    """Five trails (N, 4) of (x1, x2, L1, L2)."""
    records, ends = run.records(), run.result()["ends"]
    return [
        torch.tensor([point for record in records for point in record["trajectory"][k]] + [ends[k]])
        for k in range(len(STARTS))
    ]


def _painter(
    trails: Sequence[torch.Tensor], gaps: Sequence[float], columns: tuple[int, int], ground: Callable[[Axes], None]
) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        ground(axes)
        for k, (trail, colour, gap) in enumerate(zip(trails, COLOURS, gaps, strict=True)):
            x, y = thin(trail[:, columns[0]].tolist(), trail[:, columns[1]].tolist())
            gid, colour = f"series-d{k}", drawn(colour)
            axes.plot(x, y, color=colour, linewidth=1.3, gid=gid, zorder=3)
            axes.plot(x[0], y[0], "o", color="white", markeredgecolor=colour, markersize=5, gid=gid, zorder=4)
            mark = "o" if gap <= NEAR else "X"
            axes.plot(x[-1], y[-1], mark, color=colour, markeredgecolor="white", markersize=6, gid=gid, zorder=5)

    return paint


def _plane(axes: Axes) -> None:
    ticks = torch.linspace(-REACH, REACH, TICKS, dtype=torch.float64)
    x2, x1 = torch.meshgrid(ticks, ticks, indexing="ij")  # (TICKS, TICKS)
    l1, l2 = losses(torch.stack([x1, x2], dim=-1))
    both = (l1 - l1.min()) / (l1.max() - l1.min()) + (l2 - l2.min()) / (l2.max() - l2.min())
    levels = both.flatten().quantile(torch.linspace(0, 1, LEVELS + 2, dtype=both.dtype)[1:-1])  # equal areas
    axes.grid(visible=False)
    axes.contour(ticks, ticks, both, levels=levels, colors=SOFT, linewidths=0.5, alpha=0.6, zorder=1)
    axes.plot([-7, 7], [FRONT_X2, FRONT_X2], color=FRONT, linewidth=3.5, alpha=0.7, solid_capstyle="round", zorder=2)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=(-8, 0, 8), yticks=(-8, 0, 8))


def _space(axes: Axes) -> None:
    _, front = pareto_front(41)
    axes.plot(front[:, 0], front[:, 1], color=FRONT, linewidth=3.5, alpha=0.7, solid_capstyle="round", zorder=2)
    axes.set(xlim=(-2.25, 1.15), ylim=(-22, 9.5), xticks=(-2, -1, 0, 1), yticks=(-20, -10, 0))
