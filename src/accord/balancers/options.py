"""Checks of options, each with an error that names the method, the option and the values it may have."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from accord.balancers.grammar import suggest
from accord.errors import NonFiniteError, NumericalWarning, OptionError, OptionWarning, ShapeError


def check_choice(value: object, choices: Sequence[object], option: str, method: str) -> None:
    """Refuse a value that is not one of the choices, suggesting the nearest."""
    if value not in choices:
        hint = suggest(str(value), [str(choice) for choice in choices])
        raise OptionError(f"{method}: {option} = {value!r} is none of {', '.join(map(repr, choices))}{hint}")


def check_positive(value: float, option: str, method: str, *, integer: bool = False) -> None:
    """Refuse a value that is not a positive finite number."""
    number = isinstance(value, numbers.Integral if integer else numbers.Real) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        kind = "integer" if integer else "number"
        raise OptionError(f"{method}: {option} = {value!r} is not a positive {kind}")


def check_number(
    value: object, option: str, method: str, hint: str, *, least: float = -math.inf, infinite: bool = False
) -> None:
    """Refuse a value that is not a number of at least ``least``; infinity passes with ``infinite``, NaN never."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and float(value) >= least and (infinite or float(value) < math.inf)):  # type: ignore[arg-type]
        kind = "number" if infinite else "finite number"
        raise OptionError(f"{method}: {option} = {value!r} is not a {kind} of at least {least:g}; {hint}")


def check_finite(value: object, option: str, method: str) -> None:
    """Refuse a value that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise OptionError(f"{method}: {option} = {value!r} is not a finite number")


def check_between(value: object, option: str, method: str, low: float, high: float, *, open_end: bool = False) -> None:
    """Refuse a value outside [low, high], or [low, high) with ``open_end``."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and low <= float(value) and (float(value) < high if open_end else float(value) <= high)):  # type: ignore[arg-type]
        end = f"at least {low:g} and below {high:g}" if open_end else f"between {low:g} and {high:g}"
        raise OptionError(f"{method}: {option} = {value!r} is not a number {end}")


def check_flag(value: object, option: str, method: str) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{method}: {option} = {value!r} is neither True nor False")


def check_per_task(values: object, option: str, method: str, num_tasks: int, *, least: float) -> None:
    """Refuse anything but a list of K finite numbers of at least ``least``."""
    text = f"{method}: {option} = {values!r}"
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise OptionError(f"{text} is not a list of {num_tasks} numbers, one a task")
    if len(values) != num_tasks:
        raise OptionError(f"{text} has {len(values)} numbers for {num_tasks} tasks")
    for value in values:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not least <= float(value) < math.inf:
            raise OptionError(f"{text}: {value!r} is not a finite number of at least {least:g}")


def task_names(tasks: int | Sequence[str], caller: str) -> tuple[tuple[str, ...], bool]:
    """Names of the tasks, and whether they were given by name.

    Raises:
        ShapeError: Neither a positive number nor a list of distinct names.
    """
    if isinstance(tasks, numbers.Integral) and not isinstance(tasks, bool):
        tasks = int(tasks)
    if isinstance(tasks, bool) or not isinstance(tasks, (int, Sequence)) or isinstance(tasks, str):
        raise ShapeError(f"{caller}: tasks = {tasks!r} is neither a number of tasks nor a list of their names")
    if isinstance(tasks, int):
        if tasks < 1:
            raise ShapeError(f"{caller}: tasks = {tasks}; at least one task is needed")
        return tuple(str(k) for k in range(tasks)), False
    names = tuple(str(name) for name in tasks)
    if not names or len(set(names)) != len(names):
        raise ShapeError(f"{caller}: tasks = {list(names)}; one or more distinct names are needed")
    return names, True


def loss_values(losses: object, num_tasks: int, caller: str) -> Tensor:
    """The values of the losses after a step, shape (K,), float64 on the CPU.

    Raises:
        ShapeError: Not K scalar tensors.
    """
    if isinstance(losses, Mapping):
        losses = losses.values()
    several = isinstance(losses, Iterable) and not (isinstance(losses, Tensor) and losses.ndim == 0)
    found = list(losses) if several else [losses]  # type: ignore[call-overload]
    if len(found) != num_tasks or not all(isinstance(loss, Tensor) and loss.numel() == 1 for loss in found):
        kinds = [tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__ for loss in found]
        raise ShapeError(f"{caller}: after_step needs {num_tasks} scalar losses, got {len(found)}: {kinds}")
    return torch.stack([loss.detach().reshape(()).cpu().double() for loss in found])


def require_positive(values: np.ndarray, tasks: Sequence[str], method: str, why: str) -> np.ndarray:
    """The losses (K,), refused with the tasks' names and the reason where one is not above zero.

    Raises:
        NonFiniteError: A loss is zero or negative.
    """
    if not (values > 0).all():
        bad = ", ".join(f"{name!r} = {value:.6g}" for name, value in zip(tasks, values, strict=True) if value <= 0)
        raise NonFiniteError(
            f"{method}: the loss of {bad} is not positive, but {why}: losses must be above zero. "
            "No gradient was written"
        )
    return values


def warn_numerical(message: str) -> None:
    """Warn that a step is not what was asked for."""
    warnings.warn(message, NumericalWarning, stacklevel=2)


def warn_option(message: str) -> None:
    """Warn that an option has no effect."""
    warnings.warn(message, OptionWarning, stacklevel=2)
