"""Weights on the simplex: the projection on it, and projected gradient steps, as in MoDo, SDMGrad and MoCo."""

from __future__ import annotations

import numbers

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers.scaling import real_array


def project_on_simplex(x: ArrayLike) -> np.ndarray:
    """The nearest point of the simplex {w ≥ 0, Σ w_i = 1}.

    w_i = max(x_i − θ, 0) with the one θ that makes the sum 1, found exactly from the sorted entries.

    Args:
        x: Shape (K,), any finite numbers.

    Returns:
        Shape (K,), float64, at least 0, of sum 1 up to rounding.

    Raises:
        ShapeError: Not one-dimensional, or empty.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> from accord.solvers import project_on_simplex
        >>> project_on_simplex([0.5, 1.0, -3.0])
        array([0.25, 0.75, 0.  ])

    References:
        Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008, Figure 1.
    """
    given = real_array(x, "the vector", "project_on_simplex")
    if given.ndim != 1 or not len(given):
        raise ShapeError(f"project_on_simplex: a vector of shape (K,) is needed, got shape {given.shape}")
    _check_finite(given, "project_on_simplex", "the vector")
    return _projected(given)


def _projected(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an entry 1 or more below the largest gets nothing, however far below it is
        relative = np.maximum(x - x.max(), -1.0)
    falling = np.sort(relative)[::-1]
    thresholds = (np.cumsum(falling) - 1.0) / np.arange(1, len(x) + 1)
    theta = thresholds[np.flatnonzero(falling > thresholds)[-1]]
    return np.maximum(relative - theta, 0.0)


def descend_on_simplex(
    gramian: ArrayLike,
    weights: ArrayLike,
    *,
    step: float,
    steps: int = 1,
    shift: ArrayLike | None = None,
    momentum: float = 0.0,
) -> np.ndarray:
    """Projected gradient steps w ← Π(w − step·(Hw + shift)) for ½‖Jᵀw‖² and its like, from two batches.

    H is J₁J₂ᵀ, (K, K), from the gradients of two independent batches, so that Hw estimates the gradient JJᵀw without
    the bias of one batch; it is neither symmetric nor positive semidefinite. One step is MoDo's and, with a tracked
    Jacobian Y and H = YYᵀ + ρ·1, MoCo's. SDMGrad takes twenty with shift = λH1/K, momentum 0.5, and H divided by the
    square of the mean gradient norm. With momentum m the step is along the velocity z ← m·z + Hw + shift, which
    starts at zero in each call and is not projected.

    Args:
        gramian: Shape (K, K), H.
        weights: Shape (K,), where to start; usually the last call's result, or 1/K each.
        step: Step size, positive.
        steps: How many steps, at least 1.
        shift: Shape (K,), added to the gradient.
        momentum: From 0 up to 1, excluding 1.

    Returns:
        Shape (K,), on the simplex.

    Raises:
        OptionError: step, steps or momentum is out of range.
        ShapeError: H is not square, or the weights or the shift do not fit it.
        NonFiniteError: An array holds NaN or infinity, or a step leaves float64's range.

    Example:
        >>> from accord.solvers import descend_on_simplex
        >>> descend_on_simplex([[1.0, 0.0], [0.0, 3.0]], [0.5, 0.5], step=0.25)
        array([0.625, 0.375])

    References:
        Chen et al., "Three-Way Trade-Off in Multi-Objective Learning", NeurIPS 2023, arXiv:2305.20057. Xiao, Ban and
        Ji, "Direction-oriented Multi-objective Learning", NeurIPS 2023, arXiv:2305.18409. Fernando et al., "Mitigating
        Gradient Bias in Multi-objective Learning", ICLR 2023, arXiv:2210.12624.
    """
    h = real_array(gramian, "the matrix", "descend_on_simplex")
    if h.ndim != 2 or h.shape[0] != h.shape[1] or not len(h):
        raise ShapeError(f"descend_on_simplex: a matrix of shape (K, K) is needed, got shape {h.shape}")
    w = real_array(weights, "the weights", "descend_on_simplex")
    added = np.zeros(len(h)) if shift is None else real_array(shift, "the shift", "descend_on_simplex")
    if w.shape != (len(h),) or added.shape != (len(h),):
        raise ShapeError(
            f"descend_on_simplex: weights and shift of shape ({len(h)},) are needed, got {w.shape} and {added.shape}"
        )
    for array, name in ((h, "the matrix"), (w, "the weights"), (added, "the shift")):
        _check_finite(array, "descend_on_simplex", name)
    _check_range(step, "step", "a positive number", isinstance(step, numbers.Real) and 0.0 < step < np.inf)
    _check_range(steps, "steps", "an integer of at least 1", isinstance(steps, (int, np.integer)) and steps >= 1)
    _check_range(momentum, "momentum", "from 0 up to 1", isinstance(momentum, numbers.Real) and 0.0 <= momentum < 1.0)
    velocity = np.zeros(len(h))
    for _ in range(steps):
        with np.errstate(over="ignore", invalid="ignore"):
            velocity = momentum * velocity + (h @ w + added)
            moved = w - step * velocity
        _check_finite(moved, "descend_on_simplex", f"a step of size {step:g}")
        w = _projected(moved)
    return w


def _check_range(value: object, name: str, what: str, fits: bool) -> None:
    if isinstance(value, bool) or not fits:
        raise OptionError(f"descend_on_simplex: {name} = {value!r} is not {what}")


def _check_finite(array: np.ndarray, caller: str, name: str) -> None:
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{caller}: {name} of shape {array.shape} has NaN or infinity")
