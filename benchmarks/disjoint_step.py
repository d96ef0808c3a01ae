"""What does a balanced step cost where each task brings its own samples, as in multi-task reinforcement learning?

    python -m benchmarks.disjoint_step [--rounds N] [--tasks K] [--samples N] [--width W] [--compile] [--as-is]

The shape of a critic on MT10: 10 tasks with 128 samples each, 49 inputs (39 and the task one-hot), three hidden layers
of 400, one output. CPU time with one thread, all steps taking turns in one run:

* plain ls: one forward of the joint batch and one backward of the sum of the tasks' losses, nothing of accord;
* ls, disjoint: the same through ``accord.jacobian.disjoint``;
* methods through ``accord.jacobian.disjoint``; the same with batches of different sizes, and with update_every=50;
* the sequential engine on losses from separate forwards, whose graphs are each walked once;
* K backwards over the retained graph of the joint batch, then the weighted one, as published code does it;
* the floor: the same step for this one network written out by hand, without autograd, modules or checks. Its forward,
  its rows (a batched matrix product a layer), their float64 Gramian, the solve and the weighted sum are what any exact
  step must do, so what this takes over plain LS is what the machine's matrix products leave to be had. Its parts are
  timed by themselves too.

On Linux the process is started anew with glibc's allocator told to keep freed memory, as caching allocators do, so that
the rows' pages are not asked of the kernel at each step; ``--as-is`` leaves that away.

What it should reach, over both LS steps: Nash-MTL 1.15, and 1.5 with batches of different sizes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import accord
from accord.jacobian.compiled import CompiledLoss, compiled
from accord.jacobian.disjoint import disjoint
from accord.jacobian.storage import combine, inner_products
from benchmarks.timing import heading, interleaved, ratio

INPUTS = 49
PERIOD = 50
FLOOR = "nash-mtl, floor"
BASELINES = ("plain ls", "ls, disjoint")
LIMITS = {"nash-mtl, disjoint": 1.15, "nash-mtl, disjoint, compiled": 1.15, "nash-mtl, disjoint, ragged": 1.5}
"""What a step may cost at most, over each of the baselines."""
METHODS = ("nash-mtl", "mgda", "cagrad", "fairgrad", "pcgrad", "upgrad", "imtl-g", "aligned-mtl")
KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(2**28)}


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


@torch.no_grad()
def rows_by_hand(model: nn.Sequential, x: Tensor, y: Tensor) -> list[Tensor]:
    """Blocks (K, *shape) of the gradients of ``loss_of`` for a perceptron with ReLU, in the order of its parameters."""
    layers = [module for module in model if isinstance(module, nn.Linear)]
    values = [x.flatten(0, 1)]  # (K·n, width of each layer)
    for layer in layers:
        out = torch.addmm(layer.bias, values[-1], layer.weight.T)
        values.append(out if layer is layers[-1] else out.relu_())
    delta = (values[-1] - y.flatten(0, 1)) * (2.0 / y[0].numel())
    blocks: list[Tensor] = []
    for layer, value in zip(reversed(layers), reversed(values[:-1]), strict=True):
        each = delta.unflatten(0, x.shape[:2])  # (K, n, width)
        blocks += [each.sum(1), each.transpose(1, 2) @ value.unflatten(0, x.shape[:2])]
        if layer is not layers[0]:
            delta = torch.ops.aten.threshold_backward(delta @ layer.weight, value, 0)
    return blocks[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--compile", action="store_true", help="also time a compiled loss, after compiling it")
    parser.add_argument("--as-is", action="store_true")
    args = parser.parse_args()
    if sys.platform == "linux" and not args.as_is and any(key not in os.environ for key in KEPT):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.disjoint_step", *sys.argv[1:]], os.environ | KEPT)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    k, n, width = args.tasks, args.samples, args.width
    sizes = (INPUTS, width, width, width, 1)
    layers = [module for a, b in itertools.pairwise(sizes) for module in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    x, y = torch.randn(k, n, INPUTS), torch.randn(k, n, 1)
    lengths = [n + (n // 8) * (i - (k - 1 - i)) // (k - 1) for i in range(k)]  # around n, of the same sum
    lengths[-1] += k * n - sum(lengths)
    ragged = [(torch.randn(m, INPUTS), torch.randn(m, 1)) for m in lengths]

    def joint() -> Tensor:
        """The tasks' losses (K,) from one forward of the joint batch."""
        return (model(x.flatten(0, 1)) - y.flatten(0, 1)).square().view(k, n).mean(1)

    def plain() -> None:
        model.zero_grad()
        joint().sum().backward()

    def step(
        spec: str, batches: object = (x, y), loss: Callable[..., Tensor] | CompiledLoss = loss_of
    ) -> Callable[[], object]:
        balancer = accord.make(spec, k)

        def call() -> object:
            model.zero_grad()
            return balancer.apply(disjoint(model, loss, batches))

        return call

    def sequential() -> Callable[[], object]:
        balancer = accord.NashMTL(tasks=k)

        def call() -> object:
            model.zero_grad()
            return balancer.backward([loss_of(model, batch) for batch in zip(x, y, strict=True)], model)

        return call

    def retained() -> None:
        model.zero_grad()
        parameters, losses = list(model.parameters()), joint().unbind()
        rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        weights = accord.solvers.nash((flat @ flat.T).double().numpy()).weights
        sum(float(w) * loss for w, loss in zip(weights, losses, strict=True)).backward()

    def floor() -> None:
        rows = rows_by_hand(model, x, y)
        weights = accord.solvers.nash(inner_products(rows, rows, k).numpy()).weights
        add_up(rows, torch.from_numpy(weights))

    def add_up(rows: list[Tensor], weights: Tensor) -> None:
        for parameter, block in zip(model.parameters(), rows, strict=True):
            parameter.grad = combine(block, weights)

    held = rows_by_hand(model, x, y)
    gramian, equal = inner_products(held, held, k).numpy(), torch.ones(k, dtype=torch.float64)

    variants: dict[str, Callable[[], object]] = {"plain ls": plain, "ls, disjoint": step("ls")}
    variants |= {f"{method}, disjoint": step(method) for method in METHODS}
    variants |= {
        "nash-mtl, disjoint, ragged": step("nash-mtl", ragged),
        f"nash-mtl:update_every={PERIOD}, disjoint": step(f"nash-mtl:update_every={PERIOD}"),
        "nash-mtl, sequential": sequential(),
        "nash-mtl, K retained backwards": retained,
        FLOOR: floor,
        f"{FLOOR}: rows": lambda: rows_by_hand(model, x, y),
        f"{FLOOR}: Gramian": lambda: inner_products(held, held, k),
        f"{FLOOR}: solve": lambda: accord.solvers.nash(gramian),
        f"{FLOOR}: weighted sum": lambda: add_up(held, equal),
    }
    if args.compile:
        variants["nash-mtl, disjoint, compiled"] = step("nash-mtl", (x, y), compiled(loss_of))
    seconds = interleaved(variants, args.rounds, warmup=3)
    console = Console(width=110)
    console.print(f"a step with samples of each task's own: {heading()}")
    console.print(f"K = {k} tasks, {n} samples each (ragged: {min(lengths)} to {max(lengths)}), hidden {width} x 3")
    table = Table("step", "ms (median)", "over plain ls", "over ls, disjoint")
    for name, taken in seconds.items():
        table.add_row(
            name,
            f"{1e3 * statistics.median(taken):.1f}",
            f"{ratio(taken, seconds['plain ls']):.2f}",
            f"{ratio(taken, seconds['ls, disjoint']):.2f}",
        )
    console.print(table)
    for name, limit in LIMITS.items():
        if name not in seconds:
            continue
        for baseline in BASELINES:
            value = ratio(seconds[name], seconds[baseline])
            answer = "yes" if value <= limit else "no"
            console.print(f"must reach: {name}, over {baseline}: {value:.2f} ≤ {limit:g}: {answer}")


if __name__ == "__main__":
    main()
