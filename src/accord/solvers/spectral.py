"""Aligned-MTL and ConFIG: directions read from the eigenvalues of a Gramian."""

from __future__ import annotations

import numbers
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import OptionError
from accord.solvers.certificates.alignment import config_residual, residual_of_alignment
from accord.solvers.scaling import EPS, all_zero, check_semidefinite, cosines_of
from accord.solvers.solution import Outcome, Solution

TOLERANCE = 1e-8
EPS32 = float(np.finfo(np.float32).eps)
ROUNDING = 16.0  # in units of K·eps: what counts as zero
NOISE = 2.0  # eigenvalues within this factor of the most negative one are the Gramian's own rounding
FEW_DIGITS = 1e-8  # a floor above this leaves nothing sure of a sum that nearly vanishes
NEARLY = 1e-3  # a convex combination of the unit gradients this short is nearly stationary
SCALES = ("min", "median", "rmse")


def aligned_mtl(gramian: ArrayLike, scale: str = "min", cutoff: float = EPS32) -> Solution:
    """Aligned-MTL: the sum of the gradients once their principal components have been given equal lengths.

    With G = VΛVᵀ and only the eigenvalues λ > K·cutoff·max λ kept, the balance transformation is

        B = √s · V Λ^(−1/2) Vᵀ,   w = B 1,

    where s is the smallest eigenvalue kept, their (lower) median, or their mean. The aligned gradients BJ have the
    Gramian BGBᵀ = s·P with P the projector on the components kept: none conflicts with another. The published code
    sums them, as here; the mean is w/K. An overall scale of the gradients leaves w as it is.

    Which components are kept changes in steps: an eigenvalue near the cut-off may appear or vanish with a small
    change of the gradients. The published code cuts at float32's eps, the default here, whatever the dtype of the
    gradients; ``cutoff=numpy.finfo(float).eps`` is the finest choice, at which the smallest eigenvalues kept may be
    rounding alone. The components left out are counted in the cause.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        scale: ``"min"`` (the paper's), ``"median"`` or ``"rmse"``.
        cutoff: Eigenvalues up to K times this, relative to the largest, are left out; at least float64's eps.

    Returns:
        The weights. The residual compares BGB with s·P and is relative to s (see ``alignment_residual``).
        ``stationary`` where 1 has no part in the components kept: the gradients themselves sum to zero, and so do
        the aligned ones. ``degenerate`` where rounding decides the smallest eigenvalue kept.

    Raises:
        OptionError: An unknown scale, or a cut-off that is not between float64's eps and 1.
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import aligned_mtl
        >>> aligned_mtl([[4.0, 0.0], [0.0, 1.0]]).weights
        array([0.5, 1. ])

    References:
        Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023, arXiv:2305.19000,
        Algorithm 1.
    """
    if scale not in SCALES:
        raise OptionError(f"aligned_mtl: scale = {scale!r} is not one of {', '.join(SCALES)}")
    if isinstance(cutoff, bool) or not isinstance(cutoff, numbers.Real) or not EPS <= float(cutoff) < 1.0:
        raise OptionError(f"aligned_mtl: cutoff = {cutoff!r} is not a number from {EPS:.2g} up to 1")
    problem = cosines_of(gramian, "aligned_mtl")
    if not len(problem.rows):
        return all_zero(problem, "aligned-mtl")
    k = problem.num_tasks
    largest = problem.norms.max()
    g = problem.gramian / largest / largest
    kept = _spectrum(g, k * float(cutoff), "aligned_mtl")
    values, vectors = kept.values, kept.vectors
    level = level_of(values, scale)
    balance = (vectors * np.sqrt(level / values)) @ vectors.T  # (K', K')
    ones = vectors.T @ np.ones(len(g))
    weights = vectors @ (np.sqrt(level / values) * ones)
    rounding = len(g) * EPS * float(values[-1] / values[0])
    residual = residual_of_alignment(g, balance, level, len(values))
    outcome: Outcome = "solved"
    cause = f"{len(g) - len(values)} of {len(g)} principal components lie below the cut-off" if kept.dropped else ""
    part = float(np.linalg.norm(ones)) / np.sqrt(len(g))  # of 1 in the components kept
    floor = rounding / max(part, EPS)
    if part <= NEARLY and floor > FEW_DIGITS:
        outcome, cause = "stationary", "the gradients sum to zero to within rounding, and so do the aligned ones"
    elif residual > TOLERANCE:
        outcome = "degenerate"
        cause = f"the smallest eigenvalue kept is {values[0] / values[-1]:.1e} of the largest: rounding decides it"
    return problem.solution("aligned-mtl", weights, residual=residual, floor=floor, outcome=outcome, cause=cause)


def level_of(values: np.ndarray, scale: str) -> float:
    """The common squared length s: the smallest of ascending eigenvalues, their lower median, or their mean."""
    if scale == "min":
        return float(values[0])
    return float(values[(len(values) - 1) // 2]) if scale == "median" else float(values.mean())


def config(gramian: ArrayLike) -> Solution:
    """ConFIG: the direction with equal cosines to all gradients, as long as its projections on them together.

        d = (Σ_i g_iᵀd̂) · d̂,   d̂ ∝ U⁺ 1,

    with U the unit gradients. Through the cosines C = UUᵀ, d̂ ∝ Uᵀy with y = C⁺1. Where the gradients are linearly
    independent the direction is IMTL-G's, at another length, and conflicts with none. Where they are not it is the
    least-squares one: the cosines of d are as near to equal as they can be, and one may be negative. The sum of the
    projections may then be negative, which turns d round, as in the published code; the cause says so.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.

    Returns:
        The weights of the gradients themselves. The residual is that of ``config_residual``. ``stationary`` where
        the projections can only be zero, or are zero to within rounding at non-negative weights; ``degenerate``
        where they add up to zero, or where rounding decides the rank. A zero gradient gets weight 0.

    Raises:
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import config
        >>> config([[1.0, 0.0], [0.0, 9.0]]).weights
        array([2.        , 0.66666667])

    References:
        Liu et al., "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025,
        arXiv:2408.11104, Eq. 2.
    """
    problem = cosines_of(gramian, "config")
    k = len(problem.rows)
    if not k:
        return all_zero(problem, "config")
    c = problem.cosines
    kept = _spectrum(c, ROUNDING * k * EPS, "config")
    values, vectors = kept.values, kept.vectors
    norms = problem.norms / problem.norms.max()
    wish = vectors @ (vectors.T @ np.ones(k))  # the part of 1 that C can reach
    y = vectors @ ((vectors.T @ wish) / values)
    y = y + vectors @ ((vectors.T @ (wish - c @ y)) / values)
    floor = k * EPS * float((np.abs(c) @ np.abs(y)).max())
    reached = float(np.abs(wish).max())
    if reached <= np.sqrt(ROUNDING * k * EPS):
        weights = np.full(k, 1.0 / k) / norms
        cause = "equal cosines can only be zero: the unit gradients sum to zero to within rounding"
        return problem.solution("config", weights, residual=1.0, floor=1.0, outcome="stationary", cause=cause)
    supply = c @ y
    square, total = float(y @ supply), float(norms @ supply)
    rough = ROUNDING * k * EPS * float(norms @ (np.abs(c) @ np.abs(y)))
    vanishing = square <= 0.0 or abs(total) <= rough
    weights = y / norms * (1.0 if vanishing else total / square)
    residual = config_residual(norms[:, None] * c * norms, weights)
    floor = max(floor / reached, rough / abs(total) if total else 1.0)
    outcome: Outcome = "solved"
    cause = "" if total > 0 else "the projections add up to a negative length: d is turned round"
    if vanishing or residual > TOLERANCE:
        convex = float(y.min()) >= 0.0 and square <= (NEARLY * float(y.sum())) ** 2
        outcome = "stationary" if convex and residual <= ROUNDING * floor else "degenerate"
        cause = f"the cosines are met to {residual:.1e} where rounding allows {floor:.1e}"
        if abs(total) <= rough:
            cause = "the projections add up to zero to within rounding, and with them the length"
        elif kept.noise:
            cause = f"the Gramian is indefinite by {kept.noise:.1e}, which hides the components below"
    return problem.solution("config", weights, residual=residual, floor=floor, outcome=outcome, cause=cause)


class _Spectrum(NamedTuple):
    """Eigenvalues kept, ascending, (R,), their vectors (K, R), how many were dropped, and how negative one was."""

    values: np.ndarray
    vectors: np.ndarray
    dropped: int
    noise: float


def _spectrum(matrix: np.ndarray, cut: float, caller: str) -> _Spectrum:
    """The eigenvalues above a cut-off relative to the largest, and above what a negative one shows to be rounding."""
    values, vectors = np.linalg.eigh(matrix)
    check_semidefinite(float(values[0]), float(np.abs(matrix).sum(1).max()), caller)
    lowest = max(cut * float(values[-1]), -NOISE * float(values[0]))
    kept = values > lowest
    noise = -float(values[0]) / float(values[-1])
    return _Spectrum(values[kept], vectors[:, kept], int((~kept).sum()), noise if noise * NOISE > cut else 0.0)
