"""Bringing the tasks' rewards to one scale, in the ways that published code does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from accord.bench.rl.replay import Replay
from accord.errors import OptionError

Array = npt.NDArray[np.float32]
Mode = Literal["raw", "deviation", "standardised"]
MODES = ("raw", "deviation", "standardised")


class RewardScale:
    """Rewards as the learner sees them.

    * ``"raw"``: as the environment gives them (Meta-World+, 2025).
    * ``"deviation"``: divided by the square root of an exponential moving variance of the task's rewards, rate 1e-3,
      from mean 0 and variance 1, at the moment they are collected (the lineage of CARE, CAGrad and Nash-MTL).
    * ``"standardised"``: less the mean of the task's rewards in the replay buffer, divided by their deviation, both
      taken anew every ``every`` steps. A constant may be taken off only because all episodes have one length.

    Args:
        mode: One of these.
        tasks: K.
        every: Steps between two looks at the buffer.

    Raises:
        OptionError: The mode is not known.
    """

    RATE = 1e-3

    def __init__(self, mode: str, tasks: int, every: int = 500) -> None:
        if mode not in MODES:
            raise OptionError(f"rewards={mode!r} is not one of {', '.join(MODES)}")
        self.mode, self.every = mode, every
        self.mean, self.variance = np.zeros(tasks, np.float64), np.ones(tasks, np.float64)

    def collected(self, rewards: Array) -> Array:
        """What goes into the buffer, (K,)."""
        if self.mode != "deviation":
            return rewards
        self.mean += self.RATE * (rewards - self.mean)
        self.variance += self.RATE * (np.square(rewards - self.mean) - self.variance)
        return (rewards / (np.sqrt(self.variance) + 1e-8)).astype(np.float32)

    def look(self, replay: Replay, step: int) -> None:
        """Take mean and deviation anew if it is time."""
        if self.mode == "standardised" and (step % self.every == 0 or not self.mean.any()):
            mean, deviation = replay.moments()
            self.mean, self.variance = mean.astype(np.float64), np.square(deviation.astype(np.float64))

    def sampled(self, rewards: torch.Tensor) -> torch.Tensor:
        """What the critic learns from: (K, B) to (K, B)."""
        if self.mode != "standardised":
            return rewards
        mean = torch.from_numpy(self.mean).to(rewards)
        deviation = torch.from_numpy(np.sqrt(self.variance)).to(rewards).clamp(min=1e-6)
        return (rewards - mean[:, None]) / deviation[:, None]

    def state_dict(self) -> dict[str, Any]:
        """Means and variances."""
        return {"mean": torch.from_numpy(self.mean.copy()), "variance": torch.from_numpy(self.variance.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.mean, self.variance = state["mean"].numpy().copy(), state["variance"].numpy().copy()
