"""Can a thousand tasks be balanced within a given memory, and is the Gramian the right one?

    python -m benchmarks.many_tasks [--tasks K] [--memory BYTES]

A trunk of three linear layers and K linear heads; a step is forward, the Gramian, and the gradient of equal weights,
without a solver. Lean mode keeps to ``memory`` for the rows and cotangents it holds at a time, and makes again what
does not fit. Each variant runs in fresh processes, after a step with few tasks. "Tensors" is the profiler's record of
what is allocated and freed, at its peak, beyond that of K products of which nothing is kept: to be set beside the
budget, to which the K×K sums and the windows of rows in float64 are added. Rows are small here, so that the resident
set is also what the allocator makes of them. The error is the largest entry of the Gramian's difference from one that
plain autograd and float64 give, relative to the largest entry. CPU time, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from accord.errors import EngineError
from accord.jacobian import ENGINES
from benchmarks.engine_models import Workload, mlp
from benchmarks.engines import vjps
from benchmarks.memory import Prepared, fresh, grown, recorded
from benchmarks.timing import heading

WIDTH, BATCH, CHUNK, FEW = 64, 32, 50, 20
WINDOWS_MB = 4
"""What inner products take beside the rows: windows of them in float64."""

Options = dict[str, Any]
NOTHING_KEPT = "K vjps, nothing kept"


def work(tasks: int) -> Workload:
    """The same in every process."""
    torch.manual_seed(0)
    return mlp("cpu", tasks, WIDTH, 3, BATCH)


def variants(memory: float) -> dict[str, Options | None]:
    """The engine's name and options of each; None where no engine is used."""
    lean = {"lean": True, "memory": memory}
    return {
        NOTHING_KEPT: None,
        "sequential": {"engine": "sequential"},
        "sequential, lean, memory": {"engine": "sequential", **lean},
        "batched in chunks": {"engine": "batched", "chunk_size": CHUNK},
        "batched in chunks, lean, memory": {"engine": "batched", "chunk_size": CHUNK, **lean},
    }


def stepper(options: Options | None, workload: Workload) -> Callable[[], torch.Tensor | None]:
    """A step; it returns the Gramian."""
    if options is None:
        return vjps(workload)
    build = ENGINES[options["engine"]]
    given = {name: value for name, value in options.items() if name != "engine"}

    def step() -> torch.Tensor:
        jacobian = build(workload.losses(), workload.trunk, **given)
        gramian = jacobian.gramian()
        equal = torch.full((workload.num_tasks,), 1.0 / workload.num_tasks)
        jacobian.accumulate(equal, equal)
        return gramian

    return step


def prepare(options: Options | None, tasks: int) -> Prepared:
    """For ``benchmarks.memory.recorded``, warmed up on few tasks."""
    stepper(options, work(FEW))()
    workload = work(tasks)
    step = stepper(options, workload)
    return _second(step), workload.clear


def _second(step: Callable[[], object]) -> Callable[[], object]:
    """Nothing at the first call: that of a warm-up which has been done."""
    calls = iter((lambda: None, step))
    return lambda: next(calls)()


def direct(workload: Workload) -> torch.Tensor:
    """JJᵀ, shape (K, K): rows by plain autograd, products in float64."""
    rows: list[list[torch.Tensor]] = [[] for _ in workload.shared]
    for loss in workload.losses():
        for kept, gradient in zip(rows, torch.autograd.grad(loss, workload.shared, retain_graph=True), strict=True):
            kept.append(gradient.flatten())
    total = torch.zeros(workload.num_tasks, workload.num_tasks, dtype=torch.float64)
    while rows:
        block = torch.stack(rows.pop()).double()  # (K, n)
        total += block @ block.T
    return total


class Measured(NamedTuple):
    """CPU seconds of a step, its peak in MB, and the Gramian's error where an engine made one."""

    seconds: float
    resident: float
    error: float | None


def measured(options: Options | None, tasks: int) -> Measured:
    """In a fresh process: a step, then its Gramian against the direct one."""
    torch.set_num_threads(1)
    stepper(options, work(FEW))()
    workload = work(tasks)
    step = stepper(options, workload)
    seconds, results = [], []

    def timed() -> None:
        begin = time.process_time()
        results.append(step())
        seconds.append(time.process_time() - begin)

    resident = grown(timed)
    if options is None:
        return Measured(seconds[0], resident, None)
    wanted = direct(workload)
    return Measured(seconds[0], resident, float((results[0] - wanted).abs().max() / wanted.abs().max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--memory", type=float, default=20e6, help="bytes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    k, memory = options.tasks, options.memory
    workload = work(k)
    row = workload.gradient_bytes
    console = Console(width=120)
    console.print(f"many tasks: {heading()}", soft_wrap=True)
    title = f"K = {k}, {row / 1e6:.2f} MB a row, {k * row / 1e6:.0f} MB all rows; memory = {memory / 1e6:.0f} MB"
    columns = ("variant", "s a step", "ms a vjp", "× K vjps", "tensors MB", "resident MB", "error")
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    floor: tuple[float, float] | None = None
    lines = []
    for name, chosen in variants(memory).items():
        try:
            with ProcessPoolExecutor(2, mp_context=fresh()) as pool:
                step, held = pool.submit(measured, chosen, k), pool.submit(recorded, prepare, chosen, k)
                found, tensors = step.result(), held.result()
        except EngineError as error:
            table.add_row(name, "–")
            lines.append(f"{name}: {error}")
            continue
        floor = floor or (found.seconds, tensors)
        extra = tensors - floor[1]
        table.add_row(
            name,
            f"{found.seconds:.2f}",
            f"{1e3 * found.seconds / k:.2f}",
            f"{found.seconds / floor[0]:.2f}",
            f"{extra:.1f}",
            f"{found.resident:.0f}",
            "" if found.error is None else f"{found.error:.1e}",
        )
        if "memory" in name:
            limit = (memory + 2 * 8 * k**2) / 1e6 + WINDOWS_MB
            answer = "yes" if extra <= limit else "no"
            lines.append(
                f"must reach: {name}: {extra:.1f} MB ≤ memory + two K×K + {WINDOWS_MB} MB = {limit:.1f}: {answer}"
            )
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
