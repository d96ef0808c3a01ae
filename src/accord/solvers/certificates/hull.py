"""The certificates of the methods on the convex hull of the gradients: MGDA and CAGrad."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from accord.solvers.certificates.shapes import checked_pair


def mgda_gap(gramian: ArrayLike, weights: ArrayLike) -> float:
    """The relative duality gap (wᵀGw − min_i (Gw)_i) / wᵀGw of the minimum-norm point of the convex hull.

    With weights on the simplex, the minimum of ½‖Σ w_k g_k‖² is at most this far below, relatively. Weights
    off the simplex count with their distance from it.
    """
    g, w = checked_pair(gramian, weights, "mgda_gap")
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
    g, x = checked_pair(gramian, simplex, "cagrad_gap")
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
