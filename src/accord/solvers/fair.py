"""Nash-MTL and FairGrad: the α-fair weights, w > 0 with (Gw)_i = w_i^(−1/α)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from accord.solvers.certificates.bargaining import residual_of_fair
from accord.solvers.minnorm import mgda
from accord.solvers.newton import minimise_fair
from accord.solvers.scaling import (
    EPS,
    Cosines,
    all_zero,
    check_number,
    check_semidefinite,
    cosines_of,
    nearly_stationary,
)
from accord.solvers.solution import Outcome, Solution

TOLERANCE = 1e-8  # the certificate that counts as solved
LARGEST_LOG = 340.0  # beyond e^±340 a weight times a norm may leave float64's range: then the outcome is degenerate
FEW_DIGITS = 1e-6  # a floor above this is too rough for "solved", whatever the residual happens to be
AT_FLOOR = 16.0  # a residual within this factor of the floor is rounding, not a failure
REFINED = 1e-10  # a residual above this is refined in extended precision
REFINEMENTS = 4


def nash(gramian: ArrayLike) -> Solution:
    """Nash-MTL: the Nash bargaining solution of the task gradients.

    The direction d that maximises Σ_i log(g_iᵀd) in a ball is, up to length, d = Σ_i w_i g_i with

        (G w)_i = 1 / w_i.

    G is the Gramian (K, K) of the gradients and w the weights (K,); wᵀGw = K, so that ‖d‖ = √K. Rescaling one
    task's loss leaves d as it is: its weight absorbs the factor. This is the exact solution of the paper's
    Claim 3.1. The published code approximates it by a sequence of cone programs, and then clips the shared
    gradient to norm 1; the latter is the option ``max_norm`` of ``accord.NashMTL``.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.

    Returns:
        The weights. The residual is max_i |w_i (Gw)_i − 1|. ``stationary`` where some w ≥ 0 has Gw ≈ 0 to within
        rounding: where the floor leaves no digit, the weights returned are those of a vanishing combination,
        scaled so that Σ_i w_i‖g_i‖ = K. A task with a zero gradient gets weight 0 and is named.

    Raises:
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import nash
        >>> nash([[4.0, 0.0], [0.0, 1.0]]).weights
        array([0.5, 1. ])

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv:2202.01017, Claim 3.1.
    """
    return _fair(cosines_of(gramian, "nash"), 1.0, "nash-mtl")


def fairgrad(gramian: ArrayLike, alpha: float = 2.0) -> Solution:
    """FairGrad: the α-fair combination of the task gradients.

    The direction d that maximises Σ_i (g_iᵀd)^(1−α)/(1−α) in a ball is, up to length, d = Σ_i w_i g_i with

        (G w)_i = w_i^(−1/α).

    α = 1 is Nash-MTL. α = 0, where the sum of the utilities is maximised, is linear scalarization (w = 1); the limit
    α → 0 differs from it where a task is harmed, since every α > 0 harms none. α = ∞ is the max-min direction,
    MGDA's, with (Gw)_i = 1 on the tasks that matter. Larger α favours the task that gains least.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        alpha: At least 0, possibly infinite. The paper's experiments use 2.

    Returns:
        The weights. The residual is max_i |w_i^(1/α)(Gw)_i − 1|; stationary and zero rows as in ``nash``.

    Raises:
        OptionError: alpha is negative or NaN.
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import fairgrad
        >>> fairgrad([[8.0, 0.0], [0.0, 1.0]], alpha=2.0).weights
        array([0.25, 1.  ])

    References:
        Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv:2402.15638.
    """
    check_number(alpha, "alpha", "fairgrad", "1 is Nash-MTL, 2 the paper's choice")
    problem = cosines_of(gramian, "fairgrad")
    if not len(problem.rows):
        return all_zero(problem, "fairgrad")
    if alpha == 0:
        live = np.ones(len(problem.rows))
        return problem.solution("fairgrad", live, residual=0.0, floor=0.0, outcome="solved")
    if np.isinf(alpha):
        return _max_min(problem, gramian)
    return _fair(problem, float(alpha), "fairgrad")


def _fair(problem: Cosines, alpha: float, method: str) -> Solution:
    if not len(problem.rows):
        return all_zero(problem, method)
    if alpha == 1.0:
        log_norms, centre = np.zeros(len(problem.rows)), 0.0  # the norms drop out
    else:
        log_norms = np.log(problem.norms)
        centre = float(log_norms.mean())  # an overall scale leaves the problem as it is; centred, nothing overflows
    result = minimise_fair(problem.cosines, log_norms - centre, alpha)
    outcome: Outcome = "solved"
    cause = ""
    z = result.z
    if result.vanishing:
        outcome, cause = "stationary", "a convex combination of the gradients vanishes to within rounding"
        u = np.exp(z - z.max())
        check_semidefinite(float(u @ problem.cosines @ u), float(u @ np.abs(problem.cosines) @ u), method)
        weights = u * (len(u) / u.sum()) / problem.norms
        residual = residual_of_fair(weights, problem.gramian @ weights, alpha)
    else:
        # u = w·norms solves the problem of the centred norms; the scale left out comes back as a power
        exponent = z + (1.0 - alpha) / (1.0 + alpha) * centre
        weights = np.exp(exponent.clip(-LARGEST_LOG, LARGEST_LOG)) / problem.norms
        weights, residual = _refined(problem.gramian, weights, alpha)
    if outcome == "solved" and (residual > TOLERANCE or result.floor > FEW_DIGITS):
        at_floor = residual <= AT_FLOOR * result.floor
        if nearly_stationary(problem.cosines, weights * problem.norms):
            outcome = "stationary"
            near = (
                f"{result.floor:.1e} is as near as float64 gets" if at_floor else "the Gramian's own rounding decides"
            )
            cause = f"the gradients conflict so much that {near}"
        else:
            outcome = "degenerate"
            reach = f"no nearer than {result.floor:.1e}" if at_floor else f"no nearer than {residual:.1e}"
            cause = f"alpha = {alpha:g} and these norms let float64 come {reach}"
    return problem.solution(
        method,
        weights,
        residual=residual,
        floor=result.floor,
        outcome=outcome,
        cause=cause,
        steps=result.steps,
    )


def _refined(gramian: np.ndarray, weights: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    """Newton steps on G itself with the residual in extended precision, where the cosines' rounding shows."""
    residual = residual_of_fair(weights, gramian @ weights, alpha)
    best, least = weights, residual
    if not REFINED < residual < 1.0:
        return best, least
    g, w = gramian.astype(np.longdouble), weights.astype(np.longdouble)
    for _ in range(REFINEMENTS):
        supply = g @ w
        if not (supply > 0).all():
            break
        gap = np.log(supply) + np.log(w) / alpha
        matrix = (g * w / supply[:, None]).astype(np.float64)
        np.fill_diagonal(matrix, np.diagonal(matrix) + 1.0 / alpha)
        try:
            step = np.linalg.solve(matrix, -gap.astype(np.float64))
        except np.linalg.LinAlgError:
            break
        if not np.abs(step).max() < 1.0:
            break
        w = w * np.exp(step.astype(np.longdouble))
        rounded = w.astype(np.float64)
        residual = residual_of_fair(rounded, gramian @ rounded, alpha)
        if residual < least:
            best, least = rounded, residual
    return best, least


def _max_min(problem: Cosines, gramian: ArrayLike) -> Solution:
    """α = ∞: w ≥ 0 with (Gw)_i ≥ 1, equal to 1 where w_i > 0, is MGDA's point x over its squared norm."""
    point = mgda(gramian)
    x = point.weights[problem.rows] * problem.norms  # of the unit gradients
    square = float(x @ problem.cosines @ x)
    if point.outcome == "stationary" or square <= 0.0:
        return replace(point, method="fairgrad")
    weights = _equalised(problem.gramian, x / problem.norms / square)
    supply = problem.gramian @ weights
    short = 1.0 - supply
    residual = float(np.where(weights > 0, np.abs(short), np.maximum(short, 0.0)).max())
    floor = len(weights) * EPS * float((np.abs(problem.gramian) @ weights).max())
    outcome: Outcome = "solved"
    cause = point.cause if point.outcome == "degenerate" else ""
    if residual > TOLERANCE or floor > FEW_DIGITS:
        near = nearly_stationary(problem.cosines, x)
        outcome = "stationary" if near else "degenerate"
        cause = f"the {'conflict' if near else 'spread of the norms'} lets float64 come no nearer than {floor:.1e}"
    return problem.solution(
        "fairgrad", weights, residual=residual, floor=floor, outcome=outcome, cause=cause, steps=point.steps
    )


def _equalised(gramian: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Newton steps on (Gw)_i = 1 on the support, with the residual in extended precision; weights stay positive."""
    support = np.flatnonzero(weights > 0.0)
    g = gramian[np.ix_(support, support)]
    norms = np.sqrt(np.diagonal(g))
    exact, w = g.astype(np.longdouble), weights[support].astype(np.longdouble)
    cosines = g / norms / norms[:, None]
    for _ in range(REFINEMENTS):
        gap = (1.0 - exact @ w).astype(np.float64)
        try:
            step = np.linalg.solve(cosines, gap / norms) / norms
        except np.linalg.LinAlgError:
            break
        if not (w + step > 0.0).all():
            break
        w = w + step
    refined = np.zeros(len(weights))
    refined[support] = w.astype(np.float64)
    better = np.abs(gramian[support] @ refined - 1.0).max() < np.abs(gramian[support] @ weights - 1.0).max()
    return refined if better else weights
