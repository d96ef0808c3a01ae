"""Jacobians and Gramians that break gradient-balancing solvers, each regenerated from (seed, index) alone.

Two ways in. ``jacobian`` and ``gramian`` draw from a family by name, for a test that knows what it wants. ``case``
draws everything, the family, K, the norms' spread and scale, and the precision, for a soak that wants it all. NumPy
only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FAMILIES = ("random", "aligned", "conflicting", "duplicates", "nearly_equal", "zero_row")
"""Families on which every method has an answer."""

STATIONARY = ("opposite", "low_rank", "vanishing_sum")
"""Families in which, for K large enough, a convex combination of the gradients vanishes up to rounding."""

HARD = (
    "rank_one", "rank_one_signed", "few_parameters", "orthogonal", "integers", "zero_rows", "exactly_stationary",
    "indefinite", "asymmetric",
)  # fmt: skip
"""Families at the edge: rank deficient, full of ties, exactly stationary, without a gradient, or no true Gramian.

The last two are so by rounding: accumulated in float32, with negative eigenvalues, and with the two triangles summed in
different orders.
"""

GRADED = ("near_opposite", "near_duplicates", "nearly_identical", "near_stationary")
"""Families that approach an edge by ``grade``, a number from 1e-1 down to 1e-8."""

PRECISIONS = ("float64", "float32 rows", "float32", "bfloat16 rows", "bfloat16 rows, float32")
"""How the rows are rounded and, after the rows, in what the Gramian is accumulated; float64 unless said."""

SPREADS = (0.0, 0.5, 1.0, 2.0, 4.0)  # gradient norms over 10^±spread
LARGEST_SCALE = 30.0  # decimal exponent of the overall scale of the gradients
LARGEST_SCALE_FLOAT32 = 12.0  # with a spread of 10^±4, squares stay inside float32's range
ROUNDED = ("indefinite", "asymmetric")
EXACT = ("integers", "exactly_stationary")  # scaled by powers of two, so that no product rounds


@dataclass(frozen=True)
class Case:
    """One adversarial problem.

    Attributes:
        name: What it is: family, grade, K, spread, scale and precision.
        rows: Shape (K, P), the task gradients, float64 or float32; bfloat16 values are held in float32.
        gramian: Shape (K, K), float64, ``rows @ rows.T`` as accumulated in the precision of the name.
    """

    name: str
    rows: np.ndarray
    gramian: np.ndarray

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.rows)


def cases(count: int, seed: int = 0, max_tasks: int = 200) -> Iterator[Case]:
    """The first ``count`` cases of a seed; the i-th is ``case(seed, i, max_tasks)``.

    Example:
        >>> from accord.testing.gramians import case, cases
        >>> third = list(cases(3, seed=7))[2]
        >>> (third.gramian == case(7, 2).gramian).all()
        np.True_
    """
    return (case(seed, index, max_tasks) for index in range(count))


def case(seed: int, index: int, max_tasks: int = 200) -> Case:
    """Case number ``index`` of a seed, made without those before it.

    K is at most 12 in nine cases of ten, at most 40 in most of the rest, and reaches 200 in one of 200. Gradient
    norms are spread over 10^±0 to 10^±4 and their overall scale is 1 or anything from 1e-30 to 1e30 (1e±12 where
    the Gramian is accumulated in float32, whose range ends).

    Args:
        seed: Of the stream.
        index: Of the case in it.
        max_tasks: No case has more tasks.
    """
    rng = np.random.default_rng([seed, index])
    k = min(_num_tasks(rng), max_tasks)
    families = FAMILIES + STATIONARY + HARD + GRADED
    family = families[rng.integers(len(families))]
    precision = PRECISIONS[rng.choice(len(PRECISIONS), p=(0.5, 0.125, 0.125, 0.125, 0.125))]
    if family in ROUNDED:
        precision = "float32"
    spread = float(rng.choice(SPREADS))
    limit = LARGEST_SCALE_FLOAT32 if precision.endswith("float32") else LARGEST_SCALE
    exponent = float(np.round(rng.uniform(-limit, limit))) if rng.random() < 0.6 else 0.0
    grade = float(10.0 ** -rng.integers(1, 9))
    width = int(rng.integers(8, 65))
    rows = jacobian(family, k, rng, spread=spread, scale=10.0**exponent, p=width, grade=grade)
    if precision != "float64":
        rows = to_bfloat16(rows) if precision.startswith("bfloat16") else to_float32(rows)
    name = (
        f"{family}{f' {grade:.0e}' * (family in GRADED)}, K = {k}, norms over 1e±{spread:g}, "
        f"scale 1e{exponent:+.0f}, {precision}"
    )
    return Case(name, rows, _product(rows, precision.endswith("float32"), family == "asymmetric"))


def jacobian(
    family: str,
    k: int,
    rng: np.random.Generator,
    *,
    spread: float = 0.0,
    scale: float = 1.0,
    p: int = 60,
    grade: float = 1e-4,
) -> np.ndarray:
    """K gradients: directions of the family, norms spread over 10^±spread, all times scale.

    Args:
        family: One of ``FAMILIES``, ``STATIONARY``, ``HARD`` and ``GRADED``.
        k: Number of tasks.
        rng: All randomness comes from it.
        spread: Decimal exponents of the norms are uniform in ±spread.
        scale: Overall factor.
        p: Number of parameters, raised to k + 5 where it is less.
        grade: For ``GRADED``, the distance from the edge that the family is named after.

    Returns:
        Shape (k, P), float64.

    Raises:
        ValueError: No such family.
    """
    rows = rng.standard_normal((k, max(p, k + 5)))
    rows = _directions(family, rows, rng, grade)
    factor = scale * 10.0 ** rng.uniform(-spread, spread, (k, 1))
    rows = rows * (2.0 ** np.round(np.log2(factor)) if family in EXACT else factor)
    if k > 1 and family == "duplicates":
        rows[1] = rows[0]
    if k > 1 and family == "opposite":
        rows[1] = -3 * rows[0]
    if k > 1 and family == "zero_row":
        rows[k // 2] = 0.0
    return rows


def gramian(family: str, k: int, rng: np.random.Generator, **options: float) -> np.ndarray:
    """J @ J.T of ``jacobian``, in float64; accumulated in float32 for ``indefinite`` and ``asymmetric``."""
    rows = jacobian(family, k, rng, **options)  # type: ignore[arg-type]
    return _product(rows, family in ROUNDED, family == "asymmetric")


def to_float32(rows: np.ndarray) -> np.ndarray:
    """Rows rounded to float32."""
    with np.errstate(under="ignore"):
        return rows.astype(np.float32)


def to_bfloat16(rows: np.ndarray) -> np.ndarray:
    """Rows rounded to bfloat16 (8 significant bits, ties to even), held in float32, which NumPy can compute with."""
    bits = to_float32(rows).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)


def _num_tasks(rng: np.random.Generator) -> int:
    chance = rng.random()
    if chance < 0.9:
        return int(rng.integers(1, 13))
    return int(rng.integers(13, 41) if chance < 0.995 else rng.integers(41, 201))


def _product(rows: np.ndarray, in_float32: bool, two_orders: bool = False) -> np.ndarray:
    wide = to_float32(rows) if in_float32 else rows.astype(np.float64)
    with np.errstate(under="ignore"):
        product = wide @ wide.T
        if two_orders:
            back = np.ascontiguousarray(wide[:, ::-1])
            product = np.triu(product) + np.tril(back @ back.T, -1)
    return product.astype(np.float64)


def _directions(family: str, rows: np.ndarray, rng: np.random.Generator, grade: float) -> np.ndarray:
    """The family's directions from independent normal rows, shape (k, P)."""
    k, p = rows.shape
    match family:
        case "random" | "duplicates" | "opposite" | "zero_row" | "asymmetric":
            return rows
        case "aligned":
            return rows + 2 * rng.standard_normal(p)
        case "conflicting":
            return rows - 0.9 * rows.mean(0)
        case "nearly_equal":
            return rng.standard_normal(p) + 1e-4 * rows
        case "nearly_identical":
            return rng.standard_normal(p) + grade * rows
        case "low_rank":
            return rng.standard_normal((k, 2)) @ rng.standard_normal((2, p))
        case "indefinite":
            return rng.standard_normal((k, min(3, k))) @ rng.standard_normal((min(3, k), p))
        case "vanishing_sum":
            return rows - rows.mean(0)
        case "rank_one":
            return (0.1 + np.abs(rng.standard_normal((k, 1)))) * rows[0]
        case "rank_one_signed":
            return rng.standard_normal((k, 1)) * rows[0]
        case "few_parameters":
            return rows[:, : max(1, k // 2)]
        case "orthogonal":
            return np.eye(k, p)
        case "integers":
            return rng.integers(-1, 2, (k, rng.integers(max(1, k // 2), 2 * k + 1))).astype(float)
        case "zero_rows":
            return rows * (rng.random((k, 1)) < 0.5)
        case "exactly_stationary":
            rows = rng.integers(-3, 4, (k, p)).astype(float)
            rows[-1] = -(rng.integers(0, 2, k - 1) @ rows[:-1])
            return rows
        case "near_opposite":
            rows[1:2] = grade * rows[1:2] - rows[:1] * (k > 1)
            return rows
        case "near_duplicates":
            rows[1:2] = grade * rows[1:2] + rows[:1]
            return rows
        case "near_stationary":
            return rows - rng.dirichlet(np.ones(k)) @ rows + grade * rng.standard_normal(p)
    known = ", ".join(FAMILIES + STATIONARY + HARD + GRADED)
    raise ValueError(f"jacobian: no family {family!r}; there are {known}")
