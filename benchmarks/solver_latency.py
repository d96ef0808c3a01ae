"""How long do the solvers take, beside TorchJD's on the same Jacobians in the same run?

    python -m benchmarks.solver_latency [--rounds N]

The Gramians are those of Jacobians (K, 100,000): "alike" has independent gradients of equal norms; "spread" has
norms over 10^±1 and a common component, as losses in different units give. Both sides are handed the Gramian's
Cholesky factor (K, K) in float32 as the Jacobian, so that the product JJᵀ, the same for both, is next to nothing.
TorchJD's Nash-MTL runs cvxpy with ECOS, warm-started from its last call, with its default of up to 20 iterations. The
sides take turns in blocks of ten Jacobians, and CPU time is measured. TorchJD's UPGrad and DualProj need
`torchjd[quadprog_projector]`, which is not among this project's packages (quadprog is under the GPL).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import warnings
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchjd import aggregation

from accord import solvers
from benchmarks.timing import heading, interleaved, ratio

WIDTH = 100_000
BLOCK = 10  # Jacobians in a timed block, so that neither side runs on the other's caches


def _projecting(aggregator: Callable[[], object]) -> object | None:
    """TorchJD's aggregator, or None where the packages of its projector are missing."""
    try:
        return aggregator()
    except ImportError:
        return None


def cases(k: int) -> dict[str, tuple[object, object]]:
    """Method to (ours on a Gramian, TorchJD's on a Jacobian)."""
    return {
        "nash-mtl": (solvers.nash, aggregation.NashMTL(n_tasks=k)),
        "fairgrad α=1": (lambda g: solvers.fairgrad(g, 1.0), aggregation.FairGrad(alpha=1.0)),
        "fairgrad α=2": (lambda g: solvers.fairgrad(g, 2.0), aggregation.FairGrad(alpha=2.0)),
        "mgda": (solvers.mgda, aggregation.MGDA()),
        "cagrad": (lambda g: solvers.cagrad(g, 0.4), aggregation.CAGrad(c=0.4)),
        "upgrad": (solvers.upgrad, _projecting(aggregation.UPGrad)),
        "dualproj": (solvers.dualproj, _projecting(aggregation.DualProj)),
        "imtl-g": (solvers.imtl_g, aggregation.IMTLG()),
        "aligned-mtl": (solvers.aligned_mtl, aggregation.AlignedMTL()),
        "config": (solvers.config, aggregation.ConFIG()),
        "pcgrad": (lambda g: solvers.pcgrad(g, generator=np.random.default_rng(0)), aggregation.PCGrad()),
    }


def jacobian(kind: str, k: int, seed: int) -> torch.Tensor:
    """Shape (K, K), float32: its Gramian is that of a Jacobian (K, 100,000)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, WIDTH, generator=generator)
    if kind == "spread":
        rows += torch.randn(WIDTH, generator=generator)
        rows *= 10.0 ** (2 * torch.rand(k, 1, generator=generator) - 1)
    rows = rows.double()
    return torch.linalg.cholesky(rows @ rows.T).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # cvxpy warns at every call: not DPP, solution may be inaccurate
    console = Console(width=110)
    console.print(f"solver latency: {heading()}")
    table = Table("gradients", "method", "K", "accord ms", "TorchJD ms", "TorchJD / accord")
    for kind, k in itertools.product(("alike", "spread"), (2, 3, 10, 40)):
        jacobians = [jacobian(kind, k, seed) for seed in range(BLOCK)]
        for name, (ours, theirs) in cases(k).items():

            def call(ours=ours, jacobians=jacobians) -> None:
                for j in jacobians:
                    ours((j.double() @ j.double().T).numpy())

            def peer(theirs=theirs, jacobians=jacobians) -> None:
                for j in jacobians:
                    theirs(j)

            seconds = interleaved({"ours": call, **({"theirs": peer} if theirs else {})}, rounds, warmup=1)
            a, b = seconds["ours"], seconds.get("theirs")
            table.add_row(
                kind,
                name,
                str(k),
                f"{1e3 * statistics.median(a) / BLOCK:.3f}",
                f"{1e3 * statistics.median(b) / BLOCK:.2f}" if b else "not installed",
                f"{ratio(b, a):.1f}" if b else "",
            )
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
