"""How near does the published approximate solver come? Appendices D.2 and D.3 of the Nash-MTL paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from accord.bench.plots import INK, PALETTE, progress_figure
from accord.bench.report import Value
from accord.bench.runner import plan
from accord.bench.store import Store
from accord.bench.studies.columns import COST, DELTA, RANK, RESIDUAL, SEEDS, over_seeds, share
from accord.bench.studies.recording import recording
from accord.bench.studies.study import Column, Context, Setting, Study, StudyReport, Table, Work
from accord.solvers import nash, nash_ccp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROGRAMS = (1, 2, 5, 20, 40)
"""Numbers of convex programs tried on the recorded Gramians; the paper trains with 1, 20 and 40."""
KEPT = 8
"""Gramians recorded an epoch, from its first step on: consecutive ones, since each solve starts from the last."""
BLOCKS = 25
"""At most so many epochs a seed are solved, evenly spaced."""
NEAR = 1e-2
"""A residual that nobody would see in training; the paper does not say what it took for equality."""
OBJECTIVES = {True: "as published", False: "without the first term"}


def _settings(context: Context) -> Sequence[Setting]:
    found = [Setting(f"{n}", f"nash-mtl:solver=ccp,ccp_steps={n}", OBJECTIVES[True]) for n in (1, 20, 40)]
    options = "solver=ccp,ccp_steps={},first_term=False"
    return found + [Setting(f"{n}", f"nash-mtl:{options.format(n)}", OBJECTIVES[False]) for n in (1, 20)]


def _more(context: Context) -> Iterable[Work]:
    """Exact Nash-MTL once more, with its Gramians kept."""
    return [Work(recording(context.experiment, KEPT), ("nash-mtl",), context.seeds)]


@dataclass(frozen=True)
class Tried:
    """What a number of programs made of the recorded Gramians.

    Attributes:
        first_term: Whether the objective has its first term.
        programs: At most so many a solve.
        residuals: max_i |α_i (Gα)_i − 1| of each Gramian, (S,).
        solved: Share of them at which the residual is down to rounding.
        cosines: Cosine between the direction and the exact one, (S,).
    """

    first_term: bool
    programs: int
    residuals: np.ndarray
    solved: float
    cosines: np.ndarray


def gramians_of(context: Context) -> list[list[np.ndarray]]:
    """The recorded Gramians (K, K), in blocks of consecutive steps."""
    experiment = recording(context.experiment, KEPT)
    blocks = []
    for key in plan(experiment, context.preset, ["nash-mtl"], context.seeds):
        run = Store(context.store).run(key)
        if run.status == "done":
            records = [record["gramians"] for record in run.records() if record["gramians"]]
            chosen = dict.fromkeys(np.linspace(0, len(records) - 1, min(BLOCKS, len(records))).round().astype(int))
            blocks += [[np.array(gramian) for gramian in records[i]] for i in chosen]
    return blocks


def attempt(blocks: Sequence[Sequence[np.ndarray]], programs: int, first_term: bool) -> Tried:
    """Solve recorded Gramians as training would: from ones, then each from the last one's weights."""
    residuals, cosines, solved = [], [], 0
    for block in blocks:
        start = None
        for gramian in block:
            exact = nash(gramian)
            if exact.outcome != "solved":  # a stationary point has no solution to compare with
                continue
            found = nash_ccp(gramian, start, programs, first_term)
            if found.outcome in ("solved", "approximate"):
                start = found.weights
            residuals.append(found.residual)
            cosines.append(_cosine(gramian, found.weights, exact.weights))
            solved += found.outcome == "solved"
    return Tried(first_term, programs, np.array(residuals), solved / max(1, len(residuals)), np.array(cosines))


def _cosine(gramian: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ gramian @ b / math.sqrt((a @ gramian @ a) * (b @ gramian @ b)))


def _finish(context: Context, report: StudyReport) -> StudyReport:
    blocks = gramians_of(context)
    if not blocks:
        return replace(report, notes=(*report.notes, "No Gramian was recorded: the solver could not be tried on any."))
    tried = [attempt(blocks, programs, first) for first in OBJECTIVES for programs in PROGRAMS]
    count = len(tried[0].residuals)
    rows = tuple(
        (
            OBJECTIVES[each.first_term],
            str(each.programs),
            Value(100.0 * each.solved),
            Value(100.0 * float((each.residuals <= NEAR).mean())),
            Value(float(np.median(each.residuals))),
            Value(float(each.residuals.max())),
            Value(float(np.median(each.cosines))),
            Value(float(each.cosines.min())),
        )
        for each in tried
        if count
    )
    headings = (
        "objective",
        "programs",
        "solved (%)",
        f"residual ≤ {NEAR:g} (%)",
        "median residual",
        "worst",
        "median cosine with exact",
        "worst",
    )
    title = f"The solver on {count} Gramians of exact Nash-MTL's training"
    forms = ("", "", ".1f", ".1f", ".0e", ".0e", ".4f", ".4f")
    return replace(report, tables=(*report.tables, Table(title, headings, forms, rows)), data=tuple(tried))


def _picture(report: StudyReport) -> Figure | None:
    """Share of the recorded Gramians solved, and the residual, against the number of programs."""
    from matplotlib.figure import Figure

    tried: Sequence[Tried] = report.data or ()
    tried = [each for each in tried if len(each.residuals)]
    if not tried:
        return None
    figure = Figure(figsize=(8.0, 3.4))
    left, right = figure.subplots(1, 2)
    for i, (first, name) in enumerate(OBJECTIVES.items()):
        mine = [each for each in tried if each.first_term is first]
        programs = [each.programs for each in mine]
        look = {"color": PALETTE[i], "marker": "os"[i], "markersize": 4}
        left.plot(programs, [100.0 * each.solved for each in mine], label=f"{name}: solved to rounding", **look)
        near = [100.0 * float((each.residuals <= NEAR).mean()) for each in mine]
        left.plot(programs, near, label=f"{name}: residual ≤ {NEAR:g}", linestyle=":", **look)
        # a residual of 0 cannot be drawn on a logarithmic axis; below 1e-16 rounding alone is left
        quartiles = [np.maximum(np.quantile(each.residuals, (0.25, 0.5, 0.75)), 1e-16) for each in mine]
        right.plot(programs, [q[1] for q in quartiles], **look)
        right.fill_between(programs, [q[0] for q in quartiles], [q[2] for q in quartiles], color=PALETTE[i], alpha=0.2)
    left.set_ylabel("share of Gramians (%)")
    left.set_ylim(-3, 103)
    right.set_ylabel("residual max|α(Gα) − 1|: quartiles")
    right.set_yscale("log")
    right.axhline(NEAR, color=INK, linewidth=0.6)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(PROGRAMS, [str(n) for n in PROGRAMS])
        axes.minorticks_off()
        axes.set_xlabel("convex programs a solve, at most")
        axes.grid(axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _training(report: StudyReport) -> Figure | None:
    """Δm on the test set during training, in the form of the paper's Figure 6."""
    return progress_figure(report.report, [run for line in report.lines for run in line.runs])


STUDY = Study(
    name="ccp",
    title="Nash-MTL's published approximation by convex programs against the exact solution",
    source="Navon et al., ICML 2022, Appendices D.2 (NYUv2, Figure 6) and D.3 (QM9, NYUv2, Cityscapes)",
    question="How often does the published solver find the bargaining solution, and does it matter to Δm?",
    knob="programs",
    settings=_settings,
    columns=(DELTA, RANK, COST, Column("solved (% of steps)", over_seeds(share("solved")), ".1f"), RESIDUAL, SEEDS),
    figures=(("ccp", _picture), ("ccp-progress", _training)),
    references=("ls", "nash-mtl"),
    judged=False,
    more=_more,
    finish=_finish,
)
