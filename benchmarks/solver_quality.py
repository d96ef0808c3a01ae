"""How often is a solver wrong on adversarial Gramians, beside TorchJD on the same cases?

    python -m benchmarks.solver_quality --cases N --seed S [--methods nash cagrad] [--jobs 2] [--peer-cases M]
    python -m benchmarks.solver_quality --seed S --case I [--methods nash]

Every Gramian method of accord solves the first N cases of `accord.testing.gramians` with all of Python's and NumPy's
warnings turned into errors, and `benchmarks.judge`, which shares no code with the solvers, labels each answer:

* wrong: an exception or a warning, weights that are not finite or do not fit zero rows, an answer called solved whose
  certificate is above the method's tolerance (1e-8, MGDA 1e-9) by more than rounding explains or above 1e-6 all told,
  one called stationary where no combination of the unit gradients is shorter than 1e-2, or a named outcome without a
  cause;
* named: the outcome says why there is no answer, or none that float64 can tell;
* solved: all else. The worst certificate is the largest distance from the definition among these.

TorchJD's aggregators take the first M cases (all of them unless told) as Jacobians of float32 or float64 rows, with the
same options; warnings are let pass, and an answer is wrong if it raises, is not finite, or misses the definition by
more than --peer-tolerance, which is generous. Where no answer is defined, at Pareto-stationary points to within 1e-2,
only the first two count. Time is CPU time of one thread: accord from the Gramian, TorchJD from K×P rows, P of about 60.

Exits with 1 if an answer of accord's is wrong, and prints its index for --case.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from accord.testing.gramians import Case, case
from benchmarks import judge
from benchmarks.quality_methods import Certify, Method, methods
from benchmarks.timing import heading

CHUNK = 25
SHOWN = 40  # wrong answers printed for each method
KINDS = 6  # kinds of wrong or named answers printed for each method
PEER_TOLERANCE = 1e-3
LOOSEST = 1e-6  # a certificate above this is not called solved, whatever rounding explains


class Verdict(NamedTuple):
    """A label, the reason where it is wrong or named, the judge's certificate, CPU seconds."""

    label: judge.Label
    reason: str
    certificate: float
    seconds: float


@dataclass
class Tally:
    """What became of a method's answers."""

    labels: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, tuple[int, int]] = field(default_factory=dict)  # kind → times, first index
    wrong: list[tuple[int, str]] = field(default_factory=list)
    worst: tuple[float, int] = (0.0, -1)
    seconds: float = 0.0

    def add(self, index: int, verdict: Verdict) -> None:
        """Count one answer."""
        self.labels[verdict.label] += 1
        self.seconds += verdict.seconds
        if verdict.reason:
            self._explain(kind_of(verdict.reason), 1, index)
        if verdict.label == "wrong":
            self.wrong.append((index, verdict.reason))
        if verdict.label == "solved":
            self.worst = max(self.worst, (verdict.certificate, index))

    def merge(self, other: Tally) -> None:
        """Count another tally's."""
        self.labels += other.labels
        for kind, (times, index) in other.reasons.items():
            self._explain(kind, times, index)
        self.wrong += other.wrong
        self.worst = max(self.worst, other.worst)
        self.seconds += other.seconds

    def shares(self) -> str:
        """How often each kind of wrong or named answer came, by its first word."""
        words: Counter[str] = Counter()
        for kind, (times, _) in self.reasons.items():
            words[kind.split(":")[0]] += times
        return ", ".join(f"{word} {times:,}" for word, times in words.most_common())

    def _explain(self, kind: str, times: int, index: int) -> None:
        before, first = self.reasons.get(kind, (0, index))
        self.reasons[kind] = (before + times, min(first, index))


def kind_of(reason: str) -> str:
    """A reason without its numbers, so that like answers are counted together."""
    return re.sub(r"(\b\d+, )*-?\b\d[\d.]*(e[+-]?\d+)?", "#", reason.split("; zero gradient")[0])


def judged(method: Method, problem: Case) -> Verdict:
    """One answer of accord's."""
    g = problem.gramian
    begin = time.process_time()
    try:
        with warnings.catch_warnings(), np.errstate(divide="warn", over="warn", invalid="warn"):
            warnings.simplefilter("error")
            solution = method.solve(g.copy())
    except Exception as error:  # noqa: BLE001 - whatever a solver raises is a wrong answer
        return Verdict("wrong", f"raised: {type(error).__name__}: {error}", np.inf, time.process_time() - begin)
    seconds = time.process_time() - begin
    zero = tuple(np.flatnonzero(np.diagonal(g) == 0).tolist())
    fault = ""
    certificate = 0.0
    if solution.weights.shape != (len(g),) or not np.isfinite(solution.weights).all():
        fault = f"not finite: weights {solution.weights}"
    elif tuple(solution.zero_rows) != zero or solution.weights[list(zero)].any():
        fault = f"zero rows: {zero} are zero, {solution.zero_rows} are named"
    elif solution.outcome == "solved" and len(zero) < len(g):
        certificate, beyond = _certificate(method.certify, g, solution.weights)
        if beyond > method.tolerance or certificate > LOOSEST:
            fault = f"certificate: {certificate:.2e}, of which rounding does not explain {beyond:.2e}"
    elif solution.outcome == "stationary" and (length := method.vanishing(g)) > judge.NEARLY_STATIONARY:
        fault = f"not stationary: the shortest combination of unit gradients has length {length:.2e}"
    elif solution.outcome != "solved" and not solution.cause:
        fault = f"no cause: outcome {solution.outcome}"
    if fault:
        return Verdict("wrong", fault, certificate, seconds)
    if solution.outcome == "solved":
        return Verdict("solved", "", certificate, seconds)
    return Verdict("named", f"{solution.outcome}: {solution.cause}", certificate, seconds)


def judged_peer(method: Method, problem: Case, tolerance: float) -> Verdict:
    """One answer of TorchJD's to the rows themselves."""
    rows = torch.from_numpy(problem.rows)
    wide = problem.rows.astype(np.float64)
    g = wide @ wide.T
    assert method.peer is not None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        weigh = method.peer(len(g))
        begin = time.process_time()
        try:
            weights = weigh(rows).double().numpy()
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is a wrong answer
            return Verdict("wrong", f"raised: {type(error).__name__}: {error}", np.inf, time.process_time() - begin)
    seconds = time.process_time() - begin
    live = np.diagonal(g) > 0
    if not np.isfinite(weights[live]).all():
        return Verdict("wrong", "not finite", np.inf, seconds)
    if not live.any() or method.vanishing(g) <= judge.NEARLY_STATIONARY:
        return Verdict("undefined", "", np.inf, seconds)
    eps = float(np.finfo(problem.rows.dtype).eps)
    certificate, beyond = _certificate(method.certify_peer or method.certify, g, weights, eps)
    if beyond > tolerance:
        return Verdict("wrong", f"certificate: {certificate:.2e}", certificate, seconds)
    return Verdict("solved", "", certificate, seconds)


def _certificate(certify: Certify, g: np.ndarray, weights: np.ndarray, eps: float = judge.EPS) -> tuple[float, float]:
    with np.errstate(all="ignore"):
        return certify(judge.answer(g, weights, eps), g)


class Work(NamedTuple):
    """What a process is asked for: the cases from ``start`` up to ``stop``."""

    seed: int
    start: int
    stop: int
    max_tasks: int
    labels: list[str] | None
    peer_cases: int
    peer_tolerance: float


def run(work: Work) -> tuple[dict[str, Tally], dict[str, Tally]]:
    """Tallies of accord and of TorchJD over some cases."""
    torch.set_num_threads(1)
    chosen = methods(work.labels)
    compared = {label for label, method in chosen.items() if not absent(method)} if work.peer_cases else set()
    ours, peers = ({label: Tally() for label in chosen} for _ in range(2))
    for index in range(work.start, work.stop):
        problem = case(work.seed, index, work.max_tasks)
        for label, method in chosen.items():
            ours[label].add(index, judged(method, problem))
            if index < work.peer_cases and label in compared:
                peers[label].add(index, judged_peer(method, problem, work.peer_tolerance))
    return ours, peers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="those whose name begins so; all unless given")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--peer-cases", type=int, help="cases for TorchJD; as many as for accord unless given")
    parser.add_argument("--peer-tolerance", type=float, default=PEER_TOLERANCE)
    parser.add_argument("--max-tasks", type=int, default=200)
    parser.add_argument("--case", type=int, metavar="I", help="print one case in full")
    options = parser.parse_args()
    console = Console(width=150)
    chosen = methods(options.methods)
    if not chosen:
        parser.error(f"no method begins with {' or '.join(options.methods)}; there are {', '.join(methods())}")
    if options.case is not None:
        return one(console, options.seed, options.case, options.max_tasks, options.peer_tolerance, chosen)
    torch.set_num_threads(1)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read by the processes to come
        os.environ[name] = "1"
    peer_cases = options.cases if options.peer_cases is None else min(options.peer_cases, options.cases)
    shared = (options.max_tasks, options.methods, peer_cases, options.peer_tolerance)
    work = [
        Work(options.seed, start, min(start + CHUNK, options.cases), *shared)
        for start in range(0, options.cases, CHUNK)
    ]
    ours, peers = ({label: Tally() for label in chosen} for _ in range(2))
    columns = [TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    pool = ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn"))
    with pool, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=options.cases)
        futures = {pool.submit(run, item): item.stop - item.start for item in work}
        for future in as_completed(futures):
            for total, part in zip((ours, peers), future.result(), strict=True):
                for label, tally in part.items():
                    total[label].merge(tally)
            progress.advance(task, futures[future])
    console.print(f"solver quality, seed {options.seed}: {heading()}")
    console.print(table(f"accord, {options.cases:,} cases a method", ours, ("named", "solved"), "named: how"))
    if peer_cases:
        title = f"TorchJD, {peer_cases:,} of them, wrong beyond {options.peer_tolerance:g}"
        missing = {label: note for label, m in chosen.items() if (note := absent(m))}
        console.print(table(title, peers, ("undefined", "solved"), "wrong: how", missing))
    for label, tally in ours.items():
        for kind, (times, index) in sorted(tally.reasons.items(), key=lambda item: -item[1][0])[:KINDS]:
            console.print(
                f"{label}: {times:,} × {kind} (such as --case {index})", highlight=False, markup=False, soft_wrap=True
            )
    for label, tally in ours.items():
        for index, reason in sorted(tally.wrong)[:SHOWN]:
            console.print(f"wrong: {label}, --case {index}: {reason}", highlight=False, markup=False, soft_wrap=True)
        if len(tally.wrong) > SHOWN:
            console.print(f"wrong: {label}: and {len(tally.wrong) - SHOWN} more")
    return int(any(tally.wrong for tally in ours.values()))


def absent(method: Method) -> str:
    """Why TorchJD has no column for this method, if it has none."""
    if method.peer is None:
        return "no counterpart"
    try:
        method.peer(2)
    except ImportError:
        return "not installed"
    return ""


def table(
    title: str, tallies: dict[str, Tally], others: tuple[str, str], how: str, missing: dict[str, str] | None = None
) -> Table:
    """One row a method: counts, the worst certificate among the solved and its index, time, reasons."""
    columns = ("wrong", *others, "worst certificate", "at --case", "CPU ms a case")
    made = Table("method", *columns, how, title=title, title_justify="left")
    for column in made.columns[1:7]:
        column.justify = "right"
    for label, tally in tallies.items():
        if missing and label in missing:
            made.add_row(label, *["–"] * 6, missing[label])
            continue
        count = sum(tally.labels.values())
        worst, index = tally.worst
        made.add_row(
            label,
            *(f"{tally.labels[name]:,}" for name in ("wrong", *others)),
            f"{worst:.1e}",
            str(index) if index >= 0 else "–",
            f"{1e3 * tally.seconds / max(count, 1):.3f}",
            tally.shares(),
        )
    return made


def one(console: Console, seed: int, index: int, max_tasks: int, tolerance: float, chosen: dict[str, Method]) -> int:
    """Print a case and every answer to it."""
    problem = case(seed, index, max_tasks)
    g = problem.gramian
    norms = np.sqrt(np.diagonal(g))
    console.print(f"case {index} of seed {seed}: {problem.name}; P = {problem.rows.shape[1]}")
    console.print(f"shortest combination of the unit gradients: {judge.stationarity(g):.3g} convex, "
                  f"{judge.dependence(g):.3g} of any signs")  # fmt: skip
    console.print("norms", norms)
    console.print("Gramian", g)
    wrong = 0
    for label, method in chosen.items():
        mine = judged(method, problem)
        wrong += mine.label == "wrong"
        lines = [("accord", mine)]
        if not absent(method):
            lines.append(("TorchJD", judged_peer(method, problem, tolerance)))
        for who, verdict in lines:
            console.print(
                f"{label}, {who}: {verdict.label} (certificate {verdict.certificate:.2e}, "
                f"{1e3 * verdict.seconds:.2f} ms) {verdict.reason}",
                highlight=False,
                markup=False,
            )
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not verdict_raised(mine):
                solution = method.solve(g.copy())
                console.print(f"  residual {solution.residual:.2e}, floor {solution.floor:.2e}, {solution.steps} steps")
                console.print("  weights", solution.weights)
    return int(wrong > 0)


def verdict_raised(verdict: Verdict) -> bool:
    """Whether there are no weights to show."""
    return verdict.reason.startswith("raised")


if __name__ == "__main__":
    sys.exit(main())
