"""What does one answer cost as the tasks become many, up to a thousand?

    python -m benchmarks.solver_scaling [--most N] [--plot FILE]

Every Gramian method, on the Gramians of Jacobians (K, 2K) of two kinds: "alike" has independent gradients of equal
norms, "spread" norms over 10^±1 and a common part. CPU milliseconds of one answer on one thread, the least of three
(of one where an answer takes over a second), certificate included. The plot has both axes logarithmic.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from accord import solvers
from benchmarks.timing import heading

SIZES = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
CALLS = {
    "gradvac": lambda g: solvers.gradvac(g, np.zeros_like(g), generator=np.random.default_rng(0)),
    "pcgrad": lambda g: solvers.pcgrad(g, generator=np.random.default_rng(0)),
    "nash-mtl (ccp)": solvers.nash_ccp,
}
RANDOM = ("gradvac", "pcgrad")


def gramian(kind: str, k: int) -> np.ndarray:
    """Shape (K, K)."""
    rng = np.random.default_rng(k)
    rows = rng.standard_normal((k, 2 * k))
    if kind == "spread":
        rows += rng.standard_normal(2 * k)
        rows *= 10.0 ** rng.uniform(-1, 1, (k, 1))
    return rows @ rows.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest number of tasks")
    parser.add_argument("--plot", type=Path, help="write the figure here (.png or .svg)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [k for k in SIZES if k <= options.most]
    calls = {**{name: solver for name, solver in solvers.SOLVERS.items() if name not in RANDOM}, **CALLS}
    console = Console(width=140)
    console.print(f"solver cost against K: {heading()}")
    cost: dict[tuple[str, str], list[float]] = {}
    table = Table("gradients", "method", *(f"K={k}" for k in sizes), "outcomes")
    for kind, (name, call) in itertools.product(("alike", "spread"), sorted(calls.items())):
        outcomes = set()
        for k in sizes:
            g = gramian(kind, k)
            seconds = []
            while len(seconds) < 3 and (not seconds or seconds[-1] < 1.0):
                begin = time.process_time()
                outcomes.add(call(g).outcome)
                seconds.append(time.process_time() - begin)
            cost.setdefault((kind, name), []).append(1e3 * min(seconds))
        shown = [f"{ms:.2f}" if ms < 10 else f"{ms:.0f}" for ms in cost[kind, name]]
        table.add_row(kind, name, *shown, " ".join(sorted(outcomes)))
    console.print(table)
    if options.plot:
        draw(cost, sizes, options.plot)
        console.print(f"wrote {options.plot}")


def draw(cost: dict[tuple[str, str], list[float]], sizes: list[int], path: Path) -> None:
    """One panel a kind of gradients, one line a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    styles = [(colour, line) for line in ("-", "--") for colour in pyplot.get_cmap("tab10").colors]
    for panel, kind in zip(panels, ("alike", "spread"), strict=True):
        for (name, line), (colour, dash) in zip(
            ((n, ms) for (which, n), ms in cost.items() if which == kind), styles, strict=False
        ):
            panel.loglog(sizes, line, dash, color=colour, marker=".", label=name)
        panel.set(title=f"{kind} gradients", xlabel="tasks K")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("CPU ms for one answer")
    panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
