"""Nash-MTL's published algorithm: a sequence of convex programs, each solved to optimality here.

With β(α) = Gα, the paper asks for α > 0 with α_i β_i = 1 and solves, from α_t,

    min_α  Σ β_i(α) + ∇φ(α_t)ᵀα   subject to   φ_i(α) = log α_i + log β_i(α) ≥ 0,   φ = Σ φ_i.

Both terms are positive combinations of α and β, so each step is one program on the cosines C, in u = α·norms:

    min_u  aᵀu + bᵀv   subject to   u_i v_i ≥ 1,   v = Cu,   a, b ≥ 0,

whose dual is max 2Σ√(p_i q_i) subject to p + Cq = a + Cb and p, q ≥ 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers.certificates.bargaining import gap_of_program, objective_of_ccp, residual_of_fair
from accord.solvers.fair import nash
from accord.solvers.newton import minimise_fair
from accord.solvers.scaling import EPS, Cosines, all_zero, cosines_of, real_array
from accord.solvers.solution import Outcome, Solution

TOLERANCE = 1e-8
FINISHED = 1e-11  # a residual at which there is nothing left to gain from another program
LARGEST_GAP = 1e-2  # relative: a program with a larger duality gap is unsolved
FINE_GAP = 1e-6  # and one with a smaller is not worth a word
AT_FLOOR = 16.0
SAME = 1e-13  # relative: the objective no longer falls
SMALLEST_GAP = 1e-13  # a relative duality gap at which a program is done
NEAR = 1e-7  # a gap below this that no longer falls has met its rounding floor
STALLED = 3
MAX_STEPS = 100  # of Newton, for one program: a bound on the loop alone, 5 to 30 are usual
MARGIN = 1.0  # how far inside the constraints, in φ, a program starts
CENTRED = 1e-2  # no product λφ falls below this part of their mean
SHORTEST = 1e-6
SMALLEST, LARGEST = 1e-150, 1e150  # weights of unit gradients whose products float64 holds


@dataclass(frozen=True)
class Program:
    """The solution of one convex program.

    Attributes:
        weights: Shape (K,), α.
        multipliers: Shape (K,), those of the constraints φ_i ≥ 0, at least 0, in the objective's units.
        gap: The relative duality gap, which bounds how far the objective is above its minimum.
        steps: Newton steps.
    """

    weights: np.ndarray
    multipliers: np.ndarray
    gap: float
    steps: int


def nash_ccp(gramian: ArrayLike, start: ArrayLike | None = None, steps: int = 20, first_term: bool = True) -> Solution:
    """Nash-MTL as published: up to ``steps`` convex programs instead of the solution itself.

    From the start α_1 each program (see ``ccp_program``) linearises the concave part of the paper's Eq. 5 at the last
    solution. The sequence ends at a stationary point of Eq. 5, which is the bargaining solution in most cases, but not
    in all: once the gradients' norms differ much, the term Σ(Gα)_i outweighs the others and the sequence stalls.
    Without it (the paper's Section D.3) the sequence begins with Eq. 4, min Σ(Gα)_i, and has no stationary point but
    the bargaining solution; given enough programs it arrives there. ``nash`` is the solution itself.

    The published code solves the programs with a cone solver whose failures it passes over, returns the last but one
    solution, and stops by a test that mixes up two scales of G. None of that is reproduced; the objective is, whose
    two terms scale differently, so that here, unlike in ``nash``, the gradients' overall scale has an influence.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        start: Shape (K,), at least 0: the weights of an earlier solve; 0 counts as 1. Without it 1 for each task, as
            published. Where some (Gα)_i at the start is not positive, so that Eq. 5 has no gradient there, or some
            α_i‖g_i‖ is outside 1e±150, the start is the solution of Eq. 4. Not used without the first term.
        steps: Programs at most, at least 1.
        first_term: Whether the objective has the term Σ(Gα)_i.

    Returns:
        The weights, those of ``nash`` where the outcome is ``solved``: the residual is max_i |α_i (Gα)_i − 1|.
        ``approximate`` where it is above 1e-8 after the programs; the cause says so where one was not solved to a
        relative duality gap of 1e-6. ``stationary`` as in ``nash``; ``degenerate`` where rounding left a program
        unsolved. All utilities (Gα)_i are positive nevertheless. ``steps`` counts programs, that of Eq. 4 among them.

    Raises:
        OptionError: steps is no positive integer, first_term no bool, or start has negative entries.
        ShapeError: Not square, not symmetric, no Gramian, or a start of another shape.
        NonFiniteError: The Gramian or the start hold NaN or infinity.

    Example:
        >>> from accord.solvers import nash_ccp
        >>> nash_ccp([[4.0, 0.0], [0.0, 1.0]]).weights.round(6)
        array([0.5, 1. ])

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv:2202.01017, Section 3.2, Eq. 4 and
        5, Sections D.2 and D.3.
    """
    _check_options(steps, first_term)
    problem = cosines_of(gramian, "nash_ccp")
    given = _start(start, problem)
    if not len(problem.rows):
        return all_zero(problem, "nash-mtl")
    c, norms = problem.cosines, problem.norms
    inside = _inside(c)
    if inside is None:  # no α > 0 has Gα > 0: the programs have no feasible point
        return nash(gramian)
    with np.errstate(over="ignore"):
        u = given * norms
    taken, gap, weight = 0, 0.0, float(first_term)
    if not first_term or not (u.min() > SMALLEST and u.max() < LARGEST and _positive(c, u)):
        u, _, gap, _ = _minimise(c, np.zeros(len(u)), norms, inside)
        taken = 1
    feasible = bool((u * (c @ u) >= 1.0).all())
    objective = objective_of_ccp(u, c @ u, weight * norms) if feasible else np.inf
    stalled = False
    while taken < steps and not stalled and not (taken and _residual(c, u) <= FINISHED):
        following, _, program_gap, _ = _minimise(c, 1.0 / u, weight * norms + 1.0 / (c @ u), inside)
        value = objective_of_ccp(following, c @ following, weight * norms)
        stalled = objective - value <= SAME * (abs(value) + len(u))
        taken, gap = taken + 1, max(gap, program_gap)
        if value <= objective:
            u, objective = following, value
    return _solution(problem, u / norms, taken, gap, stalled)


def ccp_program(gramian: ArrayLike, weights: ArrayLike | None, first_term: bool = True) -> Program:
    """One program of ``nash_ccp``: Eq. 5 of the paper linearised at given weights, or Eq. 4.

        min_α  Σ_i (Gα)_i + Σ_i (α_i/α_t,i + (Gα)_i/(Gα_t)_i)   subject to   α_i (Gα)_i ≥ 1

    Args:
        gramian: Shape (K, K), as in ``nash_ccp``, without zero rows.
        weights: Shape (K,), α_t, positive with Gα_t > 0; None is for Eq. 4, the first sum alone.
        first_term: Whether the first sum is there.

    Raises:
        OptionError: α_t or Gα_t is not positive, or Eq. 4 is asked for without its only term.
        ShapeError: Not square, not symmetric, no Gramian, a zero row, or weights of another shape.
        NonFiniteError: The Gramian or the weights hold NaN or infinity.
    """
    problem = cosines_of(gramian, "ccp_program")
    c, norms = problem.cosines, problem.norms
    if problem.zero_rows:
        raise ShapeError(f"ccp_program: rows {problem.zero_rows} of the Gramian are zero; leave them out")
    inside = _inside(c)
    if inside is None:
        raise OptionError("ccp_program: the gradients are Pareto stationary to within rounding: nothing is feasible")
    if weights is None:
        if not first_term:
            raise OptionError("ccp_program: Eq. 4 (weights=None) is the first term alone; first_term must be True")
        first, second = np.zeros(len(norms)), norms
    else:
        u = _start(weights, problem, "ccp_program", "weights") * norms
        v = c @ u
        if not (np.asarray(weights) > 0).all() or not (v > 0).all():
            raise OptionError("ccp_program: α_t and Gα_t must be positive, or log has no derivative there")
        first, second = 1.0 / u, (norms if first_term else 0.0) + 1.0 / v
    u, multipliers, gap, steps = _minimise(c, first, second, inside)
    return Program(u / norms, multipliers, gap, steps)


def _minimise(
    c: np.ndarray, a: np.ndarray, b: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Minimise aᵀu + bᵀCu over φ = log u + log Cu ≥ 0 from a point inside: u, multipliers λ, relative gap, steps.

    A primal-dual interior-point method with Mehrotra's corrector. In relative steps x = du/u and y = dλ/λ, with
    M = diag(1/v)·C·diag(u) and A = 1 + M, Newton's equations are

        (Λ + MᵀΛM) x − AᵀΛ y = −u·(a − λ/u + C(b − λ/v)),   A x + φ·y = (μ − λφ)/λ,

    solved as they stand: eliminating y would square the spread of the multipliers.
    """
    with np.errstate(all="ignore"):  # what leaves float64's range makes no step, and shows in the gap
        return _interior(c, a, b, inside)


def _interior(
    c: np.ndarray, a: np.ndarray, b: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """``_minimise`` without its guard."""
    k = len(c)
    u, v = inside, c @ inside
    phi = np.log(u) + np.log(v)
    unit = 2.0 * k / float(a @ u + b @ v)  # the multipliers are then of the size of 1
    a, b = unit * a, unit * b
    lam = 1.0 / phi
    best = (u, lam / unit, np.inf)
    stalled = steps = 0
    while steps < MAX_STEPS:
        steps += 1
        gap = gap_of_program(c, a, b, u, lam)
        stalled = 0 if gap < 0.5 * best[2] else stalled + 1
        if gap < best[2]:
            best = (u, lam / unit, gap)
        if gap <= SMALLEST_GAP or float(lam @ phi) < EPS or (stalled >= STALLED and best[2] <= NEAR):
            break
        newton = _Newton(c, a, b, u, lam, phi)
        found = newton.step()
        if found is None:
            break
        u, lam, phi = found
    return (*best, steps)


class _Newton:
    """Newton's equations at one point of the interior: a predictor, a corrector and a step that stays inside."""

    def __init__(
        self, c: np.ndarray, a: np.ndarray, b: np.ndarray, u: np.ndarray, lam: np.ndarray, phi: np.ndarray
    ) -> None:
        k = len(c)
        v = c @ u
        self.c, self.u, self.lam, self.phi = c, u, lam, phi
        self.m = c * u / v[:, None]  # (K, K): dv/v = M du/u
        self.a = self.m.copy()
        self.a.flat[:: k + 1] += 1.0
        matrix = np.empty((2 * k, 2 * k))
        matrix[:k, :k] = self.m.T @ (lam[:, None] * self.m)
        matrix[:k, :k].flat[:: k + 1] += lam
        matrix[:k, k:] = -self.a.T * lam
        matrix[k:, :k] = self.a
        matrix[k:, k:] = np.diag(phi)
        self.scale = 1.0 / np.abs(matrix).max(axis=1)
        self.matrix = matrix * self.scale[:, None]
        self.slope = -u * (a - lam / u + c @ (b - lam / v))

    def solve(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Relative steps of u and λ for a wanted change of the products λφ."""
        right = np.concatenate([self.slope, wanted / self.lam])
        both = np.linalg.solve(self.matrix, self.scale * right)
        return both[: len(self.u)], both[len(self.u) :]

    def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The next u, λ and φ, or None where the equations are singular or no step stays inside."""
        products = self.lam * self.phi
        mean = float(products.mean())
        try:
            x, y = self.solve(-products)
            reach = min(_longest(x), _longest(self.m @ x), _longest(y), _longest(self.a @ x / self.phi))
            centre = max((1.0 - reach) ** 2, 1e-3) * mean
            moved = self.m @ x
            bend = self.lam * (y * (self.a @ x) - 0.5 * (x * x + moved * moved))  # what the predictor leaves out
            x, y = self.solve(centre - products - reach**2 * bend)
        except np.linalg.LinAlgError:
            return None
        longest = min(_longest(x), _longest(self.m @ x), _longest(y))
        t = longest if longest == 1.0 else 0.99 * longest
        least = min(CENTRED, 0.9 * float(products.min()) / mean)
        while t > SHORTEST:
            u, lam = self.u * (1.0 + t * x), self.lam * (1.0 + t * y)
            v = self.c @ u
            if min(u.min(), v.min(), lam.min()) > 0.0:
                phi = np.log(u) + np.log(v)
                following = lam * phi
                if phi.min() > 0.0 and following.min() >= least * following.mean():
                    return u, lam, phi
            t *= 0.8
        return None


def _longest(relative: np.ndarray) -> float:
    """The longest step, 1 at most, that leaves quantities with these relative changes at least 0."""
    return 1.0 / max(1.0, -float(relative.min()))


def _inside(c: np.ndarray) -> np.ndarray | None:
    """A point with φ = MARGIN in every constraint: the bargaining solution, lengthened; None where there is none."""
    result = minimise_fair(c, np.zeros(len(c)), 1.0)
    if result.vanishing:
        return None
    u = np.exp(result.z)
    return u * np.exp(0.5 * MARGIN) if _positive(c, u) and (np.log(u) + np.log(c @ u) > -MARGIN).all() else None


def _positive(c: np.ndarray, u: np.ndarray) -> bool:
    """Whether Cu > 0 beyond rounding."""
    return bool((c @ u > len(u) * EPS * (np.abs(c) @ u)).all())


def _residual(c: np.ndarray, u: np.ndarray) -> float:
    return float(np.abs(u * (c @ u) - 1.0).max())


def _solution(problem: Cosines, weights: np.ndarray, taken: int, gap: float, stalled: bool) -> Solution:
    """Name the outcome of ``taken`` programs, the worst of them solved to ``gap``."""
    residual = residual_of_fair(weights, problem.gramian @ weights, 1.0)
    u = weights * problem.norms
    floor = len(u) * EPS * float((u * (np.abs(problem.cosines) @ u)).max())
    outcome: Outcome = "solved"
    cause = ""
    if residual > TOLERANCE and residual <= AT_FLOOR * floor:
        outcome = "stationary"
        cause = f"the gradients conflict so much that {floor:.1e} is as near as float64 gets"
    elif residual > TOLERANCE:
        outcome = "approximate" if gap <= LARGEST_GAP else "degenerate"
        cause = f"{taken} convex program{'s' * (taken > 1)} leave max|α(Gα) − 1| = {residual:.1e}"
        if gap > FINE_GAP:
            cause += f"; rounding allowed one of them no smaller duality gap than {gap:.1e}"
        elif stalled:
            cause += ": a stationary point of the published objective, not the bargaining solution"
    return problem.solution(
        "nash-mtl", weights, residual=residual, floor=floor, outcome=outcome, cause=cause, steps=taken
    )


def _check_options(steps: int, first_term: bool) -> None:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise OptionError(f"nash_ccp: steps = {steps!r} is not an integer of at least 1; the paper uses 20")
    if not isinstance(first_term, (bool, np.bool_)):
        raise OptionError(f"nash_ccp: first_term = {first_term!r} is neither True nor False")


def _start(start: ArrayLike | None, problem: Cosines, caller: str = "nash_ccp", name: str = "start") -> np.ndarray:
    """Shape (K',): the start of the tasks that have a gradient, 1 where none is given."""
    if start is None:
        return np.ones(len(problem.rows))
    given = real_array(start, name, caller)
    if given.shape != (problem.num_tasks,):
        raise ShapeError(f"{caller}: {name} of shape ({problem.num_tasks},) is needed, got {given.shape}")
    if not np.isfinite(given).all():
        raise NonFiniteError(f"{caller}: {name} holds NaN or infinity")
    if given.min() < 0.0:
        raise OptionError(f"{caller}: {name}[{int(given.argmin())}] = {given.min():.3g} is negative")
    given = given[problem.rows]
    return np.where(given > 0.0, given, 1.0)
