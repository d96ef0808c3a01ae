"""Nash-MTL and FairGrad: the α-fair bargaining solutions of the task gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch

from accord import solvers
from accord.balancers.base import Heads
from accord.balancers.gramian import GramianBalancer, GramianOptions, times_k
from accord.balancers.options import check_choice, check_flag, check_number, check_positive, warn_option
from accord.balancers.registry import register
from accord.solvers import Solution


@register("nash-mtl")
class NashMTL(GramianBalancer):
    """Nash-MTL: the Nash bargaining solution, G w = 1/w, solved exactly.

    The published code differs: it approximates the solution by a sequence of up to 20 convex programs, started from
    the last step's weights, which is ``solver="ccp"`` (here with each program solved to optimality), and clips the
    shared gradient to norm 1, which is ``max_norm=1.0``; since ‖Jᵀw‖ = √K, that clips at every step. Nash-MTL-n of the
    paper's Section 6.4 is ``update_every=n``. Heads are weighted, as in the published code.

    Args:
        tasks: The number of tasks, or their names.
        solver: ``"exact"``, or ``"ccp"``, the paper's Section 3.2.
        ccp_steps: Convex programs a solve, with ``solver="ccp"`` (the paper's Section D.2 compares 1 and 20).
        first_term: Whether their objective has the term Σ_i (Gw)_i (Section D.3 leaves it out).
        heads: ``"weighted"`` or ``"plain"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv:2202.01017.
    """

    reference = "Navon et al., ICML 2022"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        solver: str = "exact",
        ccp_steps: int = 20,
        first_term: bool = True,
        heads: Heads = "weighted",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_choice(solver, ("exact", "ccp"), "solver", "NashMTL")
        check_positive(ccp_steps, "ccp_steps", "NashMTL", integer=True)
        check_flag(first_term, "first_term", "NashMTL")
        if solver == "exact" and (ccp_steps != 20 or not first_term):
            warn_option("NashMTL: ccp_steps and first_term have no effect without solver='ccp'")
        self.solver = solver
        self.ccp_steps = ccp_steps
        self.first_term = first_term
        self._start: np.ndarray | None = None

    @property
    def descent(self) -> bool:  # pyrefly: ignore[bad-override]
        """Every utility gᵀd = 1/w is positive."""
        return self.solver == "exact" and not self.estimated

    @property
    def homogeneity(self) -> float | None:  # pyrefly: ignore[bad-override]
        """Weights fall as gradients grow, so that ‖d‖ = √K; the published start and objective are not scale-free."""
        return -1.0 if self.solver == "exact" else None

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.nash``, or ``nash_ccp`` from the last solve's weights."""
        if self.solver == "exact":
            return solvers.nash(gramian)
        solution = solvers.nash_ccp(gramian, self._start, self.ccp_steps, self.first_term)
        if solution.outcome in ("solved", "approximate"):
            self._start = solution.weights
        return solution

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._start = None

    def own_state(self) -> dict[str, Any]:
        """The last solve's weights, from which the published solver starts."""
        start = None if self._start is None else torch.from_numpy(self._start.copy())
        return {**super().own_state(), "start": start}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the last solve's weights."""
        super().load_own_state(state)
        self._start = None if state["start"] is None else state["start"].numpy().copy()


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
        heads: ``"plain"`` or ``"weighted"``.
        **common: ``update_every``, ``budget``, ``max_norm`` and the estimates ``gramian_*``: see ``GramianBalancer``.

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
        heads: Heads = "plain",
        **common: Unpack[GramianOptions],
    ) -> None:
        super().__init__(tasks, heads=heads, **common)
        check_number(alpha, "alpha", "FairGrad", "1 is Nash-MTL, 2 the paper's choice", least=0.0, infinite=True)
        check_flag(times_k, "times_k", "FairGrad")
        self.alpha = alpha
        self.times_k = times_k

    @property
    def descent(self) -> bool:  # pyrefly: ignore[bad-override]
        """Every utility gᵀd = w^(−1/α) is positive, unless α = 0 makes it the plain sum."""
        return self.alpha > 0 and not self.estimated

    @property
    def homogeneity(self) -> float | None:  # pyrefly: ignore[bad-override]
        """From G w = w^(−1/α): −2α/(1 + α)."""
        return -2.0 if self.alpha == float("inf") else -2.0 * self.alpha / (1.0 + self.alpha)

    def solve(self, gramian: np.ndarray) -> Solution:
        """``accord.solvers.fairgrad``."""
        return times_k(solvers.fairgrad(gramian, self.alpha), self.times_k)
