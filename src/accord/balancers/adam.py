"""Adam for a handful of numbers: the weights that FAMO and GradNorm train by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

BETAS = (0.9, 0.999)
EPS = 1e-8


class SmallAdam:
    """Numbers (K,), float64, that follow Adam's rule with its usual constants.

    Args:
        start: Initial numbers, shape (K,).
        lr: Step size.
        decay: Added to the gradient as decay times the numbers, as ``torch.optim.Adam``'s ``weight_decay``.
    """

    def __init__(self, start: np.ndarray, lr: float, decay: float = 0.0) -> None:
        self.value = np.array(start, dtype=np.float64)
        self.lr = lr
        self.decay = decay
        self._first = np.zeros_like(self.value)
        self._second = np.zeros_like(self.value)
        self._count = 0

    def step(self, gradient: np.ndarray) -> None:
        """Move against a gradient (K,)."""
        gradient = gradient + self.decay * self.value
        self._count += 1
        self._first = BETAS[0] * self._first + (1 - BETAS[0]) * gradient
        self._second = BETAS[1] * self._second + (1 - BETAS[1]) * gradient**2
        first = self._first / (1 - BETAS[0] ** self._count)
        second = self._second / (1 - BETAS[1] ** self._count)
        self.value = self.value - self.lr * first / (np.sqrt(second) + EPS)

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and plain numbers."""
        arrays = {"value": self.value, "first": self._first, "second": self._second}
        return {**{k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, "count": self._count}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a ``state``."""
        self.value, self._first, self._second = (state[k].numpy().copy() for k in ("value", "first", "second"))
        self._count = int(state["count"])


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(logits) over their sum, shape (K,)."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def through_softmax(shares: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient (K,) with respect to the logits from that with respect to their softmax."""
    return shares * (gradient - shares @ gradient)
