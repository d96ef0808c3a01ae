"""Balancers whose weights follow from the Gramian: one solver each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from accord import solvers
from accord.balancers.base import Balancer, Decision, Heads, check_choice, check_number, check_positive, warn_numerical
from accord.balancers.randomness import Seeded
from accord.balancers.registry import register
from accord.errors import OptionError
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

    def decide(self, jacobian: Jacobian) -> Decision:
        """Solve for the weights, or reuse the last ones between two solves."""
        if self._weights is not None and self._age % self.update_every:
            self._age += 1
            return Decision(*self.last_weights(), outcome="reused", max_norm=self.max_norm)
        gramian = jacobian.gramian()
        if not bool(torch.isfinite(gramian).all()):
            finite = torch.isfinite(gramian.diagonal()).tolist()
            names = ", ".join(name for name, fine in zip(self.tasks, finite, strict=True) if not fine)
            cause = f"the gradients of {names} are not finite"
            warn_numerical(f"{type(self).__name__}: {cause}; the weights of the last step were kept")
            return Decision(*self.last_weights(), gramian, outcome="skipped", cause=cause)
        solution = self.solve(gramian.numpy())
        heads = np.ones(self.num_tasks) if self.heads == "plain" else solution.weights.copy()
        heads[list(solution.zero_rows)] = 1.0
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


@register("nash-mtl")
class NashMTL(GramianBalancer):
    """Nash-MTL: the Nash bargaining solution, G w = 1/w, solved exactly.

    The published code differs: it approximates the solution (up to 20 cone programs) and clips the shared
    gradient to norm 1, which is ``max_norm=1.0``; since ‖Jᵀw‖ = √K, that clips at every step. Nash-MTL-n of the
    paper's Section 6.4 is ``update_every=n``. Heads are weighted, as in the published code.

    Args:
        tasks: The number of tasks, or their names.
        update_every: Steps between two solves.
        max_norm: Clip the shared gradient to this norm.
        heads: ``"weighted"`` or ``"plain"``.

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv:2202.01017.
    """

    reference = "Navon et al., ICML 2022"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        update_every: int = 1,
        max_norm: float | None = None,
        heads: Heads = "weighted",
    ) -> None:
        super().__init__(tasks, heads=heads, update_every=update_every, max_norm=max_norm)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.nash``."""
        return solvers.nash(gramian)


@register("fairgrad")
class FairGrad(GramianBalancer):
    """FairGrad: the α-fair direction, G w = w^(−1/α), solved exactly.

    α = 1 is Nash-MTL, α = 0 linear scalarization, α = inf the max-min direction of MGDA. The published code
    multiplies the shared gradient by K (``times_k``) and clips it to norm 1 (``max_norm=1.0``); heads take their
    own gradients.

    Args:
        tasks: The number of tasks, or their names.
        alpha: Fairness, at least 0. The paper's experiments use 2.
        times_k: Multiply the shared gradient by K.
        update_every: Steps between two solves.
        max_norm: Clip the shared gradient to this norm.
        heads: ``"plain"`` or ``"weighted"``.

    References:
        Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv:2402.15638.
    """

    reference = "Ban and Ji, ICML 2024"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        alpha: float = 2.0,
        times_k: bool = False,
        update_every: int = 1,
        max_norm: float | None = None,
        heads: Heads = "plain",
    ) -> None:
        super().__init__(tasks, heads=heads, update_every=update_every, max_norm=max_norm)
        check_number(alpha, "alpha", "FairGrad", "1 is Nash-MTL, 2 the paper's choice", least=0.0)
        self.alpha = alpha
        self.times_k = times_k

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.fairgrad``."""
        return _scaled(solvers.fairgrad(gramian, self.alpha), self.times_k)


@register("mgda")
class MGDA(GramianBalancer):
    """MGDA: the minimum-norm point of the convex hull of the task gradients.

    The weights sum to 1, as in the papers; the code of the Nash-MTL experiments multiplies them by K
    (``times_k``). Heads are weighted, as in Sener and Koltun's code.

    Args:
        tasks: The number of tasks, or their names.
        times_k: Multiply the weights by K.
        update_every: Steps between two solves.
        max_norm: Clip the shared gradient to this norm.
        heads: ``"weighted"`` or ``"plain"``.

    References:
        Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, arXiv:1810.04650.
    """

    reference = "Sener and Koltun, NeurIPS 2018"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        times_k: bool = False,
        update_every: int = 1,
        max_norm: float | None = None,
        heads: Heads = "weighted",
    ) -> None:
        super().__init__(tasks, heads=heads, update_every=update_every, max_norm=max_norm)
        self.times_k = times_k

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.mgda``."""
        return _scaled(solvers.mgda(gramian), self.times_k)


@register("cagrad")
class CAGrad(GramianBalancer):
    """CAGrad: the direction within c‖g0‖ of the mean gradient that helps the worst-off task most.

    The published code divides it by 1 + c² (``rescale=1``) and multiplies it by K (``times_k``) in its supervised
    experiments; heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        c: Radius relative to ‖g0‖, at least 0; 0.4 in the supervised experiments, 0.9 on MT10.
        rescale: 0 (none), 1 (by 1 + c²) or 2 (by 1 + c).
        times_k: Multiply the shared gradient by K.
        update_every: Steps between two solves.
        max_norm: Clip the shared gradient to this norm.
        heads: ``"plain"`` or ``"weighted"``.

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, arXiv:2110.14048.
    """

    reference = "Liu et al., NeurIPS 2021"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        c: float = 0.4,
        rescale: int = 0,
        times_k: bool = False,
        update_every: int = 1,
        max_norm: float | None = None,
        heads: Heads = "plain",
    ) -> None:
        super().__init__(tasks, heads=heads, update_every=update_every, max_norm=max_norm)
        check_number(c, "c", "CAGrad", "the paper uses 0.4", least=0.0)
        if math.isinf(c):
            raise OptionError("CAGrad: c is infinite; for the max-min direction use MGDA")
        check_choice(rescale, (0, 1, 2), "rescale", "CAGrad")
        self.c = c
        self.rescale = rescale
        self.times_k = times_k

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.cagrad``."""
        return _scaled(solvers.cagrad(gramian, self.c, self.rescale), self.times_k)


@register("imtl-g")
class IMTLG(GramianBalancer):
    """IMTL-G: the direction with equal projections on all task gradients; weights sum to 1 and may be negative.

    Taken on the shared parameters' gradients, as in the published code; the paper takes it at the shared
    representation. Heads are weighted.

    Args:
        tasks: The number of tasks, or their names.
        update_every: Steps between two solves.
        max_norm: Clip the shared gradient to this norm.
        heads: ``"weighted"`` or ``"plain"``.

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021.
    """

    reference = "Liu et al., ICLR 2021"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        update_every: int = 1,
        max_norm: float | None = None,
        heads: Heads = "weighted",
    ) -> None:
        super().__init__(tasks, heads=heads, update_every=update_every, max_norm=max_norm)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.imtl_g``."""
        return solvers.imtl_g(gramian)


@register("pcgrad")
class PCGrad(Seeded, GramianBalancer):
    """PCGrad: each gradient projected off those it conflicts with, in random order, then summed.

    Some published code takes the mean (``reduction="mean"``). The order is drawn from a generator of the
    balancer's own. Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        reduction: ``"sum"`` or ``"mean"`` of the projected gradients.
        seed: Of the generator that draws the order.
        update_every: Steps between two solves.
        max_norm: Clip the shared gradient to this norm.
        heads: ``"plain"`` or ``"weighted"``.

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782.
    """

    reference = "Yu et al., NeurIPS 2020"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        reduction: str = "sum",
        seed: int = 0,
        update_every: int = 1,
        max_norm: float | None = None,
        heads: Heads = "plain",
    ) -> None:
        super().__init__(tasks, heads=heads, update_every=update_every, max_norm=max_norm)
        check_choice(reduction, ("sum", "mean"), "reduction", "PCGrad")
        self.reduction = reduction
        self.seed_with(seed)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.pcgrad`` with a random order."""
        k = self.num_tasks
        with self._generator.draw() as generator:
            order = torch.rand(k, k, generator=generator).argsort(dim=1).numpy()
        solution = solvers.pcgrad(gramian, order)
        return replace(solution, weights=solution.weights / k) if self.reduction == "mean" else solution


def _scaled(solution: Solution, times_k: bool) -> Solution:
    """The solution with its weights multiplied by K, on request."""
    return replace(solution, weights=len(solution.weights) * solution.weights) if times_k else solution
