"""What every certificate asks of its arguments."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import ShapeError
from accord.solvers.scaling import real_array


def checked_pair(gramian: ArrayLike, weights: ArrayLike, caller: str) -> tuple[np.ndarray, np.ndarray]:
    """A Gramian (K, K) and weights (K,) in float64, or a ShapeError."""
    g, w = real_array(gramian, "the Gramian", caller), real_array(weights, "the weights", caller)
    if g.ndim != 2 or g.shape != (len(g), len(g)) or w.shape != (len(g),):
        raise ShapeError(f"{caller}: a Gramian (K, K) and weights (K,) are needed, got {g.shape} and {w.shape}")
    return g, w


def checked_square(matrix: ArrayLike, caller: str) -> np.ndarray:
    """A matrix (K, K) in float64, or a ShapeError."""
    a = real_array(matrix, "the matrix", caller)
    if a.ndim != 2 or a.shape != (len(a), len(a)):
        raise ShapeError(f"{caller}: a matrix of shape (K, K) is needed, got {a.shape}")
    return a
