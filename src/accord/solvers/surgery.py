"""PCGrad and IMTL-G: directions made by projection."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from accord.solvers.certificates import imtl_g_spread, pcgrad_residual
from accord.solvers.orders import Order, among, orders_of
from accord.solvers.scaling import EPS, all_zero, check_semidefinite, cosines_of
from accord.solvers.solution import Outcome, Solution

TOLERANCE = 1e-8
FEW_DIGITS = 1e-6  # a floor above this is too rough for "solved", whatever the residual happens to be
ROUNDING = 16.0  # in units of K·eps: what counts as zero among the eigenvalues of the cosines
OUTSIDE = 1e-6  # the part of the ones vector in the null space above which equal projections are zero


def imtl_g(gramian: ArrayLike) -> Solution:
    """IMTL-G: the direction with equal projections on all task gradients.

    d = Σ w_i g_i with dᵀg_i/‖g_i‖ equal for all i and Σ w_i = 1; weights may be negative. With cosines C and
    norms s that is Cv = 1, w = v/s up to scale. (The paper solves it for gradients with respect to the shared
    representation; its published code, like this function, takes whatever gradients it is given.)

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.

    Returns:
        The weights. The residual is max_i |p_i/p̄ − 1| of the projections p. ``stationary`` where equal
        projections can only be zero: the weights are then those of a vanishing combination, the ones vector
        projected on the null space of the cosines. ``degenerate`` where the weights sum to zero, so that
        Σ w_i = 1 cannot be met: they are scaled to Σ |w_i| = 1 instead. When the projections are negative,
        which the definition allows, the cause says so. A task with a zero gradient gets weight 0.

    Raises:
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import imtl_g
        >>> imtl_g([[1.0, 0.0], [0.0, 9.0]]).weights
        array([0.75, 0.25])

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, Eq. 6.
    """
    problem = cosines_of(gramian, "imtl_g")
    if not len(problem.rows):
        return all_zero(problem, "imtl-g")
    c, k = problem.cosines, len(problem.rows)
    values, vectors = np.linalg.eigh(c)
    ones = vectors.T @ np.ones(k)
    check_semidefinite(float(values[0]), float(k), "imtl_g")
    null = values <= ROUNDING * k * EPS * values[-1]
    norms = problem.norms / problem.norms.max()
    outside = float((ones[null] ** 2).sum()) / k
    if outside > OUTSIDE:
        v = vectors[:, null] @ ones[null]
        weights = v / norms / np.abs(v / norms).sum()
        cause = "only projections of zero can be equal: a combination of the gradients vanishes to within rounding"
        return problem.solution("imtl-g", weights, residual=1.0, floor=1.0, outcome="stationary", cause=cause)
    v = vectors[:, ~null] @ (ones[~null] / values[~null])
    v = v + vectors[:, ~null] @ ((vectors[:, ~null].T @ (1.0 - c @ v)) / values[~null])
    weights = v / norms
    total, size = float(weights.sum()), float(np.abs(weights).sum())
    outcome: Outcome = "solved"
    cause = ""
    if abs(total) <= ROUNDING * k * EPS * size:
        outcome, cause = "degenerate", "the weights of equal projections sum to zero"
        weights = weights / size
    else:
        weights = weights / total
        cause = "the projections are negative: every task's loss increases" if total < 0 else ""
    floor = k * EPS * float((np.abs(c) @ np.abs(v)).max())
    spread = imtl_g_spread(norms[:, None] * c * norms, weights)
    if outcome == "solved" and (spread > TOLERANCE or floor > FEW_DIGITS):
        outcome = "stationary" if spread <= ROUNDING * floor else "degenerate"
        cause = f"the projections differ by {spread:.1e} where rounding allows {floor:.1e}"
    return problem.solution("imtl-g", weights, residual=spread, floor=floor, outcome=outcome, cause=cause)


def pcgrad(gramian: ArrayLike, order: Order | None = None, generator: np.random.Generator | None = None) -> Solution:
    """PCGrad: each gradient projected off those it conflicts with, then summed.

    For each task i, ĝ_i starts as g_i; for each other task j in turn, where ĝ_iᵀg_j < 0, ĝ_i loses its
    component along g_j. The direction is Σ ĝ_i. All of it happens on the cosines, as a matrix of weights.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        order: The order of the projections: one permutation of the K tasks for all, or K of them. Without it
            a random one for each task is drawn from ``generator``, as in the paper.
        generator: A NumPy generator. One of ``order`` and ``generator`` must be given.

    Returns:
        The weights of Σ ĝ_i (divide by K for the mean, which some published code takes). The residual compares
        the direction with the recursion run anew on G itself. ĝ_i of a zero gradient is zero.

    Raises:
        OptionError: Neither or both of order and generator are given, or order is no permutation.
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import pcgrad
        >>> pcgrad([[1.0, -0.5], [-0.5, 1.0]], order=[0, 1]).weights
        array([1.5, 1.5])

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782, Algorithm 1.
    """
    problem = cosines_of(gramian, "pcgrad")
    orders = orders_of(order, generator, problem.num_tasks, "pcgrad")
    k = len(problem.rows)
    if not k:
        return all_zero(problem, "pcgrad")
    local = among(problem.rows, orders)  # (K', K'): projections in turn, zero rows left out
    surgery = np.eye(k)  # row i holds the weights of ĝ_i on the unit gradients, over ‖g_i‖
    tasks = np.arange(k)
    for others in local.T:  # all tasks take their next projection at once
        products = np.einsum("ik,ik->i", surgery, problem.cosines[others])
        conflict = (products < 0.0) & (others != tasks)
        surgery[tasks[conflict], others[conflict]] -= products[conflict]
    norms = problem.norms / problem.norms.max()
    weights = (norms @ surgery) / norms
    scaled = norms[:, None] * problem.cosines * norms
    residual = pcgrad_residual(scaled, weights, local.tolist())
    solved = residual <= TOLERANCE
    return problem.solution(
        "pcgrad",
        weights,
        residual=residual,
        floor=k * k * EPS,
        outcome="solved" if solved else "degenerate",
        cause="" if solved else f"the recursion run anew differs by {residual:.1e}",
        steps=k,
    )
