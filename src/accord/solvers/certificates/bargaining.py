"""The certificates of the bargaining methods: Nash-MTL, its published algorithm and FairGrad."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from accord.solvers.certificates.shapes import checked_pair, checked_square
from accord.solvers.scaling import SMALLEST_SQUARE


def fair_residual(gramian: ArrayLike, weights: ArrayLike, alpha: float = 1.0) -> float:
    """Max |w_i^(1/α)·(Gw)_i − 1| over the tasks with a gradient: Nash-MTL (α = 1) and FairGrad.

    For α = ∞ the condition is that of its limit: (Gw)_i = 1 where w_i > 0, and at least 1 elsewhere.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,).
        alpha: Positive, possibly infinite.
    """
    g, w = checked_pair(gramian, weights, "fair_residual")
    live = np.diagonal(g) > SMALLEST_SQUARE
    if not live.any():
        return 0.0
    supply = (g @ w)[live]
    w = w[live]
    if np.isinf(alpha):
        short = 1.0 - supply
        return float(np.where(w > 0, np.abs(short), np.maximum(short, 0.0)).max())
    return residual_of_fair(w, supply, alpha)


def residual_of_fair(w: np.ndarray, supply: np.ndarray, alpha: float) -> float:
    """``fair_residual`` from the weights and Gw of the tasks that have a gradient, for finite α."""
    if alpha == 1.0:
        return float(np.abs(w * supply - 1.0).max())
    with np.errstate(over="ignore", invalid="ignore"):
        residual = float(np.abs(np.power(np.maximum(w, 0.0), 1.0 / alpha) * supply - 1.0).max())
    return np.inf if np.isnan(residual) else residual


def ccp_objective(gramian: ArrayLike, weights: ArrayLike, first_term: bool = True) -> float:
    """The objective of Nash-MTL's Eq. 5, Σ_i (Gα)_i + Σ_i log α_i(Gα)_i, which its programs bring down step by step.

    Args:
        gramian: Shape (K, K), without zero rows.
        weights: Shape (K,), α, positive with Gα > 0.
        first_term: Whether the first sum is there.
    """
    g = checked_square(gramian, "ccp_objective")
    w = np.asarray(weights, np.float64)
    return objective_of_ccp(w, g @ w, np.full(len(g), float(first_term)))


def objective_of_ccp(u: np.ndarray, v: np.ndarray, norms: np.ndarray) -> float:
    """``ccp_objective`` from u = α·norms and v = Cu."""
    return float(norms @ v) + float((np.log(u) + np.log(v)).sum())


def ccp_gap(
    gramian: ArrayLike, at: ArrayLike | None, weights: ArrayLike, multipliers: ArrayLike, first_term: bool = True
) -> float:
    """The relative duality gap of one program of Nash-MTL's published algorithm (see ``ccp_program``).

    The program is min aᵀα + bᵀGα over α_i(Gα)_i ≥ 1 with a = 1/α_t and b = 1 + 1/(Gα_t). By the inequality of the
    means every p, q ≥ 0 with p + Gq = a + Gb bound its minimum from below by 2Σ√(p_i q_i). Multipliers λ give
    q = λ/(Gα), brought inside p ≥ 0. What the weights miss of the constraints counts with the gap.

    Args:
        gramian: Shape (K, K), without zero rows.
        at: Shape (K,), α_t; None for Eq. 4, where a = 0 and b = 1.
        weights: Shape (K,), α.
        multipliers: Shape (K,), λ, at least 0.
        first_term: Whether b has its 1.
    """
    g = checked_square(gramian, "ccp_gap")
    w, lam = np.asarray(weights, np.float64), np.asarray(multipliers, np.float64)
    ones = np.full(len(g), float(first_term))
    a, b = np.zeros(len(g)), ones
    if at is not None:
        point = np.asarray(at, np.float64)
        a, b = 1.0 / point, ones + 1.0 / (g @ point)
    missed = max(0.0, 1.0 - float((w * (g @ w)).min()))
    return gap_of_program(g, a, b, w, lam) + missed


def gap_of_program(c: np.ndarray, a: np.ndarray, b: np.ndarray, u: np.ndarray, lam: np.ndarray) -> float:
    """The relative duality gap of min aᵀu + bᵀv over u_i v_i ≥ 1, v = Cu > 0, with q = λ/v."""
    v = c @ u
    q = lam / v
    p = a + c @ (b - q)
    if p.min() < 0.0:  # towards a point strictly inside: a + t·v and b − t·u, for which p + Cq is the same
        t = 0.5 * float((b / u).min())
        inner = a + t * v
        share = float((-p / (inner - p)).max(where=p < 0.0, initial=0.0))
        p = np.maximum((1.0 - share) * p + share * inner, 0.0)
        q = (1.0 - share) * q + share * (b - t * u)
    value = float(a @ u + b @ v)
    return max(0.0, value - 2.0 * float(np.sqrt(p * q).sum())) / value
