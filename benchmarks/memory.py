"""How much memory does a step need beyond what is there before it?

    python -m benchmarks.memory

Every step is measured in a fresh process. There it runs once to warm up (workspaces and modules that libraries load
when first used), gradients and garbage are let go, free memory is handed back (malloc_trim), and it runs again: the
highest resident set size during this second step (VmHWM, which the kernel keeps; it is set back through
/proc/self/clear_refs) less the size just before. Done twice, in two processes:

* resident: with the allocator as it is, so with the memory that it keeps when tensors are freed;
* live: with blocks of 64 KiB or more mapped and unmapped one by one (mallopt), so that the size follows what tensors
  hold.

On CUDA these are torch.cuda.max_memory_reserved() and max_memory_allocated(), less what is there before.
Run as a program this compares "live" with the profiler's record of every tensor allocated and freed.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple

import torch

M_MMAP_THRESHOLD = -3
MAPPED = 64 * 1024

Prepared = tuple[Callable[[], object], Callable[[], object]]
"""A step, and what lets its results go."""


class Peak(NamedTuple):
    """Extra megabytes (10⁶ bytes) at the peak of a step."""

    resident: float
    live: float


def fresh() -> BaseContext:
    """Processes forked from one that has imported the libraries and run nothing."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["torch", "accord"])
    return context


def peak(prepare: Callable[..., Prepared], *arguments: object, device: str = "cpu") -> Peak | None:
    """Extra memory at the peak of one step; None where the system does not tell.

    Args:
        prepare: A function of a module, called in the new process with the arguments; it returns the step.
        *arguments: What can be pickled.
        device: "cpu" or "cuda".
    """
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    context = fresh() if device == "cpu" else multiprocessing.get_context("spawn")
    run = _on_cuda if device == "cuda" else _on_cpu
    with (
        ProcessPoolExecutor(1, mp_context=context) as one,
        ProcessPoolExecutor(1, mp_context=context) as other,
    ):
        resident = one.submit(run, prepare, arguments, False)
        live = other.submit(run, prepare, arguments, True)
        return Peak(resident.result(), live.result())


def grown(step: Callable[[], object]) -> float:
    """Megabytes by which the resident set of this process grows, at the peak of a call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1e6


def recorded(prepare: Callable[..., Prepared], *arguments: object) -> float:
    """Megabytes of tensors at the peak of a step: the highest sum of what the profiler saw allocated and freed."""
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    step, clear = prepare(*arguments)
    step()
    clear()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    now = highest = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest / 1e6


def _on_cpu(prepare: Callable[..., Prepared], arguments: tuple[object, ...], live: bool) -> float:
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    if live:
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
    step, clear = prepare(*arguments)
    step()
    clear()
    return grown(step)


def _on_cuda(prepare: Callable[..., Prepared], arguments: tuple[object, ...], live: bool) -> float:
    step, clear = prepare(*arguments)
    step()
    clear()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held, most = (
        (torch.cuda.memory_allocated, torch.cuda.max_memory_allocated)
        if live
        else (torch.cuda.memory_reserved, torch.cuda.max_memory_reserved)
    )
    before = held()
    step()
    torch.cuda.synchronize()
    return (most() - before) / 1e6


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.engines import prepare
    from benchmarks.timing import heading

    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console(width=110)
    console.print(f"peak memory of a step, two ways: {heading()}")
    table = Table("mlp, variant", "resident, MB", "live, MB", "profiler, MB")
    for name in ("plain", "naive", "nash-mtl, sequential", "nash-mtl, sequential:lean=true"):
        with ProcessPoolExecutor(1, mp_context=fresh()) as pool:
            tensors = pool.submit(recorded, prepare, "mlp", name, "cpu").result()
        measured = peak(prepare, "mlp", name, "cpu")
        seen = ("–", "–") if measured is None else (f"{measured.resident:.0f}", f"{measured.live:.0f}")
        table.add_row(name, *seen, f"{tensors:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
