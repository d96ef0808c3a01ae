"""Shared by the benchmarks: paired timings, and a line that says what machine and commit they are of."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import accord


def heading() -> str:
    """Date, machine kind, versions and commit, for every printed table."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    date = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{date}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, torch {torch.__version__}, accord {accord.__version__} "
        f"at commit {commit or 'unknown'}"
    )


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """CPU seconds of each call, all variants taking turns, so that a drift of the machine hits all alike."""
    for _ in range(warmup):
        for call in variants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            begin = time.process_time()
            call()
            seconds[name].append(time.process_time() - begin)
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """The median of a/b, round by round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
