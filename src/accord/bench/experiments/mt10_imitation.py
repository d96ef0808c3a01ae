"""MT10's ten tasks learnt from Meta-World's scripted experts: imitation, not reinforcement learning.

Two columns belong together: equal loss scales, a control, and scales that are spread 1000:1 over the tasks, as returns
or units of different sizes would be. ``python -m accord.bench.experiments.imitation_table`` puts them side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench.methods import METHODS
from accord.bench.rl import demonstrations
from accord.bench.rl.imitation import METRICS, Imitation, ImitationPreset
from accord.bench.rl.success import method_of
from accord.bench.rl.tasks import MT10
from accord.bench.spec import Experiment, TaskSpec
from accord.bench.trial import TrialOf

SPREAD = 1000.0

_LAPTOP = ImitationPreset()
# `paper` is the full size as in other experiments, but there is no paper: the settings are ours.
_PAPER = ImitationPreset(widths=(128, 128), steps=8_000, demonstrations=50, held_out=10, episodes=50, device="auto")

PRESETS = {
    "smoke": ImitationPreset(
        widths=(16, 16),
        steps=40,
        unit=20,
        batch=8,
        demonstrations=2,
        held_out=1,
        demonstration_steps=30,
        episodes=1,
        horizon=20,
    ),
    "laptop": _LAPTOP,
    "laptop-spread": replace(_LAPTOP, spread=SPREAD),
    "paper": _PAPER,
    "paper-spread": replace(_PAPER, spread=SPREAD),
}


def prepare(preset: ImitationPreset) -> None:
    """Make the demonstrations that the cache lacks.

    Raises:
        DependencyError: Meta-World is not installed; the message names the extra that brings it.
        DataError: The cache cannot be written.
    """
    demonstrations.prepare(preset.tasks, preset.recipe())


def remarks(preset: ImitationPreset, runs: Sequence[Any]) -> list[str]:
    """How good the teachers were, and the loss scales."""
    lines = []
    solved = next((run.result()["demonstrations_solved"] for run in runs), {})
    if solved:
        least = min(solved, key=solved.__getitem__)
        lines.append(
            f"the noisy experts solved {np.mean(list(solved.values())):.0%} of the demonstrated episodes, and of "
            f"{least}, where they were worst, {solved[least]:.0%}"
        )
    if preset.spread > 1:
        lines.append(f"the tasks' losses have scales spread {preset.spread:g}:1, assigned to tasks anew by each seed")
    return lines


def figures(preset: ImitationPreset, runs: Sequence[Any], folder: Path) -> list[Path]:
    """Draw ``success``: each method's success on each task, a mean over seeds."""
    from matplotlib.figure import Figure

    from accord.bench.plots import INK, save

    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for task in preset.tasks:
            if f"{task}/success" in run.result()["metrics"]:
                found[method_of(run)][task].append(run.result()["metrics"][f"{task}/success"])
    nothing = float("nan")
    table = np.array([[np.mean(per[t]) if per[t] else nothing for t in preset.tasks] for per in found.values()])
    figure = Figure(figsize=(2.2 + 0.62 * len(preset.tasks), 2.2 + 0.28 * len(found)))
    axes = figure.subplots()
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="w" if value > 0.6 else INK)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_xticks(range(len(preset.tasks)), preset.tasks, rotation=45, ha="right")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    scales = "equal loss scales" if preset.spread == 1 else f"loss scales spread {preset.spread:g}:1"
    axes.set_title(f"Success, {scales}\nImitation of scripted experts, not reinforcement learning")
    return [save(figure, folder, "success")]


EXPERIMENT = Experiment(
    name=Imitation.name,
    version=1,
    summary="MT10's ten robot tasks by imitation of scripted experts, not reinforcement learning; the protocol is ours",
    tasks=tuple(TaskSpec(task, METRICS) for task in MT10),
    presets=PRESETS,
    methods=METHODS,
    trial=TrialOf(Imitation),
    prepare=prepare,
    figures=figures,
    remarks=remarks,
    averages=("success", "mse"),
    baseline=False,  # a relative change of a success of 0 is not defined
)
