"""MGDA and CAGrad: directions found on the convex hull of the task gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import OptionError
from accord.solvers.active_set import SimplexPoint, minimise_on_simplex
from accord.solvers.certificates.hull import gap_of_cagrad, mgda_gap
from accord.solvers.scaling import (
    EPS,
    VANISHING,
    Cosines,
    all_zero,
    check_number,
    check_semidefinite,
    cosines_of,
    nearly_stationary,
    symmetrised,
)
from accord.solvers.solution import Outcome, Solution

TOLERANCE = {"mgda": 1e-9, "cagrad": 1e-8}
RIDGE = 4.0  # in units of the rounding of G's own entries
EXPLAINED = 4.0  # rounding units granted to each product of MGDA's gap
AT_FLOOR = 64.0  # a gap within this factor of its floor is rounding
FEW_DIGITS = 1e-6  # a floor above this is that of a nearly stationary point
NO_MEAN = 1e-10  # ‖g0‖² relative to its terms below which rounding decides where in the ball the best direction lies
LARGEST_RADIUS = 1e100
BISECTIONS = 34
POLISHED = 1e-10  # a gap above this is polished in extended precision
POLISHES = 4
SOUND = 1e-7  # the optimality gap that shows a radius to be below the one at which g_x vanishes
ROUNDING = 4.0  # reduced costs within this many rounding units of zero are zero
RESCALES = {0: "none", 1: "1 + c²", 2: "1 + c"}


def mgda(gramian: ArrayLike) -> Solution:
    """MGDA: the minimum-norm point of the convex hull of the task gradients.

        min_x ½ xᵀGx   subject to   x ≥ 0, Σ x_i = 1.

    Its negative is the direction of steepest common descent, max_d min_i g_iᵀd in a ball. Solved exactly by an
    active-set method on the cosines. (The published code stops its Frank-Wolfe iterations early, and the
    experiments of later papers multiply the weights by K: the option ``times_k`` of ``accord.MGDA``.)

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.

    Returns:
        Weights on the simplex. The residual is the relative duality gap (xᵀGx − min_i (Gx)_i)/xᵀGx.
        ``stationary`` where the minimum norm is zero to within rounding. Where a task's gradient is zero the
        definition is met by that task alone with a zero direction; the weights here are those of the others.

    Raises:
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import mgda
        >>> mgda([[1.0, 0.0], [0.0, 3.0]]).weights
        array([0.75, 0.25])

    References:
        Désidéri, "Multiple-gradient descent algorithm", C. R. Math. 2012. Sener and Koltun, "Multi-Task Learning
        as Multi-Objective Optimization", NeurIPS 2018, arXiv:1810.04650, Eq. 3.
    """
    problem = cosines_of(gramian, "mgda")
    if not len(problem.rows):
        return all_zero(problem, "mgda")
    t = problem.norms.min() / problem.norms
    point = min_norm(problem.cosines, t)
    norms = problem.norms / problem.norms.min()
    scaled = norms[:, None] * problem.cosines * norms
    x = symmetrised(point.u * t, problem.cosines, lambda i, j: bool(norms[i] == norms[j]))
    x = x / x.sum()
    supply = np.abs(scaled) @ x
    square = float(x @ scaled @ x)
    check_semidefinite(square, float(x @ supply), "mgda")
    vanishing = square <= VANISHING * len(x) * EPS * float(x @ supply)
    if not vanishing and mgda_gap(scaled, x) > POLISHED:
        x = _equalised(scaled, norms, x)
    floor = len(x) * EPS * float(supply.max()) / square if square > 0.0 else np.inf
    near = nearly_stationary(problem.cosines, x * norms)
    rough = EXPLAINED * len(x) * EPS * (supply + float(x @ supply))  # (K',): each product's own rounding
    unexplained = float((square - scaled @ x - rough).max())
    explained = floor <= FEW_DIGITS and unexplained <= TOLERANCE["mgda"] * square
    return _finished(problem, "mgda", x, (mgda_gap(scaled, x), floor), point.steps, vanishing, near, explained)


def cagrad(gramian: ArrayLike, c: float = 0.4, rescale: int = 0) -> Solution:
    """CAGrad: the direction near the mean gradient that helps the worst-off task most.

        max_d min_i g_iᵀd   subject to   ‖d − g0‖ ≤ c‖g0‖,   g0 = (1/K) Σ g_i,

    whose solution is d = g0 + c‖g0‖·g_x/‖g_x‖ where x minimises g_xᵀg0 + c‖g0‖‖g_x‖ on the simplex. Solved
    exactly: the minimiser on each face has a closed form. c = 0 is the mean gradient; as c grows the direction
    tends to MGDA's.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        c: Radius relative to ‖g0‖, at least 0. The paper's supervised experiments use 0.4.
        rescale: 0 leaves d as it is (the paper's Algorithm 1); 1 divides it by 1 + c² (the published code in
            every supervised experiment); 2 divides it by 1 + c.

    Returns:
        The weights of d. The residual is the duality gap over the size of its two terms. ``stationary`` where
        g_x vanishes to within rounding: no task can gain without another's loss, and d is g0 projected on the cone
        of directions that hurt none (rescaled); the residual is then the largest loss, over ‖g_i‖‖g0‖.

    Raises:
        OptionError: c is negative or above 1e100, or rescale is not 0, 1 or 2.
        ShapeError: Not square, not symmetric, or no Gramian.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import cagrad
        >>> cagrad([[1.0, 0.0], [0.0, 1.0]], c=0.5).weights
        array([0.75, 0.75])

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, arXiv:2110.14048.
    """
    check_number(c, "c", "cagrad", "the paper uses 0.4")
    if c > LARGEST_RADIUS:
        raise OptionError(f"cagrad: c = {c:g} is beyond float64's squares; for the max-min direction use mgda")
    if isinstance(rescale, bool) or not isinstance(rescale, (int, np.integer)) or rescale not in RESCALES:
        raise OptionError(f"cagrad: rescale = {rescale!r} is not 0 (none), 1 (by 1 + c²) or 2 (by 1 + c)")
    problem = cosines_of(gramian, "cagrad")
    if not len(problem.rows):
        return all_zero(problem, "cagrad")
    k, live = problem.num_tasks, len(problem.rows)
    divisor = {0: 1.0, 1: 1.0 + c * c, 2: 1.0 + c}[rescale]
    unit = np.exp2(np.round(np.log2(problem.norms.max())))  # a power of two, so that no digit of G is lost
    norms = problem.norms / unit
    scaled = norms[:, None] * problem.cosines * norms
    exact = (problem.gramian / unit / unit).astype(np.longdouble)  # conflict cancels digits in sums over it
    sums = exact.sum(axis=1)
    mean = (sums / k).astype(np.float64)  # (K',): g_iᵀg0, where zero rows count in the mean
    check_semidefinite(float(sums.sum()), float(np.abs(scaled).sum()), "cagrad")
    square = max(0.0, float(sums.sum() / k / k))
    radius = c * float(np.sqrt(square))
    if square <= NO_MEAN * float(np.abs(scaled).sum()) / k**2:
        weights = np.full(live, 1.0 / k / divisor)
        cause = "the mean gradient vanishes to within rounding, and with it the ball around it"
        return problem.solution("cagrad", weights, residual=0.0, floor=1.0, outcome="stationary", cause=cause)
    if radius == 0.0:
        weights = np.full(live, 1.0 / k / divisor)
        return problem.solution("cagrad", weights, residual=0.0, floor=0.0, outcome="solved")
    found = _at_radius(problem, exact, norms, mean, radius)
    if not found.vanishing and gap_of_cagrad(exact, found.x, mean, radius) > POLISHED:
        found = _polished(problem, exact, sums / k, radius, found)
    if found.vanishing:
        return _beside_stationary(problem, exact, norms, mean, radius, divisor)
    size = abs(float(found.x @ mean)) + radius * found.length
    floor = live * EPS * float((np.abs(scaled) @ found.weights).max()) / size
    gap = gap_of_cagrad(exact, found.x, mean, radius)
    near = nearly_stationary(problem.cosines, found.x * norms)
    return _finished(problem, "cagrad", found.weights / divisor, (gap, floor), found.steps, near=near)


class _Averse(NamedTuple):
    """CAGrad at one radius: dual weights x, ‖g_x‖, whether it vanishes, weights of d, rounds."""

    x: np.ndarray
    length: float
    vanishing: bool
    weights: np.ndarray
    steps: int


def _at_radius(problem: Cosines, exact: np.ndarray, norms: np.ndarray, mean: np.ndarray, radius: float) -> _Averse:
    """Solve the dual at a radius; ``exact`` is G over a power of two, in extended precision, ``mean`` holds g_iᵀg0."""
    cosines = problem.cosines
    t = norms.min() / norms
    scaled = norms[:, None] * cosines * norms
    point = _conflict_averse(cosines, t, mean / norms * norms.min(), radius * norms.min())
    x = symmetrised(point.u * t, cosines, lambda i, j: bool(norms[i] == norms[j]))
    x = x / x.sum()
    square, terms = float(x @ exact @ x), float(x @ np.abs(scaled) @ x)
    check_semidefinite(square, terms, "cagrad")
    vanishing = square <= VANISHING * len(x) * EPS * terms
    length = float(np.sqrt(max(0.0, square)))
    weights = np.full(len(x), 1.0 / problem.num_tasks) + (0.0 if vanishing else radius / length) * x
    return _Averse(x, length, vanishing, weights, point.steps)


def _equalised(scaled: np.ndarray, norms: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Newton steps on (Gx)_i = xᵀGx on the support, with the residual in extended precision; x where they fail."""
    support = np.flatnonzero(x > 0.0)
    g, n = scaled[np.ix_(support, support)], norms[support]
    exact, fine = g.astype(np.longdouble), x[support].astype(np.longdouble)
    matrix = np.block([[g / n / n[:, None], -1.0 / n[:, None]], [1.0 / n[None], np.zeros((1, 1))]])
    best, least = x, mgda_gap(scaled, x)
    for _ in range(POLISHES):
        products = exact @ fine
        short = (fine @ products - products).astype(np.float64) / n
        try:
            step = np.linalg.solve(matrix, np.append(short, float(1.0 - fine.sum())))[:-1] / n
        except np.linalg.LinAlgError:
            break
        if not (np.isfinite(step).all() and (fine + step > 0.0).all()):
            break
        fine = fine + step
        candidate = np.zeros(len(x))
        candidate[support] = (fine / fine.sum()).astype(np.float64)
        gap = mgda_gap(scaled, candidate)
        if gap >= least:
            break
        best, least = candidate, gap
    return best


def _polished(problem: Cosines, exact: np.ndarray, mean: np.ndarray, radius: float, found: _Averse) -> _Averse:
    """Newton steps on the support, with the residual of m + (κ/‖g_x‖)Gx = λ in extended precision.

    Near Pareto stationarity the rounding of the cosines costs the closed form the digits that these steps bring back.
    """
    support = np.flatnonzero(found.x > 0.0)
    g, m = exact[np.ix_(support, support)], mean[support].astype(np.longdouble)
    n = problem.norms[support] / problem.norms[support].max()
    x = found.x[support].astype(np.longdouble)
    best, least = found.x, gap_of_cagrad(exact, found.x, mean.astype(np.float64), radius)
    for _ in range(POLISHES):
        supply = g @ x
        square = x @ supply
        if not square > 0.0:
            break
        mu = radius / np.sqrt(square)
        slope = m + mu * supply
        level = x @ slope
        curve = (mu * (g - np.outer(supply, supply) / square)).astype(np.float64) / n / n[:, None]
        matrix = np.block([[curve, -1.0 / n[:, None]], [1.0 / n[None], np.zeros((1, 1))]])
        right = np.append(((level - slope) / n).astype(np.float64), float(1.0 - x.sum()))
        try:
            step = np.linalg.solve(matrix, right)[:-1] / n
        except np.linalg.LinAlgError:
            break
        if not (np.isfinite(step).all() and (x + step > 0.0).all()):
            break
        x = x + step
        candidate = np.zeros(len(found.x))
        candidate[support] = (x / x.sum()).astype(np.float64)
        gap = gap_of_cagrad(exact, candidate, mean.astype(np.float64), radius)
        if gap >= least:
            break
        best, least = candidate, gap
    length = float(np.sqrt(max(0.0, float(best @ exact @ best))))
    weights = np.full(len(best), 1.0 / problem.num_tasks) + radius / length * best
    return found._replace(x=best, length=length, weights=weights)


def _beside_stationary(
    problem: Cosines, exact: np.ndarray, norms: np.ndarray, mean: np.ndarray, radius: float, divisor: float
) -> Solution:
    """Where g_x vanishes at the optimum, the best worst-case gain is zero and d the nearest to g0 that attains it.

    That direction, g0 projected on the cone of directions that hurt no task, is CAGrad's at the largest radius whose
    optimum does not vanish, which bisection finds.
    """
    scaled = norms[:, None] * problem.cosines * norms
    low, high, steps = 0.0, radius, 0
    weights = np.full(len(norms), 1.0 / problem.num_tasks)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        found = _at_radius(problem, exact, norms, mean, middle)
        steps += found.steps
        if found.vanishing or gap_of_cagrad(exact, found.x, mean, middle) > SOUND:
            high = middle
        else:
            low, weights = middle, found.weights
    gains = scaled @ weights / norms
    size = float(np.sqrt(max(0.0, float(mean.sum()) / problem.num_tasks)))  # ‖g0‖
    residual = max(0.0, -float(gains.min())) / size
    cause = "a convex combination of the gradients vanishes to within rounding: no task can gain without another's loss"
    return problem.solution(
        "cagrad",
        weights / divisor,
        residual=residual,
        floor=np.sqrt(EPS),
        outcome="stationary",
        cause=cause,
        steps=steps,
    )


def pareto_stationarity(gramian: ArrayLike) -> float:
    """The smallest norm of a convex combination of the unit task gradients, between 0 and 1.

    0 at a Pareto-stationary point, where some combination vanishes; it does not depend on the losses' scales.
    Tasks without a gradient are left out.
    """
    problem = cosines_of(gramian, "pareto_stationarity")
    if not len(problem.rows):
        return 0.0
    x = min_norm(problem.cosines, np.ones(len(problem.rows))).u
    return float(np.sqrt(max(0.0, x @ problem.cosines @ x)))


def min_norm(cosines: np.ndarray, t: np.ndarray) -> SimplexPoint:
    """Minimise ½uᵀCu on {u ≥ 0, tᵀu = 1}: in weights x = t·u, MGDA for gradients of norms 1/t."""
    rounding = len(t) * EPS
    absolute = np.abs(cosines)

    def target(support: np.ndarray) -> tuple[np.ndarray, bool]:
        y = _solve(cosines, support, t[support])
        total = float(t[support] @ y)
        return y / total, True

    def reduced(u: np.ndarray) -> tuple[np.ndarray, float, float]:
        supply = cosines @ u
        square = float(u @ supply)
        rough = ROUNDING * rounding * float((absolute @ u / t).max())
        return supply / t - square, rough if rough < square else square, square

    return minimise_on_simplex(t, int(t.argmax()), target, reduced)


def _conflict_averse(cosines: np.ndarray, t: np.ndarray, linear: np.ndarray, radius: float) -> SimplexPoint:
    """Minimise hᵀu + κ√(uᵀCu) on {u ≥ 0, tᵀu = 1}.

    On a face the condition h + μCu = λt, μ = κ/√(uᵀCu), gives u = A(λt − h)/μ with A = C⁻¹ there, and
    κ² = λ²a − 2λb + q with a = tᵀAt, b = tᵀAh, q = hᵀAh: a quadratic equation for λ, and μ = λa − b.
    """
    rounding = len(t) * EPS
    absolute = np.abs(cosines)

    def target(support: np.ndarray) -> tuple[np.ndarray, bool]:
        right = np.stack([t[support], linear[support]], axis=1)
        inverse = _solve(cosines, support, right)
        at, ah = inverse[:, 0], inverse[:, 1]
        a, b, q = float(right[:, 0] @ at), float(right[:, 0] @ ah), float(right[:, 1] @ ah)
        mu_squared = a * radius**2 - (a * q - b * b)
        if mu_squared <= 0.0:  # the linear part wins: F falls without bound along this direction of the hull
            return (b / a) * at - ah, False
        mu = float(np.sqrt(mu_squared))
        return ((mu + b) / a * at - ah) / mu, True

    def reduced(u: np.ndarray) -> tuple[np.ndarray, float, float]:
        supply = cosines @ u
        length = float(np.sqrt(max(float(u @ supply), np.finfo(float).tiny)))
        slope = (linear + radius / length * supply) / t
        value = float(linear @ u) + radius * length
        rough = ROUNDING * rounding * float(((np.abs(linear) + radius / length * (absolute @ u)) / t).max())
        return slope - value, rough, value

    return minimise_on_simplex(t, int(t.argmax()), target, reduced)


def _solve(cosines: np.ndarray, support: np.ndarray, right: np.ndarray) -> np.ndarray:
    """C⁻¹ right on a support, with a ridge of the size of the Gramian's own rounding, and one refinement."""
    c = cosines[np.ix_(support, support)]
    ridged = c.copy()
    ridged.flat[:: len(c) + 1] += RIDGE * len(cosines) * EPS
    try:
        y = np.linalg.solve(ridged, right)
        return y + np.linalg.solve(ridged, right - c @ y)
    except np.linalg.LinAlgError:  # singular all the same: the smallest of the least-squares solutions
        return np.linalg.lstsq(ridged, right, rcond=None)[0]


def _finished(
    problem: Cosines,
    method: str,
    weights: np.ndarray,
    certificate: tuple[float, float],
    steps: int,
    vanishing: bool = False,
    near: bool = False,
    explained: bool = False,
) -> Solution:
    """Name the outcome from the certificate (gap, floor), a (nearly) vanishing combination, and a gap of rounding."""
    gap, floor = certificate
    outcome: Outcome = "solved"
    cause = ""
    if vanishing:
        outcome, cause = "stationary", "a convex combination of the gradients vanishes to within rounding"
    elif gap > max(TOLERANCE[method], AT_FLOOR * floor):
        outcome, cause = "degenerate", f"the optimality gap is {gap:.1e} where rounding allows {floor:.1e}"
    elif gap > TOLERANCE[method] or floor > FEW_DIGITS:
        outcome = "solved" if explained else "stationary" if near else "degenerate"
        cause = f"the norms' spread and the conflict allow no smaller gap than {floor:.1e} in float64"
    return problem.solution(method, weights, residual=gap, floor=floor, outcome=outcome, cause=cause, steps=steps)
