"""Balancers that look at the losses alone: one backward pass a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Balancer, Decision
from accord.balancers.options import check_choice, check_per_task, check_positive, require_positive
from accord.balancers.randomness import Seeded
from accord.balancers.registry import register
from accord.errors import NonFiniteError
from accord.jacobian import Jacobian


class LossBalancer(Balancer):
    """A balancer whose weights follow from the losses; heads and shared parameters have the same weights."""

    homogeneity = 0.0

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """Weights (K,) from losses (K,); may change the method's state."""
        raise TypeError(f"{type(self).__name__} has no weights: implement weigh(values)")

    def decide(self, jacobian: Jacobian) -> Decision:
        """Weigh the losses."""
        weights = self.weigh(jacobian.values.numpy())
        return Decision(weights, weights)


@register("ls")
class LS(LossBalancer):
    """Linear scalarization: the sum of the losses, plain or with static weights.

    Well-tuned static weights (``weights``) are the baseline that any method should be held against.

    Args:
        tasks: The number of tasks, or their names.
        weights: Weights (K,) of the losses, at least 0; ones by default.
        reduction: ``"sum"``, or ``"mean"``, which is 1/K of it.
    """

    reference = "Caruana, Machine Learning 1997"

    def __init__(
        self, tasks: int | Sequence[str], *, weights: Sequence[float] | None = None, reduction: str = "sum"
    ) -> None:
        super().__init__(tasks)
        if weights is not None:
            check_per_task(weights, "weights", "LS", self.num_tasks, least=0.0)
        check_choice(reduction, ("sum", "mean"), "reduction", "LS")
        self.weights = weights
        self.reduction = reduction

    @property
    def equivariant(self) -> bool:  # pyrefly: ignore[bad-override]
        """A weight belongs to its task's place."""
        return self.weights is None

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """The static weights, or 1/K of them."""
        weights = np.ones(len(values)) if self.weights is None else np.array(self.weights, dtype=np.float64)
        return weights / len(values) if self.reduction == "mean" else weights


@register("si")
class SI(LossBalancer):
    """Scale-invariant: the sum of log-losses, so that each weight is 1/l_k. Losses must be positive.

    Args:
        tasks: The number of tasks, or their names.

    References:
        The baseline SI of Navon et al., ICML 2022, Section 6.
    """

    reference = "Navon et al., ICML 2022, Section 6"
    refuses_negative = "the method takes the logarithm of losses"

    def __init__(self, tasks: int | Sequence[str]) -> None:
        super().__init__(tasks)

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """1/l_k."""
        return 1.0 / require_positive(values, self.tasks, "SI", "the method takes its logarithm")

    def objective(self, losses: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Σ log l_k."""
        del weights
        return torch.stack([loss.log() for loss in losses]).sum()


@register("rlw")
class RLW(Seeded, LossBalancer):
    """Random loss weighting: softmax of standard normal numbers, drawn anew at every step.

    The weights sum to 1. They come from a generator of the balancer's own.

    Args:
        tasks: The number of tasks, or their names.
        seed: Of that generator.

    References:
        Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022, arXiv:2111.10603.
    """

    reference = "Lin et al., TMLR 2022"
    equivariant = False

    def __init__(self, tasks: int | Sequence[str], *, seed: int = 0) -> None:
        super().__init__(tasks)
        self.seed_with(seed)

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """Softmax of normal numbers."""
        with self._generator.draw() as generator:
            return torch.randn(len(values), generator=generator, dtype=torch.float64).softmax(0).numpy()


@register("dwa")
class DWA(LossBalancer):
    """Dynamic weight average: K·softmax(r/T), r the ratio of each loss's mean over two successive windows.

    The MTAN paper takes the means over epochs; the code of the Nash-MTL experiments over windows of 25 steps, which
    is the default here (set ``window`` to the steps of an epoch for the former), and averages the weighted losses
    (``reduction="mean"``) instead of summing them. Weights are 1 until both windows are full.

    Args:
        tasks: The number of tasks, or their names.
        temperature: T; larger is nearer to equal weights.
        window: Steps in each of the two windows.
        reduction: ``"sum"`` (weights sum to K) or ``"mean"`` (they sum to 1).

    References:
        Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019.
    """

    reference = "Liu et al., CVPR 2019"
    relative = True

    def __init__(
        self, tasks: int | Sequence[str], *, temperature: float = 2.0, window: int = 25, reduction: str = "sum"
    ) -> None:
        super().__init__(tasks)
        check_positive(temperature, "temperature", "DWA")
        check_positive(window, "window", "DWA", integer=True)
        check_choice(reduction, ("sum", "mean"), "reduction", "DWA")
        self.temperature = temperature
        self.window = window
        self.reduction = reduction
        self._history = np.zeros((0, self.num_tasks))

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """K·softmax(r/T) from the losses of the last two windows, then remember this step's."""
        k, n = self.num_tasks, self.window
        weights = np.ones(k)
        if len(self._history) == 2 * n:
            older, newer = self._history[:n].mean(0), self._history[n:].mean(0)
            if not (older != 0).all():
                raise NonFiniteError("DWA: the mean of a loss over a window is zero, so its ratio is undefined")
            logits = newer / older / self.temperature
            weights = np.exp(logits - logits.max())
            weights *= k / weights.sum()
        self._history = np.concatenate([self._history, values[None]])[-2 * n :]
        return weights / k if self.reduction == "mean" else weights

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._history = np.zeros((0, self.num_tasks))

    def own_state(self) -> dict[str, Any]:
        """The losses of the last two windows, (≤ 2·window, K)."""
        return {"history": torch.from_numpy(self._history.copy())}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the losses of the last two windows."""
        self._history = state["history"].numpy().copy()
