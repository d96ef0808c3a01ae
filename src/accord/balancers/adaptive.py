"""FAMO and GradNorm: weights that the balancer trains by itself, from how fast the losses fall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.adam import SmallAdam, softmax, through_softmax
from accord.balancers.base import Decision
from accord.balancers.gramian import skip_unless_finite
from accord.balancers.losses import LossBalancer
from accord.balancers.options import (
    check_number,
    check_per_task,
    check_positive,
    loss_values,
    require_positive,
    warn_option,
)
from accord.balancers.registry import register
from accord.errors import NonFiniteError
from accord.jacobian import Jacobian, Losses

TINY = 1e-8  # added to losses before their logarithm, as published


@register("famo")
class FAMO(LossBalancer):
    """FAMO: weights that slow the task whose log-loss falls fastest, at the price of one backward.

    Each step descends Σ c z_k log(l_k − b_k) with z = softmax(ξ) and c = 1/Σ(z_k/(l_k − b_k)). After the optimiser's
    step, ``balancer.after_step(losses)`` is told the losses of the same batch anew (or a function that computes them),
    and ξ follows Adam on softmax(ξ)ᵀδ, δ the fall of the log-losses. Without ``after_step`` the weights stand still,
    and the balancer warns.

    The published code clips the gradient to norm 1 (``max_norm=1.0``); its γ is 0.001 on NYUv2, QM9 and CelebA, 0.01
    on Cityscapes and 0 on the toy problem.

    Args:
        tasks: The number of tasks, or their names.
        gamma: γ, decay of ξ.
        lr: Step size of ξ.
        minima: Lower bounds b (K,) of the losses; zeros by default. In a wrapper, of what it makes of the losses.
        max_norm: Clip the shared gradient to this norm.

    References:
        Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, arXiv:2306.03792, Algorithm 1.
    """

    reference = "Liu et al., NeurIPS 2023"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        gamma: float = 0.001,
        lr: float = 0.025,
        minima: Sequence[float] | None = None,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(tasks)
        check_number(gamma, "gamma", "FAMO", "the published runs use 0.001 and 0.01", least=0.0)
        check_positive(lr, "lr", "FAMO")
        if minima is not None:
            check_per_task(minima, "minima", "FAMO", self.num_tasks, least=-1e300)
        if max_norm is not None:
            check_positive(max_norm, "max_norm", "FAMO")
        self.gamma, self.lr, self.minima, self.max_norm = gamma, lr, minima, max_norm
        self.reset()

    @property
    def equivariant(self) -> bool:  # pyrefly: ignore[bad-override]
        """A lower bound belongs to its task's place."""
        return self.minima is None

    @property
    def refuses_negative(self) -> str:  # pyrefly: ignore[bad-override]
        """With lower bounds losses may be negative."""
        return "the method takes the logarithm of losses" if self.minima is None else ""

    @property
    def cost(self) -> str:
        """The second look at the batch is a forward pass."""
        return "1 backward, 1 forward"

    def decide(self, jacobian: Jacobian) -> Decision:
        """Weigh the losses, clipped on request."""
        decision = super().decide(jacobian)
        decision.max_norm = self.max_norm
        return decision

    def weigh(self, values: np.ndarray) -> np.ndarray:
        """C z_k/(l_k − b_k)."""
        above = self._above(values)
        if self._before is not None and not self._warned:
            self._warned = True
            warn_option(
                "FAMO: after_step was not called since the last step, so the weights stand still; call "
                "balancer.after_step(losses of the same batch) after optimizer.step()"
            )
        self._before = above
        shares = softmax(self._logits.value) / above
        return shares / shares.sum()

    def objective(self, losses: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Σ c z_k log(l_k − b_k)."""
        bounds = self._bounds().tolist()
        logs = [(loss - b + TINY).log() for loss, b in zip(losses, bounds, strict=True)]
        above = [(loss.detach() - b + TINY) for loss, b in zip(losses, bounds, strict=True)]
        return sum((w.to(a) * a * log for w, a, log in zip(weights, above, logs, strict=True)), losses[0].new_zeros(()))

    def after_step(self, losses: Losses | Callable[[], Losses]) -> None:
        """Move the weights by how far the same batch's log-losses fell in the optimiser's step.

        Args:
            losses: The losses after the step, or a function that computes them; it is called without gradients.
                In eval mode nothing happens.

        Raises:
            ShapeError: Not K scalars.
            NonFiniteError: A loss is not finite, or not above its lower bound; the weights stay as they are.
        """
        if not self.training or self._before is None:
            return
        if callable(losses):
            with torch.no_grad():
                losses = losses()
        values = self._reduce.mean(loss_values(self._ordered(losses), self.num_tasks, "FAMO")).numpy()
        above = values - self._bounds() + TINY
        if not (np.isfinite(above) & (above > 0)).all():
            bad = [f"{n!r} = {v:.6g}" for n, v, a in zip(self.tasks, values, above, strict=True) if not 0 < a < np.inf]
            raise NonFiniteError(
                f"FAMO: after the step the loss of {', '.join(bad)} is not finite or not above its minimum; "
                "the weights were kept"
            )
        fall = np.log(self._before) - np.log(above)
        self._logits.step(through_softmax(softmax(self._logits.value), fall))
        self._before = None

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._logits = SmallAdam(np.zeros(self.num_tasks), self.lr, self.gamma)
        self._before: np.ndarray | None = None
        self._warned = False

    def own_state(self) -> dict[str, Any]:
        """ξ with its Adam, and the losses of the step that awaits its second look."""
        before = None if self._before is None else torch.from_numpy(self._before.copy())
        return {"logits": self._logits.state(), "before": before}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up ξ and the losses."""
        self._logits.load(state["logits"])
        self._before = None if state["before"] is None else state["before"].numpy().copy()

    def _bounds(self) -> np.ndarray:
        return np.zeros(self.num_tasks) if self.minima is None else np.asarray(self.minima, np.float64)

    def _above(self, values: np.ndarray) -> np.ndarray:
        return require_positive(
            values - self._bounds() + TINY, self.tasks, "FAMO", "the method takes its logarithm less its minimum"
        )


@register("gradnorm")
class GradNorm(LossBalancer):
    """GradNorm: weights that bring the task gradients' norms together, larger for tasks that train more slowly.

    The norm of w_k g_k is drawn to Ḡ·r_k^α, where Ḡ is the mean norm and r_k the loss relative to the first step's,
    over its mean. The weights, K times a softmax, follow Adam on Σ_k |w_k‖g_k‖ − Ḡ r_k^α|. As in the paper heads and
    shared parameters are weighted alike, so giving the last shared layer alone as ``shared`` makes it the published
    method, cheaper by the rest of the trunk.

    Args:
        tasks: The number of tasks, or their names.
        alpha: α, how strongly slow tasks are preferred.
        lr: Step size of the weights.

    References:
        Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
        ICML 2018, arXiv:1711.02257, Algorithm 1.
    """

    needs = "gramian"
    homogeneity = None
    reference = "Chen et al., ICML 2018"
    relative = True

    def __init__(self, tasks: int | Sequence[str], *, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(tasks)
        check_number(alpha, "alpha", "GradNorm", "1.5 is usual", least=0.0)
        check_positive(lr, "lr", "GradNorm")
        self.alpha, self.lr = alpha, lr
        self.reset()

    def decide(self, jacobian: Jacobian) -> Decision:
        """This step's weights; then move them for the next."""
        values = jacobian.values.numpy()
        require_positive(values, self.tasks, "GradNorm", "the method compares it with the first step's")
        gramian = jacobian.gramian()
        skipped = skip_unless_finite(self, gramian)
        if skipped is not None:
            return skipped
        self._first = values.copy() if self._first is None else self._first
        shares = softmax(self._logits.value)
        weights = self.num_tasks * shares
        norms = np.sqrt(np.diagonal(gramian.numpy()))
        lengths = weights * norms
        rate = values / self._first
        target = lengths.mean() * (rate / rate.mean()) ** self.alpha
        self._logits.step(through_softmax(shares, self.num_tasks * norms * np.sign(lengths - target)))
        return Decision(weights, weights, gramian)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._logits = SmallAdam(np.zeros(self.num_tasks), self.lr)
        self._first: np.ndarray | None = None

    def own_state(self) -> dict[str, Any]:
        """The weights' logits with their Adam, and the first step's losses."""
        first = None if self._first is None else torch.from_numpy(self._first.copy())
        return {"logits": self._logits.state(), "first": first}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the weights' logits and the first step's losses."""
        self._logits.load(state["logits"])
        self._first = None if state["first"] is None else state["first"].numpy().copy()
