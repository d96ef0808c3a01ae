"""GradVac: each gradient drawn towards those it is less aligned with than it should be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers.certificates.surgery import residual_of_gradvac
from accord.solvers.orders import Order, among, orders_of
from accord.solvers.scaling import EPS, VANISHING, Cosines, all_zero, cosines_of, real_array
from accord.solvers.solution import Outcome, Solution

TOLERANCE = 1e-8
NEAREST = 1e-8  # a target within this of ±1 counts as that far from it: the length grows as 1/√(1 − φ̂²)
LONGEST = 1e100  # a gradient grown beyond this many times its own length is measured anew


def gradvac(
    gramian: ArrayLike,
    targets: ArrayLike,
    order: Order | None = None,
    generator: np.random.Generator | None = None,
) -> Solution:
    """GradVac: gradients brought to the target cosines, one pair at a time, then summed.

    For each task i, g'_i starts as g_i; for each other task j in turn, where the cosine φ of g'_i and g_j lies below
    its target φ̂_ij, g'_i gains the multiple of g_j that brings it to the target:

        g'_i ← g'_i + (‖g'_i‖ (φ̂√(1 − φ²) − φ√(1 − φ̂²)) / (‖g_j‖√(1 − φ̂²))) g_j.

    The direction is Σ g'_i. With all targets 0 this is PCGrad. A target of 1 cannot be reached and makes g'_i
    infinite: targets count as no nearer to ±1 than 1e-8. A gradient that has lost all its length stays zero.

    Args:
        gramian: Shape (K, K), symmetric, positive semidefinite up to rounding.
        targets: Shape (K, K), the target cosines φ̂, from −1 to 1; the diagonal is not used.
        order: The order in which task i meets the others: one permutation of the K tasks for all, or K of them.
            Without it a random one for each task is drawn from ``generator``, as in the paper.
        generator: A NumPy generator. One of ``order`` and ``generator`` must be given.

    Returns:
        The weights of Σ g'_i. The residual compares the direction with the recursion run anew on G itself.
        ``degenerate`` where gradients so nearly parallel meet a target so near ±1 that rounding decides the sum, or
        where it is too long for float64 (the weights are then those of a sum scaled to Σ |w_i|‖g_i‖ = max ‖g_i‖).

    Raises:
        OptionError: Neither or both of order and generator are given, order is no permutation, or a target lies
            outside [−1, 1].
        ShapeError: Not square, not symmetric, no Gramian, or targets of another shape.
        NonFiniteError: The Gramian or the targets hold NaN or infinity.

    Example:
        >>> from accord.solvers import gradvac
        >>> gradvac([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.6], [0.0, 0.0]], order=[0, 1]).weights
        array([1.  , 1.75])

    References:
        Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual
        Models", ICLR 2021, arXiv:2010.05874, Algorithm 1.
    """
    return vaccinate(gramian, targets, order, generator)[0]


def vaccinate(
    gramian: ArrayLike,
    targets: ArrayLike,
    order: Order | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[Solution, np.ndarray]:
    """GradVac's weights and the cosines it met, from which the targets move on: φ̂ ← φ̂ + β(φ − φ̂).

    The paper moves the target of every pair that meets; some published code only where φ < φ̂, which the caller can
    tell from the two arrays.

    Args:
        gramian: As in ``gradvac``.
        targets: As in ``gradvac``.
        order: As in ``gradvac``.
        generator: As in ``gradvac``.

    Returns:
        The solution, and the cosines φ_ij (K, K) of g'_i with g_j as they met, before any change. Where none is
        defined (the diagonal, a zero gradient, a g'_i that has lost all its length) it is the target itself.

    Raises:
        OptionError: As in ``gradvac``.
        ShapeError: As in ``gradvac``.
        NonFiniteError: As in ``gradvac``.
    """
    problem = cosines_of(gramian, "gradvac")
    wanted = _targets(targets, problem.num_tasks)
    orders = orders_of(order, generator, problem.num_tasks, "gradvac")
    observed = wanted.copy()
    if not len(problem.rows):
        return all_zero(problem, "gradvac"), observed
    local = among(problem.rows, orders)  # (K', K'): who is met in turn, zero rows left out
    live = np.ix_(problem.rows, problem.rows)
    met = _meet(problem.cosines, wanted[live].clip(NEAREST - 1.0, 1.0 - NEAREST), local)
    observed[live] = np.where(np.isnan(met.cosines), wanted[live], met.cosines)
    return _solution(problem, met, wanted[live], local), observed


class _Met(NamedTuple):
    """What the meetings left: g'_i = ‖g_i‖ e^growth_i Σ_j changed_ij u_j, the cosines met, and the rounding of g'_i."""

    changed: np.ndarray
    growth: np.ndarray
    cosines: np.ndarray
    rounding: np.ndarray


def _meet(c: np.ndarray, targets: np.ndarray, orders: np.ndarray) -> _Met:
    """The recursion on unit gradients, for all tasks at once; ``targets`` lie strictly inside (−1, 1).

    With p the component of g' along u_j and q the length of the rest, a target of cotangent t asks for p = t·q: it is
    q that suffers from rounding where g' and u_j are nearly parallel, and t that magnifies it.
    """
    k = len(c)
    tasks = np.arange(k)
    cotangents = targets / np.sqrt((1.0 - targets) * (1.0 + targets))
    changed, supply = np.eye(k), c.copy()  # (K, K): the weights of g'_i, and its products with the unit gradients
    growth, rounding = np.zeros(k), np.full(k, k * EPS)
    cosines = np.full((k, k), np.nan)
    for others in orders.T:
        along = supply[tasks, others]
        terms = changed * supply
        square = terms.sum(axis=1)
        noise = k * EPS * np.abs(terms, out=terms).sum(axis=1)
        length = np.sqrt(np.maximum(square, 0.0))
        alive = (square > VANISHING * noise) & (others != tasks)
        cosine = np.divide(along, length, out=np.zeros(k), where=alive).clip(-1.0, 1.0)
        cosines[tasks[alive], others[alive]] = cosine[alive]
        rest = square - along * along
        rest = np.sqrt(np.where(rest > VANISHING * noise, rest, 0.0))
        low = (along < targets[tasks, others] * length) & (others != tasks)
        cotangent = cotangents[tasks, others]
        amount = np.where(low, cotangent * rest - along, 0.0)
        changed[tasks, others] += amount
        supply += np.multiply(c[others], amount[:, None], out=terms)
        blur = np.minimum(np.divide(noise, rest, out=np.full(k, np.inf), where=rest > 0.0), np.sqrt(noise))
        excess = np.maximum(np.abs(along) - length, 0.0)  # a cosine beyond ±1: the Gramian's own rounding
        magnified = np.hypot(1.0, cotangent) * rounding + np.abs(cotangent) * blur + excess
        rounding = np.where(low, magnified, rounding)
        long = np.maximum(length, np.abs(amount))
        if long.max() > LONGEST:
            by = np.where(long > LONGEST, long, 1.0)
            changed, supply = changed / by[:, None], supply / by[:, None]
            growth, rounding = growth + np.log(by), rounding / by
    return _Met(changed, growth, cosines, rounding)


def _solution(problem: Cosines, met: _Met, targets: np.ndarray, orders: np.ndarray) -> Solution:
    """The weights of Σ g'_i with their certificate."""
    k = len(problem.rows)
    norms = problem.norms / problem.norms.max()
    lengths = norms * np.exp(met.growth - met.growth.max())
    weights = (lengths @ met.changed) / norms
    too_long = bool(met.growth.max() > 0.0)
    residual = 1.0
    if not too_long:
        scaled = norms[:, None] * problem.cosines * norms
        residual = residual_of_gradvac(scaled, weights, targets.clip(NEAREST - 1.0, 1.0 - NEAREST), orders)
    size = float(np.abs(weights) @ norms)
    weights = weights / size if too_long else weights
    floor = float(lengths @ met.rounding) / size if size > 0.0 else 0.0
    outcome: Outcome = "solved"
    cause = ""
    if too_long:
        outcome, cause = (
            "degenerate",
            "targets near 1 make the sum too long for float64: the weights give its direction",
        )
    elif max(residual, floor) > TOLERANCE:
        outcome = "degenerate"
        cause = (
            f"nearly parallel gradients: rounding may move the sum by {floor:.1e}, the recursion anew by {residual:.1e}"
        )
    return problem.solution("gradvac", weights, residual=residual, floor=floor, outcome=outcome, cause=cause, steps=k)


def _targets(targets: ArrayLike, k: int) -> np.ndarray:
    """Shape (K, K), checked; the diagonal, which means nothing, is zero."""
    wanted = real_array(targets, "the targets", "gradvac").copy()
    if wanted.shape != (k, k):
        raise ShapeError(f"gradvac: targets of shape ({k}, {k}) are needed, got {wanted.shape}")
    np.fill_diagonal(wanted, 0.0)
    if not np.isfinite(wanted).all():
        raise NonFiniteError(f"gradvac: the targets of shape {wanted.shape} hold NaN or infinity")
    if np.abs(wanted).max(initial=0.0) > 1.0:
        i, j = np.unravel_index(np.abs(wanted).argmax(), wanted.shape)
        raise OptionError(f"gradvac: the target [{i}, {j}] = {wanted[i, j]:.6g} is no cosine: it must be from -1 to 1")
    return wanted
