"""Success over environment steps: the mean over tasks, one line a method, and each task in a panel of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.bench.plots import FAINT, grid, legend, line_style, save
from accord.bench.rl.success import Success, method_of, successes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(runs: Sequence[Any], tasks: Sequence[str], folder: Path) -> list[Path]:
    """Write ``success``, and with several tasks ``success-tasks``; nothing if no run was evaluated twice."""
    found = [success for success in successes(runs, tasks) if len(success.steps) > 1]
    if not found:
        return []
    paths = [save(_mean(found), folder, "success")]
    if len(tasks) > 1:
        paths.append(save(_tasks(runs, tasks, [success.method for success in found]), folder, "success-tasks"))
    return paths


def _mean(found: Sequence[Success]) -> Figure:
    """Mean over seeds; with several, a band from the worst to the best."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.0))
    axes = figure.subplots()
    for number, success in sorted(enumerate(found), key=lambda pair: -pair[1].last.mean):
        style = line_style(number)
        axes.plot(success.steps, success.curves.mean(0), label=f"{success.method} ({success.seeds})", **style)
        if success.seeds > 1:
            low, high = success.curves.min(0), success.curves.max(0)
            axes.fill_between(success.steps, low, high, color=style["color"], alpha=0.1, linewidth=0)
    axes.set_ylim(-0.03, 1.03)
    axes.margins(x=0)
    axes.grid()
    axes.set_xlabel("environment steps, all tasks together")
    axes.set_ylabel("success, mean over tasks and seeds")
    axes.set_title("Deterministic evaluation; bands from worst to best seed")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title="method (seeds)", title_fontsize=8)
    return figure


def _tasks(runs: Sequence[Any], tasks: Sequence[str], methods: Sequence[str]) -> Figure:
    """A panel a task: each method's mean over seeds."""
    figure, panels = grid(len(tasks), sharex=True, sharey=True)
    for axes, task in zip(panels, tasks, strict=True):
        for number, method in enumerate(methods):
            own = [run for run in runs if method_of(run) == method]
            for success in successes(own, [task]):
                scale = len(tasks) if method == "stl" else 1
                axes.plot(success.steps * scale, success.curves.mean(0), **line_style(number))
        axes.set_title(task, fontsize=9)
        axes.set_ylim(-0.03, 1.03)
        axes.axhline(0.5, color=FAINT, zorder=0)
        axes.margins(x=0)
    handles = [panels[0].plot([], [], label=method, **line_style(i))[0] for i, method in enumerate(methods)]
    legend(figure, handles)
    figure.supylabel("success, mean over seeds", fontsize=9)
    figure.supxlabel("environment steps, all tasks together", fontsize=9)
    return figure
