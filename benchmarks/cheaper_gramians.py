"""How far off are the cheaper Gramians, and what do they save, on the QM9 network of the laptop preset?

    python -m benchmarks.cheaper_gramians [--steps N] [--rounds N]

One run of exact Nash-MTL trains the network. At every step each variant looks at the same batch and the same parameters
as the exact method, writes no gradient, and keeps its own schedule and averages:

* Gramian: ‖Ĝ − G‖/‖G‖ in the Frobenius norm, median over its solves, both divided by G's norms ‖g_i‖‖g_j‖ first, so
  that the tasks with the largest losses do not speak for all;
* weights: ‖ŵ − w‖/‖w‖ with w_k‖g_k‖ in the place of w_k, median over the steps, those that reuse weights included;
* both again after Ĝ and ŵ were multiplied by the factor that fits best: what remains is not a matter of scale;
* cosine, length: of Jᵀŵ beside Jᵀw, medians over the steps;
* beside: the same cosine on the gradients of 500 molecules, with the exact weights there for w: how near each variant,
  the exact one included, comes to what a batch without noise would say; median over every tenth step;
* drift: how far the weights have moved from solve to solve (``Balance.drift``), median;
* cost: of a step with backward, in steps of LS in the same run (CPU time, one thread, turn by turn), and as the
  schedule's arithmetic has it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import accord
from accord.balancers import Balancer, GramianBalancer
from accord.bench.data.graphs import GraphBatch
from accord.bench.experiments.qm9 import EXPERIMENT, QM9Trial
from accord.bench.spec import MethodSpec
from accord.jacobian import SequentialJacobian
from benchmarks.timing import heading, interleaved, ratio

PERIOD = 10
LARGE = 500  # molecules of the batch whose noise is small
VARIANTS = {
    "exact": "nash-mtl",
    "update_every=10": f"nash-mtl:update_every={PERIOD}",
    "auto, budget=1.2": "nash-mtl:update_every=auto",
    "auto, budget=1.6": "nash-mtl:update_every=auto,budget=1.6",
    "gramian_batch=0.25": "nash-mtl:gramian_batch=0.25",
    "gramian_ema=0.9": "nash-mtl:gramian_ema=0.9",
    "batch=0.25, ema=0.9": "nash-mtl:gramian_batch=0.25,gramian_ema=0.9",
    "gramian_part=pool": "nash-mtl:gramian_part=pool",
    "gramian_part=conv": "nash-mtl:gramian_part=conv",
    "gramian_tasks=4": "nash-mtl:gramian_tasks=4",
    "tasks=4, ema=0.9": "nash-mtl:gramian_tasks=4,gramian_ema=0.9",
}


@dataclass
class Errors:
    """What one variant was off by, step by step."""

    gramian: list[tuple[float, float]] = field(default_factory=list)
    weights: list[tuple[float, float]] = field(default_factory=list)
    direction: list[tuple[float, float]] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    solves: int = 0


class QM9:
    """The network, its batches, and a step with part of the batch."""

    def __init__(self) -> None:
        preset = EXPERIMENT.presets["laptop"]
        EXPERIMENT.prepare(preset)
        self.trial = QM9Trial(preset, MethodSpec("ls"), 0)
        self.model, self.tasks = self.trial.model, [task.name for task in EXPERIMENT.tasks]
        self.size = preset.batch
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=preset.lr)
        self.order = torch.Generator().manual_seed(0)

    def batches(self) -> itertools.chain[GraphBatch]:
        """Epoch after epoch in random orders."""
        train = self.trial.train
        orders = (train[torch.randperm(len(train), generator=self.order)] for _ in itertools.count())
        return itertools.chain.from_iterable(self.trial.graphs.batches(order, self.size) for order in orders)

    def losses(self, batch: GraphBatch) -> dict[str, Tensor]:
        """Mean squared errors by target."""
        predicted = self.model(batch)
        return {task: (predicted[k] - batch.targets[:, k]).square().mean() for k, task in enumerate(self.tasks)}

    def part(self, batch: GraphBatch) -> Callable[[Callable[[Tensor], Tensor]], dict[str, Tensor]]:
        """The losses on the molecules that draw gives."""
        return lambda draw: self.losses(self.trial.graphs.batch(draw(batch.chosen)))

    def backward(self, balancer: Balancer, batch: GraphBatch) -> accord.Balance:
        """One balanced step."""
        self.model.zero_grad()
        options = {"part": self.part(batch)} if balancer.uses_part else {}
        return balancer.backward(self.losses(batch), self.model.trunk, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    qm9 = QM9()
    errors = measure(qm9, given.steps)
    seconds = clock(qm9, given.rounds)
    report(qm9, errors, seconds, given.steps)


def measure(qm9: QM9, steps: int) -> dict[str, Errors]:
    """Each variant's errors along a run of the exact method."""
    balancers = {label: accord.make(spec, qm9.tasks) for label, spec in VARIANTS.items()}
    errors = {label: Errors() for label in VARIANTS}
    exact = accord.make("nash-mtl", qm9.tasks)
    others = torch.Generator().manual_seed(1)
    for step, batch in enumerate(itertools.islice(qm9.batches(), steps)):
        truth, weights = solved(qm9, exact, batch)
        norms = np.sqrt(np.diagonal(truth))
        beside = None
        if step % PERIOD == PERIOD // 2:  # as far from the last solve as it is to the next one
            chosen = qm9.trial.train[torch.randperm(len(qm9.trial.train), generator=others)[:LARGE]]
            beside = solved(qm9, exact, qm9.trial.graphs.batch(chosen))
        for label, balancer in balancers.items():
            balance, found = qm9.backward(balancer, batch), errors[label]
            mine = balance.weights.numpy()
            found.weights.append(off(mine * norms, weights * norms))
            found.direction.append(compared(mine, weights, truth))
            if beside is not None:
                found.beside.append(compared(mine, beside[1], beside[0])[0])
            if balance.drift is not None:
                found.drift.append(balance.drift)
            if balance.gramian is not None:
                found.solves += 1
                scale = norms * norms[:, None]
                found.gramian.append(off(balance.gramian.numpy() / scale, truth / scale))
        qm9.backward(exact, batch)
        qm9.optimizer.step()
    return errors


def solved(qm9: QM9, exact: Balancer, batch: GraphBatch) -> tuple[np.ndarray, np.ndarray]:
    """Gramian (K, K) and exact weights (K,) on a batch."""
    balance = qm9.backward(exact, batch)
    assert balance.gramian is not None
    return balance.gramian.numpy(), balance.weights.numpy()


def off(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """‖x̂ − x‖/‖x‖, and the least of ‖s·x̂ − x‖/‖x‖ over s."""
    size = np.linalg.norm(exact)
    factor = (found * exact).sum() / (found * found).sum()
    return float(np.linalg.norm(found - exact) / size), float(np.linalg.norm(factor * found - exact) / size)


def compared(found: np.ndarray, exact: np.ndarray, gramian: np.ndarray) -> tuple[float, float]:
    """Cosine and relative length of the two directions."""
    mine, true = found @ gramian @ found, exact @ gramian @ exact
    return float(found @ gramian @ exact / np.sqrt(mine * true)), float(np.sqrt(mine / true))


def clock(qm9: QM9, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a step of each variant and of LS, in turns, on batches they share.

    Automatic schedules have no typical step: what they cost follows from the exact step's price and their solves.
    """
    batches = list(itertools.islice(qm9.batches(), PERIOD))

    def block(spec: str, count: int) -> Callable[[], None]:
        balancer, turn = accord.make(spec, qm9.tasks), itertools.cycle(batches)

        def steps() -> None:
            for _ in range(count):
                qm9.backward(balancer, next(turn))

        return steps

    specs = {label: spec for label, spec in {"ls": "ls", **VARIANTS}.items() if "auto" not in spec}
    counts = {label: PERIOD if "update_every" in spec or spec == "ls" else 3 for label, spec in specs.items()}
    taken = interleaved({label: block(specs[label], counts[label]) for label in specs}, rounds, warmup=1)
    return {label: [t / counts[label] for t in taken[label]] for label in specs}


def report(qm9: QM9, errors: dict[str, Errors], seconds: dict[str, list[float]], steps: int) -> None:
    """Print the table."""
    jacobian = SequentialJacobian(qm9.losses(next(qm9.batches())), qm9.model.trunk)
    console = Console(width=140)
    console.print(f"cheaper Gramians on QM9 laptop: {heading()}")
    console.print(f"K = {len(qm9.tasks)} tasks, batch {qm9.size}, {steps} steps of Nash-MTL")
    headings = ("variant", "Gramian", "scaled", "weights", "scaled", "cosine", "length", f"beside {LARGE}")
    table = Table(*headings, "drift", "solves", "cost / LS", "arithmetic")
    for label, spec in VARIANTS.items():
        found = errors[label]
        cost = cast(GramianBalancer, accord.make(spec, qm9.tasks)).solve_cost(jacobian)
        table.add_row(
            label,
            *(f"{x:.2f}" for pair in (found.gramian, found.weights, found.direction) for x in np.median(pair, axis=0)),
            *(f"{statistics.median(x):.2f}" if x else "" for x in (found.beside, found.drift)),
            str(found.solves),
            f"{ratio(seconds[label], seconds['ls']):.2f}" if label in seconds else "",
            f"{1 + cost * found.solves / steps:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
