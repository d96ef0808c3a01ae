"""The residual of each method's own definition, computed from the Gramian and the weights alone.

A certificate knows nothing of how the weights were found, so it checks accord's solvers and anyone else's.
All are relative and dimensionless; 0 is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import ShapeError
from accord.solvers.scaling import SMALLEST_SQUARE


def fair_residual(gramian: ArrayLike, weights: ArrayLike, alpha: float = 1.0) -> float:
    """Max |w_i^(1/α)·(Gw)_i − 1| over the tasks with a gradient: Nash-MTL (α = 1) and FairGrad.

    For α = ∞ the condition is that of its limit: (Gw)_i = 1 where w_i > 0, and at least 1 elsewhere.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,).
        alpha: Positive, possibly infinite.
    """
    g, w = _pair(gramian, weights, "fair_residual")
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


def mgda_gap(gramian: ArrayLike, weights: ArrayLike) -> float:
    """The relative duality gap (wᵀGw − min_i (Gw)_i) / wᵀGw of the minimum-norm point of the convex hull.

    With weights on the simplex, the minimum of ½‖Σ w_k g_k‖² is at most this far below, relatively. Weights
    off the simplex count with their distance from it.
    """
    g, w = _pair(gramian, weights, "mgda_gap")
    supply = g @ w
    square = float(w @ supply)
    infeasible = abs(float(w.sum()) - 1.0) + max(0.0, -float(w.min()))
    if square <= 0.0:
        return infeasible
    return max(0.0, (square - float(supply.min())) / square) + infeasible


def cagrad_gap(gramian: ArrayLike, simplex: ArrayLike, c: float) -> float:
    """CAGrad's relative optimality gap: dual value less primal value, over the size of the terms.

    The dual is F(x) = g_xᵀg0 + c‖g0‖‖g_x‖ on the simplex; the primal is min_i g_iᵀd at
    d = g0 + c‖g0‖·g_x/‖g_x‖. Weak duality makes the difference an upper bound of the error.

    Args:
        gramian: Shape (K, K).
        simplex: Shape (K,), the dual weights x.
        c: Radius relative to ‖g0‖, at least 0.
    """
    g, x = _pair(gramian, simplex, "cagrad_gap")
    mean = g @ np.full(len(g), 1.0 / len(g))  # (K,): g_iᵀg0
    radius = c * float(np.sqrt(max(0.0, float(mean.mean()))))
    return gap_of_cagrad(g, x, mean, radius)


def gap_of_cagrad(g: np.ndarray, x: np.ndarray, mean: np.ndarray, radius: float) -> float:
    """``cagrad_gap`` from the products g_iᵀg0, shape (K,), and the radius c‖g0‖."""
    supply = g @ x
    length = float(np.sqrt(max(0.0, float(x @ supply))))
    linear = float(x @ mean)
    size = abs(linear) + radius * length
    infeasible = abs(float(x.sum()) - 1.0) + max(0.0, -float(x.min()))
    if size == 0.0 or length == 0.0:
        return infeasible
    primal = float((mean + radius / length * supply).min())
    return max(0.0, linear + radius * length - primal) / size + infeasible


def imtl_g_spread(gramian: ArrayLike, weights: ArrayLike) -> float:
    """max_i |p_i/p̄ − 1| of the projections p_i = dᵀg_i/‖g_i‖ that IMTL-G makes equal."""
    g, w = _pair(gramian, weights, "imtl_g_spread")
    norms = np.sqrt(np.diagonal(g))
    live = norms > np.sqrt(SMALLEST_SQUARE)
    if not live.any():
        return 0.0
    projections = (g @ w)[live] / norms[live]
    mean = float(projections.mean())
    largest = float(np.abs(projections).max())
    return float(np.abs(projections - mean).max()) / abs(mean) if mean else float(largest > 0)


def pcgrad_residual(gramian: ArrayLike, weights: ArrayLike, order: Sequence[Sequence[int]]) -> float:
    """How far the weights are from PCGrad's own recursion, run anew with projections in the given order.

    Each gradient is projected, one conflict at a time, off the plane of the gradient it conflicts with. The
    result is max_i |Σ_k Δw_k g_kᵀg_i| / (‖g_i‖ Σ_k |w_k| ‖g_k‖): the difference between the two directions.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,).
        order: ``order[i]`` lists the tasks that gradient i is projected against, in turn.
    """
    g, w = _pair(gramian, weights, "pcgrad_residual")
    norms = np.sqrt(np.diagonal(g))
    total = np.zeros(len(g))
    for i, others in enumerate(order):
        own = np.zeros(len(g))
        own[i] = 1.0
        for j in others:
            product = float(own @ g[:, j])
            if j != i and product < 0.0:
                own[j] -= product / g[j, j]
        total += own
    size = float(np.abs(w) @ norms)
    live = norms > 0
    if size == 0.0:
        return 0.0
    return float(np.abs((w - total) @ g[:, live] / norms[live]).max(initial=0.0)) / size


def _pair(gramian: ArrayLike, weights: ArrayLike, caller: str) -> tuple[np.ndarray, np.ndarray]:
    g, w = np.asarray(gramian, np.float64), np.asarray(weights, np.float64)
    if g.ndim != 2 or g.shape != (len(g), len(g)) or w.shape != (len(g),):
        raise ShapeError(f"{caller}: a Gramian (K, K) and weights (K,) are needed, got {g.shape} and {w.shape}")
    return g, w
