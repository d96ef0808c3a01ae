"""From any Gramian to a unit-diagonal one, with bad input refused and zero rows set aside.

Every solver works on C = S⁻¹GS⁻¹ with S = diag(‖g_k‖): the cosines of the task gradients. It is as
well-conditioned as the problem allows, whatever the gradients' norms, and it makes the solvers scale-free.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers.solution import Solution

EPS = float(np.finfo(np.float64).eps)
SYMMETRY_TOLERANCE = 1e-4  # of sqrt(G_ii G_jj): rows in float32 or bfloat16 leave that much and no more
NOTHING = 1e-140  # relative size of what may stand beside a zero on the diagonal
VANISHING = 16.0  # xᵀCx within this many times K·eps·xᵀ|C|x is zero to within rounding
NEARLY = 5e-3  # a convex combination of the unit gradients no longer than this is nearly zero
SMALLEST_SQUARE = 1e-290  # a squared norm below this is zero: its reciprocal no longer has full precision


@dataclass(frozen=True)
class Cosines:
    """A Gramian's non-zero rows in unit-diagonal form: ``G[i, j] = norms[i] · cosines[i, j] · norms[j]``.

    Attributes:
        cosines: Shape (K', K'), symmetric, diagonal exactly 1.
        norms: Shape (K',), positive.
        gramian: Shape (K', K'), those rows and columns of G itself, symmetric.
        rows: Shape (K',), the indices of those rows in G.
        num_tasks: K, the size of G.
    """

    cosines: np.ndarray
    norms: np.ndarray
    gramian: np.ndarray
    rows: np.ndarray
    num_tasks: int

    @property
    def zero_rows(self) -> tuple[int, ...]:
        """Indices of the rows that were set aside."""
        if len(self.rows) == self.num_tasks:
            return ()
        return tuple(sorted(set(range(self.num_tasks)) - set(self.rows.tolist())))

    def solution(self, method: str, weights: np.ndarray, **fields: object) -> Solution:
        """A solution for all K tasks from weights of the non-zero ones; zero rows are named in its cause."""
        if len(self.rows) == self.num_tasks:
            return Solution(method, weights, **fields)  # type: ignore[arg-type]
        full = np.zeros(self.num_tasks)
        full[self.rows] = weights
        zero = self.zero_rows
        cause = "; ".join(filter(None, [str(fields.pop("cause", "")), _zero_row_cause(zero)]))
        return Solution(method, full, cause=cause, zero_rows=zero, **fields)  # type: ignore[arg-type]


def cosines_of(gramian: ArrayLike, caller: str) -> Cosines:
    """Check a Gramian and bring it to unit diagonal.

    Args:
        gramian: Shape (K, K), symmetric and positive semidefinite up to rounding; any real dtype.
        caller: The function named in errors.

    Raises:
        ShapeError: Not square, empty, not symmetric, or not a Gramian (a negative diagonal entry, or an
            off-diagonal one larger than the Cauchy-Schwarz inequality allows).
        NonFiniteError: It holds NaN or infinity.
    """
    try:
        given = np.asarray(gramian)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ShapeError(f"{caller}: the Gramian is no array of numbers of shape (K, K): {error}") from error
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.shape[0] == 0:
        raise ShapeError(
            f"{caller}: a Gramian of shape (K, K) is needed, got shape {given.shape}; "
            "from a Jacobian J of shape (K, P) it is J @ J.T"
        )
    if given.dtype.kind not in "fiub":
        raise ShapeError(f"{caller}: a real Gramian is needed, got dtype {given.dtype}")
    g = given.astype(np.float64)
    if not np.isfinite(g).all():
        bad = np.unique(np.nonzero(~np.isfinite(g))[0]).tolist()
        raise NonFiniteError(f"{caller}: the Gramian of shape {g.shape} has NaN or infinity in rows {bad}")
    squares = np.diagonal(g)
    if squares.min() < 0:
        i = int(squares.argmin())
        raise ShapeError(f"{caller}: G[{i}, {i}] = {squares[i]:.3g} is negative, so this is no Gramian J @ J.T")
    rows = np.arange(len(g))
    if squares.min() <= SMALLEST_SQUARE:
        rows = np.flatnonzero(squares > SMALLEST_SQUARE)
        zero = np.flatnonzero(squares <= SMALLEST_SQUARE)
        beside = np.abs(g[np.ix_(zero, rows)]) if len(rows) else np.zeros((1, 1))
        if beside.size and (beside > NOTHING * np.sqrt(squares[rows] if len(rows) else 1.0)).any():
            raise ShapeError(
                f"{caller}: row {zero[0]} has a zero diagonal but other entries, so this is no Gramian J @ J.T"
            )
        g = g[np.ix_(rows, rows)]
    norms = np.sqrt(np.diagonal(g))
    c = g / norms[:, None]
    c /= norms
    if not (g == g.T).all():
        asymmetry = np.abs(c - c.T)
        if asymmetry.max() > SYMMETRY_TOLERANCE:
            i, j = np.unravel_index(asymmetry.argmax(), c.shape)
            raise ShapeError(
                f"{caller}: the Gramian of shape {given.shape} is not symmetric: G[{rows[i]}, {rows[j]}] = "
                f"{g[i, j]:.6g} but G[{rows[j]}, {rows[i]}] = {g[j, i]:.6g}"
            )
        g, c = (g + g.T) / 2, (c + c.T) / 2
    largest = float(np.abs(c).max(initial=0.0))
    if largest > 1 + SYMMETRY_TOLERANCE:
        raise ShapeError(
            f"{caller}: an entry is {largest:.6g} times the product of its rows' norms, so this is no Gramian J @ J.T"
        )
    c.flat[:: len(rows) + 1] = 1.0
    return Cosines(c, norms, g, rows, len(given))


def real_array(value: ArrayLike, name: str, caller: str) -> np.ndarray:
    """An array of any shape in float64; what holds no real numbers is refused. The result may share its memory.

    Raises:
        ShapeError: It is ragged, or holds something else than real numbers.
    """
    try:
        given = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ShapeError(f"{caller}: {name} cannot be read as an array: {error}") from error
    if given.dtype.kind not in "fiub":
        raise ShapeError(f"{caller}: {name} must hold real numbers, got dtype {given.dtype}")
    return given.astype(np.float64, copy=False)


def check_semidefinite(square: float, size: float, caller: str) -> None:
    """Refuse xᵀCx that is negative beyond rounding, where ``size`` is xᵀ|C|x."""
    if square < -SYMMETRY_TOLERANCE * size:
        raise ShapeError(
            f"{caller}: the matrix is not positive semidefinite (xᵀGx < 0 for some x), so it is no Gramian J @ J.T"
        )


def nearly_stationary(cosines: np.ndarray, u: np.ndarray) -> bool:
    """Whether the convex combination of the unit gradients with weights along u ≥ 0 is nearly zero."""
    total = float(u.sum())
    if not (np.isfinite(total) and total > 0.0):
        return False
    shares = u / total
    return float(shares @ cosines @ shares) <= NEARLY**2


def check_number(value: object, name: str, caller: str, hint: str) -> None:
    """Refuse an option that is not a number of at least 0; infinity passes, NaN does not."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= 0.0:
        raise OptionError(f"{caller}: {name} = {value!r} is not a number of at least 0; {hint}")


def all_zero(problem: Cosines, method: str) -> Solution:
    """The outcome when every gradient is zero: nothing to balance."""
    return Solution(
        method,
        np.zeros(problem.num_tasks),
        residual=0.0,
        floor=0.0,
        outcome="degenerate",
        cause="every gradient is zero",
        zero_rows=problem.zero_rows,
    )


def symmetrised(weights: np.ndarray, cosines: np.ndarray, same: Callable[[int, int], bool]) -> np.ndarray:
    """Give identical tasks (cosine 1, equal norm) equal weights, which leaves the direction as it is."""
    if np.count_nonzero(cosines >= 1.0) == len(weights):
        return weights
    shared, seen = weights.copy(), np.zeros(len(weights), bool)
    for i in range(len(weights)):
        if not seen[i]:
            group = [j for j in np.flatnonzero(cosines[i] >= 1.0).tolist() if same(i, j)]
            seen[group] = True
            shared[group] = weights[group].mean()
    return shared


def _zero_row_cause(rows: tuple[int, ...]) -> str:
    return f"zero gradient in row{'s' * (len(rows) > 1)} {', '.join(map(str, rows))}" if rows else ""
