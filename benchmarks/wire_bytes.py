"""What does balancing over several processes send, and how long does it take?

    python -m benchmarks.wire_bytes

Two and four processes, joined by gloo over the loopback interface, train a network of P numbers in the trunk on K
tasks. Bytes are those that one process sends in a step: by arithmetic (what ``reduce.traffic`` counts, for operations
that pass each number around a ring), and as the kernel counts them on the loopback interface, headers included, over
the number of processes. For the latter the processes run in a network namespace of their own where the system allows
it. What fully_shard itself sends (parameters to every backward, gradients from it) shows there alone. Milliseconds are
medians of steps that take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import accord

TASKS, WIDTH, BATCH = 4, 512, 32
VARIANTS = ("DDP, plain step", "DDP, rows kept", "DDP, lean", "FSDP2, plain step", "FSDP2, balanced")


class Net(nn.Module):
    """A trunk of three layers and K small heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(TASKS))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, WIDTH) to K predictions (B, 1)."""
        z = self.trunk(x)
        return [head(z) for head in self.heads]


def loopback() -> int | None:
    """Bytes sent over the loopback interface so far; None where the system does not tell."""
    table = Path("/proc/net/dev")
    if not table.exists():
        return None
    lines = [line.split() for line in table.read_text().splitlines() if line.strip().startswith("lo:")]
    return int(lines[0][9]) if lines else None


def variant(name: str) -> tuple[Callable[[], object], Callable[[], int]]:
    """A step, and the bytes that ``reduce`` says were sent in it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    net, x = Net(), torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(dist.get_rank()))
    model: nn.Module = net
    if name.startswith("FSDP2"):
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for module in (net.trunk, net):
            fully_shard(module, mesh=mesh)
    else:
        model = DistributedDataParallel(net, gradient_as_bucket_view=True)
    shared, heads = list(net.trunk.parameters()), list(net.heads.parameters())
    balancer, sent = accord.NashMTL(tasks=TASKS), [0]

    def losses() -> list[Tensor]:
        net.zero_grad()
        return [(found - k).square().mean() for k, found in enumerate(model(x))]

    def plain() -> None:
        sum(losses(), torch.zeros(())).backward()

    def balanced() -> None:
        jacobian = accord.jacobian.sequential(losses(), shared, heads=heads, lean=name.endswith("lean"))
        balancer.apply(jacobian)
        sent[0] = jacobian.reduce.traffic

    return plain if name.endswith("plain step") else balanced, lambda: sent[0]


def work(rank: int, size: int, store: str, rounds: int, pipe: object) -> None:
    """One process: all variants in turn; rank 0 tells the figures."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    steps = {name: variant(name) for name in VARIANTS}
    for step, _ in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    moved: dict[str, list[int]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            dist.barrier()
            time.sleep(0.02)
            before, begin = loopback(), time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
            time.sleep(0.02)  # until what was sent has arrived
            after = loopback()
            dist.barrier()
            if before is not None and after is not None:
                moved[name].append(after - before)
    if rank == 0:
        figures = {name: (statistics.median(seconds[name]), moved[name], steps[name][1]()) for name in steps}
        pipe.send(figures)  # type: ignore[attr-defined]
    dist.barrier()


FORMULAS = {  # numbers of the trunk that pass around the ring, in units of P
    "DDP, plain step": ("2P", 2),
    "DDP, rows kept": ("KP + P", TASKS + 1),
    "DDP, lean": ("KP + 2P", TASKS + 2),
}


def measure(size: int, rounds: int) -> dict[str, tuple[float, list[int], int]]:
    """All variants on so many processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe()
        store = str(Path(folder) / "store")
        workers = [context.Process(target=work, args=(r, size, store, rounds, theirs)) for r in range(size)]
        for worker in workers:
            worker.start()
        if not ours.poll(300):
            raise TimeoutError(f"{size} processes were not done within 300 seconds")
        found = ours.recv()
        for worker in workers:
            worker.join()
    return found


def isolated() -> bool:
    """Whether this process is in a network namespace of its own; goes there where it can, by starting anew."""
    if os.environ.get("ACCORD_WIRE") == "alone":
        return True
    enter = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        able = subprocess.run([*enter, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
    if able:
        again = [*enter, sys.executable, "-m", "benchmarks.wire_bytes", *sys.argv[1:]]
        raise SystemExit(subprocess.run(again, env={**os.environ, "ACCORD_WIRE": "alone"}, check=False).returncode)
    return False


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.timing import heading

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    alone = isolated()
    console = Console(width=120)
    numbers = sum(p.numel() for p in Net().trunk.parameters())
    console.print(f"bytes and time of a step over several processes: {heading()}")
    console.print(
        f"K = {TASKS} tasks, P = {numbers} float32 numbers in the trunk, {BATCH} samples a process, {rounds} rounds, "
        + ("in a network namespace of its own" if alone else "on a loopback interface that others may use")
    )
    columns = ("processes, variant", "formula", "formula, MB", "counted, MB", "loopback, MB", "ms", "of the plain step")
    table = Table(*columns)
    for size in (2, 4):
        found = measure(size, rounds)
        for name, (seconds, moved, sent) in found.items():
            formula, units = FORMULAS.get(name, ("", 0))
            bytes_ = 4 * units * numbers * (size - 1) / size
            table.add_row(
                f"{size}, {name}",
                formula,
                f"{bytes_ / 1e6:.2f}" if units else "",
                "" if name.endswith("plain step") else f"{sent / 1e6:.4f}",
                f"{statistics.median(moved) / size / 1e6:.2f}" if moved else "unknown",
                f"{1e3 * seconds:.1f}",
                f"{seconds / found[name.split(',')[0] + ', plain step'][0]:.2f}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
