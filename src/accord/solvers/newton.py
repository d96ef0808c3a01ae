"""The convex kernel: minimise ½uᵀCu − Σ bᵢφ(uᵢ) over u > 0, where φ′(u) = u^(−γ).

γ = 1 is Nash-MTL (φ = log), γ = 1/α is FairGrad. The stationarity condition is Cu = b·u^(−γ). The function is
strictly convex for a positive semidefinite C, so there is one solution, or none when some u ≥ 0 has Cu = 0.

Two forms of Newton's method share the work, both free of the scale of u and of C:

* on F itself, in relative coordinates u ← u(1 + t·x), with a line search: it converges from anywhere;
* on log(Cu) + γ·log u − log b = 0 in z = log u, wherever Cu > 0: one step may cross thirty decades, which is
  what a small γ asks for.

γ = 1 is solved first, in 3 to 7 steps; another γ is reached from there by continuation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from accord.solvers.scaling import EPS, VANISHING

TARGET = 1e-13  # relative residual at which there is nothing left to gain
MAX_STEPS = 100  # a bound on the loop alone
STALLED = 2  # steps without progress that count as having reached the floor
SHRINK = 0.01  # no coordinate shrinks by more than this factor in a step on F
LINE_SEARCH_STEPS = 12
TINY = 1e-290
FLAT = 0.1  # the slope left at the end of a line search, relative to its start
LOG_STEP_LENGTHS = (1.0, 0.5, 0.25, 0.0625)
STAGE_RATIO = 4.0  # by how much γ changes at first from one stage of the continuation to the next
STAGE_TOLERANCE = 1e-2  # of log(Cu·u^γ/b): enough to start the next stage


@dataclass(frozen=True)
class KernelResult:
    """The minimiser as z = log u, its residual max|Cu·u^γ/b − 1| with its rounding floor, and the steps taken.

    ``vanishing`` says that Cu is zero to within rounding: there is no minimiser, and u grew until that showed.
    """

    z: np.ndarray
    residual: float
    floor: float
    steps: int
    vanishing: bool = False


def minimise_fair(c: np.ndarray, log_norms: np.ndarray, alpha: float) -> KernelResult:
    """Minimise ½uᵀCu − Σ bᵢφ(uᵢ) over the positive orthant with γ = 1/α and b = norms^(γ−1).

    Args:
        c: Shape (K, K), symmetric, unit diagonal, positive semidefinite up to rounding.
        log_norms: Shape (K,), logarithms of the row norms, best centred at 0.
        alpha: Positive and finite.

    Returns:
        The best point found, or a vanishing combination where there is no minimiser.
    """
    with np.errstate(all="ignore"):  # what leaves float64's range is found by its residual, and named
        return _minimise_fair(c, log_norms, alpha)


def _minimise_fair(c: np.ndarray, log_norms: np.ndarray, alpha: float) -> KernelResult:
    """Solve γ = 1 from the best point on the ray of ones, then move γ to 1/α stage by stage."""
    ones = np.ones(len(c))
    total = max(float(c.sum()), len(c) ** 3 * EPS)
    result = _minimise(c, 0.5 * np.log(ones * len(c) / total), np.zeros(len(c)), 1.0, TARGET)
    gamma, steps = 1.0, result.steps
    while gamma != 1.0 / alpha and not result.vanishing:
        factor = min(max(1.0 / alpha / gamma, 1.0 / STAGE_RATIO), STAGE_RATIO)
        gamma = 1.0 / alpha if factor == 1.0 / alpha / gamma else gamma * factor
        tolerance = TARGET if gamma == 1.0 / alpha else STAGE_TOLERANCE
        result = _minimise(c, result.z, (gamma - 1.0) * log_norms, gamma, tolerance)
        steps += result.steps
    return replace(result, steps=steps)


def _minimise(c: np.ndarray, z: np.ndarray, log_b: np.ndarray, gamma: float, tolerance: float) -> KernelResult:
    """Newton's method at one γ from z = log u: on the logarithms where that helps, else on F."""
    absolute, rounding = np.abs(c), len(c) * EPS
    best = KernelResult(z, np.inf, np.inf, 0)
    stalled = 0
    for step in range(MAX_STEPS):
        u = np.exp(z)
        supply, demand = c @ u, np.exp(log_b - gamma * z)
        residual = float(np.abs(supply / demand - 1.0).max())
        size = absolute @ u
        floor = rounding * float((size / demand).max())
        if float(u @ supply) <= VANISHING * rounding * float(u @ size):
            return KernelResult(z, residual, floor, step, vanishing=True)
        stalled = 0 if residual < 0.5 * best.residual else stalled + 1
        if residual < best.residual:
            best = KernelResult(z, residual, floor, step)
        if best.residual <= tolerance or (stalled >= STALLED and best.residual <= 10 * best.floor):
            break
        following = _log_step(c, z, log_b, gamma) if supply.min() > 0.0 else None
        if following is None:
            following = _convex_step(c, u, u * supply, u * demand, gamma)
        if following is None:  # C is not positive semidefinite at this size of u: rounding has taken over
            break
        z = following
    return best


def _log_gap(c: np.ndarray, z: np.ndarray, log_b: np.ndarray, gamma: float) -> np.ndarray:
    """log(Cu) + γz − log b, shape (K,); infinite where Cu is not positive."""
    supply = c @ np.exp(z)
    if supply.min() <= 0.0:
        return np.full(len(z), np.inf)
    return np.log(supply) + gamma * z - log_b


def _log_step(c: np.ndarray, z: np.ndarray, log_b: np.ndarray, gamma: float) -> np.ndarray | None:
    """Newton's step on the logarithms, or None where it does not bring the largest gap down."""
    u = np.exp(z)
    supply = c @ u
    gap = np.log(supply) + gamma * z - log_b
    matrix = c * u / supply[:, None]
    np.fill_diagonal(matrix, np.diagonal(matrix) + gamma)
    try:
        x = np.linalg.solve(matrix, -gap)
    except np.linalg.LinAlgError:
        return None
    merit = float(np.abs(gap).max())
    for t in LOG_STEP_LENGTHS:
        trial = z + t * x
        if np.isfinite(trial).all() and trial.max() < 300.0:
            left = float(np.abs(_log_gap(c, trial, log_b, gamma)).max())
            if left <= (1.0 - 0.25 * t) * merit:
                return trial
    return None


def _convex_step(c: np.ndarray, u: np.ndarray, p: np.ndarray, q: np.ndarray, gamma: float) -> np.ndarray | None:
    """Newton's step on F in relative coordinates, (UCU + γ·diag(q)) x = q − p, as the next z; None if singular.

    Here p = u·Cu and q = u·b·u^(−γ), so that p − q is the gradient of F in those coordinates.
    """
    h = u[:, None] * c * u
    scale = 1.0 / np.sqrt(np.diagonal(h) + gamma * np.maximum(q, TINY))
    h = scale[:, None] * h * scale
    np.fill_diagonal(h, 1.0)
    try:
        x = scale * np.linalg.solve(h, scale * (q - p))
    except np.linalg.LinAlgError:
        return None
    if not (np.isfinite(x).all() and float(x @ (p - q)) < 0):
        return None
    return np.log(u) + np.log1p(_line_search(c, u, x, p, q, gamma) * x)


def _line_search(c: np.ndarray, u: np.ndarray, x: np.ndarray, p: np.ndarray, q: np.ndarray, gamma: float) -> float:
    """A step length near the minimiser of F along x, where F is convex, so that its slope increases with t."""
    d = u * x
    linear, quadratic, supply = float(x @ p), float(d @ (c @ d)), x * q

    def slope(t: float) -> float:
        return linear + quadratic * t - float((supply * (1.0 + t * x) ** -gamma).sum())

    lowest = float(x.min())
    longest = (1.0 - SHRINK) / -lowest if lowest < 0 else np.inf
    first = slope(0.0)
    t = min(1.0, longest)
    here = slope(t)
    if abs(here) <= FLAT * -first or (t == longest and here < 0):
        return t
    low, high = (t, longest) if here < 0 else (0.0, t)
    for _ in range(LINE_SEARCH_STEPS):
        t = 0.5 * (low + high) if np.isfinite(high) else 4.0 * low
        here = slope(t)
        if abs(here) <= FLAT * -first:
            break
        low, high = (t, high) if here < 0 else (low, t)
    return t if here <= 0 or low == 0.0 else low
