"""What do the cheaper Gramians cost, and what do they give?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from accord.bench import rng
from accord.bench.spec import MethodSpec
from accord.bench.studies.columns import COST, DELTA, RANK, SEEDS, SOLVES
from accord.bench.studies.drawing import against_cost
from accord.bench.studies.study import Context, Setting, Study, StudyReport


def _settings(context: Context) -> Sequence[Setting]:
    tasks = len(context.experiment.tasks)
    found = [
        ("exact", ""),
        ("update_every=5", "update_every=5"),
        ("update_every=10", "update_every=10"),
        ("update_every=50", "update_every=50"),
        ("auto, budget 1.2", "update_every=auto"),
        ("auto, budget 2", "update_every=auto,budget=2.0"),
        ("batch 1/4", "gramian_batch=0.25"),
        ("average 0.9", "gramian_ema=0.9"),
        ("batch 1/4, average 0.9", "gramian_batch=0.25,gramian_ema=0.9"),
    ]
    if tasks > 2:
        some = math.ceil(tasks / 3)
        found += [
            (f"{some} tasks", f"gramian_tasks={some}"),
            (f"{some} tasks, average 0.9", f"gramian_tasks={some},gramian_ema=0.9"),
        ]
    part = last_part(context)
    if part is not None:
        found.append((f"part {part}", f"gramian_part={_quoted(part)}"))
    return [Setting(name, f"nash-mtl:{options}" if options else "nash-mtl") for name, options in found]


def last_part(context: Context) -> str | None:
    """The last of the modules that the shared module of an experiment is made of; None where it is one, or none.

    The experiment's data are made ready and a run is built, without training, to see its modules.
    """
    experiment, preset = context.experiment, context.experiment.presets[context.preset]
    experiment.prepare(preset)
    with rng.isolated(0):
        trial: Any = experiment.trial(preset, MethodSpec("ls"), context.seeds[0] if context.seeds else 0)
    training, model = getattr(trial, "training", None), getattr(trial, "model", None)
    shared = getattr(training, "shared", None) or getattr(model, "trunk", None)
    if not isinstance(shared, nn.Module):
        return None
    parts = list(dict.fromkeys(name.split(".")[0] for name, _ in shared.named_parameters() if "." in name))
    return parts[-1] if len(parts) > 1 else None


def _quoted(part: str) -> str:
    """The part as a value of a method spec: quoted where it would be read as a number."""
    return repr(part) if part.isdigit() else part


def _finish(context: Context, report: StudyReport) -> StudyReport:
    present = " ".join(line.method for line in report.lines)
    notes = []
    if "gramian_tasks" not in present:
        notes.append("With two tasks there are no fewer tasks to take: no row of drawn tasks.")
    if "gramian_part" not in present:
        notes.append("The shared parameters are not a module of several parts: no row of the last part.")
    return replace(report, notes=(*report.notes, *notes))


STUDY = Study(
    name="cheaper-gramians",
    title="Nash-MTL with cheaper Gramians and fewer solves",
    source="this library's options (docs/guides/cheaper.md); the paper has update_every alone",
    question="Which way of saving backward passes loses least Δm for the time it saves?",
    knob="Gramian",
    settings=_settings,
    columns=(DELTA, RANK, COST, SOLVES, SEEDS),
    figures=(("cheaper-gramians", against_cost),),
    finish=_finish,
)
