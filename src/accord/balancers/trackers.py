"""MoCo and DB-MTL: moving averages of the task gradients, kept from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Balancer, Decision, Heads
from accord.balancers.gramian import skip_unless_finite
from accord.balancers.options import (
    check_between,
    check_flag,
    check_number,
    check_positive,
    require_positive,
)
from accord.balancers.registry import register
from accord.errors import EngineError, ShapeError
from accord.jacobian import Jacobian
from accord.solvers.simplex import descend_on_simplex

Rows = list[Tensor | None]


class RowTracker(Balancer):
    """A balancer with a moving average of the K task gradients: K times the shared parameters in memory, in float32.

    The average lies on the parameters' device and is replaced at each step, never changed in place.
    """

    needs = "rows"

    def __init__(self, tasks: int | Sequence[str]) -> None:
        super().__init__(tasks)
        self._rows: Rows | None = None
        self._count = 0
        self._shards = (0, 1)

    def track(self, jacobian: Jacobian, rows: Rows, keep: float) -> Rows:
        """keep·(last average) + (1 − keep)·rows, from an average of zero at first; it becomes the new one.

        Raises:
            ShapeError: The rows have other shapes than those tracked so far.
            EngineError: The averages are of shards over another number of processes.
        """
        reduce = jacobian.reduce
        shards = (reduce.rank, reduce.size) if reduce.parts else (0, 1)
        error = None
        if self._rows is not None and self._shards != shards:
            error = EngineError(
                f"{type(self).__name__}: the averages are those of shard {self._shards[0] + 1} of {self._shards[1]}, "
                f"but this process holds shard {shards[0] + 1} of {shards[1]}: state of sharded parameters belongs "
                "to one process, of one number of them. Load each rank's own, or reset() to average anew"
            )
        if reduce.parts or error is not None:
            reduce.agree(type(self).__name__, error)
        self._shards = shards
        if self._rows is None:
            self._rows = [None] * len(rows)
        pairs = list(zip(self._rows, rows, strict=False))
        changed = any(a is not None and b is not None and a.shape != b.shape for a, b in pairs)
        if changed or len(rows) != len(self._rows):
            raise ShapeError(
                f"{type(self).__name__}: the gradients of this step have shapes {[_shape(b) for b in rows]}, those "
                f"tracked so far {[_shape(a) for a in self._rows]}: the shared parameters (or features, for instance "
                "in a smaller last batch) must keep their shapes; reset() starts anew"
            )
        self._rows = [_average(a, b, keep) for a, b in zip(self._rows, rows, strict=True)]
        self._count += 1
        return self._rows

    def combined(self, rows: Rows, weights: np.ndarray) -> Rows:
        """Σ_k w_k · row k, one tensor per shared parameter."""
        w = torch.from_numpy(weights)
        return [None if block is None else torch.einsum("k,k...->...", w.to(block), block) for block in rows]

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._rows, self._count = None, 0

    def own_state(self) -> dict[str, Any]:
        """The averages, one block (K, *shape) per shared parameter, and how many steps they hold."""
        rows = None if self._rows is None else list(self._rows)
        return {"rows": rows, "count": self._count, "shards": list(self._shards)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the averages; they move to the parameters' device at the next step."""
        self._rows = None if state["rows"] is None else list(state["rows"])
        self._count = int(state["count"])
        rank, size = state["shards"]
        self._shards = (int(rank), int(size))


@register("moco")
class MoCo(RowTracker):
    """MoCo: the min-norm weights by projected steps on moving averages of the gradients, whose noise dies out.

    Y ← Y − β_t(Y − J), λ ← Π(λ − γ_t(YYᵀ + ρI)λ), d = Yᵀλ with β_t = β/t^σ_β and γ_t = γ/t^σ_γ. One library replaces
    the projection by a softmax and each gradient's norm by its loss (``scale_to_loss`` is the latter). Heads take
    their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        beta: β, step size of the averages, above 0 and at most 1.
        beta_sigma: How fast it falls.
        gamma: γ, step size of the weights.
        gamma_sigma: How fast it falls.
        rho: Regularisation towards the centre of the simplex.
        scale_to_loss: Give each gradient its loss as its norm before averaging; losses must be positive.

    References:
        Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach",
        ICLR 2023, arXiv:2210.12624.
    """

    reference = "Fernando et al., ICLR 2023"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
        scale_to_loss: bool = False,
    ) -> None:
        super().__init__(tasks)
        check_positive(beta, "beta", "MoCo")
        check_between(beta, "beta", "MoCo", 0.0, 1.0)
        check_positive(gamma, "gamma", "MoCo")
        for name, value in (("beta_sigma", beta_sigma), ("gamma_sigma", gamma_sigma), ("rho", rho)):
            check_number(value, name, "MoCo", "it is 0 for a constant", least=0.0)
        check_flag(scale_to_loss, "scale_to_loss", "MoCo")
        self.beta, self.beta_sigma, self.gamma, self.gamma_sigma = beta, beta_sigma, gamma, gamma_sigma
        self.rho, self.scale_to_loss = rho, scale_to_loss
        self.heads: Heads = "plain"
        self._simplex = self._centre()

    def decide(self, jacobian: Jacobian) -> Decision:
        """Average the rows, move the weights, combine the averages."""
        gramian = jacobian.gramian()
        skipped = skip_unless_finite(self, gramian)
        if skipped is not None:
            return skipped
        rows = jacobian.rows()
        if self.scale_to_loss:
            why = "scale_to_loss=True makes it the norm of its gradient"
            values = require_positive(jacobian.values.numpy(), self.tasks, "MoCo", why)
            norms = np.sqrt(np.diagonal(gramian.numpy()))
            rows = scaled_rows(rows, np.where(norms > 0.0, values / np.where(norms > 0.0, norms, 1.0), 0.0))
        step = self._count + 1
        tracked = self.track(jacobian, rows, 1.0 - self.beta / step**self.beta_sigma)
        products = jacobian.products(tracked, tracked).numpy() + self.rho * np.eye(self.num_tasks)
        self._simplex = descend_on_simplex(products, self._simplex, step=self.gamma / step**self.gamma_sigma)
        directions = self.combined(tracked, self._simplex)
        return Decision(self._simplex, np.ones(self.num_tasks), gramian, directions=directions)

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights on the simplex, and ones for the heads."""
        return self._simplex, np.ones(self.num_tasks)

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._simplex = self._centre()

    def own_state(self) -> dict[str, Any]:
        """The averages and the weights."""
        return {**super().own_state(), "simplex": torch.from_numpy(self._simplex.copy())}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the averages and the weights."""
        super().load_own_state(state)
        self._simplex = state["simplex"].numpy().copy()

    def _centre(self) -> np.ndarray:
        return np.full(self.num_tasks, 1.0 / self.num_tasks)


@register("db-mtl")
class DBMTL(RowTracker):
    """DB-MTL: the gradients of the log-losses, averaged over the steps and brought to the norm of the longest.

    b_k ← β_t b_k + (1 − β_t) ∇log l_k with β_t = β/t^σ, d = Σ_k (max_j ‖b_j‖/‖b_k‖) b_k. With ``beta=0`` no average is
    kept, and weights describe the step. Heads take the gradients of the log-losses. Losses must be positive.

    Args:
        tasks: The number of tasks, or their names.
        beta: β, at least 0 and below 1.
        beta_sigma: How fast it falls.

    References:
        Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, arXiv:2308.12029.
    """

    reference = "Lin et al., 2023"
    refuses_negative = "the method takes the logarithm of losses"

    def __init__(self, tasks: int | Sequence[str], *, beta: float = 0.9, beta_sigma: float = 0.0) -> None:
        super().__init__(tasks)
        check_between(beta, "beta", "DBMTL", 0.0, 1.0, open_end=True)
        check_number(beta_sigma, "beta_sigma", "DBMTL", "it is 0 for a constant", least=0.0)
        self.beta = beta
        self.beta_sigma = beta_sigma
        self.heads: Heads = "plain"
        self._head_weights: np.ndarray | None = None

    @property
    def needs(self) -> str:  # pyrefly: ignore[bad-override]
        """Without an average the Gramian is enough."""
        return "gramian" if self.beta == 0 else "rows"

    def decide(self, jacobian: Jacobian) -> Decision:
        """Average the rows of the log-losses and bring them to one norm."""
        why = "the method balances log-losses"
        inverse = 1.0 / require_positive(jacobian.values.numpy(), self.tasks, "DBMTL", why)
        gramian = jacobian.gramian()
        skipped = skip_unless_finite(self, gramian)
        if skipped is not None:
            return skipped
        self._head_weights = inverse
        if self.beta == 0:
            factors = equal_norms(np.diagonal(gramian.numpy()) * inverse**2)
            return Decision(factors * inverse, inverse, gramian)
        rows = scaled_rows(jacobian.rows(), inverse)
        tracked = self.track(jacobian, rows, self.beta / (self._count + 1) ** self.beta_sigma)
        factors = equal_norms(np.diagonal(jacobian.products(tracked, tracked).numpy()))
        return Decision(factors * inverse, inverse, gramian, directions=self.combined(tracked, factors))

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; ones before the first step."""
        weights, _ = super().last_weights()
        return weights, np.ones(self.num_tasks) if self._head_weights is None else self._head_weights

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._head_weights = None

    def own_state(self) -> dict[str, Any]:
        """The averages, and the heads' last weights."""
        heads = None if self._head_weights is None else torch.from_numpy(self._head_weights.copy())
        return {**super().own_state(), "head_weights": heads}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the averages, and the heads' last weights."""
        super().load_own_state(state)
        heads = state["head_weights"]
        self._head_weights = None if heads is None else heads.numpy().copy()


def equal_norms(squares: np.ndarray) -> np.ndarray:
    """The factors that bring rows of squared norms (K,) to the longest one's norm; 0 for a row of zeros."""
    norms = np.sqrt(squares)
    return np.where(norms > 0.0, norms.max() / np.where(norms > 0.0, norms, 1.0), 0.0)


def scaled_rows(rows: Rows, factors: np.ndarray) -> Rows:
    """Row k times factor k, in at least float32."""
    scaled: Rows = []
    for block in rows:
        if block is not None:
            block = block.to(torch.promote_types(block.dtype, torch.float32))
            block = block * torch.from_numpy(factors).to(block).reshape(-1, *[1] * (block.ndim - 1))
        scaled.append(block)
    return scaled


def _average(old: Tensor | None, new: Tensor | None, keep: float) -> Tensor | None:
    if new is None:
        return None if old is None else keep * old
    new = new.detach().to(torch.promote_types(new.dtype, torch.float32))
    return (1.0 - keep) * new if old is None else keep * old.to(new) + (1.0 - keep) * new


def _shape(block: Tensor | None) -> tuple[int, ...] | None:
    return None if block is None else tuple(block.shape)
