"""The base of all balancers whose weights follow from the Gramian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Balancer, Decision, Heads
from accord.balancers.options import check_choice, check_positive, warn_numerical
from accord.jacobian import Jacobian
from accord.solvers import Solution


class GramianBalancer(Balancer):
    """A balancer around a solver of the Gramian.

    Options that every Gramian method has:

    Args:
        tasks: The number of tasks, or their names.
        heads: ``"weighted"`` multiplies the heads' gradients by their task's weight, as back-propagating the
            weighted loss does; ``"plain"`` gives each head its own gradient. A task with a zero gradient on the
            shared parameters always trains its head with weight 1.
        update_every: Solve at every n-th step and reuse the weights in between. The steps in between walk the shared
            part of the graph once: neither the K vector-Jacobian products nor the solver run.
        max_norm: Clip the shared gradient to this norm, after weighting; None does not clip.
    """

    needs = "gramian"

    def __init__(
        self, tasks: int | Sequence[str], *, heads: Heads, update_every: int = 1, max_norm: float | None = None
    ) -> None:
        super().__init__(tasks)
        check_choice(heads, ("weighted", "plain"), "heads", type(self).__name__)
        check_positive(update_every, "update_every", type(self).__name__, integer=True)
        if max_norm is not None:
            check_positive(max_norm, "max_norm", type(self).__name__)
        self.heads = heads
        self.update_every = update_every
        self.max_norm = max_norm
        self._age = 0
        self._head_weights: np.ndarray | None = None

    def solve(self, gramian: np.ndarray) -> Solution:
        """The method's weights for a Gramian (K, K)."""
        raise TypeError(f"{type(self).__name__} has no solver: implement solve(gramian)")

    def weigh(self, gramian: np.ndarray, values: np.ndarray) -> Solution:
        """The method's weights for a Gramian (K, K) and losses (K,); may change the method's state."""
        del values
        return self.solve(gramian)

    def weigh_heads(self, solution: Solution, values: np.ndarray) -> np.ndarray:
        """Weights (K,) of the heads' gradients; a task without a shared gradient trains its head with weight 1."""
        del values
        heads = np.ones(self.num_tasks) if self.heads == "plain" else solution.weights.copy()
        heads[list(solution.zero_rows)] = 1.0
        return heads

    def decide(self, jacobian: Jacobian) -> Decision:
        """Solve for the weights, or reuse the last ones between two solves."""
        if self._weights is not None and self._age % self.update_every:
            self._age += 1
            return Decision(*self.last_weights(), outcome="reused", max_norm=self.max_norm)
        gramian = jacobian.gramian()
        skipped = skip_unless_finite(self, gramian)
        if skipped is not None:
            return skipped
        values = jacobian.values.numpy()
        solution = self.weigh(gramian.numpy(), values)
        heads = self.weigh_heads(solution, values)
        self._age = 1
        self._head_weights = heads
        return Decision(
            solution.weights, heads, gramian, solution, solution.outcome, solution.cause, max_norm=self.max_norm
        )

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; ones before the first step."""
        weights, _ = super().last_weights()
        return weights, np.ones(self.num_tasks) if self._head_weights is None else self._head_weights

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._age = 0
        self._head_weights = None

    def own_state(self) -> dict[str, Any]:
        """The age of the weights, and those of the heads."""
        heads = None if self._head_weights is None else torch.from_numpy(self._head_weights.copy())
        return {"age": self._age, "head_weights": heads}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the age of the weights, and those of the heads."""
        heads = state["head_weights"]
        self._age = int(state["age"])
        self._head_weights = None if heads is None else heads.numpy().copy()


def skip_unless_finite(balancer: Balancer, gramian: Tensor) -> Decision | None:
    """Where a gradient is not finite, the decision to keep the last weights, so that it shows in ``.grad``."""
    if bool(torch.isfinite(gramian).all()):
        return None
    finite = torch.isfinite(gramian.diagonal()).tolist()
    names = ", ".join(name for name, fine in zip(balancer.tasks, finite, strict=True) if not fine)
    cause = f"the gradients of {names} are not finite"
    warn_numerical(f"{type(balancer).__name__}: {cause}; the weights of the last step were kept")
    return Decision(*balancer.last_weights(), gramian, outcome="skipped", cause=cause)


def times_k(solution: Solution, wanted: bool) -> Solution:
    """The solution with its weights multiplied by K, on request."""
    return replace(solution, weights=len(solution.weights) * solution.weights) if wanted else solution
