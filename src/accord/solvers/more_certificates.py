"""Certificates of Aligned-MTL, ConFIG, GradVac and the published algorithm of Nash-MTL.

Like those of ``certificates``, they know nothing of how the weights were found. All are relative and dimensionless;
0 is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import ShapeError
from accord.solvers.scaling import EPS, SMALLEST_SQUARE

RANK = 16.0  # in units of K·eps: eigenvalues of the cosines below it, relative to the largest, are zero


def alignment_residual(gramian: ArrayLike, balance: ArrayLike, level: float) -> float:
    """How far a balance transformation B is from Aligned-MTL's: BGB = s·P with a projector P, and B = PB = Bᵀ.

    The largest entry, relative to s, of M² − sM over s, where M = BGB, which makes M/s a projector; of MB − sB over
    ‖B‖, which gives B its range; of BG − GB over ‖B‖√(s·λ), which makes the range one of G's; and of B − Bᵀ over ‖B‖.

    Args:
        gramian: Shape (K, K).
        balance: Shape (K, K), the transformation B; the weights are its row sums.
        level: The common squared length s of the aligned gradients.
    """
    g, b = _square(gramian, "alignment_residual"), _square(balance, "alignment_residual")
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
    g = _square(gramian, "config_residual")
    w = np.asarray(weights, np.float64)
    if w.shape != (len(g),):
        raise ShapeError(f"config_residual: weights of shape ({len(g)},) are needed, got {w.shape}")
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


def gradvac_residual(
    gramian: ArrayLike, weights: ArrayLike, targets: ArrayLike, order: Sequence[Sequence[int]] | np.ndarray
) -> float:
    """How far the weights are from GradVac's own recursion, run anew on the Gramian with the published formula.

    The result is max_i |Σ_k Δw_k g_kᵀg_i| / (‖g_i‖ Σ_k |w_k| ‖g_k‖): the difference between the two directions.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,).
        targets: Shape (K, K), the target cosines, strictly between −1 and 1.
        order: Shape (K, K); row i lists the tasks that gradient i meets, in turn.
    """
    g = _square(gramian, "gradvac_residual")
    w, wanted, orders = np.asarray(weights, np.float64), np.asarray(targets, np.float64), np.asarray(order)
    if w.shape != (len(g),) or wanted.shape != g.shape or orders.shape != g.shape:
        raise ShapeError(
            f"gradvac_residual: with a Gramian of shape {g.shape}, weights (K,), targets (K, K) and an order (K, K) "
            f"are needed, got {w.shape}, {wanted.shape} and {orders.shape}"
        )
    return residual_of_gradvac(g, w, wanted, orders)


def residual_of_gradvac(g: np.ndarray, w: np.ndarray, targets: np.ndarray, orders: np.ndarray) -> float:
    """``gradvac_residual`` without its checks."""
    norms = np.sqrt(np.diagonal(g))
    live = norms > 0.0
    tasks = np.arange(len(g))
    own = np.diag(live.astype(np.float64))  # (K, K): row i holds the weights of g'_i on the gradients themselves
    products = own @ g  # (K, K): its products with them
    for others in orders.T:
        length = np.sqrt(np.maximum(np.einsum("ik,ik->i", products, own), 0.0))
        dot, their, aim = products[tasks, others], norms[others], targets[tasks, others]
        meet = live & live[others] & (others != tasks) & (dot < aim * length * their)
        their = np.where(meet, their, 1.0)
        cosine = np.divide(dot, length * their, out=np.full(len(g), -1.0), where=meet & (length > 0.0)).clip(-1.0, 1.0)
        sine, aim_sine = np.sqrt(1.0 - cosine**2), np.sqrt(1.0 - aim**2)
        part = np.where(length > 0.0, length * (aim * sine - cosine * aim_sine) / aim_sine, -dot / their)
        gain = np.where(meet, part / their, 0.0)
        own[tasks, others] += gain
        products += gain[:, None] * g[others]
    size = float(np.abs(w) @ norms)
    if size == 0.0:
        return 0.0
    return float(np.abs((w - own.sum(0)) @ g[:, live] / norms[live]).max(initial=0.0)) / size


def ccp_objective(gramian: ArrayLike, weights: ArrayLike, first_term: bool = True) -> float:
    """The objective of Nash-MTL's Eq. 5, Σ_i (Gα)_i + Σ_i log α_i(Gα)_i, which its programs bring down step by step.

    Args:
        gramian: Shape (K, K), without zero rows.
        weights: Shape (K,), α, positive with Gα > 0.
        first_term: Whether the first sum is there.
    """
    g = _square(gramian, "ccp_objective")
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
    g = _square(gramian, "ccp_gap")
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


def _square(matrix: ArrayLike, caller: str) -> np.ndarray:
    a = np.asarray(matrix, np.float64)
    if a.ndim != 2 or a.shape != (len(a), len(a)):
        raise ShapeError(f"{caller}: a matrix of shape (K, K) is needed, got {a.shape}")
    return a
