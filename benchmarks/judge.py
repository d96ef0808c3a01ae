"""Are these weights what the method promises? Decided from the Gramian, the weights and the method's definition.

Nothing here comes from accord: each definition is written down once more, on unit gradients and in NumPy's longdouble
(64 significant bits on x86-64), so that a solver is not judged by its own residual. A certificate has two numbers:
how far the weights are from the definition, and what is left of that after each term is granted the rounding of
float64 weights and products, ``SLACK``·K·eps of the size of its summands. Only the second can make an answer wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import nnls

LONG = np.longdouble
EPS = float(np.finfo(np.float64).eps)
SLACK = 16.0  # rounding units granted to each sum of K products
NEARLY_STATIONARY = 1e-2  # a combination of unit gradients no shorter than this is not near vanishing

Label = Literal["wrong", "named", "solved", "undefined"]


class Certificate(NamedTuple):
    """Distance from the definition, relative and dimensionless: as it is, and less what rounding explains."""

    value: float
    beyond: float


@dataclass(frozen=True)
class Answer:
    """Weights and the Gramian's non-zero rows in unit form, in longdouble: all that a definition needs.

    ``live`` (K,) marks the rows that are not zero; all else is of them alone, K' in number.
    """

    live: np.ndarray
    norms: np.ndarray
    cosines: np.ndarray
    weights: np.ndarray
    eps: float

    @property
    def num_tasks(self) -> int:
        """K, zero rows included."""
        return len(self.live)

    @property
    def unit_weights(self) -> np.ndarray:
        """Shape (K',): d = Σ unit_weights[k] u_k."""
        return self.weights * self.norms

    @property
    def products(self) -> np.ndarray:
        """Shape (K',): the projections u_iᵀd."""
        return self.cosines @ self.unit_weights

    @property
    def rough(self) -> np.ndarray:
        """Shape (K',): the rounding of the products."""
        return self.rounding * (np.abs(self.cosines) @ np.abs(self.unit_weights))

    @property
    def rounding(self) -> float:
        """What is granted to a sum of K products of size 1."""
        return SLACK * self.num_tasks * self.eps

    def of(self, weights: np.ndarray) -> Answer:
        """Other weights of the same gradients."""
        return Answer(self.live, self.norms, self.cosines, weights, self.eps)


Certify = Callable[[Answer], Certificate]


def answer(gramian: np.ndarray, weights: np.ndarray, eps: float = EPS) -> Answer:
    """An answer of the tasks that have a gradient; ``eps`` is that of the arithmetic that made the weights."""
    g = np.asarray(gramian, LONG)
    g = (g + g.T) / 2
    live = np.diagonal(g) > 0
    norms = np.sqrt(np.diagonal(g)[live])
    cosines = g[np.ix_(live, live)] / norms[:, None] / norms
    return Answer(live, norms, cosines, np.asarray(weights, LONG)[live], eps)


def fair(a: Answer, alpha: float) -> Certificate:
    """Nash-MTL and FairGrad: (Gw)_i = w_i^(−1/α) with w > 0; at α = ∞, (Gw)_i ≥ 1, equal where w_i > 0."""
    if np.isinf(alpha):
        supply, rough = a.norms * a.products, a.norms * a.rough
        miss = np.where(a.weights > 0, np.abs(supply - 1), np.maximum(1 - supply, 0))
        positive = (a.weights >= 0).all()
    else:
        price = a.weights.clip(0) ** (LONG(1) / LONG(alpha)) * a.norms
        miss, rough = np.abs(price * a.products - 1), price * a.rough
        positive = (a.weights > 0).all()
    return _certificate(miss, rough) if positive else Certificate(np.inf, np.inf)


def mgda(a: Answer) -> Certificate:
    """MGDA: on the simplex, wᵀGw − min_i (Gw)_i relative to wᵀGw bounds how far from the least norm the point is.

    All weight on a task without a gradient is right too: the hull then contains zero.
    """
    if not a.live.all() and not a.weights.any():
        return Certificate(0.0, 0.0)
    supply, rough = a.norms * a.products, a.norms * a.rough
    square, noise = a.weights @ supply, np.abs(a.weights) @ rough
    off = max(float(np.abs(a.weights.sum() - 1)), -float(a.weights.min()), 0.0)
    if square <= 0:
        return Certificate(np.inf, np.inf)
    gap = max((square - supply.min()) / square, 0)
    beyond = max((square - noise - (supply + rough).min()) / square, 0)
    return Certificate(float(gap) + off, float(beyond) + max(0.0, off - a.rounding))


def cagrad(a: Answer, c: float) -> Certificate:
    """CAGrad: d in the ball around g0, with min_i g_iᵀd at the bound on it that w − 1/K, the dual point, proves."""
    share = LONG(1.0 / a.num_tasks)
    raw = a.norms[:, None] * a.cosines * a.norms
    mean = raw.sum(1) * share
    radius = LONG(c) * np.sqrt(np.maximum(mean.sum() * share, 0))
    y = a.weights - share
    reach = y @ raw @ y - radius**2  # ‖d − g0‖² ≤ radius²
    reach_noise = a.rounding * (np.abs(y) @ np.abs(raw) @ (np.abs(y) + share))
    x = np.maximum(y, 0)
    if not x.sum() > 0 or radius == 0:
        size = np.sqrt(radius**2 + np.abs(mean).max()) or LONG(1)
        miss = np.sqrt(np.maximum(y @ raw @ y, 0)) / size
        return Certificate(float(miss), float(max(0, miss - a.rounding)))
    x = x / x.sum()
    length = np.sqrt(np.maximum(x @ raw @ x, 0))
    linear = x @ mean
    size = np.abs(linear) + radius * length
    gains, rough = a.norms * a.products, a.norms * a.rough
    gap = linear + radius * length - np.array([gains.min(), (gains + rough).min()])
    outside = np.maximum(np.array([reach, reach - reach_noise]), 0) / radius**2
    value, beyond = np.maximum(gap, 0) / size + outside
    return Certificate(float(value), float(beyond))


def imtl_g(a: Answer) -> Certificate:
    """IMTL-G: the projections on all unit gradients are equal, and Σ w_i = 1."""
    mean = a.products.mean()
    if mean == 0:
        return Certificate(np.inf, np.inf)
    off = np.abs(a.weights.sum() - 1)
    spread = _certificate(np.abs(a.products - mean) / np.abs(mean), (a.rough + a.rough.mean()) / np.abs(mean))
    excess = max(0.0, float(off - a.rounding * np.abs(a.weights).sum()))
    return Certificate(spread.value + float(off), spread.beyond + excess)


def pcgrad(a: Answer, order: np.ndarray) -> Certificate:
    """PCGrad: the same direction as the recursion run anew; row i of ``order`` is task i's order of projections."""
    return _recursion(a, order, lambda product, _, __, ___: np.where(product < 0, -product, 0))


def gradvac(a: Answer, order: np.ndarray, targets: np.ndarray) -> Certificate:
    """GradVac: the same direction as the recursion run anew, towards the target cosines (K, K)."""
    aims = np.asarray(targets, LONG)[np.ix_(a.live, a.live)]

    def amount(product: np.ndarray, length: np.ndarray, tasks: np.ndarray, others: np.ndarray) -> np.ndarray:
        aim = aims[tasks, others]
        cosine = np.divide(product, length, out=np.zeros_like(product), where=length > 0).clip(-1, 1)
        sine, aim_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - aim**2)
        return np.where((cosine < aim) & (length > 0), length * (aim * sine - cosine * aim_sine) / aim_sine, 0)

    return _recursion(a, order, amount)


def _recursion(a: Answer, order: np.ndarray, amount: Callable[..., np.ndarray]) -> Certificate:
    """Compare with Σ ĝ_i where each ĝ_i, over its own norm, meets the others in turn and gains ``amount`` of u_j.

    What rounding explains is what the recursion itself does to cosines that differ in their last bit.
    """
    position = np.cumsum(a.live) - 1
    mine = np.stack([position[row[a.live[row]]] for row in np.asarray(order)[a.live]])  # (K', K')
    tasks = np.arange(len(mine))

    def total(cosines: np.ndarray) -> np.ndarray:
        changed, supply = np.eye(len(mine), dtype=LONG), cosines.copy()  # ĝ_i on the u_j, and their products
        for others in mine.T:
            length = np.sqrt(np.maximum((changed * supply).sum(1), 0))
            gain = np.where(others != tasks, amount(supply[tasks, others], length, tasks, others), 0)
            changed[tasks, others] += gain
            supply += gain[:, None] * cosines[others]
        return a.norms @ changed

    wanted = total(a.cosines)
    bits = np.random.default_rng(0).choice([-a.eps, a.eps], a.cosines.shape)
    shaken = total(a.cosines * (1 + np.triu(bits, 1) + np.triu(bits, 1).T))
    size = np.abs(a.unit_weights).sum() + np.abs(wanted).sum()
    rough = SLACK * len(mine) * np.abs(a.cosines @ (shaken - wanted)).max() / size
    return _certificate(np.abs(a.cosines @ (a.unit_weights - wanted)) / size, rough + a.rounding)


def conflict(a: Answer) -> Certificate:
    """Whether d hurts a task: the largest −cos(g_i, d)."""
    square, noise = a.unit_weights @ a.products, np.abs(a.unit_weights) @ a.rough
    length = np.sqrt(np.maximum(square, noise)) or LONG(1)
    return _certificate(-a.products / length, a.rough / length)


def cone(a: Answer, wish: np.ndarray) -> Certificate:
    """Projection of Σ wish_k g_k on the dual cone: w ≥ wish, no task hurt, and no push where a task gains.

    For each task the push w − wish or the gain is zero, so that the lesser of the two is an error. All is relative to
    the length of what is projected; ``wish`` (K',) is for the tasks that have a gradient.
    """
    aim = np.asarray(wish, LONG) * a.norms
    push = a.unit_weights - aim
    terms = np.abs(aim) @ np.abs(a.cosines) @ np.abs(aim)
    length = np.sqrt(np.maximum(aim @ a.cosines @ aim, a.rounding * terms)) or LONG(1)
    gains, rough = a.products / length, a.rough / length
    parts = (
        _certificate(-push / length, a.rounding * np.abs(aim) / length),
        _certificate(-gains, rough),
        _certificate(np.minimum(push / length, gains), rough),
    )
    return _worst(*parts)


def dualproj(a: Answer) -> Certificate:
    """DualProj: the mean gradient projected on the dual cone."""
    return _worst(cone(a, np.full(len(a.norms), 1 / a.num_tasks)), conflict(a))


def upgrad(a: Answer, projections: np.ndarray) -> Certificate:
    """UPGrad: the mean of the projections of all g_i, whose weights (K', K') are given and checked as well."""
    wishes = np.eye(len(a.norms))
    parts = [cone(a.of(np.asarray(v, LONG)), wish) for v, wish in zip(projections, wishes, strict=True)]
    total = np.asarray(projections, LONG).sum(0) * a.norms / a.num_tasks
    size = np.abs(total).sum() + np.abs(a.unit_weights).sum()
    miss = np.abs(a.cosines @ (a.unit_weights - total)) / size
    return _worst(*parts, conflict(a), _certificate(miss, a.rounding))


def config(a: Answer) -> Certificate:
    """ConFIG: d along the least-squares solution of Ud = 1, and as long as Σ g_iᵀd̂, so that ‖d‖² = Σ g_iᵀd."""
    p, c = a.products, a.cosines
    ones = c.sum(1)
    bend = p @ c @ p
    if bend <= 0:
        return Certificate(np.inf, np.inf)
    fit = (p @ ones) / bend
    size = np.abs(ones).max()
    miss = np.abs(fit * (c @ p) - ones) / size
    direction = _certificate(miss, np.abs(fit) * (np.abs(c) @ a.rough) / size + a.rounding * len(p) / size)
    square, total = a.unit_weights @ p, a.norms @ p
    noise = np.abs(a.unit_weights) @ a.rough + a.norms @ a.rough
    off = np.abs(square - total)
    scale = np.abs(square) or LONG(1)
    long = _certificate(np.array([off / scale]), np.array([noise / scale]))
    return _worst(direction, long)


def aligned(a: Answer, scale: str, cutoff: float) -> Certificate:
    """Aligned-MTL: w = √s·V Λ^(−1/2) Vᵀ1 over the eigenvalues of G above K·cutoff of the largest.

    s is the smallest kept, their lower median or their mean. Eigenvalues within rounding of the cut, or of the size
    that a negative one shows to be noise, may be kept or not. The difference is the part of d that is wrong.
    """
    unit = a.norms / a.norms.max()
    g = unit[:, None] * a.cosines * unit
    values, vectors = np.linalg.eigh(g.astype(np.float64))
    largest = values[-1]
    blur = a.rounding * largest
    sure = values > max(a.num_tasks * cutoff * largest + blur, -4 * values[0])
    perhaps = values > max(a.num_tasks * cutoff * largest - blur, 0)
    found = []
    for rank in range(max(1, sure.sum()), max(1, perhaps.sum()) + 1):
        kept, basis = values[-rank:], vectors[:, -rank:]
        level = {"min": kept[0], "median": kept[(rank - 1) // 2], "rmse": kept.mean()}[scale]
        ones = basis.sum(0)
        miss = a.weights - basis @ (np.sqrt(level / kept) * ones)
        reached = np.linalg.norm(ones) or LONG(1)  # of the length of the ones vector, √K
        off = np.sqrt(np.maximum(miss @ g @ miss, 0) / level) / reached
        found.append(_certificate(off[None], blur / kept[0] * np.sqrt(len(ones)) / reached))
    return min(found, key=lambda c: c.beyond)


def stationarity(gramian: np.ndarray) -> float:
    """The least ‖Σ x_i u_i‖ over the simplex for unit gradients u, by non-negative least squares; 0 for no gradient."""
    a = answer(gramian, np.zeros(len(gramian)))
    if not len(a.norms):
        return 0.0
    values, vectors = np.linalg.eigh(a.cosines.astype(np.float64))
    factor = np.sqrt(values.clip(0))[:, None] * vectors.T
    stacked = np.vstack([factor, np.ones(len(values))])
    y, _ = nnls(stacked, np.append(np.zeros(len(values)), 1.0), maxiter=100 * len(values))
    x = (y / y.sum()).astype(LONG)
    return float(np.sqrt(np.maximum(x @ a.cosines @ x, 0)))


def length_of_sum(gramian: np.ndarray) -> float:
    """‖Σ g_k‖ / Σ ‖g_k‖."""
    a = answer(gramian, np.ones(len(gramian)))
    total = a.norms.sum() or LONG(1)
    return float(np.sqrt(np.maximum(a.norms @ a.products, 0)) / total)


def never(_: np.ndarray) -> float:
    """For methods that have an answer at every point."""
    return np.inf


def dependence(gramian: np.ndarray) -> float:
    """The least eigenvalue of the cosines, as a length: 0 where some combination, of any signs, vanishes."""
    a = answer(gramian, np.zeros(len(gramian)))
    if not len(a.norms):
        return 0.0
    return float(np.sqrt(np.linalg.eigvalsh(a.cosines.astype(np.float64))[0].clip(0)))


def _worst(*certificates: Certificate) -> Certificate:
    return Certificate(*(max(numbers) for numbers in zip(*certificates, strict=True)))


def _certificate(miss: np.ndarray, rough: np.ndarray | float) -> Certificate:
    value, beyond = float(miss.max(initial=0)), float((miss - rough).max(initial=0))
    return Certificate(*(np.inf if np.isnan(x) else x for x in (value, beyond)))
