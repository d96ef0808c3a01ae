"""The pictures of ``docs/methods``: the direction of each method on a 2-task and a 3-task example.

``python docs/draw_methods.py`` writes one SVG a method to ``docs/methods/pictures``, as the documentation's build
does. The directions are the library's own; equal inputs give equal bytes.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon

import accord
from accord.errors import OptionWarning

PICTURES = Path(__file__).parent / "methods" / "pictures"
STYLE = {
    "svg.hashsalt": "accord",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "path.simplify": False,
}
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA3377", "#666666"
TASKS = ((BLUE, (0, ())), (ORANGE, (0, (6, 2))), (GREEN, (0, (1, 1.5))))  # colour and line of each task
SHADE = "#F0E442"


@dataclass(frozen=True)
class Problem:
    """Gradients (K, P) at one point, and the losses (K,) there."""

    gradients: np.ndarray
    losses: np.ndarray


def _rows(norms: list[float], directions: list[list[float]]) -> np.ndarray:
    units = np.array(directions)
    return np.array(norms)[:, None] * units / np.linalg.norm(units, axis=1, keepdims=True)


TWO = Problem(np.array([[1.6, 0.2], [-0.5, 0.45]]), np.array([1.0, 0.5]))
THREE = Problem(
    _rows([1.6, 1.0, 0.6], [[0.85, -0.25, 0.45], [0.35, 0.8, 0.5], [-0.8, -0.25, 0.5]]), np.array([1.0, 0.8, 0.5])
)


@dataclass(frozen=True)
class Example:
    """How a method is shown; without options, at its first step.

    Attributes:
        spec: What is drawn as d, where it is not the method by its plain name; ``{K}`` stands for values per task.
        before: Factors on the losses at earlier steps, shape (steps, 3).
        steps: Draw, thinner, the direction after so many steps at the same gradients and losses too.
        beside: Draw, thinner, the direction of this other spec too.
        draws: Draw, thinner, the directions of so many other seeds too.
        label: What the thin arrows are, for the legend.
    """

    spec: str = ""
    before: tuple[tuple[float, ...], ...] = ()
    steps: int = 0
    beside: str = ""
    draws: int = 0
    label: str = ""


EXAMPLES = {
    "alpha-fair": Example(
        "alpha-fair:of=ls,alpha=0.5", beside="alpha-fair:of=mgda,alpha=1", label="around MGDA, α = 1"
    ),
    "cr-mogm": Example(
        "cr-mogm:of='mgda:normalization=loss',beta=0.5",
        before=((0.3, 1.5, 1.0),),
        beside="mgda:normalization=loss",
        label="the inner method alone",
    ),
    "dwa": Example("dwa:window=1", before=((2.0, 1.05, 1.3), (1.0, 1.0, 1.0))),
    "famo": Example(steps=400, label="d after 400 steps"),
    "gradnorm": Example(steps=400, label="d after 400 steps"),
    "graddrop": Example(draws=12, label="other draws"),
    "gradvac": Example(steps=400, label="d after 400 steps"),
    "imtl-l": Example(steps=400, label="d after 400 steps"),
    "moco": Example(steps=400, label="d after 400 steps"),
    "modo": Example(steps=400, label="d after 400 steps"),
    "pcgrad": Example(draws=6, label="other orders"),
    "rlw": Example(draws=12, label="other draws"),
    "sdmgrad": Example(beside="sdmgrad:lr=1", label="with lr=1"),
    "stch": Example("stch:mu=0.3,nadir={nadir}"),
    "uw": Example(steps=400, label="d after 400 steps"),
}
NADIR = (1.0, 1.0, 1.0)


def direction(
    spec: str, problem: Problem, steps: int = 1, before: tuple[tuple[float, ...], ...] = ()
) -> tuple[np.ndarray, accord.Balance]:
    """What the method adds to ``.grad``, shape (P,), and its balance, at the last of so many equal steps.

    The balancer's own parameters follow plain gradient descent; the losses after a step, for FAMO, are those of a
    step of 0.05 against d.
    """
    count = len(problem.losses)
    balancer = accord.make(spec.replace("{nadir}", str(list(NADIR[:count]))), count)
    own = torch.optim.SGD(balancer.parameters(), lr=0.05) if list(balancer.parameters()) else None
    rows = torch.from_numpy(problem.gradients)
    for factors in [*before, *[(1.0,) * count] * steps]:
        point = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
        values = torch.from_numpy(problem.losses * np.array(factors[:count]))
        if own is not None:
            own.zero_grad()
        balance = balancer.backward(values + rows @ point, shared=[point])
        if own is not None:
            own.step()
        balancer.after_step(values - 0.05 * rows @ point.grad)
    return point.grad.numpy(), balance


def beside(name: str, problem: Problem) -> list[np.ndarray]:
    """The unit directions drawn thin."""
    example, spec = EXAMPLES.get(name, Example()), name
    found = [direction(f"{spec}:seed={seed}", problem)[0] for seed in range(1, example.draws + 1)]
    if example.steps:
        found.append(direction(spec, problem, example.steps)[0])
    if example.beside:
        found.append(direction(example.beside, problem)[0])
    return [d / np.linalg.norm(d) for d in found]


# ---------------------------------------------------------------------- the plane and the sphere


def cone(gradients: np.ndarray) -> np.ndarray:
    """The edges, as unit rows (P, P), of {d : g_k·d ≥ 0 for all k}, for P independent gradients."""
    edges = np.linalg.inv(gradients).T
    return edges / np.linalg.norm(edges, axis=1, keepdims=True)


def arc(start: np.ndarray, end: np.ndarray, count: int = 16) -> np.ndarray:
    """Points (count, 3) of the great circle between two unit vectors."""
    points = start + np.linspace(0.0, 1.0, count)[:, None] * (end - start)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


AXIS = np.array([-0.3, -0.4, 1.0])  # towards the viewer of the 3-task example


def seen(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) as the viewer sees them, (..., 2): parallel projection along AXIS."""
    front = AXIS / np.linalg.norm(AXIS)
    right = np.cross([0.0, 1.0, 0.0], front)
    right /= np.linalg.norm(right)
    return points @ np.stack([right, np.cross(front, right)], axis=1)


def arrow(axes: Axes, tip: np.ndarray, colour: str, line: object = "-", width: float = 1.6, order: int = 3) -> None:
    """An arrow from the origin to tip (2,), its head not dashed."""
    length = float(np.hypot(*tip))
    along = tip / length
    across = np.array([-along[1], along[0]])
    head = min(0.055 + 0.03 * width, 0.6 * length)
    base = tip - head * along
    axes.add_line(Line2D([0, base[0]], [0, base[1]], color=colour, linestyle=line, linewidth=width, zorder=order))
    corners = [tip, base + 0.42 * head * across, base - 0.42 * head * across]
    axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor="none", zorder=order))


def name_task(axes: Axes, tip: np.ndarray, k: int) -> None:
    """The label of gradient k beside its tip."""
    place = tip + 0.13 * tip / np.hypot(*tip)
    axes.text(*place, f"g{'₁₂₃'[k]}", color=TASKS[k][0], ha="center", va="center", zorder=6)


def describe(axes: Axes, problem: Problem, d: np.ndarray, balance: accord.Balance) -> None:
    """Below a panel: d in terms of the gradients, its length, and what it does to each task."""
    rows = problem.gradients
    if torch.isnan(balance.weights).any():
        formula = "d: signs drawn coordinate by coordinate"
    else:
        formula = "d = " + " + ".join(f"{w:.2f} g{'₁₂₃'[k]}" for k, w in enumerate(np.linalg.solve(rows.T, d))).replace(
            "+ -", "− "
        ).replace("-", "−")
    cosines = rows @ d / np.linalg.norm(rows, axis=1) / np.linalg.norm(d)
    hurt = [str(k + 1) for k, c in enumerate(cosines) if c < -0.005]
    effect = f"hurts task {' and '.join(hurt)}" if hurt else "hurts no task"
    shown = ", ".join(f"{c:.2f}".replace("-0.00", "0.00").replace("-", "−") for c in cosines)
    axes.text(0.5, -0.03, f"{formula},  ‖d‖ = {np.linalg.norm(d):.2f}", transform=axes.transAxes, ha="center", va="top")
    axes.text(0.5, -0.10, f"cosines with g: {shown}; {effect}", transform=axes.transAxes, ha="center", va="top")


def panel(axes: Axes, name: str, problem: Problem, title: str) -> None:
    """One example: the plane for two tasks, the sphere of directions seen from the front for three."""
    example, rows = EXAMPLES.get(name, Example()), problem.gradients
    flat = rows.shape[1] == 2
    look = (lambda points: points) if flat else seen
    edges, mean = cone(rows), rows.mean(0)
    if flat:
        outline = np.concatenate([[[0.0, 0.0]], 9.0 * edges])
    else:
        outline = seen(np.concatenate([arc(edges[k], edges[(k + 1) % 3]) for k in range(3)]))
        axes.add_patch(Circle((0, 0), 1.0, facecolor="none", edgecolor="#BBBBBB", linewidth=0.8, zorder=0))
        rows, mean = rows / np.linalg.norm(rows, axis=1, keepdims=True), mean / np.linalg.norm(mean)
    axes.add_patch(
        Polygon(outline, closed=True, facecolor=SHADE, alpha=0.45, edgecolor="#B5A800", linewidth=0.8, zorder=1)
    )
    for k, row in enumerate(rows):
        arrow(axes, look(row), TASKS[k][0], TASKS[k][1])
        name_task(axes, look(row), k)
    d, balance = direction(example.spec or name, problem, before=example.before)
    for other in beside(name, problem):
        arrow(axes, look(other), PURPLE, (0, (4, 1, 1, 1)), 0.8, 4)
    arrow(axes, look(d / np.linalg.norm(d)), "black", "-", 2.6, 5)
    arrow(axes, look(mean), GREY, (0, (3, 2)), 1.4, 6)
    describe(axes, problem, d, balance)
    axes.set_title(title, fontsize=9.0)
    axes.set_aspect("equal")
    axes.set_xlim(-0.8, 2.0) if flat else axes.set_xlim(-1.25, 1.25)
    axes.set_ylim(-0.7, 2.1) if flat else axes.set_ylim(-1.25, 1.25)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#CCCCCC")


def draw(name: str) -> str:
    """The picture of a method, as the text of an SVG."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", OptionWarning)
        figure = Figure(figsize=(7.2, 4.35), facecolor="white")
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.21, wspace=0.03)
        panel(left, name, TWO, "two tasks: the plane of their gradients")
        panel(right, name, THREE, "three tasks: unit vectors, seen from the front")
        keys = [Line2D([], [], color=c, linestyle=s, label=f"gradient {k + 1}") for k, (c, s) in enumerate(TASKS)]
        keys += [
            Line2D([], [], color=GREY, linestyle=(0, (3, 2)), label="mean gradient"),
            Line2D([], [], color="black", linewidth=2.6, label="d (length 1)"),
            Patch(facecolor=SHADE, alpha=0.45, edgecolor="#B5A800", label="hurts no task"),
        ]
        if label := EXAMPLES.get(name, Example()).label:
            keys.append(Line2D([], [], color=PURPLE, linestyle=(0, (4, 1, 1, 1)), linewidth=0.8, label=label))
        figure.legend(handles=keys, loc="lower center", ncols=4, frameon=False, fontsize=8.5)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return tidy(file.getvalue())


def tidy(svg: str) -> str:
    """Two decimals are finer than a screen, and the last digits of a solver are not the same on every machine."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".replace("-0.00", "0.00"), svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def update(folder: Path, names: Iterable[str], draw: Callable[[str], str]) -> list[Path]:
    """Write the pictures of a folder that are not up to date; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name in names:
        path, svg = folder / f"{name}.svg", draw(name)
        if not path.exists() or path.read_text(encoding="utf-8") != svg:
            path.write_text(svg, encoding="utf-8")
            changed.append(path)
    return changed


def draw_all(names: list[str] | None = None) -> list[Path]:
    """Write the methods' pictures that are not up to date; returns their paths."""
    return update(PICTURES, names or accord.available(), draw)


if __name__ == "__main__":
    for written in draw_all(sys.argv[1:] or None):
        print(written)
