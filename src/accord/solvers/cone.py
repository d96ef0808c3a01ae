"""UPGrad and DualProj: directions projected on the cone of those that hurt no task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import OptionError, ShapeError
from accord.solvers.certificates.cones import residual_of_cone
from accord.solvers.nonnegative import NonNegative
from accord.solvers.scaling import (
    EPS,
    VANISHING,
    Cosines,
    all_zero,
    check_semidefinite,
    cosines_of,
    real_array,
    symmetrised,
)
from accord.solvers.solution import Outcome, Solution

TOLERANCE = 1e-8  # the certificate that counts as solved
AT_FLOOR = 64.0  # a residual within this factor of its floor is rounding
INDEFINITE = 2.0  # in units of K·eps: an eigenvalue below minus this is not float64's rounding
CONVEX = 2.0  # the ridge, in units of the lowest eigenvalue, that makes such a problem convex
LARGEST = float(np.finfo(np.float64).max)


def upgrad(gramian: ArrayLike, preference: ArrayLike | None = None) -> Solution:
    """UPGrad: each task gradient projected on the cone of directions that hurt no task, then combined.

        d = Σ_i p_i π(g_i),   π(g) = argmin_d ‖d − g‖²  subject to  g_kᵀd ≥ 0 for all k,

    where π(g_i) = Jᵀv_i with v_i = argmin_v vᵀGv subject to v ≥ e_i, and the weights are Σ_i p_i v_i. No task's loss
    increases to first order. The projections are made on the cosines, so they are exact at any scale and spread of
    the norms. (TorchJD's, by the paper's authors, divides G by its trace and adds 1e-4 to the diagonal, so that tasks
    with small gradients may be hurt, and takes G for zero where its trace is below 1e-4, which gives the mean.)

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        preference: p, shape (K,), non-negative; without it 1/K each, the mean of the projections.

    Returns:
        The weights; where the gradients are linearly dependent, others may give the same d. The residual is that of
        the projections' optimality conditions, relative to ‖d‖ (``cone_residual``). ``stationary`` where d vanishes
        to within rounding, or conflict leaves float64 too few digits. ``degenerate`` where every preferred gradient
        is zero, or the Gramian is not positive semidefinite as precisely as the certificate asks for. A task with a
        zero gradient gets weight 0. Gradients at an angle θ from being opposite are told from opposite ones to a
        relative eps/θ², for the Gramian holds no more: within 1e-8 they count as opposite.

    Raises:
        OptionError: The preference is not K finite non-negative numbers.
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import upgrad
        >>> upgrad([[1.0, -0.5], [-0.5, 1.0]]).weights
        array([0.75, 0.75])

    References:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232, Proposition 1.
    """
    problem = cosines_of(gramian, "upgrad")
    p, scale = _preferred(preference, problem, "upgrad")
    wishes = p * problem.norms / problem.norms.max(initial=0.0)
    preferred = np.flatnonzero(wishes)
    if not len(preferred):
        return _no_wish(problem, "upgrad")
    units = np.eye(len(p))[preferred]
    return _finished(problem, "upgrad", _project(problem.cosines, units, wishes[preferred], "upgrad"), p, scale)


def dualproj(gramian: ArrayLike, preference: ArrayLike | None = None) -> Solution:
    """DualProj, or GEM: the preferred combination of the gradients, projected on the cone that hurts no task.

        d = argmin_d ‖d − Jᵀp‖²  subject to  g_kᵀd ≥ 0 for all k;   d = Jᵀv,  v = argmin_v vᵀGv  subject to  v ≥ p.

    Exact at any scale, like ``upgrad``. (Gradient episodic memory projects the gradient of the task at hand,
    p = e_i; its published code adds a margin to the multipliers and 1e-3 to the diagonal of G, neither of which is
    in the definition.)

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        preference: p, shape (K,), non-negative; without it 1/K each, the mean gradient.

    Returns:
        The weights v. Residual, outcomes and zero rows as in ``upgrad``.

    Raises:
        OptionError: The preference is not K finite non-negative numbers.
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import dualproj
        >>> dualproj([[4.0, -2.0], [-2.0, 1.25]]).weights
        array([0.5, 0.8])

    References:
        Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840,
        Section 3. The name is that of TorchJD.
    """
    problem = cosines_of(gramian, "dualproj")
    p, scale = _preferred(preference, problem, "dualproj")
    wish = p * problem.norms / problem.norms.max(initial=0.0)
    if not wish.any():
        return _no_wish(problem, "dualproj")
    largest = wish.max()
    found = _project(problem.cosines, wish[None] / largest, np.array([largest]), "dualproj")
    return _finished(problem, "dualproj", found, p, scale)


def cone_projections(gramian: ArrayLike) -> np.ndarray:
    """The weights of each task gradient's projection on the cone {d : g_kᵀd ≥ 0 for all k}.

    Row i is v_i = argmin_v vᵀGv subject to v ≥ e_i: the direction Jᵀv_i is the nearest to g_i that hurts no task.
    Where the gradients are linearly dependent it is one of several such v_i. ``cone_residual(gramian, e_i, v_i)``
    certifies each; a zero gradient is its own projection, e_i.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.

    Returns:
        Shape (K, K).

    Raises:
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import cone_projections
        >>> cone_projections([[1.0, -1.0], [-1.0, 4.0]])
        array([[1.  , 0.25],
               [1.  , 1.  ]])

    References:
        Quinton and Rey, arXiv:2406.16232, Proposition 1.
    """
    problem = cosines_of(gramian, "cone_projections")
    projections = np.eye(problem.num_tasks)
    live = len(problem.rows)
    if live:
        found = _project(problem.cosines, np.eye(live), np.ones(live), "cone_projections")
        with np.errstate(over="ignore"):
            raw = found.slack / problem.norms * problem.norms[:, None]
        projections[np.ix_(problem.rows, problem.rows)] += np.minimum(raw, LARGEST)
    return projections


class _Projected(NamedTuple):
    """Projections of N wishes in weights of unit gradients: their part above the wish (N, K'), and how good they are.

    ``least`` is the lowest eigenvalue of the cosines where it is too far below zero for float64's rounding, else 0.
    """

    slack: np.ndarray
    residual: float
    floor: float
    vanishing: bool
    least: float
    steps: int


def _project(cosines: np.ndarray, wishes: np.ndarray, sizes: np.ndarray, caller: str) -> _Projected:
    """Project wishes (N, K') times sizes (N,); the kernel sees them without, as its tolerances expect."""
    linear = wishes @ cosines
    kernel = NonNegative(cosines)
    found = _tried(kernel, linear, wishes, sizes, 0.0)
    total = sizes @ wishes + found.slack.sum(axis=0)
    check_semidefinite(float(total @ cosines @ total), float(total @ np.abs(cosines) @ total), caller)
    if found.residual > TOLERANCE:
        least = float(kernel.spectrum[0])
        if least < -INDEFINITE * len(cosines) * EPS:
            convex = _tried(NonNegative(cosines, -CONVEX * least), linear, wishes, sizes, least)
            found = convex if convex.residual < found.residual else found._replace(least=least)
    return found


def _tried(kernel: NonNegative, linear: np.ndarray, wishes: np.ndarray, sizes: np.ndarray, least: float) -> _Projected:
    slack, steps = kernel.minimise(linear)
    slack = sizes[:, None] * slack
    residual, floor, vanishing = residual_of_cone(kernel.c, sizes[:, None] * wishes + slack, slack)
    return _Projected(slack, residual, floor, vanishing, least, steps)


def _finished(problem: Cosines, method: str, found: _Projected, p: np.ndarray, scale: float) -> Solution:
    """Weights of the gradients from the part of the projections above the wish, and the outcome's name."""
    norms, slack = problem.norms / problem.norms.max(), found.slack.sum(axis=0)
    with np.errstate(over="ignore"):
        weights = (p + slack / norms) * scale
    weights = symmetrised(weights, problem.cosines, lambda i, j: bool(norms[i] == norms[j] and p[i] == p[j]))
    outcome: Outcome = "solved"
    cause = ""
    if not np.isfinite(weights).all():
        weights = np.minimum(weights, LARGEST)
        outcome, cause = "degenerate", "the norms' spread asks for weights that float64 cannot hold"
    elif found.vanishing or (found.least and _lost(problem.cosines, p * norms + slack, found.least)):
        outcome, cause = "stationary", "the direction vanishes to within rounding"
    elif found.residual > TOLERANCE and found.least:
        outcome = "degenerate"
        cause = (
            f"the unit gradients' Gramian has the eigenvalue {found.least:.1e}: it is too roughly rounded for a "
            f"smaller residual than {found.residual:.1e}"
        )
    elif found.residual > TOLERANCE:
        known = found.residual <= AT_FLOOR * found.floor
        outcome = "stationary" if known else "degenerate"
        cause = f"the residual is {found.residual:.1e} where conflict lets float64 reach {found.floor:.1e}"
    return problem.solution(
        method,
        weights,
        residual=found.residual,
        floor=found.floor,
        outcome=outcome,
        cause=cause,
        steps=found.steps,
    )


def _lost(cosines: np.ndarray, total: np.ndarray, least: float) -> bool:
    """Whether ‖d‖² is within the reach of a negative eigenvalue."""
    return float(total @ cosines @ total) <= -VANISHING * least * float(total @ total)


def _preferred(preference: ArrayLike | None, problem: Cosines, caller: str) -> tuple[np.ndarray, float]:
    """The preference of the tasks that have a gradient, shape (K',), over its largest entry; and that entry."""
    k = problem.num_tasks
    if preference is None:
        return np.ones(len(problem.rows)), 1.0 / k
    try:
        p = real_array(preference, "the preference", caller)
    except ShapeError as error:
        raise OptionError(f"{error}; K = {k} numbers of at least 0 are needed") from error
    if p.shape != (k,) or not (np.isfinite(p) & (p >= 0.0)).all():
        raise OptionError(
            f"{caller}: preference must be K = {k} finite numbers of at least 0, one a task, got "
            f"{p.tolist() if p.size <= 2 * k else f'shape {p.shape}'}; without it each task counts alike"
        )
    p = p[problem.rows]
    largest = float(p.max(initial=0.0))
    return (p / largest, largest) if largest else (p, 0.0)


def _no_wish(problem: Cosines, method: str) -> Solution:
    """The outcome when all preferred gradients are zero, so that their projections are."""
    if not len(problem.rows):
        return all_zero(problem, method)
    cause = "every gradient with a positive preference is zero"
    weights = np.zeros(len(problem.rows))
    return problem.solution(method, weights, residual=0.0, floor=0.0, outcome="degenerate", cause=cause)
