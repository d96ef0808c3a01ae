"""What does an update of multi-task soft actor-critic cost, balanced, over linear scalarization?

    python -m benchmarks.sac_update [--rounds N] [--tasks K] [--batch N] [--width W] [--net NAME] [--compile] [--as-is]

The update of ``accord.bench.rl`` at the size of the published MT10 runs: ten tasks with 128 samples each, actor and two
critics with three hidden layers of 400; critic, actor, temperatures and target networks. CPU time with one thread, all
methods taking turns in one run on random transitions; a method with ``update_every=N`` is timed over all of its period.
``K retained backwards`` is Nash-MTL as published code does it: each task's gradient by a walk over the whole graph.

On Linux the process is started anew with glibc's allocator told to keep freed memory, as caching allocators do;
``--as-is`` leaves that away.

What it must reach: Nash-MTL at every step at most 1.6 times LS, with update_every=50 at most 1.1 times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import accord
from accord.bench.rl.networks import NetworkSettings
from accord.bench.rl.sac import Agent, Learner, SACSettings
from accord.bench.rl.tasks import ACTION, MT10, STATE
from benchmarks.disjoint_step import KEPT
from benchmarks.timing import heading, interleaved, ratio

LIMITS = {"nash-mtl": 1.6, "nash-mtl:update_every=50": 1.1}
"""What an update may cost at most, over that of LS."""
METHODS = ("ls", "nash-mtl", "pcgrad", "cagrad", "fairgrad", "mgda")
"""``ls`` goes through accord as the others do; ``ls, without accord`` is one backward of the sum of the losses."""
RARE = ("nash-mtl:update_every=50", "nash-mtl:update_every=100")
PLAIN, RETAINED = "ls, without accord", "nash-mtl, K retained backwards"


def joint(name: str, model: Any, batch: Any) -> Tensor:
    """The same K losses from one forward of the joint batch, with one graph."""
    if name == "critic":
        return (model(batch["state"], batch["action"], batch["task"]) - batch["target"]).square().sum(0).mean(1)
    action, density = model["actor"].sample(batch["state"], batch["task"], batch["noise"])
    values = model["critic"](batch["state"], action, batch["task"]).amin(0)
    return (batch["alpha"][:, None] * density - values).mean(1)


class Plain(Learner):
    """Linear scalarization without accord: one forward, one backward of the sum."""

    def _step(self, name: str, model: Any, batch: Any) -> Any:
        self.optimizers[name].zero_grad()
        joint(name, model, batch).sum().backward()
        self.optimizers[name].step()


class Retained(Learner):
    """Nash-MTL as published code does it, on the same losses: K walks over one graph, then the weighted one."""

    def _step(self, name: str, model: Any, batch: Any) -> Any:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        losses = joint(name, model, batch)
        parameters = [p for p in model.parameters() if p.requires_grad]
        rows = [torch.autograd.grad(each, parameters, retain_graph=True) for each in losses]
        flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        weights = torch.from_numpy(accord.solvers.nash((flat @ flat.T).double().numpy()).weights)
        (weights.to(losses) @ losses).backward()
        optimizer.step()


def learner_of(kind: type[Learner], method: str, settings: SACSettings, tasks: tuple[str, ...]) -> Learner:
    torch.manual_seed(0)
    agent = Agent(settings, tasks, STATE, ACTION)
    balancers = {part: accord.make(method, tasks) for part in ("critic", "actor")}
    return kind(agent, settings, generator=torch.Generator().manual_seed(0), **balancers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--net", default="mlp")
    parser.add_argument("--compile", action="store_true", help="also time compiled learners, after compiling them")
    parser.add_argument("--as-is", action="store_true")
    args = parser.parse_args()
    if sys.platform == "linux" and not args.as_is and any(key not in os.environ for key in KEPT):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.sac_update", *sys.argv[1:]], os.environ | KEPT)
    torch.set_num_threads(1)
    tasks = tuple(MT10[i % 10] + "'" * (i // 10) for i in range(args.tasks))
    network = NetworkSettings(name=args.net, widths=(args.width,) * 3, task_id=False)
    settings = SACSettings(network=network, batch=args.batch)
    shape = (args.tasks, args.batch)
    batch = {"state": torch.randn(*shape, STATE), "after": torch.randn(*shape, STATE), "reward": torch.randn(*shape)}
    batch["action"] = torch.rand(*shape, ACTION) * 2 - 1

    def updates(learner: Learner, count: int = 1) -> Callable[[], None]:
        def call() -> None:
            for _ in range(count):
                learner.update(batch)

        return call

    variants = {method: updates(learner_of(Learner, method, settings, tasks)) for method in METHODS}
    if args.net == "mlp":
        variants[PLAIN] = updates(learner_of(Plain, "ls", settings, tasks))
        variants[RETAINED] = updates(learner_of(Retained, "nash-mtl", settings, tasks))
    if args.compile:
        compiled = replace(settings, compile=True)
        for method in ("ls", "nash-mtl"):
            variants[f"{method}, compiled"] = updates(learner_of(Learner, method, compiled, tasks))
    seconds = interleaved(variants, args.rounds, warmup=2)
    console = Console(width=110)
    console.print(f"an update of multi-task soft actor-critic: {heading()}")
    console.print(f"K = {args.tasks} tasks, {args.batch} samples each, {args.net}, hidden {args.width} x 3")
    table = Table("method", "ms (median)", "over ls")
    found: dict[str, float] = {}
    for name, taken in seconds.items():
        found[name] = ratio(taken, seconds["ls"])
        table.add_row(name, f"{1e3 * statistics.median(taken):.1f}", f"{found[name]:.2f}")
    for name in RARE:  # one solve and the other steps, in proportion
        period = int(name.rpartition("=")[2])
        both = {method: updates(learner_of(Learner, method, settings, tasks), period) for method in (name, "ls")}
        taken = interleaved(both, 2, warmup=0)
        found[name] = ratio(taken[name], taken["ls"])
        table.add_row(name, f"{1e3 * statistics.median(taken[name]) / period:.1f}", f"{found[name]:.2f}")
    console.print(table)
    for name, limit in LIMITS.items():
        answer = "yes" if found[name] <= limit else "no"
        console.print(f"must reach: {name} over ls: {found[name]:.2f} ≤ {limit:g}: {answer}")


if __name__ == "__main__":
    main()
