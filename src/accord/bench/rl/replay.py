"""Transitions of K tasks, a ring for each, in arrays that are allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accord.errors import OptionError

Array = npt.NDArray[np.float32]


class Replay:
    """The last ``capacity`` transitions of each task: 332 bytes each, 332 MB for ten tasks with 100,000 each.

    All tasks are stepped together, so that one position serves them all. Episodes end by truncation alone, and then the
    observation that is kept is the last of the episode, not the first of the next: a transition needs no "done".

    Args:
        tasks: K.
        capacity: Transitions a task.
        state: Numbers in an observation.
        action: Numbers in an action.

    Raises:
        OptionError: ``capacity`` is not positive.
    """

    def __init__(self, tasks: int, capacity: int, state: int, action: int) -> None:
        if capacity < 1:
            raise OptionError(f"replay: capacity={capacity} must be 1 or more")
        self.capacity, self.size, self.next = capacity, 0, 0
        self.states = np.zeros((tasks, capacity, state), np.float32)
        self.actions = np.zeros((tasks, capacity, action), np.float32)
        self.rewards = np.zeros((tasks, capacity), np.float32)
        self.after = np.zeros((tasks, capacity, state), np.float32)

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in self._arrays().values())

    def add(self, states: Array, actions: Array, rewards: Array, after: Array) -> None:
        """One transition of every task: (K, 39), (K, 4), (K,), (K, 39)."""
        at = self.next
        self.states[:, at], self.actions[:, at], self.rewards[:, at], self.after[:, at] = (
            states,
            actions,
            rewards,
            after,
        )
        self.next = (at + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, count: int, generator: np.random.Generator) -> dict[str, Tensor]:
        """``count`` transitions of every task, drawn independently: tensors (K, count, …)."""
        tasks = np.arange(len(self.states))[:, None]
        at = generator.integers(self.size, size=(len(self.states), count))
        return {
            name: torch.from_numpy(array[tasks, at])
            for name, array in (("state", self.states), ("action", self.actions), ("reward", self.rewards))
        } | {"after": torch.from_numpy(self.after[tasks, at])}

    def moments(self) -> tuple[Array, Array]:
        """Mean and standard deviation of each task's rewards, (K,) each."""
        kept = self.rewards[:, : self.size].astype(np.float64)
        return kept.mean(1).astype(np.float32), kept.std(1).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """What is filled, as tensors."""
        filled = {name: np.ascontiguousarray(array[:, : self.size]) for name, array in self._arrays().items()}
        return {"next": self.next, "size": self.size, **{name: torch.from_numpy(a) for name, a in filled.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.next, self.size = state["next"], state["size"]
        for name, array in self._arrays().items():
            array[:, : self.size] = state[name].numpy()

    def _arrays(self) -> dict[str, Array]:
        return {"states": self.states, "actions": self.actions, "rewards": self.rewards, "after": self.after}
