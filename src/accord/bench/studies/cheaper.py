"""What do the cheaper Gramians cost, and what do they give?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from accord.bench import rng
from accord.bench.spec import MethodSpec
from accord.bench.studies.columns import COST, DELTA, RANK, SEEDS, SOLVES
from accord.bench.studies.drawing import against_cost
from accord.bench.studies.study import Context, Setting, Study, StudyReport
from accord.bench.trial import ProblemTrial


@dataclass(frozen=True)
class Network:
    """What of an experiment decides which estimates it allows.

    Attributes:
        parts_of_batches: Whether its trials can compute the losses of part of a batch, as ``gramian_batch`` needs.
        last_part: The last of the modules that the shared module is made of; None where it is one, or none.
    """

    parts_of_batches: bool
    last_part: str | None


def network_of(context: Context) -> Network:
    """Look at a run that is built, on data made ready before, and not trained."""
    experiment, preset = context.experiment, context.experiment.presets[context.preset]
    experiment.prepare(preset)
    with rng.isolated(0):
        trial: Any = experiment.trial(preset, MethodSpec("ls"), context.seeds[0] if context.seeds else 0)
    gives = isinstance(trial, ProblemTrial) or bool(getattr(trial, "gives_part", False))
    training, model = getattr(trial, "training", None), getattr(trial, "model", None)
    shared = getattr(model, "trunk", None) if training is None else training.shared
    if not isinstance(shared, nn.Module):
        return Network(gives, None)
    parts = list(dict.fromkeys(name.split(".")[0] for name, _ in shared.named_parameters() if "." in name))
    return Network(gives, parts[-1] if len(parts) > 1 else None)


def _settings(context: Context) -> Sequence[Setting]:
    network, tasks = network_of(context), len(context.experiment.tasks)
    found = [
        ("exact", ""),
        ("update_every=5", "update_every=5"),
        ("update_every=10", "update_every=10"),
        ("update_every=50", "update_every=50"),
        ("auto, budget 1.2", "update_every=auto"),
        ("auto, budget 2", "update_every=auto,budget=2.0"),
        ("average 0.9", "gramian_ema=0.9"),
    ]
    if network.parts_of_batches:
        found += [
            ("batch 1/4", "gramian_batch=0.25"),
            ("batch 1/4, average 0.9", "gramian_batch=0.25,gramian_ema=0.9"),
        ]
    if tasks > 2:
        some = math.ceil(tasks / 3)
        found += [
            (f"{some} of {tasks} tasks", f"gramian_tasks={some}"),
            (f"{some} of {tasks} tasks, average 0.9", f"gramian_tasks={some},gramian_ema=0.9"),
        ]
    if network.last_part is not None:
        part = network.last_part
        found.append((f"part {part}", f"gramian_part={part!r}" if part.isdigit() else f"gramian_part={part}"))
    return [Setting(name, f"nash-mtl:{options}" if options else "nash-mtl") for name, options in found]


MISSING = {
    "gramian_batch": "The trials of {name} give no losses of part of a batch: no row of gramian_batch.",
    "gramian_tasks": "With two tasks there are no fewer to take: no row of gramian_tasks.",
    "gramian_part": "The shared parameters of {name} are not a module of several parts: no row of gramian_part.",
}


def _finish(context: Context, report: StudyReport) -> StudyReport:
    """Say which estimates the experiment does not allow."""
    present = " ".join(line.setting.method for line in report.lines)
    notes = [why.format(name=report.experiment.name) for option, why in MISSING.items() if option not in present]
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
