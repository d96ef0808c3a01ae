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
        self._gramians: list[Tensor] = []
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
            self._gramians.append(balance.gramian)

    def record(self) -> dict[str, Any]:
        """Plain JSON data; None for what no step reported."""
        losses = torch.stack(self._losses).mean(0)
        cosines = torch.stack([_cosines(gramian) for gramian in self._gramians]) if self._gramians else None
        pairs = None if cosines is None or len(self._tasks) < 2 else _pairs(cosines)
        return {
            "steps": len(self._seconds),
            "seconds": sum(self._seconds),
            "train_loss": dict(zip(self._tasks, losses.tolist(), strict=True)),
            "weights": torch.stack(self._weights).mean(0).tolist() if self._weights else None,
            "conflict": None if pairs is None else (pairs < 0).double().mean().item(),
            "cosine": None if pairs is None else pairs.mean().item(),
            "cosines": None if pairs is None else _of_pairs(pairs),
            "singular": _smallest(torch.stack(self._gramians)) if self._gramians else None,
            "singular_cosines": None if cosines is None else _smallest(cosines),
            "residual": max(self._residuals, default=None),
            "outcomes": dict(self._outcomes),
        }


def _cosines(gramian: Tensor) -> Tensor:
    """The Gramian (K, K) of the gradients brought to norm 1; zero where a gradient is zero."""
    norms = gramian.diagonal().clamp(min=0).sqrt()
    return gramian / torch.outer(norms, norms).clamp(min=torch.finfo(gramian.dtype).tiny)


def _pairs(cosines: Tensor) -> Tensor:
    """Those of all pairs of tasks, (steps, K(K − 1)/2), from (steps, K, K); row by row above the diagonal."""
    rows, columns = torch.triu_indices(cosines.shape[-1], cosines.shape[-1], offset=1)
    return cosines[:, rows, columns]


def _of_pairs(cosines: Tensor) -> list[float] | None:
    """The mean cosine of each pair (K(K − 1)/2), to five places, over the steps (steps, K(K − 1)/2) that are finite."""
    finite = cosines[cosines.isfinite().all(-1)]
    return [round(value, 5) for value in finite.mean(0).tolist()] if len(finite) else None


def _smallest(gramians: Tensor) -> dict[str, float] | None:
    """Mean and minimum of the smallest singular value of Gramians (steps, K, K); None where none is finite.

    A Gramian is symmetric and positive semidefinite, so that it is the smallest eigenvalue: the square of the smallest
    singular value of the stacked gradients. Rounding leaves it uncertain by about 1e-16 times the largest.
    """
    finite = gramians[gramians.isfinite().all(-1).all(-1)]
    if not len(finite):
        return None
    values = torch.linalg.eigvalsh(finite)[:, 0].clamp(min=0.0)
    return {"mean": values.mean().item(), "min": values.min().item()}
