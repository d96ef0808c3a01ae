"""A random generator that is a plain value: saved, copied and pickled with the balancer."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Balancer
from accord.errors import OptionError


class PrivateGenerator:
    """A CPU generator of its own, so that neither the global one nor another balancer's is touched.

    Seeded alike on every process, it draws the same numbers on all of them.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Start again from the seed."""
        self.state: Tensor = torch.Generator().manual_seed(self.seed).get_state()

    @contextmanager
    def draw(self, *, advance: bool = True) -> Iterator[torch.Generator]:
        """A generator in the current state; what is drawn moves that state on, if ``advance``."""
        generator = torch.Generator()
        generator.set_state(self.state)
        yield generator
        if advance:
            self.state = generator.get_state()


class Seeded(Balancer):
    """A balancer that draws random numbers; mixed in before the other base class, it saves and resets the generator."""

    seed: int

    def seed_with(self, seed: int) -> None:
        """Set the option ``seed`` and make the generator."""
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**63:
            raise OptionError(f"{type(self).__name__}: seed = {seed!r} is not an integer of at least 0")
        self.seed = int(seed)
        self._generator = PrivateGenerator(seed)

    def draw_order(self) -> np.ndarray:
        """K random permutations of the tasks, shape (K, K)."""
        k = self.num_tasks
        with self._generator.draw() as generator:
            return torch.rand(k, k, generator=generator).argsort(dim=1).numpy()

    def reset(self) -> None:
        """Forget everything but the options; the generator starts again from the seed."""
        super().reset()
        self._generator.reset()

    def own_state(self) -> dict[str, Any]:
        """The generator's state beside the other base's."""
        return {**super().own_state(), "generator": self._generator.state}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the generator's state beside the other base's."""
        super().load_own_state(state)
        self._generator.state = state["generator"]
