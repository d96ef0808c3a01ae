"""Scalarizations that are not sums: the geometric mean and the smooth maximum of the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.losses import LossBalancer
from accord.balancers.options import check_number, check_per_task, check_positive, require_positive, warn_option
from accord.balancers.registry import register


@register("gls")
class GLS(LossBalancer):
    """GLS: the geometric mean of the losses, (Π l_k)^(1/K). Losses must be positive.

    Computed through logarithms, so that a product of many losses neither overflows nor vanishes.

    Args:
        tasks: The number of tasks, or their names.

    References:
        Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
        Learning", CVPR workshops 2019, arXiv:1904.08492.
    """

    reference = "Chennupati et al., CVPRW 2019"
    refuses_negative = "the method takes the logarithm of losses"

    def __init__(self, tasks: int | Sequence[str]) -> None:
        super().__init__(tasks)

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """The derivative of the geometric mean: itself over K·l_k."""
        require_positive(values, self.tasks, "GLS", "the method takes its logarithm")
        return np.exp(np.log(values).mean() - np.log(values)) / len(values)


@register("stch")
class STCH(LossBalancer):
    """STCH: the smooth Tchebycheff scalarization, K·μ·log Σ_k exp(log(l_k/nadir_k)/μ).

    A small μ trains the task that is worst relative to its nadir, a large one all alike; at μ = 1 it is the logarithm
    of the sum of relative losses. As in the published code, training begins with log-losses (``warmup`` steps, there
    four epochs), and the nadir is then their mean loss (there that of the last of these epochs). Losses must be
    positive.

    Args:
        tasks: The number of tasks, or their names.
        mu: μ, positive.
        warmup: Steps on log-losses, over which the nadir is taken; 0 takes that of the first step.
        nadir: The nadir (K,) itself; then there is no warm-up.

    References:
        Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024, arXiv:2402.19078.
    """

    reference = "Lin et al., ICML 2024"
    refuses_negative = "the method takes the logarithm of losses"

    def __init__(
        self, tasks: int | Sequence[str], *, mu: float = 1.0, warmup: int = 100, nadir: Sequence[float] | None = None
    ) -> None:
        super().__init__(tasks)
        check_positive(mu, "mu", "STCH")
        check_number(warmup, "warmup", "STCH", "it is a number of steps", least=0.0)
        if warmup != 0:
            check_positive(warmup, "warmup", "STCH", integer=True)
        if nadir is not None:
            check_per_task(nadir, "nadir", "STCH", self.num_tasks, least=1e-300)
            if warmup != 100:
                warn_option("STCH: warmup has no effect beside nadir")
        self.mu = mu
        self.warmup = warmup
        self.nadir = nadir
        self.reset()

    @property
    def equivariant(self) -> bool:  # pyrefly: ignore[bad-override]
        """A nadir belongs to its task's place."""
        return self.nadir is None

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """1/l_k while warming up, then K·softmax(log(l/nadir)/μ)_k/l_k."""
        require_positive(values, self.tasks, "STCH", "the method takes its logarithm")
        self._warm = self.nadir is None and self._count < self.warmup
        if self._warm or (self.nadir is None and not self._count):
            self._sum = self._sum + values
            self._count += 1
        if self._warm:
            return 1.0 / values
        logits = (np.log(values) - np.log(self._nadir())) / self.mu
        share = np.exp(logits - logits.max())
        return len(values) * share / share.sum() / values

    def objective(self, losses: Sequence[Tensor], weights: Tensor) -> Tensor:
        """The scalarization itself, or the sum of log-losses while warming up."""
        del weights
        logs = torch.stack([loss.log() for loss in losses])
        if self._warm:
            return logs.sum()
        nadir = torch.from_numpy(np.log(self._nadir())).to(logs)
        return len(losses) * self.mu * torch.logsumexp((logs - nadir) / self.mu, dim=0)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._sum = np.zeros(self.num_tasks)
        self._count = 0
        self._warm = False

    def own_state(self) -> dict[str, Any]:
        """The sum of the losses of the warm-up so far, and its steps."""
        return {"sum": torch.from_numpy(self._sum.copy()), "count": self._count}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the sum of the losses and the steps of the warm-up."""
        self._sum = state["sum"].numpy().copy()
        self._count = int(state["count"])

    def _nadir(self) -> np.ndarray:
        return np.asarray(self.nadir, np.float64) if self.nadir is not None else self._sum / self._count
