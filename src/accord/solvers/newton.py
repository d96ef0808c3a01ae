"""The convex kernel: minimise ½uᵀCu − Σ bᵢφ(uᵢ) over u > 0, where φ′(u) = u^(−γ).

γ = 1 is Nash-MTL (φ = log), γ = 1/α is FairGrad. The stationarity condition is Cu = b·u^(−γ). The function is
strictly convex for a positive semidefinite C, so there is one solution, or none when some u ≥ 0 has Cu = 0.

Two forms of Newton's method share the work, both free of the scale of u and of C:

* on F itself, in relative coordinates u ← u(1 + t·x), with a line search: it converges from anywhere;
* on log(Cu) + γ·log u − log b = 0 in z = log u, wherever Cu > 0: one step may cross thirty decades, which is
  what a small γ asks for.

γ = 1 takes 3 to 7 steps. Another γ is tried directly, and where that does not converge reached from γ = 1 by
continuation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accord.solvers.scaling import EPS, VANISHING

TARGET = 1e-13  # relative residual at which there is nothing left to gain
MAX_STEPS = 100  # a bound on the loop alone
DIRECT_STEPS = 12  # for the attempt without continuation
NEAR = 1e-3  # a residual below this that no longer falls has met its rounding floor
CHECK_EVERY = 4  # steps between two looks at whether Cu vanishes
STALLED = 2  # steps without progress that count as having reached the floor
SHRINK = 0.01  # no coordinate shrinks by more than this factor in a step on F
LINE_SEARCH_STEPS = 12
TINY = 1e-290
FLAT = 0.1  # the slope left at the end of a line search, relative to its start
LOG_STEP_LENGTHS = (1.0, 0.5, 0.25, 0.0625)
STAGE_RATIO = 4.0  # by how much γ changes at first from one stage of the continuation to the next
STAGE_TOLERANCE = 1e-2  # of log(Cu·u^γ/b): enough to start the next stage


class KernelResult(NamedTuple):
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
        result = _reached(c, log_norms, 1.0 / alpha)
        u = np.exp(result.z)
        demand = np.exp((1.0 / alpha - 1.0) * log_norms - result.z / alpha)
        floor = len(c) * EPS * float((np.abs(c) @ u / demand).max())
        return KernelResult(result.z, result.residual, floor, result.steps, result.vanishing)


def _reached(c: np.ndarray, log_norms: np.ndarray, target: float) -> KernelResult:
    """Straight to the target γ where that converges; else γ = 1 first and on from there, stage by stage."""
    k = len(c)
    if target != 1.0:
        log_b = (target - 1.0) * log_norms
        alone = log_b / (1.0 + target)  # the solution if all gradients were orthogonal
        direct = _minimise(c, alone, log_b, target, TARGET, DIRECT_STEPS)
        if direct.residual <= TARGET:
            return direct
    result = _minimise(c, _nash_start(c), np.zeros(k), 1.0, TARGET, MAX_STEPS)
    if target == 1.0:
        return result
    gamma, steps = 1.0, result.steps
    while gamma != target and not result.vanishing:
        factor = min(max(target / gamma, 1.0 / STAGE_RATIO), STAGE_RATIO)
        gamma = target if factor == target / gamma else gamma * factor
        tolerance = TARGET if gamma == target else STAGE_TOLERANCE
        result = _minimise(c, result.z, (gamma - 1.0) * log_norms, gamma, tolerance, MAX_STEPS)
        steps += result.steps
    return result._replace(steps=steps)


def _nash_start(c: np.ndarray) -> np.ndarray:
    """The best point on the ray of ones, then each uᵢ² + uᵢ Σ_{j≠i} Cᵢⱼuⱼ = 1 for itself; exact for two tasks."""
    k = len(c)
    on_ray = np.sqrt(k / max(float(c.sum()), k * k * k * EPS))
    others = (c.sum(1) - 1.0) * on_ray
    return np.log(0.5 * (np.sqrt(others * others + 4.0) - others))


def _minimise(
    c: np.ndarray, z: np.ndarray, log_b: np.ndarray, gamma: float, tolerance: float, max_steps: int
) -> KernelResult:
    """Newton's method at one γ from z = log u: on the logarithms where that helps, else on F."""
    absolute = np.abs(c)
    point = _Point.at(c, z, log_b, gamma)
    best, stalled = point, 0
    for step in range(max_steps):
        if point.merit <= tolerance:
            return KernelResult(point.z, point.merit, 0.0, step)
        if step % CHECK_EVERY == CHECK_EVERY - 1 and _vanishes(c, absolute, point.u):
            return KernelResult(point.z, point.merit, np.inf, step, vanishing=True)
        following = _log_step(c, point, log_b, gamma) if point.merit < np.inf else None
        if following is None:
            demand = np.exp(log_b - gamma * point.z)
            stepped = _convex_step(c, point.u, point.u * point.supply, point.u * demand, gamma)
            if stepped is None:  # C is not positive semidefinite at this size of u: rounding has taken over
                break
            following = _Point.at(c, stepped, log_b, gamma)
        point = following
        stalled = 0 if point.merit < 0.5 * best.merit else stalled + 1
        if point.merit < best.merit:
            best = point
        if stalled >= STALLED and best.merit <= NEAR:  # what is left is rounding
            break
    if _vanishes(c, absolute, point.u):
        return KernelResult(point.z, point.merit, np.inf, step + 1, vanishing=True)
    return KernelResult(best.z, best.merit, 0.0, step + 1)


def _vanishes(c: np.ndarray, absolute: np.ndarray, u: np.ndarray) -> bool:
    """Whether Cu is zero to within rounding."""
    return float(u @ (c @ u)) <= VANISHING * len(c) * EPS * float(u @ (absolute @ u))


class _Point(NamedTuple):
    """z with what follows from it: u, Cu, log(Cu) + γz − log b and its largest entry, infinite unless Cu > 0."""

    z: np.ndarray
    u: np.ndarray
    supply: np.ndarray
    gap: np.ndarray
    merit: float

    @classmethod
    def at(cls, c: np.ndarray, z: np.ndarray, log_b: np.ndarray, gamma: float) -> _Point:
        u = np.exp(z)
        supply = c @ u
        gap = np.log(supply)
        gap += gamma * z
        gap -= log_b
        merit = float(np.maximum.reduce(np.abs(gap)))
        return cls(z, u, supply, gap, merit if merit == merit else np.inf)  # NaN is the logarithm of Cu < 0


def _log_step(c: np.ndarray, point: _Point, log_b: np.ndarray, gamma: float) -> _Point | None:
    """Newton's step on the logarithms, or None where it does not bring the largest gap down."""
    matrix = c * point.u
    matrix /= point.supply[:, None]
    matrix.flat[:: len(c) + 1] += gamma
    try:
        x = np.linalg.solve(matrix, point.gap)
    except np.linalg.LinAlgError:
        return None
    for t in LOG_STEP_LENGTHS:
        trial = _Point.at(c, point.z - t * x, log_b, gamma)
        if trial.merit <= (1.0 - 0.25 * t) * point.merit:
            return trial
    return None


def _convex_step(c: np.ndarray, u: np.ndarray, p: np.ndarray, q: np.ndarray, gamma: float) -> np.ndarray | None:
    """Newton's step on F in relative coordinates, (UCU + γ·diag(q)) x = q − p, as the next z; None if singular.

    Here p = u·Cu and q = u·b·u^(−γ), so that p − q is the gradient of F in those coordinates.
    """
    h = u[:, None] * c * u
    scale = 1.0 / np.sqrt(np.diagonal(h) + gamma * np.maximum(q, TINY))
    h = scale[:, None] * h * scale
    h.flat[:: len(c) + 1] = 1.0
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
