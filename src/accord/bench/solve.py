"""``accord solve``: weights and certificate for a Gramian from a file or a pipe."""

from __future__ import annotations

import inspect
import io
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accord.balancers.registry import parse_spec, suggest
from accord.errors import DataError, OptionError, UnknownNameError
from accord.solvers import SOLVERS

if TYPE_CHECKING:
    from rich.console import Console

    from accord.solvers.solution import Solution


def read_gramian(source: str) -> np.ndarray:
    """A matrix from a file, or from standard input for ``"-"``; NumPy's format or text.

    Raises:
        DataError: The file cannot be read, or is not a matrix of numbers.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the Gramian from {source}: {error.strerror}") from error
    name = "standard input" if source == "-" else source
    try:
        if data.startswith(b"\x93NUMPY"):
            return np.load(io.BytesIO(data), allow_pickle=False)
        if data.startswith(b"PK"):
            raise ValueError("it is an archive such as .npz: save the one matrix with numpy.save")
        lines = data.decode("utf-8-sig").replace(",", " ").splitlines()
        rows = [[float(number) for number in line.split()] for line in lines if line.strip()]
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1:
            raise ValueError(f"its rows have {' or '.join(map(str, lengths)) or 'no'} numbers")
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise DataError(
            f"{name} is not a matrix of numbers ({error}): give a .npy file, or text with one row a line and "
            "commas or blanks between the numbers"
        ) from error


def solve(gramian: np.ndarray, spec: str) -> Solution:
    """Run a solver by its method's name.

    Args:
        gramian: Shape (K, K).
        spec: Such as ``"fairgrad:alpha=2"``. PCGrad projects in the order of the rows, so that the answer is not
            random, unless the spec gives another (``"pcgrad:order=[1, 0]"``), and GradVac's targets are zero.

    Raises:
        UnknownNameError: No solver has that name.
        OptionError: The solver has no such option.
    """
    name, options = parse_spec(spec)
    if name not in SOLVERS:
        raise UnknownNameError(f"no solver {name!r} works on a Gramian alone{suggest(name, SOLVERS)}")
    allowed = [p for p in list(inspect.signature(SOLVERS[name]).parameters)[1:] if p != "generator"]
    for option in options:
        if option not in allowed:
            raise OptionError(
                f"solver {name!r} has no option {option!r} (it has {', '.join(allowed) or 'none'})"
                f"{suggest(option, allowed, listing=False)}"
            )
    if "order" in allowed:
        options.setdefault("order", list(range(len(gramian))))
    if "targets" in allowed:
        options.setdefault("targets", np.zeros_like(gramian))
    return SOLVERS[name](gramian, **options)


def to_json(spec: str, gramian: np.ndarray, solution: Solution) -> str:
    """The solution as JSON text."""
    data = {
        "method": spec,
        "weights": solution.weights.tolist(),
        "progress": (gramian @ solution.weights).tolist(),
        "outcome": solution.outcome,
        "cause": solution.cause,
        "residual": solution.residual,
        "floor": solution.floor,
    }
    return json.dumps({k: _finite(v) for k, v in data.items()}, allow_nan=False)


def _finite(value: Any) -> Any:
    """Null in the place of what JSON has no word for."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_solution(spec: str, gramian: np.ndarray, solution: Solution, console: Console) -> None:
    """A line a task, then outcome and certificate."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "weight", "gᵀd"):
        table.add_column(heading, justify="right")
    for task, (weight, progress) in enumerate(zip(solution.weights, gramian @ solution.weights, strict=True)):
        table.add_row(str(task), f"{weight:.8g}", f"{progress:.8g}")
    console.print(table)
    print(f"{spec}: {solution.outcome}; residual {solution.residual:.1e} (floor of float64 {solution.floor:.1e})")
    if solution.cause:
        print(solution.cause)
