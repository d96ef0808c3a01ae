"""SDMGrad and MoDo: the min-norm weights by steps on noisy gradients, unbiased with the gradients of two batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from accord.balancers.base import Balancer, Decision, Heads
from accord.balancers.gramian import skip_unless_finite
from accord.balancers.options import check_between, check_choice, check_flag, check_number, check_positive
from accord.balancers.registry import register
from accord.jacobian import Jacobian
from accord.solvers.simplex import descend_on_simplex

ONE_BATCH = "one batch was given, so the noise of its gradients biases the weights; second= takes another one's losses"


class TwoBatchBalancer(Balancer):
    """Weights on the simplex that move a little at every step, against the products of two batches' gradients.

    With one batch alone the diagonal of the Gramian holds the variance of the gradients too, which the products of two
    independent batches, ``backward(losses, shared, second=losses_of_another_batch)``, do not. Without ``second`` the
    one Gramian is used, and the balance's cause says so. The direction is that of the first batch; the published
    algorithms draw a third. A task without a gradient is the shortest of all, so that the weights go to it and the
    shared gradient vanishes, as the definition has it: the cause names it.
    """

    needs = "cross-gramian"

    def __init__(self, tasks: int | Sequence[str], *, heads: Heads) -> None:
        super().__init__(tasks)
        check_choice(heads, ("weighted", "plain"), "heads", type(self).__name__)
        self.heads = heads
        self._simplex = self._centre()

    def move(self, simplex: np.ndarray, products: np.ndarray) -> np.ndarray:
        """The next point of the simplex (K,) from the (cross-)Gramian (K, K)."""
        raise TypeError(f"{type(self).__name__} does not say how it moves: implement move(simplex, products)")

    def direct(self, simplex: np.ndarray) -> np.ndarray:
        """The weights of the gradients (K,) from the point of the simplex."""
        return simplex

    def decide(self, jacobian: Jacobian) -> Decision:
        """One move on the simplex, and the direction there."""
        other = jacobian.second
        products = jacobian.gramian() if other is None else jacobian.cross_gramian(other)
        skipped = skip_unless_finite(self, products)
        if skipped is not None:
            return skipped
        self._simplex = self.move(self._simplex, products.numpy())
        weights = self.direct(self._simplex)
        gramian = products if other is None else None
        causes = [ONE_BATCH] if other is None else []
        reached = (products != 0).any(0) | (products != 0).any(1)
        if not bool(reached.all()):
            names = ", ".join(name for name, live in zip(self.tasks, reached.tolist(), strict=True) if not live)
            causes.append(f"zero gradient of {names}, which draws the weights away from the other tasks")
        return Decision(weights, self._of_heads(weights), gramian, cause="; ".join(causes))

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; the centre's before the first step."""
        weights = self.direct(self._simplex)
        return weights, self._of_heads(weights)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._simplex = self._centre()

    def own_state(self) -> dict[str, Any]:
        """The point of the simplex."""
        return {"simplex": torch.from_numpy(self._simplex.copy())}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the point of the simplex."""
        self._simplex = state["simplex"].numpy().copy()

    def _centre(self) -> np.ndarray:
        return np.full(self.num_tasks, 1.0 / self.num_tasks)

    def _of_heads(self, weights: np.ndarray) -> np.ndarray:
        return weights if self.heads == "weighted" else np.ones(self.num_tasks)


@register("modo")
class MoDo(TwoBatchBalancer):
    """MoDo: one projected step of the min-norm weights a training step, λ ← Π(λ − γ(J₁J₂ᵀλ + ρλ)).

    γ is no pure number: it goes with the reciprocal of squared gradient norms. The paper has no ρ; its code and other
    libraries use γ = 0.1 and ρ = 0.1 by default, and 0.001 for γ on NYUv2. The published code leaves heads unweighted.

    Args:
        tasks: The number of tasks, or their names.
        gamma: Step size γ of the weights.
        rho: Regularisation ρ towards the centre of the simplex.
        heads: ``"plain"`` or ``"weighted"``.

    References:
        Chen et al., "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
        Conflict-Avoidance", NeurIPS 2023, arXiv:2305.20057.
    """

    reference = "Chen et al., NeurIPS 2023"

    def __init__(
        self, tasks: int | Sequence[str], *, gamma: float = 0.1, rho: float = 0.0, heads: Heads = "plain"
    ) -> None:
        super().__init__(tasks, heads=heads)
        check_positive(gamma, "gamma", "MoDo")
        check_number(rho, "rho", "MoDo", "the paper's value is 0", least=0.0)
        self.gamma = gamma
        self.rho = rho

    def move(self, simplex: np.ndarray, products: np.ndarray) -> np.ndarray:
        """One projected step."""
        regularised = products + self.rho * np.eye(len(simplex))
        return descend_on_simplex(regularised, simplex, step=self.gamma)


@register("sdmgrad")
class SDMGrad(TwoBatchBalancer):
    """SDMGrad: the min-norm direction drawn towards the mean gradient, d = (g_w + λ g₀)/(1 + λ).

    w follows the minimum of ½‖g_w + λ g₀‖² on the simplex by a few projected steps with momentum at each training
    step, on the gradients divided by their mean norm, as in the published code, which also multiplies the direction by
    K (``times_k``) and leaves heads unweighted. λ = 0 tends to MGDA, a large λ to the mean gradient.

    Args:
        tasks: The number of tasks, or their names.
        lam: λ, at least 0; 0.3 on NYUv2 and 0.6 on MT10 in the published runs.
        lr: Step size of the weights.
        momentum: Of these steps; it starts anew at each training step.
        inner_steps: How many there are at a training step.
        times_k: Multiply the shared gradient by K.
        heads: ``"plain"`` or ``"weighted"``.

    References:
        Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms",
        NeurIPS 2023, arXiv:2305.18409.
    """

    reference = "Xiao et al., NeurIPS 2023"
    homogeneity = 0.0

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        lam: float = 0.3,
        lr: float = 10.0,
        momentum: float = 0.5,
        inner_steps: int = 20,
        times_k: bool = False,
        heads: Heads = "plain",
    ) -> None:
        check_number(lam, "lam", "SDMGrad", "the paper's experiments use 0.3 and 0.6", least=0.0)
        check_positive(lr, "lr", "SDMGrad")
        check_between(momentum, "momentum", "SDMGrad", 0.0, 1.0, open_end=True)
        check_positive(inner_steps, "inner_steps", "SDMGrad", integer=True)
        check_flag(times_k, "times_k", "SDMGrad")
        self.lam, self.lr, self.momentum = lam, lr, momentum
        self.inner_steps, self.times_k = inner_steps, times_k
        super().__init__(tasks, heads=heads)

    def move(self, simplex: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Projected steps with momentum on the products over the mean norm's square."""
        scale = float(np.sqrt(np.maximum(np.diagonal(products), 0.0)).mean())
        if scale == 0.0:
            return simplex
        products = products / scale / scale
        return descend_on_simplex(
            products,
            simplex,
            step=self.lr,
            steps=self.inner_steps,
            shift=self.lam * products.mean(axis=1),
            momentum=self.momentum,
        )

    def direct(self, simplex: np.ndarray) -> np.ndarray:
        """(w + λ/K)/(1 + λ), times K on request."""
        weights = (simplex + self.lam / self.num_tasks) / (1.0 + self.lam)
        return self.num_tasks * weights if self.times_k else weights
