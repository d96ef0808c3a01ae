"""What an epoch of balanced training leaves behind: means, counts and worst cases over its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accord.balancers.result import Balance


class Tally:
    """Collects steps and makes a plain record of them.

    Args:
        tasks: The K tasks' names.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tasks
        self._seconds: list[float] = []
        self._losses: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._cosines: list[Tensor] = []
        self._residuals: list[float] = []
        self._outcomes: Counter[str] = Counter()

    @property
    def steps(self) -> int:
        """How many steps were noted."""
        return len(self._seconds)

    def add(self, losses: Sequence[Tensor], balance: Balance | None, seconds: float) -> None:
        """Note one step.

        Args:
            losses: K scalars.
            balance: What the balancer did; None for single-task learning.
            seconds: What the step took.
        """
        self._seconds.append(seconds)
        self._losses.append(torch.stack([loss.detach() for loss in losses]).double().cpu())
        if balance is None:
            return
        self._outcomes[balance.outcome] += 1
        if bool(balance.weights.isfinite().all()):  # NaN where no weights describe the method (GradDrop)
            self._weights.append(balance.weights)
        if balance.residual is not None and not balance.stationary:  # there the definition has no solution
            self._residuals.append(float(balance.residual))
        if balance.gramian is not None:
            self._cosines.append(_pair_cosines(balance.gramian))

    def record(self) -> dict[str, Any]:
        """Plain JSON data; None for what no step reported."""
        losses = torch.stack(self._losses).mean(0)
        cosines = torch.stack(self._cosines) if self._cosines else None  # (steps, pairs)
        return {
            "steps": len(self._seconds),
            "seconds": sum(self._seconds),
            "train_loss": dict(zip(self._tasks, losses.tolist(), strict=True)),
            "weights": torch.stack(self._weights).mean(0).tolist() if self._weights else None,
            "conflict": None if cosines is None else (cosines < 0).double().mean().item(),
            "cosine": None if cosines is None else cosines.mean().item(),
            "residual": max(self._residuals, default=None),
            "outcomes": dict(self._outcomes),
        }


def _pair_cosines(gramian: Tensor) -> Tensor:
    """Cosines between the gradients of all pairs of tasks, (K(K − 1)/2,); zero where a gradient is zero."""
    norms = gramian.diagonal().clamp(min=0).sqrt()
    cosines = gramian / torch.outer(norms, norms).clamp(min=torch.finfo(gramian.dtype).tiny)
    rows, columns = torch.triu_indices(len(gramian), len(gramian), offset=1)
    return cosines[rows, columns]
