"""How much faster is the factored edge-conditioned convolution, and what do 11 vjps of the QM9 network cost?

Both halves run in this one process on one thread, the candidates taking turns, and report medians.

    python benchmarks/nnconv_factored.py [--repeats 7] [--molecules 100]

The first table compares `accord.bench.models.qm9.EdgeConv` with `torch_geometric.nn.NNConv(aggr="mean")`:
one layer, forward and backward, and the largest difference of their outputs. The second gives the whole network:
a plain step's forward and backward, then the vjps of 11 losses one after the other and in one vmapped call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.nn import NNConv

from accord.bench.data.graphs import GraphBatch, Graphs
from accord.bench.data.qm9 import load
from accord.bench.models.qm9 import EdgeConv, QM9Net

TASKS = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--molecules", type=int, default=100, help="in a batch, for the first table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    graphs = Graphs(load(1000))
    console = Console()
    console.print(layers(graphs, options.molecules, options.repeats))
    console.print(networks(graphs, options.repeats))


def layers(graphs: Graphs, molecules: int, repeats: int) -> Table:
    """One convolution, forward and backward with respect to its input and all weights."""
    table = Table(title=f"One convolution, {molecules} molecules, forward and backward, one thread")
    for column in ("width", "hidden", "NNConv (ms)", "factored (ms)", "ratio", "difference"):
        table.add_column(column, justify="right")
    batch = graphs.batch(torch.randperm(len(graphs))[:molecules])
    rows, edge_index, edge_attr = edge_list(batch)
    for width, hidden in ((16, 128), (24, 128), (32, 32), (32, 128), (64, 128)):
        net = torch.nn.Sequential(torch.nn.Linear(5, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, width * width))
        published = NNConv(width, width, net, aggr="mean")
        factored = EdgeConv(width, hidden)
        factored.copy_from(published)
        x = torch.randn(sum(batch.rows), width, requires_grad=True)
        atoms = x.detach()[rows].requires_grad_()

        def run_published(layer: NNConv = published, x: Tensor = atoms) -> Tensor:
            output = layer(x, edge_index, edge_attr)
            torch.autograd.grad(output.sum(), [x, *layer.parameters()])
            return output.detach()

        def run_factored(layer: EdgeConv = factored, x: Tensor = x) -> Tensor:
            output = layer(x, layer.filters(batch), batch)
            torch.autograd.grad(output.sum(), [x, *layer.parameters()])
            return output.detach()

        wanted, got = run_published(), run_factored()[rows]
        difference = float((got - wanted).abs().max() / wanted.abs().max())
        slow, fast = medians([run_published, run_factored], repeats)
        table.add_row(str(width), str(hidden), f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}×", f"{difference:.1e}")
    return table


def networks(graphs: Graphs, repeats: int) -> Table:
    """The whole network: what a step costs, and what 11 vjps through the shared trunk cost."""
    table = Table(title=f"The QM9 network, {TASKS} tasks, milliseconds, one thread")
    for column in (
        "width", "hidden", "batch", "forward", "plain step", "11 vjps in turn", "11 vjps batched",
        "batched / in turn", "in turn / plain",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for width, hidden in ((16, 32), (16, 128), (24, 128), (32, 32), (32, 128), (64, 128)):
        for size in (50, 100):
            batch = graphs.batch(torch.randperm(len(graphs))[:size])
            net = QM9Net(TASKS, width, hidden)
            shared = list(net.trunk.parameters())

            def losses(net: QM9Net = net, batch: GraphBatch = batch) -> list[Tensor]:
                return [(p - y).square().mean() for p, y in zip(net(batch), batch.targets.t(), strict=True)]

            def plain_step(net: QM9Net = net, losses: Callable[[], list[Tensor]] = losses) -> None:
                torch.autograd.grad(torch.stack(losses()).sum(), list(net.parameters()))

            kept = losses()
            stacked = torch.stack(kept)

            def in_turn(kept: Sequence[Tensor] = kept, shared: list[Tensor] = shared) -> None:
                for loss in kept:
                    torch.autograd.grad(loss, shared, retain_graph=True)

            def batched(stacked: Tensor = stacked, shared: list[Tensor] = shared) -> None:
                torch.autograd.grad(stacked, shared, torch.eye(TASKS), retain_graph=True, is_grads_batched=True)

            forward, plain, turn, vmapped = medians([losses, plain_step, in_turn, batched], max(3, repeats // 2))
            table.add_row(
                *map(str, (width, hidden, size)),
                *(f"{ms:.1f}" for ms in (forward, plain, turn, vmapped)),
                f"{vmapped / turn:.1f}×",
                f"{turn / plain:.1f}×",
            )
    return table


def edge_list(batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the atoms, then (2, E) edges between them and (E, 5) features for PyTorch Geometric."""
    rows = batch.atoms
    number = torch.zeros(sum(batch.rows), dtype=torch.long)
    number[rows] = torch.arange(len(rows))
    ends, features, base = [], [], 0
    for edges, count in zip(batch.edges, batch.rows, strict=True):
        m, i, j = torch.nonzero(edges[..., -1], as_tuple=True)
        n = edges.shape[1]
        ends.append(torch.stack([base + m * n + j, base + m * n + i]))
        features.append(edges[m, i, j, :-1] / edges[m, i, j, -1:])
        base += count
    return rows, number[torch.cat(ends, 1)], torch.cat(features)


def medians(candidates: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Milliseconds of each, taking turns, after one round to warm up."""
    times: list[list[float]] = [[] for _ in candidates]
    for turn in range(repeats + 1):
        for taken, run in zip(times, candidates, strict=True):
            start = time.perf_counter()
            run()
            if turn:
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
