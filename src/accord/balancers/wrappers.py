"""Balancers around any other: the α-fair loss transform and CR-MOGM's moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Balancer, Decision
from accord.balancers.options import check_between, check_finite, loss_values
from accord.balancers.registry import make, register
from accord.balancers.result import named_cause
from accord.errors import NonFiniteError, OptionError
from accord.jacobian import Jacobian, Losses, ScaledJacobian


class Wrapper(Balancer):
    """A balancer around another one, which is named by its spec, such as ``of="cagrad:c=0.5"``.

    Options of the inner method stand in quotes when there are several: ``"alpha-fair:of='cagrad:c=0.5,rescale=1'"``.
    """

    def __init__(self, tasks: int | Sequence[str], *, of: str) -> None:
        super().__init__(tasks)
        if not isinstance(of, str):
            raise OptionError(f"{type(self).__name__}: of = {of!r} is not the name of a method, such as 'cagrad:c=0.5'")
        self.of = of
        self.inner = make(of, tasks)

    @property
    def needs(self) -> str:  # pyrefly: ignore[bad-override]
        """What the inner method needs."""
        return self.inner.needs

    @property
    def cost(self) -> str:
        """As the inner method: neither wrapper adds a backward."""
        return self.inner.cost

    @property
    def equivariant(self) -> bool:  # pyrefly: ignore[bad-override]
        """As the inner method."""
        return self.inner.equivariant

    @property
    def relative(self) -> bool:  # pyrefly: ignore[bad-override]
        """As the inner method."""
        return self.inner.relative

    @property
    def refuses_negative(self) -> str:  # pyrefly: ignore[bad-override]
        """As the inner method."""
        return self.inner.refuses_negative

    @property
    def heads(self) -> str:
        """As the inner method."""
        return getattr(self.inner, "heads", "weighted")

    @property
    def max_norm(self) -> float | None:
        """As the inner method."""
        return getattr(self.inner, "max_norm", None)

    def own_objective(self, values: Tensor) -> Tensor | None:
        """What the inner method's parameters minimise."""
        return self.inner.own_objective(values)

    def accumulate_own(self, values: Tensor, scale: float = 1.0) -> None:
        """Add to ``.grad`` of the inner method's parameters."""
        self.inner.accumulate_own(values, scale)

    @property
    def uses_part(self) -> bool:
        """As the inner method."""
        return self.inner.uses_part

    def after_step(self, losses: Losses | Callable[[], Losses]) -> None:
        """Hand the losses after the optimiser's step to the inner method."""
        self.inner.after_step(losses)

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; the inner method's before the first step."""
        if self._weights is None or self._head_weights is None or not np.isfinite(self._weights).all():
            return self.inner.last_weights()
        return self._weights, self._head_weights

    def reset(self) -> None:
        """Forget everything but the options, in the inner method too."""
        super().reset()
        self.inner.reset()
        self._head_weights = None

    def snapshot(self) -> dict[str, Any]:
        """The state of both."""
        return {"outer": super().snapshot(), "inner": self.inner.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return both to a ``snapshot``."""
        super().restore(state["outer"])
        self.inner.restore(state["inner"])

    def own_state(self) -> dict[str, Any]:
        """The heads' last weights; the inner method saves itself."""
        heads = None if self._head_weights is None else torch.from_numpy(self._head_weights.copy())
        return {"head_weights": heads, "of": self.inner.method}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the heads' last weights."""
        heads = state["head_weights"]
        self._head_weights = None if heads is None else heads.numpy().copy()

    def _ordered(self, losses: Losses) -> Losses:
        """Losses in the tasks' order; the inner method takes up the names too."""
        return self.inner._ordered(super()._ordered(losses))

    _head_weights: np.ndarray | None = None


@register("alpha-fair")
class AlphaFair(Wrapper):
    """The α-fair loss transform: any method on the losses f(l) = l^(1−α)/(1−α), log l at α = 1.

    Since f′(l) = l^(−α), the gradients are those of the losses times l^(−α), so no backward is added. Around LS, α = 0
    is LS and α = 1 is SI; a positive α weighs small losses up. Nash-MTL's and IMTL-G's directions do not change. DWA
    and GradNorm, which compare a loss with its own past, see the losses as they are. Losses must be positive unless
    α is 0. Methods whose parameters or logarithms need positive losses are refused where f is negative.

    Args:
        tasks: The number of tasks, or their names.
        of: The method, with options in its spec.
        alpha: α, finite.

    References:
        Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv:2402.15638.
    """

    reference = "Ban and Ji, ICML 2024"

    def __init__(self, tasks: int | Sequence[str], *, of: str = "ls", alpha: float = 1.0) -> None:
        super().__init__(tasks, of=of)
        check_finite(alpha, "alpha", "AlphaFair")
        self.alpha = alpha
        if alpha > 1 and self.inner.refuses_negative:
            raise OptionError(
                f"AlphaFair: of={of!r} cannot have alpha = {alpha:g}: above 1 the transformed loss l^(1−α)/(1−α) is "
                f"negative whatever the loss, and {self.inner.refuses_negative}. Choose an alpha below 1"
            )

    @property
    def descent(self) -> bool:  # pyrefly: ignore[bad-override]
        """As the inner method: the factors are positive."""
        return self.inner.descent

    @property
    def homogeneity(self) -> float | None:  # pyrefly: ignore[bad-override]
        """As the inner method, at the same losses."""
        return self.inner.homogeneity

    @property
    def relative(self) -> bool:  # pyrefly: ignore[bad-override]
        """The transform itself needs the losses it is the transform of."""
        return False

    @property
    def refuses_negative(self) -> str:  # pyrefly: ignore[bad-override]
        """The transform takes powers of losses, except at α = 0."""
        return self.inner.refuses_negative if self.alpha == 0 else "the transform takes powers of losses"

    def decide(self, jacobian: Jacobian) -> Decision:
        """The inner method on the transformed losses, its weights in terms of the losses themselves."""
        scale, transformed = self._factors(jacobian.values)
        scaled = ScaledJacobian(jacobian, scale, transformed)
        if jacobian.second is not None:
            scaled.second = ScaledJacobian(jacobian.second, *self._factors(jacobian.second.values))
        decision = self.inner._decide(scaled)
        factors = scale.numpy()
        decision.weights = decision.weights * factors
        decision.head_weights = decision.head_weights * factors
        if decision.gramian is not None:
            decision.gramian = decision.gramian / scale / scale[:, None]
        if decision.outcome != "skipped":
            self._head_weights = decision.head_weights
        return decision

    def own_objective(self, values: Tensor) -> Tensor | None:
        """What the inner method's parameters minimise, on the transformed losses."""
        return self.inner.own_objective(self._seen(values))

    def accumulate_own(self, values: Tensor, scale: float = 1.0) -> None:
        """Add to ``.grad`` of the inner method's parameters."""
        self.inner.accumulate_own(self._seen(values), scale)

    def after_step(self, losses: Losses | Callable[[], Losses]) -> None:
        """Hand the transformed losses after the optimiser's step to the inner method."""

        def transformed() -> Losses:
            found = losses() if callable(losses) else losses
            names = list(found) if isinstance(found, Mapping) else None
            seen = self._seen(self._reduce.mean(loss_values(found, self.num_tasks, "AlphaFair")))
            return seen if names is None else dict(zip(names, seen, strict=True))

        self.inner.after_step(transformed)

    def _seen(self, values: Tensor) -> Tensor:
        """What the inner method is told the losses are."""
        return values if self.inner.relative else self._transform(values.double().cpu())

    def _transform(self, values: Tensor) -> Tensor:
        return values.log() if self.alpha == 1 else values ** (1.0 - self.alpha) / (1.0 - self.alpha)

    def _factors(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """l^(−α) and what the inner method is told the losses are, each (K,)."""
        if self.alpha != 0 and not bool((values > 0).all()):
            bad = ", ".join(f"{n!r} = {v:.6g}" for n, v in zip(self.tasks, values.tolist(), strict=True) if not v > 0)
            raise NonFiniteError(
                f"AlphaFair: the loss of {bad} is not positive, so l^(−α) is not defined for alpha = {self.alpha:g}. "
                "No gradient was written"
            )
        scale, seen = values**-self.alpha, self._seen(values)
        if not bool(torch.isfinite(scale).all() & torch.isfinite(seen).all() & (scale > 0).all()):
            raise NonFiniteError(
                f"AlphaFair: alpha = {self.alpha:g} takes losses {values.tolist()} out of float64's range. "
                "No gradient was written"
            )
        if self.inner.refuses_negative and not self.inner.relative and not bool((seen > 0).all()):
            bad = ", ".join(f"{n!r} = {v:.6g}" for n, v in zip(self.tasks, seen.tolist(), strict=True) if not v > 0)
            raise NonFiniteError(
                f"AlphaFair: with alpha = {self.alpha:g} the transformed loss of {bad} is not positive, and "
                f"{self.inner.refuses_negative}. Use an alpha below 1, or {self.of} without the transform. "
                "No gradient was written"
            )
        return scale, seen


@register("cr-mogm")
class CRMOGM(Wrapper):
    """CR-MOGM: an exponential moving average of any method's weights, w ← β w + (1 − β) ŵ.

    It damps the noise that single batches put on the weights. The average starts at the first step's weights. In the
    paper β grows to 1 as the learning rate falls. Methods without weights (GradDrop, MoCo) are refused.

    Args:
        tasks: The number of tasks, or their names.
        of: The method, with options in its spec.
        beta: β, at least 0 and below 1.

    References:
        Zhou et al., "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022.
    """

    reference = "Zhou et al., NeurIPS 2022"

    def __init__(self, tasks: int | Sequence[str], *, of: str = "mgda", beta: float = 0.9) -> None:
        super().__init__(tasks, of=of)
        check_between(beta, "beta", "CRMOGM", 0.0, 1.0, open_end=True)
        if self.inner.needs == "rows":
            raise OptionError(f"CRMOGM: of={of!r} has no weights that could be averaged: it mixes gradients otherwise")
        self.beta = beta

    @property
    def homogeneity(self) -> float | None:  # pyrefly: ignore[bad-override]
        """As the inner method, where all steps are scaled alike."""
        return self.inner.homogeneity

    def decide(self, jacobian: Jacobian) -> Decision:
        """The inner method's weights, averaged with those before."""
        last = None if self._weights is None or self._head_weights is None else (self._weights, self._head_weights)
        decision = self.inner._decide(jacobian)
        if decision.outcome == "skipped":
            return decision if last is None else replace(decision, weights=last[0], head_weights=last[1])
        if last is not None:
            decision.weights = self.beta * last[0] + (1.0 - self.beta) * decision.weights
            decision.head_weights = self.beta * last[1] + (1.0 - self.beta) * decision.head_weights
        self._head_weights = decision.head_weights
        return replace(decision, solution=None, cause=named_cause(decision, self.tasks))
