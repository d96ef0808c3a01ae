"""What does a balanced step cost over a plain one, in time and in memory, when all tasks share the samples?

    python -m benchmarks.engines [--rounds N] [--only mlp,conv,gnn,transformer] [--variants WORD ...]
                                 [--every]

A step is forward, differentiation, weights, and gradients in ``.grad``, without the optimiser. ``plain`` is the sum of
the losses and one backward. The rivals: ``naive``, what published code does (K times ``autograd.grad`` with the graph
retained, rows flattened and stacked as one K×P matrix, a solve, one backward of the weighted sum), with this package's
solver; LibMTL's pattern (K retained backwards into ``.grad``, copied out each time), likewise; TorchJD's
``mtl_backward`` and ``autogram`` with its own methods. ``K vjps`` differentiates K times and keeps nothing: what cannot
be avoided.

Time: one thread, CPU time (wall time with CUDA synchronised on a GPU). Every measured step has a plain step just before
and after it, and counts as a multiple of their mean; printed are medians. Memory: "resident" and "live" as defined in
``benchmarks.memory``, beyond what is there before the step, MB of 10⁶ bytes. "Rows held" is the live peak beyond that
of ``K vjps``, which holds the graph and one gradient, in units of one gradient of the shared parameters, plus one; the
batched engine's temporaries, K times as large, count there too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import accord
from accord import solvers
from benchmarks.engine_models import MODELS, Workload, build
from benchmarks.memory import Peak, Prepared, peak
from benchmarks.timing import heading

PERIOD = 25
METHODS = ("nash-mtl", "mgda", "cagrad", "fairgrad", "pcgrad", "imtl-g", "upgrad", "aligned-mtl")
ENGINES = ("sequential", "sequential:lean=true", "batched", "batched:lean=true")
LEAN_MB = 140

Step = Callable[[], object]


class Variant(NamedTuple):
    """One way to make a step.

    Attributes:
        kind: "plain", "floor", "peer", "every" (update_every) or the engine, for ours.
        make: The step on a workload.
        repeat: Steps in one measurement.
        memory: Whether its peak is measured.
    """

    kind: str
    make: Callable[[Workload], Step]
    repeat: int = 1
    memory: bool = True


def plain(work: Workload) -> Step:
    return lambda: torch.stack(work.losses()).sum().backward()


def vjps(work: Workload) -> Step:
    def step() -> None:
        losses = work.losses()
        for k, (loss, head) in enumerate(zip(losses, work.heads, strict=True)):
            torch.autograd.grad(loss, [*work.shared, *head.parameters()], retain_graph=k < len(losses) - 1)

    return step


def solved(gramian: Tensor) -> Tensor:
    """Nash-MTL's weights, on the Gramian's device."""
    weights = solvers.nash(gramian.double().cpu().numpy()).weights
    return torch.as_tensor(np.asarray(weights), dtype=gramian.dtype, device=gramian.device)


def naive(work: Workload) -> Step:
    def step() -> None:
        losses, rows = work.losses(), []
        for loss in losses:
            gradients = torch.autograd.grad(loss, work.shared, retain_graph=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        matrix = torch.stack(rows)  # (K, P)
        weights = solved(matrix @ matrix.T)
        (torch.stack(losses) @ weights).backward()

    return step


def libmtl(work: Workload) -> Step:
    def step() -> None:
        losses = work.losses()
        matrix = torch.zeros(len(losses), sum(p.numel() for p in work.shared), device=losses[0].device)  # (K, P)
        for k, loss in enumerate(losses):
            loss.backward(retain_graph=k < len(losses) - 1)
            row = torch.zeros_like(matrix[0])
            begin = 0
            for parameter in work.shared:
                row[begin : begin + parameter.numel()] = parameter.grad.flatten()
                begin += parameter.numel()
            matrix[k] = row
            for parameter in work.shared:
                parameter.grad = None
        combined = solved(matrix @ matrix.T) @ matrix  # (P,)
        begin = 0
        for parameter in work.shared:
            parameter.grad = combined[begin : begin + parameter.numel()].view_as(parameter).clone()
            begin += parameter.numel()

    return step


def torchjd(aggregator: str, chunk: int | None = None, gramian: bool = False) -> Callable[[Workload], Step]:
    """TorchJD's mtl_backward and jac_to_grad with one of its aggregators."""

    def make(work: Workload) -> Step:
        from torchjd import aggregation
        from torchjd.autojac import jac_to_grad, mtl_backward

        takes = {"n_tasks": work.num_tasks} if aggregator == "NashMTL" else {}
        aggregate = getattr(aggregation, aggregator)(**takes)

        def step() -> None:
            work.clear()
            features = work.represent()
            mtl_backward(
                work.compare(features),
                features=features,
                tasks_params=[head.parameters() for head in work.heads],
                shared_params=work.shared,
                parallel_chunk_size=chunk,
            )
            jac_to_grad(work.shared, aggregate, optimize_gramian_computation=gramian)

        return step

    return make


def autogram(weighting: str) -> Callable[[Workload], Step]:
    """TorchJD's Gramian engine; its hooks stay on the modules, so it gets a network of its own."""

    def make(work: Workload) -> Step:
        from torchjd import aggregation
        from torchjd.autogram import Engine

        work = build(work.name, str(work.shared[0].device))
        engine = Engine(work.trunk, batch_dim=None)
        weigh = getattr(aggregation, weighting)()

        def step() -> None:
            losses = torch.stack(work.losses())
            losses.backward(weigh(engine.compute_gramian(losses)))

        return step

    return make


def ours(spec: str, engine: str = "sequential") -> Callable[[Workload], Step]:
    def make(work: Workload) -> Step:
        balancer = accord.make(spec, work.num_tasks)
        return lambda: balancer.backward(work.losses(), work.trunk, engine=engine)

    return make


def variants(model: str, every: bool = False) -> dict[str, Variant]:
    """By name, in the order of the table; every method where they are asked for, else with a sequential mlp alone."""
    found = {
        "plain": Variant("plain", plain),
        "K vjps": Variant("floor", vjps),
        "naive": Variant("peer", naive),
        "LibMTL's pattern": Variant("peer", libmtl),
        "TorchJD mtl_backward, Mean, vmapped": Variant("peer", torchjd("Mean")),
        "TorchJD mtl_backward, Mean, one by one": Variant("peer", torchjd("Mean", 1), memory=False),
        "TorchJD mtl_backward, MGDA, Gramian option": Variant("peer", torchjd("MGDA", gramian=True)),
        "TorchJD mtl_backward, UPGrad": Variant("peer", torchjd("UPGrad"), memory=False),
        "TorchJD mtl_backward, Nash-MTL": Variant("peer", torchjd("NashMTL"), memory=False),
        "TorchJD autogram, UPGrad": Variant("peer", autogram("UPGradWeighting"), memory=False),
        "TorchJD autogram, MGDA": Variant("peer", autogram("MGDAWeighting")),
        "ls": Variant("ls", ours("ls")),
    }
    for engine in ENGINES:
        wide = every or (model == "mlp" and engine.startswith("sequential"))
        for method in METHODS if wide else METHODS[:1]:
            found[f"{method}, {engine}"] = Variant(engine, ours(method, engine), memory=method == METHODS[0])
    seldom = f"nash-mtl:update_every={PERIOD}"
    found[seldom] = Variant("every", ours(seldom), PERIOD, memory=False)
    return found


ALL = variants("any", every=True)


def prepare(model: str, variant: str, device: str) -> Prepared:
    """A step of one variant in a fresh process; see ``benchmarks.memory``."""
    _quiet()
    work = build(model, device)
    return ALL[variant].make(work), work.clear


class Row(NamedTuple):
    """What was measured of a variant: milliseconds and ratios, one a round, or why there are none."""

    ms: list[float]
    ratios: list[float]
    peak: Peak | None = None
    failed: str = ""


def clock(device: str) -> float:
    """Seconds."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(step: Step, device: str) -> float:
    """Milliseconds of one call."""
    begin = clock(device)
    step()
    return 1e3 * (clock(device) - begin)


def measure(work: Workload, chosen: dict[str, Variant], rounds: int, device: str) -> dict[str, Row]:
    """Time every variant, rivals once because they are slow; then its peak."""
    reference = plain(work)
    rows: dict[str, Row] = {}
    steps: dict[str, Step] = {}
    warm: set[str] = set()  # engines that have run once, whatever the method
    for name, variant in chosen.items():
        rows[name] = Row([], [])
        try:
            step = variant.make(work)
            if variant.kind not in warm:
                step()
        except Exception as error:
            if variant.kind != "peer":
                raise
            reason = "not installed" if isinstance(error, ImportError) else f"raised {type(error).__name__}"
            rows[name] = Row([], [], failed=reason)
            continue
        steps[name] = step
        if variant.kind in ENGINES:
            warm.add(variant.kind)
    for turn in range(rounds):
        for name, step in steps.items():
            variant = chosen[name]
            if variant.kind == "peer" and turn:
                continue
            before = timed(reference, device)
            ms = statistics.fmean(timed(step, device) for _ in range(variant.repeat))
            beside = (before + timed(reference, device)) / 2
            rows[name].ms.append(ms)
            rows[name].ratios.append(ms / beside)
    work.clear()
    for name in steps:
        if chosen[name].memory:
            rows[name] = rows[name]._replace(peak=peak(prepare, work.name, name, device, device=device))
    return rows


def held(row: Row, rows: dict[str, Row], work: Workload) -> float | None:
    """Gradients of the shared parameters that are in memory together at the peak."""
    base = rows["K vjps"].peak if "K vjps" in rows else None
    return None if row.peak is None or base is None else 1 + 1e6 * (row.peak.live - base.live) / work.gradient_bytes


def table(work: Workload, rows: dict[str, Row]) -> Table:
    k = work.num_tasks
    title = (
        f"{work.name}: {work.shape}, K = {k}, {work.gradient_bytes / 1e6:.1f} MB a gradient; "
        f"(1+2K)/3 = {(1 + 2 * k) / 3:.2f}"
    )
    made = Table("variant", "ms", "× plain", "resident MB", "live MB", "rows held", title=title, title_justify="left")
    for column in made.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        if row.failed:
            made.add_row(name, "–", row.failed)
            continue
        gradients = held(row, rows, work)
        made.add_row(
            name,
            f"{statistics.median(row.ms):.1f}",
            f"{statistics.median(row.ratios):.2f}",
            "" if row.peak is None else f"{row.peak.resident:.0f}",
            "" if row.peak is None else f"{row.peak.live:.0f}",
            "" if gradients is None else f"{gradients:.1f}",
        )
    return made


def demands(work: Workload, rows: dict[str, Row], chosen: dict[str, Variant]) -> list[str]:
    """One line for each thing that must be reached."""
    k, lines = work.num_tasks, []
    for engine in ENGINES:
        mine = {name: row for name, row in rows.items() if chosen[name].kind == engine}
        if not mine:
            continue
        lean = "lean" in engine
        floor = "1.2·(3+2K)/3" if lean else "1.2·(1+2K)/3"
        limit = 1.2 * ((3 if lean else 1) + 2 * k) / 3
        worst = max(mine, key=lambda name: statistics.median(mine[name].ratios))
        lines.append(_line(f"{engine}: every method", statistics.median(mine[worst].ratios), limit, floor, worst))
        peaks = [row for row in mine.values() if row.peak is not None]
        if peaks and lean and work.name == "mlp":
            lines.append(_line(f"{engine}: resident MB", max(row.peak.resident for row in peaks), LEAN_MB, ""))
        counts = [count for row in peaks if (count := held(row, rows, work)) is not None]
        if counts and engine == "sequential":
            lines.append(_line(f"{engine}: rows held", max(counts), k + 2, "K+2"))
    return lines


def _line(what: str, value: float, limit: float, formula: str, note: str = "") -> str:
    bound = f"{formula} = {limit:.2f}" if formula else f"{limit:g}"
    answer = "yes" if value <= limit else "no"
    return f"must reach: {what} {value:.2f} ≤ {bound}: {answer}" + (f" (slowest: {note})" if note else "")


def _quiet() -> None:
    """Warnings that something is slow say what is measured here."""
    warnings.filterwarnings("ignore", module="torchjd")
    warnings.filterwarnings("ignore", message="There is a performance drop")


def _asked(word: str, name: str) -> bool:
    """Whether a variant is meant: by its whole name, or by a part of it that is no other's whole name."""
    return word == name or (word in name and word not in ALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--every", action="store_true", help="every method on every model and engine")
    parser.add_argument("--only", default=",".join(MODELS), help="models, with commas between")
    parser.add_argument("--variants", nargs="+", metavar="WORD", help="those with one of these in their name")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    _quiet()
    unknown = set(options.only.split(",")) - set(MODELS)
    if unknown:
        parser.error(f"no model is named {' or '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    console = Console(width=120)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for model in options.only.split(","):
            work = build(model, device)
            chosen = {
                name: variant
                for name, variant in variants(model, options.every).items()
                if name == "plain" or not options.variants or any(_asked(word, name) for word in options.variants)
            }
            console.print(f"balanced steps on {device}: {heading()}", soft_wrap=True)
            rows = measure(work, chosen, options.rounds, device)
            console.print(table(work, rows))
            for line in demands(work, rows, chosen):
                console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
