"""What does a balanced step cost over the differentiation it cannot avoid, on the QM9 network of the laptop preset?

    python -m benchmarks.balancer_overhead [--rounds N]

In one run, on the same batches, CPU time with one thread:

* ls: forward and one backward of the sum (``accord.LS``);
* floor: forward and K plain ``torch.autograd.grad`` calls, nothing else;
* nash-mtl at every step, sequential and batched engine, and with update_every=25 (the mean over whole periods).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import accord
from accord.bench.experiments.qm9 import EXPERIMENT, QM9Trial
from accord.bench.spec import MethodSpec
from benchmarks.timing import heading, interleaved, ratio

PERIOD = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    preset = EXPERIMENT.presets["laptop"]
    EXPERIMENT.prepare(preset)
    trial = QM9Trial(preset, MethodSpec("ls"), 0)
    model, tasks = trial.model, [task.name for task in EXPERIMENT.tasks]
    batches = itertools.cycle(list(trial.graphs.batches(trial.train[: 8 * preset.batch], preset.batch)))

    def losses() -> dict[str, torch.Tensor]:
        batch = next(batches)
        model.zero_grad()
        predicted = model(batch)
        return {task: (predicted[k] - batch.targets[:, k]).square().mean() for k, task in enumerate(tasks)}

    def floor() -> None:
        shared = list(model.trunk.parameters())
        for k, loss in enumerate(losses().values()):
            torch.autograd.grad(loss, [*shared, *model.heads[k].parameters()], retain_graph=k < len(tasks) - 1)

    def step(spec: str, engine: str = "sequential") -> Callable[[], object]:
        balancer = accord.make(spec, tasks)
        return lambda: balancer.backward(losses(), model.trunk, engine=engine)

    variants = {
        "ls": step("ls"),
        "floor": floor,
        "nash-mtl": step("nash-mtl"),
        "nash-mtl, batched": step("nash-mtl", "batched"),
        f"nash-mtl:update_every={PERIOD}": step(f"nash-mtl:update_every={PERIOD}"),
    }
    blocks = {
        name: _repeated(call, PERIOD if "every" in name or name == "ls" else 5) for name, call in variants.items()
    }
    seconds = interleaved(blocks, rounds, warmup=1)
    per_step = {
        name: [t / (PERIOD if "every" in name or name == "ls" else 5) for t in taken] for name, taken in seconds.items()
    }
    console = Console(width=110)
    console.print(f"balancer overhead on QM9 laptop: {heading()}")
    console.print(f"K = {len(tasks)} tasks, batch {preset.batch}, width {preset.width}, hidden {preset.hidden}")
    table = Table("step", "ms (median)", "over ls", "over forward + K vjps")
    for name, taken in per_step.items():
        table.add_row(
            name,
            f"{1e3 * statistics.median(taken):.1f}",
            f"{ratio(taken, per_step['ls']):.2f}",
            f"{ratio(taken, per_step['floor']):.3f}",
        )
    console.print(table)


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def block() -> None:
        for _ in range(times):
            call()

    return block


if __name__ == "__main__":
    main()
