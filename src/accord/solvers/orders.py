"""The orders in which PCGrad and GradVac let each gradient meet the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accord.errors import OptionError

Order = Sequence[Sequence[int]] | Sequence[int] | np.ndarray


def orders_of(order: Order | None, generator: np.random.Generator | None, k: int, caller: str) -> np.ndarray:
    """Shape (K, K): row i is the order in which task i meets the others; given, or drawn from the generator.

    Raises:
        OptionError: Neither or both are given, order is no permutation, or the generator is none of NumPy's.
    """
    if (order is None) == (generator is None):
        raise OptionError(f"{caller}: give either an order of projections or a generator to draw it from")
    if generator is not None:
        if not isinstance(generator, np.random.Generator):
            raise OptionError(f"{caller}: generator = {generator!r} is none of NumPy's (numpy.random.default_rng)")
        return np.stack([generator.permutation(k) for _ in range(k)])
    try:
        given = np.asarray(order)
    except ValueError as error:
        raise OptionError(f"{caller}: order is neither a list of {k} tasks nor {k} such lists: {error}") from error
    if given.shape == (k,):
        given = np.tile(given, (k, 1))
    if given.dtype.kind not in "iu" or given.shape != (k, k) or not (np.sort(given, axis=1) == np.arange(k)).all():
        raise OptionError(
            f"{caller}: order must be a permutation of 0..{k - 1}, or {k} of them, got shape {given.shape} "
            f"of dtype {given.dtype}"
        )
    return given


def among(rows: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Shape (K', K'): the same orders of some tasks alone, each named by its place in ``rows``."""
    position = np.full(len(orders), -1)
    position[rows] = np.arange(len(rows))
    local = position[orders[rows]]
    return local[local >= 0].reshape(len(rows), len(rows))
