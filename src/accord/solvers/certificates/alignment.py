"""The certificates of the methods that treat all gradients alike: IMTL-G, Aligned-MTL and ConFIG."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from accord.solvers.certificates.shapes import checked_pair, checked_square
from accord.solvers.scaling import EPS, SMALLEST_SQUARE

RANK = 16.0  # in units of K·eps: eigenvalues of the cosines below it, relative to the largest, are zero


def imtl_g_spread(gramian: ArrayLike, weights: ArrayLike) -> float:
    """max_i |p_i/p̄ − 1| of the projections p_i = dᵀg_i/‖g_i‖ that IMTL-G makes equal."""
    g, w = checked_pair(gramian, weights, "imtl_g_spread")
    norms = np.sqrt(np.diagonal(g))
    live = norms > np.sqrt(SMALLEST_SQUARE)
    if not live.any():
        return 0.0
    projections = (g @ w)[live] / norms[live]
    mean = float(projections.mean())
    largest = float(np.abs(projections).max())
    return float(np.abs(projections - mean).max()) / abs(mean) if mean else float(largest > 0)


def alignment_residual(gramian: ArrayLike, balance: ArrayLike, level: float) -> float:
    """How far a balance transformation B is from Aligned-MTL's: BGB = s·P with a projector P, and B = PB = Bᵀ ⪰ 0.

    With M = BGB/s it is the largest entry of M² − M, which makes M a projector; of MB − B over the largest of B,
    which gives B its range; of BG − GB over the largest of B times that of G, which makes the range one of G's; of
    B − Bᵀ over the largest of B, and so for the most negative eigenvalue, without which B could turn components
    round; and what the trace of M, the rank, is off an integer.

    Args:
        gramian: Shape (K, K).
        balance: Shape (K, K), the transformation B; the weights are its row sums.
        level: The common squared length s of the aligned gradients.
    """
    g, b = checked_square(gramian, "alignment_residual"), checked_square(balance, "alignment_residual")
    rank = round(float(np.trace(b @ g @ b)) / level)
    return residual_of_alignment(g, b, level, rank)


def residual_of_alignment(g: np.ndarray, b: np.ndarray, level: float, rank: int) -> float:
    """``alignment_residual`` with the number of components that were kept."""
    aligned = b @ g @ b / level
    size = float(np.abs(b).max())
    apart = b @ g - g @ b
    parts = (
        np.abs(aligned @ aligned - aligned).max(),
        np.abs(aligned @ b - b).max() / size,
        np.abs(b - b.T).max() / size,
        -float(np.linalg.eigvalsh(b + b.T)[0]) / 2 / size,
        np.abs(apart).max() / (size * np.abs(g).max()),
        abs(float(np.trace(aligned)) - rank),
    )
    return float(max(parts))


def config_residual(gramian: ArrayLike, weights: ArrayLike) -> float:
    """How far d = Σ w_k g_k is from ConFIG's: cosines as near to equal as least squares brings them, and the length.

    With C = UUᵀ the cosines of the gradients and p = Ud, the direction asks for t·p = C⁺C1 at some t (t·p = 1 where
    the gradients are independent), the length for ‖d‖² = Σ_i g_iᵀd. The residual is the largest of max|t·p − C⁺C1|
    over the largest entry of C⁺C1, max|C(t·p − 1)| over the largest of C1, and the relative difference of the lengths.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,), of the gradients themselves.
    """
    g, w = checked_pair(gramian, weights, "config_residual")
    live = np.diagonal(g) > SMALLEST_SQUARE
    if not live.any():
        return 0.0
    g, w = g[np.ix_(live, live)], w[live]
    norms = np.sqrt(np.diagonal(g))
    c = g / norms[:, None] / norms
    values, vectors = np.linalg.eigh(c)
    kept = vectors[:, values > RANK * len(c) * EPS * values[-1]]
    wish = kept @ kept.sum(0)
    supply = g @ w
    p = supply / norms
    along = float(p @ wish)
    if along == 0.0:
        return 1.0
    p = p * (float(wish @ wish) / along)
    demand = c.sum(1)
    direction = float(np.abs(p - wish).max() / np.abs(wish).max())
    normal = float(np.abs(c @ p - demand).max() / np.abs(demand).max())
    square, total = float(w @ supply), float(supply.sum())
    length = abs(square - total) / max(abs(square), abs(total))
    return max(direction, normal, length)
