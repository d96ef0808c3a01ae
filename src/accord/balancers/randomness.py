"""A random generator that is a plain value: saved, copied and pickled with the balancer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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
