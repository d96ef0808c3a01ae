"""The certificates of the methods that change one gradient by another: PCGrad and GradVac."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import ShapeError
from accord.solvers.certificates.shapes import checked_pair, checked_square


def pcgrad_residual(gramian: ArrayLike, weights: ArrayLike, order: Sequence[Sequence[int]]) -> float:
    """How far the weights are from PCGrad's own recursion, run anew with projections in the given order.

    Each gradient is projected, one conflict at a time, off the plane of the gradient it conflicts with. The
    result is max_i |Σ_k Δw_k g_kᵀg_i| / (‖g_i‖ Σ_k |w_k| ‖g_k‖): the difference between the two directions.

    Args:
        gramian: Shape (K, K).
        weights: Shape (K,).
        order: ``order[i]`` lists the tasks that gradient i is projected against, in turn.
    """
    g, w = checked_pair(gramian, weights, "pcgrad_residual")
    if len(order) != len(g):
        raise ShapeError(f"pcgrad_residual: an order for each of the {len(g)} tasks is needed, got {len(order)}")
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
    g = checked_square(gramian, "gradvac_residual")
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
