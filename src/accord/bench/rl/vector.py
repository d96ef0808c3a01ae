"""K tasks stepped together, each in a process of its own beside the learner's."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from accord.bench.rl.environment import EpisodeOptions, TaskEnvironment
from accord.bench.rl.tasks import Goals, RewardVersion
from accord.errors import AccordError, DependencyError, WorkerError

try:
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
    from gymnasium.vector.async_vector_env import AsyncState
except ModuleNotFoundError as error:
    raise DependencyError(
        f"Meta-World needs the package {error.name!r}, which is not installed: pip install 'accord[rl]'"
    ) from error

Array = npt.NDArray[np.float32]


class Stepped(NamedTuple):
    """What one step of all tasks gave: (K, 39), (K,), (K,), and whether the episodes are over."""

    observations: Array
    rewards: Array
    successes: npt.NDArray[np.bool_]
    ended: bool


class Environments:
    """K tasks whose episodes begin and end together, as horizons are equal and nothing terminates.

    ``start`` and ``finish`` are two calls, so that the learner works while the simulators do.

    Args:
        tasks: Full names.
        goals: By purpose; see ``TaskEnvironment``.
        horizon: Steps an episode.
        rewards: ``"v1"`` or ``"v2"``.
        processes: One process a task, or all tasks in this one.

    Raises:
        OptionError, DependencyError: As ``TaskEnvironment``.
        WorkerError: A process died or raised; also from the methods.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        goals: Mapping[str, Goals],
        horizon: int,
        rewards: RewardVersion = "v2",
        processes: bool = True,
    ) -> None:
        self.tasks, self.horizon = tuple(tasks), horizon
        makers = [partial(_make, task, dict(goals), horizon, rewards) for task in tasks]
        self._vector: Any = None
        self._end: weakref.finalize[Any, Environments] | None = None
        with self._watched("cannot be made"):
            if processes:
                kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
                multiprocessing.get_context(kind).set_forkserver_preload([__name__])  # imports once, not once a task
                self._vector = AsyncVectorEnv(makers, context=kind, autoreset_mode=AutoresetMode.DISABLED)
            else:
                self._vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        self._end = weakref.finalize(self, _end, self._vector)  # also where an exception leaves these unclosed
        self._pending: Any = None

    def reset(self, purpose: str, episode: int) -> Array:
        """Begin an episode of every task; observations (K, 39)."""
        with self._watched(f"episode {episode} ({purpose}) cannot begin"):
            observations, _ = self._vector.reset(options=EpisodeOptions(purpose, episode).as_options())
        return observations.copy()

    def start(self, actions: Array) -> None:
        """Have every task take its action, (K, 4), each number in [-1, 1]."""
        if isinstance(self._vector, AsyncVectorEnv):
            with self._watched("a step failed"):
                self._vector.step_async(actions)
        else:
            self._pending = actions

    def finish(self) -> Stepped:
        """Wait for the step that was started."""
        with self._watched("a step failed"):
            if isinstance(self._vector, AsyncVectorEnv):
                observations, rewards, _, truncated, infos = self._vector.step_wait()
            else:
                observations, rewards, _, truncated, infos = self._vector.step(self._pending)
        return Stepped(
            observations.copy(), rewards.astype(np.float32), np.asarray(infos["success"]) > 0, bool(truncated.all())
        )

    def step(self, actions: Array) -> Stepped:
        """``start`` and ``finish``."""
        self.start(actions)
        return self.finish()

    def close(self) -> None:
        """End the processes; again does nothing."""
        self._vector = None
        if self._end is not None:
            self._end()

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Turn the ways in which a process can fail into one error; the processes are ended."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=UserWarning, module=r"gymnasium\.vector")  # what is raised
                yield
        except (EOFError, ConnectionError) as error:
            dead = self._dead()
            self.close()
            raise WorkerError(f"{what}: {dead}; the run can be resumed from its last checkpoint") from error
        except AccordError:
            self.close()
            raise

    def _dead(self) -> str:
        found = []
        for task, process in zip(self.tasks, getattr(self._vector, "processes", []), strict=False):
            process.join(0.5)
            if process.exitcode is not None:
                code = process.exitcode
                how = f"exit code {code}" if code >= 0 else f"signal {-code}: {signal.strsignal(-code)}"
                found.append(f"the process of {task} died ({how})")
        return "; ".join(found) or "a process of an environment died"


def _end(vector: Any) -> None:
    """End the processes at once, whether or not they have answered."""
    if isinstance(vector, AsyncVectorEnv):
        vector._state = AsyncState.DEFAULT  # or gymnasium waits for answers, and fails where a process died
        vector.close(terminate=True)
    else:
        vector.close()


class _Guarded(TaskEnvironment):
    """Has its errors carry their traceback, which does not pass between processes by itself."""

    def reset(self, **given: Any) -> Any:
        return _told(self.task, partial(super().reset, **given))

    def step(self, action: npt.NDArray[np.float32]) -> Any:
        return _told(self.task, partial(super().step, action))


def _told(task: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise WorkerError(f"{task}: {type(error).__name__}: {error}\n{traceback.format_exc()}") from error


def _make(task: str, goals: Mapping[str, Goals], horizon: int, rewards: RewardVersion) -> TaskEnvironment:
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the learner's process hears Ctrl-C and decides
    return _Guarded(task, goals, horizon, rewards)
