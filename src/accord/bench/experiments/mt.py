"""Multi-task reinforcement learning on Meta-World: MT10 (Table 4 of Nash-MTL), MT50, and any set of its tasks.

``mt10`` and ``mt50`` are experiments; so is ``mt:reach,push``, any tasks by name. Success is evaluated with the
deterministic policy, and counts at any step of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accord.bench.rl.networks import NetworkSettings
from accord.bench.rl.options import settings_of
from accord.bench.rl.sac import SACSettings
from accord.bench.rl.tasks import MT10, MT50, parse_tasks
from accord.bench.rl.trial import SACPreset, SACTrial
from accord.bench.spec import Experiment, MethodSpec, Metric, TaskSpec
from accord.errors import DependencyError

PREFIX = "mt:"

METHODS = (
    "stl",
    "ls",
    "ls:net=task-encoder",
    "ls:net=multi-head",
    "ls:net=soft-modular",
    "ls:net=care",
    "pcgrad",
    "cagrad:c=0.9",
    "nash-mtl",
    "nash-mtl:update_every=50",
    "nash-mtl:update_every=100",
    "fairgrad",
    "famo",
)
"""The rows of Nash-MTL's Tables 4 and 5 (``ls`` is MTL SAC, other networks with ``net=``), FairGrad and FAMO."""

_WIDE = NetworkSettings(widths=(400, 400, 400))
_PAPER = SACPreset(
    tasks=MT10,
    # CARE's code and what came of it: no task id, one goal a task, one evaluation episode. Its buffer of a million
    # transitions is sampled uniformly over tasks; here every task has its 128 of the 1,280 samples.
    sac=SACSettings(network=replace(_WIDE, task_id=False), batch=128, log_std_form="tanh"),
    steps=2_000_000,
    random_steps=1_500,
    first_updates=1_500,
    reward_scale="deviation",
    replay=100_000,
    eval_every=30_000,  # the published 10,000 is looked at every 150 steps only, so that 30,000 came of it
    eval_episodes=1,
    device="auto",
)
_PLUS = SACPreset(
    tasks=MT10,
    sac=SACSettings(network=_WIDE, adam_eps=1e-5, clip=1.0),
    steps=2_000_000,
    random_steps=4_000,
    horizon=500,
    goals=50,
    reward_scale="raw",
    eval_every=20_000,
    eval_episodes=50,
    device="auto",
)
_LAPTOP = SACPreset(
    tasks=MT10,
    sac=SACSettings(
        network=NetworkSettings(widths=(128, 128), initial="torch"), batch=64, temperature=0.3, target_entropy=-2.0
    ),
    steps=42_000,
    random_steps=1_500,
    reward_scale="standardised",
    replay=42_000,
    eval_every=1_500,
    eval_episodes=1,
)
_SMOKE = SACPreset(
    tasks=MT10,
    sac=SACSettings(network=NetworkSettings(widths=(16, 16)), batch=8),
    steps=24,
    random_steps=8,
    horizon=8,
    reward_scale="standardised",
    replay=24,
    eval_every=8,
    eval_episodes=1,
    processes=False,
)

PRESETS = {"smoke": _SMOKE, "laptop": _LAPTOP, "paper": _PAPER, "metaworld-plus": _PLUS}


@dataclass(frozen=True)
class Remarks:
    """``remarks`` of an experiment: one line a method, with the statistics of its success."""

    tasks: tuple[str, ...]

    def __call__(self, preset: Any, runs: Sequence[Any]) -> list[str]:
        """From finished runs."""
        from accord.bench.rl.success import successes

        del preset
        return [str(success) for success in successes(runs, self.tasks)]


@dataclass(frozen=True)
class Figures:
    """``figures`` of an experiment: success over environment steps."""

    tasks: tuple[str, ...]

    def __call__(self, preset: Any, runs: Sequence[Any], folder: Path) -> list[Path]:
        """Draw ``success`` and ``success-tasks``."""
        from accord.bench.rl.curves import draw

        del preset
        return draw(runs, self.tasks, folder)


def check_method(method: MethodSpec) -> MethodSpec:
    """A method without the options that are this experiment's, ``net=`` and ``compile=``."""
    return settings_of(method, SACSettings())[0]


def check_installed(preset: Any) -> None:
    """``prepare`` of an experiment.

    Raises:
        DependencyError: Meta-World cannot be imported; the message names the extra that brings it.
    """
    del preset
    try:
        import accord.bench.rl.vector  # noqa: F401 - imports gymnasium, metaworld, mujoco
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "accord":
            raise
        raise DependencyError(
            f"Meta-World needs the package {error.name!r}, which is not installed: pip install 'accord[rl]'"
        ) from error


def experiment(name: str, tasks: Sequence[str], summary: str) -> Experiment:
    """The experiment on these tasks, full names."""
    tasks = tuple(tasks)
    metric = Metric("success", higher_is_better=True)
    return Experiment(
        name=name,
        version=1,
        summary=summary,
        tasks=tuple(TaskSpec(task, (metric,)) for task in tasks),
        presets={key: replace(preset, tasks=tasks) for key, preset in PRESETS.items()},
        methods=METHODS,
        trial=SACTrial,
        prepare=check_installed,
        figures=Figures(tasks),
        remarks=Remarks(tasks),
        averages=("success",),
        own_options=check_method,
        baseline=False,  # a relative change of a success of 0 is not defined
    )


def by_tasks(name: str) -> Experiment:
    """The experiment ``mt:reach,push``; its full name has the tasks' full names.

    Raises:
        UnknownNameError: There is no such task.
        OptionError: There are none, or one is named twice.
    """
    tasks = parse_tasks(name.removeprefix(PREFIX).split(","))
    return experiment(PREFIX + ",".join(tasks), tasks, f"Soft actor-critic on {len(tasks)} tasks of Meta-World")


MT10_EXPERIMENT = experiment("mt10", MT10, "Soft actor-critic on the ten robot tasks of Meta-World's MT10")
MT50_EXPERIMENT = experiment("mt50", MT50, "Soft actor-critic on all fifty robot tasks of Meta-World")
