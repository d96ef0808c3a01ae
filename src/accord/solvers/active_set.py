"""An exact active-set method for a convex function on the simplex {u ≥ 0, tᵀu = 1}.

Wolfe's scheme: minimise over the affine hull of the current support, step towards that point until a weight
reaches zero, drop it, and once the minimiser lies inside, add the task with the most negative reduced cost. The
function falls at every round, so no support comes twice and the method ends after finitely many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MANY = 100  # from so many tasks on the search starts near the minimiser instead of at a vertex
ROUNDS_PER_TASK = 20  # a bound on the loop alone; about one round per task of the final support is usual

Target = Callable[[np.ndarray], tuple[np.ndarray, bool]]
"""Support → (the minimiser on its affine hull, True), or (a direction of unbounded descent, False)."""

Reduced = Callable[[np.ndarray], tuple[np.ndarray, float, float]]
"""u → (reduced costs (K,), their rounding tolerance, the function's value)."""


@dataclass(frozen=True)
class SimplexPoint:
    """The minimiser u, shape (K,), and how many supports were visited."""

    u: np.ndarray
    steps: int


def minimise_on_simplex(t: np.ndarray, start: int, target: Target, reduced: Reduced) -> SimplexPoint:
    """Minimise a convex function on {u ≥ 0, tᵀu = 1}.

    Args:
        t: Shape (K,), positive.
        start: The vertex to start from.
        target: Minimiser on the affine hull of a support.
        reduced: Reduced costs: the derivatives less tᵢ times the multiplier, over tᵢ.
    """
    everything = np.arange(len(t))
    inside, bounded = target(everything)
    if bounded and inside.min() > 0.0:  # the minimiser of the whole hull lies inside: nothing to search
        costs, tolerance, _ = reduced(inside)
        if float(np.abs(costs).max()) <= tolerance:
            return SimplexPoint(inside, 0)
    u = np.zeros(len(t))
    support = _pruned(target, everything, inside) if bounded and len(t) >= MANY else everything[:0]
    if len(support):
        u[support] = target(support)[0]
    else:
        support = everything[start : start + 1]
        u[start] = 1.0 / t[start]
    best, value = u, np.inf
    for step in range(ROUNDS_PER_TASK * len(t)):
        costs, tolerance, reached = reduced(u)
        if reached >= value:  # no descent is left above rounding
            return SimplexPoint(best, step)
        best, value = u, reached
        costs[support] = 0.0
        entering = int(costs.argmin())
        if costs[entering] >= -tolerance:
            return SimplexPoint(best, step)
        support = np.append(support, entering)
        u, support = _inner(u, t, support, target)
    return SimplexPoint(best, ROUNDS_PER_TASK * len(t))


def _pruned(target: Target, support: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """A support whose minimiser is positive, from dropping all tasks of non-positive weight at once; maybe empty."""
    while len(support) and aim.min() <= 0.0:
        support = support[aim > 0.0]
        if len(support):
            aim, bounded = target(support)
            if not bounded:
                return support[:0]
    return support


def _inner(u: np.ndarray, t: np.ndarray, support: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Move to the minimiser on the support's hull, dropping tasks whose weight reaches zero on the way."""
    while True:
        aim, bounded = target(support)
        here = u[support]
        move = aim - here if bounded else aim
        falling = move < 0.0
        if bounded and aim.min() > 0.0:
            step = 1.0
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                step = float(np.where(falling, here / -move, np.inf).min())
        if not np.isfinite(step):  # a direction along which nothing falls: rounding; stay where we are
            return u, support[here > 0.0]
        there = here + step * move if step < 1.0 or not bounded else aim
        if not (bounded and step >= 1.0):
            there[np.where(falling, here / np.where(falling, -move, 1.0), np.inf) <= step] = 0.0
        there = np.maximum(there, 0.0)
        following = np.zeros_like(u)
        following[support] = there / float(t[support] @ there)
        kept = support[there > 0.0]
        if bounded and step >= 1.0:
            return following, kept
        u, support = following, kept
        if len(support) == 1:
            return u, support
