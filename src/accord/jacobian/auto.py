"""The engine chosen by what can be known before the first backward."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from accord.jacobian.features import SequentialFeatures
from accord.jacobian.losses import Losses, Shared
from accord.jacobian.sequential import SequentialJacobian
from accord.jacobian.storage import nbytes
from accord.jacobian.walking import check_memory

SHARE = 0.25
"""Rows are kept while they take no more than this share of the free memory."""


def auto(losses: Losses, shared: Shared, *, memory: float | None = None, **options: Any) -> SequentialJacobian:
    """``sequential``, with the rows kept or in lean mode, by how much memory they would take.

    Kept rows save the last of K + 1 backwards; K of them may not fit. The choice follows from K, the bytes of the
    shared parameters and the memory that is free, on the parameters' device; the Jacobian's ``why`` says it.
    ``batched`` is never chosen, because whether all operations of a graph can be vectorised is only known by trying.

    Args:
        losses: K scalars.
        shared: The shared parameters.
        memory: Bytes that rows may take; a quarter of what is free by default.
        options: As for ``sequential``.
    """
    check_memory(memory, "jacobian.auto")
    jacobian = SequentialJacobian(losses, shared, **options)
    row = nbytes(jacobian._local(jacobian.parameters))
    need = row * jacobian.num_tasks
    free = free_memory(jacobian.parameters[0].device)
    budget = memory if memory is not None else SHARE * free
    limit = f"memory={memory:.0f}" if memory is not None else f"a quarter of the {_size(free)} that are free"
    over = bool(jacobian.reduce.total(torch.tensor(float(need > budget))) > 0)  # on any process: all walk alike
    jacobian.lean = over and not jacobian.by_backward
    jacobian.memory = memory if jacobian.lean else None
    said = f"rows of {jacobian.num_tasks} tasks take {_size(need)}, {'over' if over else 'within'} {limit}"
    if over and not jacobian.lean:
        said += ", but checkpointed or sharded parameters can only be walked whole"
    jacobian.why = f"sequential, {'lean' if jacobian.lean else 'rows kept'}: {said}"
    return jacobian


def auto_features(losses: Losses, features: Any, **options: Any) -> SequentialFeatures:
    """``features`` one task at a time: rows at a representation are small, whatever the trunk."""
    jacobian = SequentialFeatures(losses, features, **options)
    jacobian.why = "sequential, rows kept: those at a representation are as small as its batch"
    return jacobian


def free_memory(device: torch.device) -> float:
    """Bytes that this process may still take on a device; infinity where that cannot be known."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + reserved)
    if device.type != "cpu":
        return float("inf")
    free = [_meminfo("/proc/meminfo")]
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    free += [limit - used] if limit is not None and used is not None else []
    if free[0] is None and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free[0] = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((f for f in free if f is not None), default=float("inf"))


def _meminfo(path: str) -> float | None:
    if not Path(path).exists():
        return None
    lines = [line.split() for line in Path(path).read_text().splitlines() if line.startswith("MemAvailable:")]
    return 1024.0 * int(lines[0][1]) if lines else None


def _number(path: str) -> float | None:
    text = Path(path).read_text().strip() if Path(path).is_file() else ""
    return float(text) if text.isdigit() else None


def _size(number: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("unreachable")
