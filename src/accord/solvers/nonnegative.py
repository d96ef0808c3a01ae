"""The kernel of the cone projections: min ½xᵀCx + hᵀx over x ≥ 0, for many h at once.

Block principal pivoting guesses which entries are positive, solves for them, and lets every entry of the wrong sign
change sides, for all problems in one batched solve a round. It usually settles in a few rounds; a problem that stops
making progress is handed to an active-set descent, whose objective falls at every step and which therefore ends.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from accord.solvers.scaling import EPS

RIDGE = 4.0  # in units of K·eps: C's own rounding, which makes every principal block of it positive definite
CHANCES = 4  # rounds without fewer wrong signs than ever before, after which a problem is left to the descent
STEPS_PER_ENTRY = 10  # a bound on the descent alone
LARGE = 4.0  # entries above this come from columns of C so nearly opposite that the ridge is felt
BATCHED = 24  # up to this K one batched solve of masked matrices is quicker than a solve for each problem
MOST = 0.6  # from this share of positive entries on, the inverse's block of the others is the quicker solve
INVERTIBLE = 1e-6  # the least eigenvalue of C above which its inverse is precise enough for that
MANY = 96  # beyond this K the first guess is worth some gradient steps
GRADIENT_STEPS = 160
CHECKED_EVERY = 10
SETTLED = 1e-3  # the share of entries that still change sides between two checks


class NonNegative:
    """Problems min ½xᵀ(C + ridge·I)x + hᵀx over x ≥ 0 that share C.

    With the ridge the minimiser is unique, so that it does not depend on the order of the entries; where C is
    singular it is the shortest one to within rounding, provided that h lies in the range of C.

    Args:
        c: Shape (K, K), positive semidefinite with unit diagonal up to rounding.
        ridge: Added to the diagonal; without it the size of C's own rounding.
    """

    def __init__(self, c: np.ndarray, ridge: float | None = None) -> None:
        self.c = c
        self.ridge = RIDGE * len(c) * EPS if ridge is None else ridge
        self.matrix = c.copy()
        self.matrix.flat[:: len(c) + 1] += self.ridge
        self.inverse: np.ndarray | None = None

    @cached_property
    def spectrum(self) -> np.ndarray:
        """The eigenvalues of C, ascending, shape (K,)."""
        return np.linalg.eigvalsh(self.c)

    def minimise(self, h: np.ndarray) -> tuple[np.ndarray, int]:
        """The minimisers, shape (N, K), for each row of h, shape (N, K), and how many rounds it took."""
        x = np.zeros_like(h)
        todo = np.flatnonzero((h < 0.0).any(axis=1))
        if not len(todo):
            return x, 0
        right = h[todo]
        passive = right < 0.0
        if len(todo) > 1 and len(self.c) > MANY:
            self.inverse = np.linalg.inv(self.matrix) if self.spectrum[0] > INVERTIBLE else None
            passive = self._guess(right, passive)
        found, rounds, stuck = self._pivot(right, passive)
        found = np.maximum(found, 0.0)
        if len(stuck) and len(self.c) > MANY and self.spectrum[0] + self.ridge <= 0.0:
            stuck = stuck[:0]  # not convex even with the ridge: a long search that need not end well
        for i in stuck.tolist():
            found[i], steps = self._descend(right[i], found[i])
            rounds += steps
        large = np.flatnonzero(found.max(axis=1) > LARGE)
        if len(large):
            found[large] = self._polished(right[large], found[large])
        x[todo] = found
        return x, rounds

    def _pivot(self, h: np.ndarray, passive: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
        """Block principal pivoting from a guess of the positive entries; the last part names the unsettled rows."""
        n, k = h.shape
        found = np.zeros_like(h)
        fewest, chances = np.full(n, k + 1), np.full(n, CHANCES)
        todo, stuck = np.arange(n), []
        rounds = 0
        while len(todo):
            rounds += 1
            inside, right = passive[todo], h[todo]
            x = self._solve(inside, -right)
            found[todo] = x
            tolerance = self.ridge * (1.0 + np.abs(x).sum(axis=1, keepdims=True))  # a derivative within it is rounding
            wrong = np.where(inside, x < 0.0, x @ self.matrix + right < -tolerance)
            count = wrong.sum(axis=1)
            better = count < fewest[todo]
            fewest[todo] = np.where(better, count, fewest[todo])
            chances[todo] = np.where(better, CHANCES, chances[todo] - 1)
            passive[todo] = inside ^ wrong
            stuck.append(todo[(count > 0) & (chances[todo] == 0)])
            todo = todo[(count > 0) & (chances[todo] > 0)]
        return found, rounds, np.concatenate(stuck)

    def _descend(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, int]:
        """An active-set descent for one h, shape (K,), from any x ≥ 0.

        Minimise on the support, going only as far as entries stay non-negative and dropping those that reach zero;
        then let in the entry with the most negative derivative. The objective falls, so no support comes twice.
        """
        if self._value(h, x) > 0.0:  # worse than nothing
            x = np.zeros_like(h)
        passive, barred = x > 0.0, np.zeros(len(h), bool)
        best, least, value = x, np.inf, np.inf
        for step in range(STEPS_PER_ENTRY * len(h)):
            x, passive = self._inner(h, x, passive)
            slope = x @ self.matrix + h
            slope[passive] = 0.0
            worst = -float(slope.min()) / (1.0 + float(x.sum()))
            if worst < least:
                best, least = x, worst
            if (reached := self._value(h, x)) < value:
                value, barred = reached, np.zeros(len(h), bool)
            slope[barred] = 0.0  # what came in without gain waits until there is some
            entering = int(slope.argmin())
            if slope[entering] >= -self.ridge * (1.0 + float(x.sum())):
                return best, step
            passive, barred[entering] = passive.copy(), True
            passive[entering] = True
        return best, STEPS_PER_ENTRY * len(h)

    def _inner(self, h: np.ndarray, x: np.ndarray, passive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The minimiser on a support, reached from x ≥ 0 by dropping the entries that hit zero on the way."""
        while True:
            aim = self._solve(passive[None], -h[None])[0]
            falling = np.flatnonzero(passive & (aim <= 0.0))
            if not len(falling):
                return aim, passive
            reach = x[falling] / (x[falling] - np.minimum(aim[falling], -np.finfo(float).tiny))
            x = np.maximum(x + float(reach.min()) * (aim - x), 0.0)
            x[falling[reach <= reach.min()]] = 0.0
            passive = passive & (x > 0.0)

    def _polished(self, h: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Minimisers without what the ridge did to them, by one proximal step on their supports if that is better."""
        slope = x @ self.c + h
        y = np.maximum(x + self._solve(x > 0.0, -slope), 0.0)
        before, after = np.abs(np.minimum(x, slope)), np.abs(np.minimum(y, y @ self.c + h))
        return np.where((after.max(axis=1) < before.max(axis=1))[:, None], y, x)

    def _value(self, h: np.ndarray, x: np.ndarray) -> float:
        return float(x @ (0.5 * (self.matrix @ x) + h))

    def _guess(self, h: np.ndarray, passive: np.ndarray) -> np.ndarray:
        """Which entries are positive at the minimum, shape (N, K), by accelerated projected gradient steps.

        Each is one product of matrices for all problems, in single precision, and restarts where it overshoots.
        """
        c, h, pace = self.c.astype(np.float32), h.astype(np.float32), np.float32(1.0 / self.spectrum[-1])
        x = ahead = np.zeros_like(h)
        t = 1.0
        for step in range(1, GRADIENT_STEPS + 1):
            moved = np.maximum(ahead - pace * (ahead @ c + h), np.float32(0.0))
            change = moved - x
            onward = np.einsum("ij,ij->i", ahead - moved, change) <= 0.0
            following = (1.0 + np.sqrt(1.0 + 4.0 * t * t)) / 2.0
            ahead = moved + np.where(onward, np.float32((t - 1.0) / following), np.float32(0.0))[:, None] * change
            x, t = moved, following
            if step % CHECKED_EVERY == 0:
                before, passive = passive, x > 0.0
                if np.count_nonzero(before != passive) <= SETTLED * passive.size:
                    break
        return passive

    def _solve(self, passive: np.ndarray, right: np.ndarray) -> np.ndarray:
        """For each row: the solution on the block of its passive entries, 0 elsewhere, shape (N, K)."""
        n, k = right.shape
        if n > 1 and k <= BATCHED:
            blocks = np.where(passive[:, :, None] & passive[:, None, :], self.matrix, np.eye(k))
            return _solved(blocks, np.where(passive, right, 0.0)[:, :, None])[:, :, 0]
        if self.inverse is None:
            return _by_blocks(self.matrix, passive, right)
        found = np.empty_like(right)
        most = passive.sum(axis=1) > MOST * k
        found[~most] = _by_blocks(self.matrix, passive[~most], right[~most])
        found[most] = self._by_rest(self.inverse, passive[most], right[most])
        return found

    def _by_rest(self, inverse: np.ndarray, passive: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The same through C⁻¹ and its blocks of the other entries, refined once: cheap where these are few.

        x = C⁻¹(right + w) with w on the other entries alone, and such that x vanishes there.
        """
        x = np.zeros_like(right)
        for _ in range(2):
            through = np.where(passive, right - x @ self.matrix, 0.0) @ inverse
            w = _by_blocks(inverse, ~passive, -through)
            x += np.where(passive, through + w @ inverse, 0.0)
        return x


def _by_blocks(matrix: np.ndarray, inside: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A solve for each set of entries that some rows share, 0 outside it, shape (N, K)."""
    found = np.zeros_like(right)
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(inside):
        groups.setdefault(row.tobytes(), []).append(i)
    for rows in map(np.array, groups.values()):
        block = np.flatnonzero(inside[rows[0]])
        here = np.ix_(rows, block)
        found[here] = _solved(matrix[np.ix_(block, block)], right[here].T).T
    return found


def _solved(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Linear solves of one matrix or a stack of them; the shortest least-squares solutions where one is singular."""
    try:
        return np.linalg.solve(matrices, right)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(matrices, hermitian=True) @ right
