"""The certificates of the cone projections: UPGrad and DualProj."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import ShapeError
from accord.solvers.scaling import EPS, SMALLEST_SQUARE, VANISHING


def cone_residual(gramian: ArrayLike, wish: ArrayLike, weights: ArrayLike) -> float:
    """How far weights v are from min_v vᵀGv subject to v ≥ u: from projecting Jᵀu on {d : g_kᵀd ≥ 0 for all k}.

    At the solution each task has d = Jᵀv on its side, either with v_k = u_k or just so, g_kᵀd = 0. In units of
    length, the residual is

        max_k |min((v_k − u_k)·‖g_k‖, g_kᵀd/‖g_k‖)| / ‖d‖,

    0 exactly at the solution. No cosine between d and a task is below its negative. For N wishes whose projections
    are summed, as in UPGrad, d is the total and the N absolute values are summed; besides, each projection alone is
    held to Σ_k u_k‖g_k‖, the size of its wish, in the place of ‖d‖.

    Where d vanishes to within rounding, the largest (|G||v|)_k/‖g_k‖, the size of the terms that cancel, takes the
    place of ‖d‖. Tasks without a gradient are left out.

    Args:
        gramian: Shape (K, K).
        wish: u, shape (K,), or (N, K).
        weights: v, of the same shape.

    Raises:
        ShapeError: The shapes do not fit.

    Example:
        >>> from accord.solvers import cone_residual
        >>> cone_residual([[1.0, -0.5], [-0.5, 1.0]], [1.0, 0.0], [1.0, 0.5])
        0.0
    """
    g, u, v = np.asarray(gramian, np.float64), np.asarray(wish, np.float64), np.asarray(weights, np.float64)
    if g.ndim != 2 or g.shape[0] != g.shape[1] or u.ndim not in (1, 2) or u.shape[-1] != len(g) or v.shape != u.shape:
        raise ShapeError(
            "cone_residual: a Gramian (K, K) and a wish and weights of one shape (K,) or (N, K) are needed, "
            f"got {g.shape}, {u.shape} and {v.shape}"
        )
    live = np.diagonal(g) > SMALLEST_SQUARE
    norms = np.sqrt(np.diagonal(g)[live])
    cosines = g[np.ix_(live, live)] / norms[:, None] / norms
    v = np.atleast_2d(v)[:, live] * norms
    slack = v - np.atleast_2d(u)[:, live] * norms
    size = float(np.abs(v).max(initial=0.0))
    if size == 0.0:
        return float(np.abs(slack).max(initial=0.0) > 0.0)
    return residual_of_cone(cosines, v / size, slack / size)[0]


def upgrad_residual(
    gramian: ArrayLike, weights: ArrayLike, projections: ArrayLike, preference: ArrayLike | None = None
) -> float:
    """How far the direction of the weights is from UPGrad's, Σ_i p_i Jᵀv_i.

    UPGrad's weights are not unique where the gradients are linearly dependent, but its direction is. The
    projections v_i prove it: the result is their ``cone_residual``, summed with preference, plus
    max_k |g_kᵀΔd|/(‖g_k‖‖d‖) for the difference between the two directions.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,).
        projections: v_i as rows, shape (K, K), such as ``cone_projections(gramian)``.
        preference: p, shape (K,); without it 1/K each.

    Raises:
        ShapeError: The shapes do not fit.
    """
    g, w, v = np.asarray(gramian, np.float64), np.asarray(weights, np.float64), np.asarray(projections, np.float64)
    k = len(g)
    p = np.full(k, 1.0 / k) if preference is None else np.asarray(preference, np.float64)
    if w.shape != (k,) or v.shape != (k, k) or p.shape != (k,):
        raise ShapeError(
            f"upgrad_residual: for a Gramian of shape {g.shape}, weights and preference of shape (K,) and projections "
            f"of shape (K, K) are needed, got {w.shape}, {p.shape} and {v.shape}"
        )
    rows = p[:, None] * v
    live = np.diagonal(g) > SMALLEST_SQUARE
    norms = np.sqrt(np.diagonal(g)[live])
    cosines = g[np.ix_(live, live)] / norms[:, None] / norms
    total = rows.sum(axis=0)[live] * norms
    apart = np.abs(cosines @ (w[live] * norms - total)).max(initial=0.0)
    return cone_residual(g, np.diag(p), rows) + (float(apart) / length_of(cosines, total)[0] if apart else 0.0)


def residual_of_cone(cosines: np.ndarray, v: np.ndarray, slack: np.ndarray) -> tuple[float, float, bool]:
    """``cone_residual`` from the weights of unit gradients v and their part above the wish, both of shape (N, K).

    Returns:
        The residual, the floor that rounding sets it, and whether d vanishes to within rounding.
    """
    apart = np.abs(np.minimum(slack, v @ cosines))
    length, size, vanishing = length_of(cosines, v.sum(axis=0))
    residual = float(apart.sum(axis=0).max()) / length
    if len(v) > 1:
        wished = np.abs(v - slack).sum(axis=1)
        residual = max(residual, float((apart.max(axis=1)[wished > 0.0] / wished[wished > 0.0]).max(initial=0.0)))
    return residual, len(cosines) * EPS * size / length, vanishing


def length_of(cosines: np.ndarray, total: np.ndarray) -> tuple[float, float, bool]:
    """‖d‖, or the size of its terms where it vanishes; that size; and whether it vanishes to within rounding."""
    supply = np.abs(cosines) @ np.abs(total)
    size = float(supply.max())
    square = float(total @ cosines @ total)
    if square <= VANISHING * len(cosines) * EPS * float(np.abs(total) @ supply):
        return size, size, True
    return float(np.sqrt(square)), size, False
