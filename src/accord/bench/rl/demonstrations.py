"""Meta-World's scripted experts at work: what they saw, and what they would have done.

The noise is that of DART (Laskey et al., 2017, "DART: Noise injection for robust imitation learning"): the expert's
action plus Gaussian noise is carried out, and the expert's own action is kept as the label. So the states go astray as
those of a learner do, and the labels say how to come back.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from accord.bench.data.bars import counted
from accord.bench.data.sealed import Seal
from accord.bench.rl.tasks import ACTION, STATE, Goals, parse_tasks
from accord.bench.spec import derive_seed
from accord.errors import DependencyError, OptionError

if TYPE_CHECKING:
    from accord.bench.rl.environment import TaskEnvironment

FORMAT = 1
"""Version of the files and of how demonstrations are made; a change of either raises it."""

SEAL = Seal(
    "mt-demonstrations",
    FORMAT,
    "Meta-World's scripted experts with noise",
    ("states", "actions", "solved"),
    "it is made anew",
)


@dataclass(frozen=True)
class Recipe:
    """How the demonstrations of a task are made; equal recipes give equal bytes on one machine.

    Attributes:
        episodes: A task.
        steps: An episode; it goes on when the task is solved.
        noise: Standard deviation of what is added to each of the expert's four numbers, which lie in [-1, 1].
        seed: Of the goals and the noise.
    """

    episodes: int
    steps: int = 150
    noise: float = 0.3
    seed: int = 0

    def goals(self) -> Goals:
        """One goal an episode."""
        return Goals(derive_seed("demonstrations", self.seed), self.episodes)

    def path(self, task: str) -> Path:
        """The cache file: under ``$ACCORD_CACHE/mt-demonstrations/v1``, by default in ``~/.cache/accord``."""
        root = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser()
        name = f"{task}-{self.episodes}x{self.steps}-noise{self.noise:g}-seed{self.seed}.npz"
        return root / "mt-demonstrations" / f"v{FORMAT}" / name

    def made(self, task: str) -> dict[str, Any]:
        """What a file must say of itself."""
        return {
            "task": task,
            "episodes": self.episodes,
            "steps": self.steps,
            "noise": self.noise,
            "seed": self.seed,
            "metaworld": version("metaworld"),
            "mujoco": version("mujoco"),
        }


@dataclass(frozen=True)
class Demonstrations:
    """Episodes of one task, E of T steps.

    Attributes:
        states: What was observed before each step, (E, T, 39) float32.
        actions: What the expert would have done, (E, T, 4) float32, clipped to [-1, 1].
        solved: Whether the noisy expert solved the task at any step, (E,) bool.
    """

    states: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    solved: npt.NDArray[np.bool_]


def load(task: str, recipe: Recipe, advance: Callable[[int], None] = lambda episodes: None) -> Demonstrations:
    """The demonstrations of one task, from the cache, or made and put there.

    Processes that make the same ones at the same time write the same file, each of them whole.

    Args:
        task: Such as ``reach-v3``.
        recipe: How.
        advance: Called with 1 after each episode that is made.

    Raises:
        UnknownNameError: Meta-World has no such task.
        OptionError: The recipe is out of range.
        DataError: The cache file is damaged, of another version, or cannot be written.
        DependencyError: Meta-World is not installed.
    """
    (task,) = parse_tasks([task])
    _check(recipe)
    simulator()  # also for the versions that the file must name
    path = recipe.path(task)
    if not path.exists():
        made = record(task, recipe, advance)
        arrays = {"states": made.states, "actions": made.actions, "solved": made.solved}
        SEAL.write(path, arrays, recipe.made(task))
    return Demonstrations(**SEAL.read(path, recipe.made(task)))


def prepare(tasks: Sequence[str], recipe: Recipe) -> None:
    """Make what the cache lacks, with a progress bar."""
    missing = [task for task in parse_tasks(tasks) if not recipe.path(task).exists()]
    simulator()
    episodes = len(missing) * recipe.episodes
    with counted("Meta-World", "scripted experts demonstrate, episodes", episodes, episodes > 0, "rl") as advance:
        for task in tasks:
            load(task, recipe, advance)


def record(task: str, recipe: Recipe, advance: Callable[[int], None] = lambda episodes: None) -> Demonstrations:
    """Have the expert demonstrate, without the cache; arguments as in ``load``."""
    make, experts = simulator()
    environment = make(task, {"demonstrate": recipe.goals()}, recipe.steps)
    states = np.empty((recipe.episodes, recipe.steps, STATE), np.float32)
    actions = np.empty((recipe.episodes, recipe.steps, ACTION), np.float32)
    solved = np.zeros(recipe.episodes, bool)
    for episode in range(recipe.episodes):
        expert = experts[task]()
        seed = derive_seed("demonstrations", recipe.seed, task, episode)
        noise = np.random.default_rng(seed).normal(0.0, recipe.noise, actions.shape[1:])
        state, _ = environment.reset(options={"purpose": "demonstrate", "episode": episode})
        for step in range(recipe.steps):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that an action is above 1 and will be clipped
                wanted = np.clip(expert.get_action(state), -1.0, 1.0)
            states[episode, step], actions[episode, step] = state, wanted
            done = np.clip(wanted + noise[step], -1.0, 1.0).astype(np.float32)
            state, _, _, _, info = environment.step(done)
            solved[episode] |= info["success"] > 0
        advance(1)
    environment.close()
    return Demonstrations(states, actions, solved)


def simulator() -> tuple[type[TaskEnvironment], Mapping[str, Any]]:
    """The environments' class, and the experts' classes by task.

    Raises:
        DependencyError: Meta-World, or what it needs, is not installed; the message names the extra that brings it.
    """
    try:
        from metaworld.policies import ENV_POLICY_MAP

        from accord.bench.rl.environment import TaskEnvironment
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "accord":
            raise
        raise DependencyError(
            f"Meta-World needs the package {error.name!r}, which is not installed: pip install 'accord[rl]'"
        ) from error
    return TaskEnvironment, ENV_POLICY_MAP


def _check(recipe: Recipe) -> None:
    if recipe.episodes < 1 or recipe.steps < 1 or not recipe.noise >= 0:
        raise OptionError(
            f"demonstrations: episodes={recipe.episodes} and steps={recipe.steps} must be 1 or more, and "
            f"noise={recipe.noise} 0 or more"
        )
