"""The pictures of ``docs/concepts``: conflict, bargaining, fairness and Pareto stationarity.

``python docs/draw_concepts.py`` writes them to ``docs/concepts/pictures``, as the documentation's build does. All
directions come from the library's solvers; equal inputs give equal bytes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from draw_methods import GREEN, GREY, PURPLE, SHADE, STYLE, TASKS, THREE, arrow, cone, name_task, tidy, update
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon

from accord import metrics, solvers

PICTURES = Path(__file__).parent / "concepts" / "pictures"
EDGE = "#B5A800"
MEAN_LINE = (0, (3, 2))

AGREE = np.array([[1.2, 0.35], [0.35, 0.95]])
CONFLICT = np.array([[1.15, 0.1], [-0.65, 0.95]])
UNEQUAL = np.array([[1.7, 0.1], [-0.45, 0.55]])
BARGAIN = np.array([[1.5, 0.25], [-0.35, 0.8]])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., P) at length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def direction(solver: Callable[..., solvers.Solution], rows: np.ndarray, **options: float) -> np.ndarray:
    """The unit direction (P,) of a solver on gradients (K, P)."""
    return unit(solver(rows @ rows.T, **options).weights @ rows)


def bare(axes: Axes, title: str, width: tuple[float, float], height: tuple[float, float]) -> None:
    """A panel of the plane without ticks."""
    axes.set_title(title, fontsize=9.0)
    axes.set_aspect("equal")
    axes.set_xlim(*width)
    axes.set_ylim(*height)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#CCCCCC")


def below(axes: Axes, *lines: str) -> None:
    """Text under a panel."""
    for i, line in enumerate(lines):
        axes.text(0.5, -0.04 - 0.085 * i, line, transform=axes.transAxes, ha="center", va="top", fontsize=8.5)


def number(value: float) -> str:
    """Two decimals, with a proper minus."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def gradients(axes: Axes, rows: np.ndarray) -> None:
    """The tasks' gradients (K, 2) as arrows with their names."""
    for k, row in enumerate(rows):
        arrow(axes, row, *TASKS[k])
        name_task(axes, row, k)


def region(axes: Axes, rows: np.ndarray) -> None:
    """Shade the directions that hurt none of two tasks."""
    outline = np.concatenate([[[0.0, 0.0]], 9.0 * cone(rows)])
    axes.add_patch(Polygon(outline, closed=True, facecolor=SHADE, alpha=0.45, edgecolor=EDGE, linewidth=0.8, zorder=1))


def task_keys(count: int) -> list[Line2D]:
    """The legend's lines for the tasks."""
    return [Line2D([], [], color=c, linestyle=s, label=f"gradient {k + 1}") for k, (c, s) in enumerate(TASKS[:count])]


# ---------------------------------------------------------------------- the four pictures


def conflict() -> Figure:
    """Gradients that agree, that conflict, and that conflict at unequal lengths."""
    figure = Figure(figsize=(7.2, 3.5), facecolor="white")
    titles = ("they agree", "they conflict, lengths alike", "they conflict, one is long")
    for axes, rows, title in zip(figure.subplots(1, 3), (AGREE, CONFLICT, UNEQUAL), titles, strict=True):
        region(axes, rows)
        gradients(axes, rows)
        mean = rows.mean(0)
        arrow(axes, mean, "black", MEAN_LINE, 2.0, 5)
        hurt = [str(k + 1) for k, change in enumerate(rows @ mean) if change < 0]
        effect = f"the mean raises loss {' and '.join(hurt)}" if hurt else "the mean lowers both losses"
        below(axes, f"cosine {number(metrics.conflict(rows @ rows.T).min_cosine)}", effect)
        bare(axes, title, (-1.05, 2.05), (-0.95, 2.15))
    keys = [*task_keys(2), Line2D([], [], color="black", linestyle=MEAN_LINE, linewidth=2.0, label="mean gradient")]
    keys.append(Patch(facecolor=SHADE, alpha=0.45, edgecolor=EDGE, label="hurts no task"))
    figure.legend(handles=keys, loc="lower center", ncols=4, frameon=False, fontsize=8.5)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.27, wspace=0.04)
    return figure


def agreements(rows: np.ndarray) -> dict[str, tuple[np.ndarray, str, str]]:
    """Three agreements of length 1: the direction, its colour and its marker."""
    return {
        "largest sum of gains (the mean)": (unit(rows.mean(0)), GREY, "s"),
        "largest product (Nash-MTL)": (direction(solvers.nash, rows), "black", "o"),
        "largest smallest gain (MGDA)": (direction(solvers.mgda, rows), PURPLE, "^"),
    }


def bargaining() -> Figure:
    """Nash's solution in the plane of directions, and in that of the two tasks' gains."""
    rows = BARGAIN
    figure = Figure(figsize=(7.2, 4.1), facecolor="white")
    left, right = figure.subplots(1, 2)
    solution = direction(solvers.nash, rows)
    best = float(np.prod(rows @ solution))
    ratios = np.exp(np.linspace(-2.2, 2.2, 45))
    curves = [np.sqrt(share * best) * np.stack([ratios, 1 / ratios], 1) for share in (0.25, 0.5, 0.75, 1.0)]

    region(left, rows)
    left.add_patch(Circle((0, 0), 1.0, facecolor="none", edgecolor="#888888", linewidth=1.0, zorder=2))
    for curve, width in zip(curves, (0.6, 0.6, 0.6, 1.4), strict=True):
        points = curve @ np.linalg.inv(rows).T  # the directions with these gains
        left.plot(*points.T, color=GREEN, linewidth=width, zorder=2)
        right.plot(*curve.T, color=GREEN, linewidth=width, zorder=2)
    gradients(left, rows)
    turn = np.linspace(0.0, 2 * np.pi, 73)
    gains = np.stack([np.cos(turn), np.sin(turn)], 1) @ rows.T  # of all directions of length 1
    right.fill(*gains.T, facecolor="#DDDDDD", alpha=0.6, edgecolor="#888888", linewidth=1.0, zorder=1)
    right.axhline(0.0, color="#BBBBBB", linewidth=0.8, zorder=0)
    right.axvline(0.0, color="#BBBBBB", linewidth=0.8, zorder=0)
    for point, colour, marker in agreements(rows).values():
        arrow(left, point, colour, "-", 1.6, 5)
        left.plot(*point, marker=marker, color=colour, markersize=6, zorder=6)
        right.plot(*(rows @ point), marker=marker, color=colour, markersize=6, zorder=6)
    bare(left, "directions d: the disc of length 1", (-1.15, 1.75), (-1.15, 1.75))
    right.set_title("gains of the two tasks, g₁ᵀd and g₂ᵀd", fontsize=9.0)
    right.set_aspect("equal")
    right.set_xlim(-0.75, 1.75)
    right.set_ylim(-1.0, 1.5)
    right.set_xlabel("gain of task 1")
    right.set_ylabel("gain of task 2")
    right.spines[:].set_color("#CCCCCC")
    keys: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=marker, label=label)
        for label, (_, colour, marker) in agreements(rows).items()
    ]
    keys.append(Line2D([], [], color=GREEN, label="equal product of gains"))
    keys.append(Patch(facecolor=SHADE, alpha=0.45, edgecolor=EDGE, label="hurts no task"))
    figure.legend(handles=keys, loc="lower center", ncols=3, frameon=False, fontsize=8.5)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.23, wspace=0.16)
    return figure


def fairness() -> Figure:
    """Gains and shares of three tasks as α grows from the sum to the worst-off."""
    rows = THREE.gradients
    norms = np.linalg.norm(rows, axis=1)
    alphas = np.exp(np.linspace(np.log(0.1), np.log(30.0), 41))
    found = [solvers.fairgrad(rows @ rows.T, alpha=float(alpha)).weights for alpha in alphas]
    gains = np.array([rows @ unit(weights @ rows) for weights in found])  # (A, 3)
    shares = np.array([weights * norms / (weights @ norms) for weights in found])
    ends = rows @ unit(rows.mean(0)), rows @ direction(solvers.mgda, rows)
    figure = Figure(figsize=(7.2, 3.4), facecolor="white")
    left, right = figure.subplots(1, 2)
    for k, (colour, line) in enumerate(TASKS):
        left.plot(alphas, gains[:, k], color=colour, linestyle=line)
        left.plot(0.055, ends[0][k], marker="s", color=colour, markersize=5)
        left.plot(55.0, ends[1][k], marker="^", color=colour, markersize=5)
        right.plot(alphas, shares[:, k], color=colour, linestyle=line)
    for axes, title in (
        (left, "gain of each task, g_kᵀd at ‖d‖ = 1"),
        (right, "its share of d, w_k‖g_k‖ of their sum"),
    ):
        axes.set_xscale("log")
        axes.set_xlim(0.04, 75.0)
        axes.set_xticks([0.055, 0.1, 1.0, 10.0, 55.0], ["0", "0.1", "1", "10", "∞"])
        axes.set_xticks([], minor=True)
        axes.axvline(1.0, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.axhline(0.0, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.set_xlabel("α")
        axes.set_title(title, fontsize=9.0)
        axes.spines[["top", "right"]].set_visible(False)
    keys = [*task_keys(3)]
    keys.append(Line2D([], [], color=GREY, marker="s", linestyle="", label="the mean"))
    keys.append(Line2D([], [], color=GREY, marker="^", linestyle="", label="MGDA"))
    figure.legend(handles=keys, loc="lower center", ncols=5, frameon=False, fontsize=8.5)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.91, bottom=0.26, wspace=0.15)
    return figure


CURVATURES, MINIMA = np.array([[0.4, 2.4], [10.0, 2.0]]), np.array([[-1.0, 0.7], [1.0, -0.7]])


def slopes(point: np.ndarray) -> np.ndarray:
    """Gradients (2, 2) of two quadratic losses at a point (2,)."""
    return CURVATURES * (point - MINIMA)


def pareto_set() -> np.ndarray:
    """The minima (41, 2) of all weighted sums of the two."""
    share = np.linspace(0.0, 1.0, 41)[:, None, None] * [[1.0], [-1.0]] + [[0.0], [1.0]]  # (41, 2, 1)
    return (share * CURVATURES * MINIMA).sum(1) / (share * CURVATURES).sum(1)


def path(start: np.ndarray, weigh: Callable[[np.ndarray], np.ndarray], step: float = 0.02) -> np.ndarray:
    """Short steps (N, 2) from a point, each of one length, until the gradients are Pareto stationary or nearly so."""
    points = [start]
    while len(points) < 400:
        rows = slopes(points[-1])
        norms = np.linalg.norm(rows, axis=1)
        if np.linalg.norm(solvers.mgda(rows @ rows.T).weights @ rows) < 0.05 * norms.min():
            break
        points.append(points[-1] - step * unit(weigh(rows) @ rows))
    return np.array(points)


def stationarity() -> Figure:
    """The shortest convex combination, where there is a common descent and where there is none; the Pareto set."""
    figure = Figure(figsize=(7.2, 3.5), facecolor="white")
    open_, shut, plane = figure.subplots(1, 3)
    for axes, rows, title in (
        (open_, np.array([[1.45, 0.35], [0.55, 1.35], [-0.45, 1.0]]), "not stationary"),
        (shut, np.array([[1.15, 0.2], [-0.5, 1.05], [-0.75, -0.8]]), "Pareto stationary"),
    ):
        axes.add_patch(Polygon(rows, closed=True, facecolor="#DDDDDD", edgecolor="#888888", linewidth=0.8, zorder=1))
        gradients(axes, rows)
        shortest = solvers.mgda(rows @ rows.T).weights @ rows
        if np.linalg.norm(shortest) > 0.05:
            arrow(axes, shortest, "black", "-", 2.4, 5)
            below(axes, "the shortest point of the triangle", "is a descent for all three")
        else:
            axes.plot(0, 0, marker="o", color="black", markersize=6, zorder=6)
            below(axes, "0 is in the triangle: whatever lowers", "one loss raises another")
        bare(axes, title, (-1.3, 1.9), (-1.3, 1.9))
    grid = np.linspace(-2.2, 2.2, 45)
    x, y = np.meshgrid(grid, grid)
    for k, (colour, _) in enumerate(TASKS[:2]):
        height = sum(CURVATURES[k, i] / 2 * (axis - MINIMA[k, i]) ** 2 for i, axis in enumerate((x, y)))
        levels = np.array([0.05, 0.3, 0.9, 1.8]) * CURVATURES[k].max() / 2.4
        plane.contour(x, y, height, levels=levels, colors=colour, linewidths=0.6, alpha=0.6)
        plane.plot(*MINIMA[k], marker="+", color=colour, markersize=8)
    plane.plot(*pareto_set().T, color=GREEN, linewidth=3.0, alpha=0.7, zorder=3)
    start = np.array([-0.4, 1.7])
    ways = (
        (lambda rows: np.ones(2), GREY, MEAN_LINE, "s"),
        (lambda rows: solvers.nash(rows @ rows.T).weights, "black", "-", "o"),
    )
    for weigh, colour, line, marker in ways:
        points = path(start, weigh)
        points = np.concatenate([points[:-1:4], points[-1:]])
        plane.plot(*points.T, color=colour, linestyle=line, linewidth=1.6, zorder=4)
        plane.plot(*points[-1], marker=marker, color=colour, markersize=5, zorder=5)
    below(plane, "two losses: paths end on the Pareto set,", "at points that the method chooses")
    bare(plane, "the Pareto set", (-1.9, 1.9), (-1.9, 1.9))
    keys = [
        *task_keys(3),
        Line2D([], [], color=GREEN, linewidth=3.0, alpha=0.7, label="Pareto set"),
        Line2D([], [], color=GREY, linestyle=MEAN_LINE, marker="s", label="the mean"),
        Line2D([], [], color="black", marker="o", label="Nash-MTL"),
    ]
    figure.legend(handles=keys, loc="lower center", ncols=6, frameon=False, fontsize=8.5)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.27, wspace=0.04)
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "conflict": conflict,
    "bargaining": bargaining,
    "fairness": fairness,
    "pareto-stationarity": stationarity,
}


def draw(name: str) -> str:
    """A picture as the text of an SVG."""
    with matplotlib.rc_context(STYLE):
        figure, file = DRAWINGS[name](), io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return tidy(file.getvalue())


def draw_all() -> list[Path]:
    """Write the pictures that are not up to date; returns their paths."""
    return update(PICTURES, DRAWINGS, draw)


if __name__ == "__main__":
    sys.stdout.writelines(f"{written}\n" for written in draw_all())
