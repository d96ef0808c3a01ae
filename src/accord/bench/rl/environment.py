"""One task of Meta-World as a gymnasium environment that repeats itself exactly.

A goal is where the object and the target are. Each purpose (training, evaluation) has a fixed list of goals, drawn from
a seed, and the goal of an episode follows from the purpose and the episode's number. Nothing else carries over from one
episode to the next, so that an environment which is asked for episode n gives it, whatever came before.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("MUJOCO_GL", "disabled")  # read when mujoco is imported; videos set it before

import numpy as np
import numpy.typing as npt

from accord.bench.rl.tasks import ACTION, STATE, Goals, RewardVersion
from accord.bench.spec import derive_seed
from accord.errors import DependencyError, OptionError

try:
    import gymnasium
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task
except ModuleNotFoundError as error:
    raise DependencyError(
        f"Meta-World needs the package {error.name!r}, which is not installed: pip install 'accord[rl]'"
    ) from error

_NEEDED = ("set_task", "seed", "seeded_rand_vec", "_freeze_rand_vec", "_last_rand_vec", "_set_task_called")


@dataclass(frozen=True)
class EpisodeOptions:
    """What ``reset`` is told: which goals, and the number of the episode."""

    purpose: str
    episode: int

    def as_options(self) -> dict[str, Any]:
        """For gymnasium."""
        return {"purpose": self.purpose, "episode": self.episode}


class TaskEnvironment(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """A task with goals for each purpose; float32 observations of 39 numbers; never terminates.

    ``reset(options={"purpose": "train", "episode": 7})`` begins an episode; ``step`` gives ``info["success"]``, 1.0 if
    the task is solved at this very step. The episode is truncated after ``horizon`` steps.

    Args:
        task: Full name, such as ``reach-v3``.
        goals: By purpose. ``"train"`` draws at random, any other purpose takes goal ``episode % count``.
        horizon: Steps an episode, 500 at most.
        rewards: ``"v2"``, in [0, 10], or ``"v1"``, unbounded and of another scale for each task.

    Raises:
        OptionError: The horizon is out of range.
        DependencyError: The installed metaworld has another interface.
    """

    def __init__(
        self,
        task: str,
        goals: Mapping[str, Goals],
        horizon: int = 150,
        rewards: RewardVersion = "v2",
    ) -> None:
        self.task, self.horizon = task, horizon
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium's, about bounds of float64 and the like
            try:
                made = ALL_V3_ENVIRONMENTS[task](reward_function_version=rewards)
            except TypeError as error:
                raise DependencyError(_other_interface(str(error))) from error
        missing = [name for name in _NEEDED if not hasattr(made, name)]
        if missing:
            raise DependencyError(_other_interface(f"{type(made).__name__} has no {', '.join(missing)}"))
        if not 1 <= horizon <= made.max_path_length:
            raise OptionError(
                f"{task}: horizon={horizon} must be from 1 to {made.max_path_length}, the longest episode"
            )
        self.inner = made
        drawn = {which: self._draw(which) for which in dict.fromkeys(goals.values())}
        self._goals = {purpose: drawn[which] for purpose, which in goals.items()}
        self._seeds = {purpose: which.seed for purpose, which in goals.items()}
        self._steps = 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode; ``options`` as ``EpisodeOptions.as_options`` gives them. ``seed`` changes nothing."""
        purpose, episode = (options or {}).get("purpose", "train"), (options or {}).get("episode", 0)
        goals = self._goals[purpose]
        if purpose == "train":
            index = derive_seed("goal", self.task, self._seeds[purpose], episode) % len(goals)
        else:
            index = episode % len(goals)
        data = {"env_cls": type(self.inner), "rand_vec": goals[index], "partially_observable": False}
        self.inner.set_task(Task(self.task, pickle.dumps(data)))
        observation, _ = self.inner.reset()
        self._steps = 0
        return observation.astype(np.float32), {}

    def step(self, action: npt.NDArray[np.float32]) -> Any:
        """One step: observation, reward, False, whether the horizon is reached, ``{"success": 0.0 or 1.0}``."""
        observation, reward, _, _, info = self.inner.step(action)
        self._steps += 1
        ended = self._steps >= self.horizon
        return observation.astype(np.float32), float(reward), False, ended, {"success": float(info["success"])}

    def close(self) -> None:
        """Free the simulator."""
        self.inner.close()

    def _draw(self, which: Goals) -> list[npt.NDArray[np.float64]]:
        """Goals as Meta-World draws them: by resets, since some are drawn again until object and target are apart."""
        env = self.inner
        env.seeded_rand_vec, env._freeze_rand_vec, env._set_task_called = True, False, True
        env.seed(derive_seed("goals", self.task, which.seed) % 2**32)
        found = []
        for _ in range(which.count):
            env.reset()
            found.append(np.array(env._last_rand_vec, dtype=np.float64))
        return found


def _other_interface(cause: str) -> str:
    from importlib.metadata import version

    return (
        f"metaworld {version('metaworld')} has another interface than the 3.1 that this was written for ({cause}): "
        "pip install 'metaworld==3.1.1'"
    )
