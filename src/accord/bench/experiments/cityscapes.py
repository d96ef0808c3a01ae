"""Cityscapes: segmentation and inverse depth of street scenes (Nash-MTL, Table 3).

The data are the user's to bring, in the form in which MTAN's authors published them; ``smoke`` makes its own scenes.
"""

from __future__ import annotations

import dataclasses

from accord.bench.methods import METHODS
from accord.bench.scenes.mtan import MtanPreset, mtan_problem, prepare
from accord.bench.scenes.problem import SceneTrial
from accord.bench.scenes.settings import TASKS
from accord.bench.spec import Experiment

_PUBLISHED = MtanPreset(
    dataset="cityscapes",
    classes=7,
    tasks=("seg", "depth"),
    size=(128, 256),
    batch=8,
    epochs=200,
    eval_every=10,  # only for the curves: the last 10 epochs count, and each of them has an evaluation
    per_batch=True,
    device="auto",
    workers=2,
)

PRESETS = {
    "smoke": dataclasses.replace(
        _PUBLISHED,
        train=16,
        test=8,
        synthetic=True,
        size=(16, 32),
        widths=(6, 8, 8),
        epochs=2,
        average_last=1,
        lr=1e-3,
        per_batch=False,
        device="cpu",
        workers=0,
    ),
    # A quarter of the resolution, so four blocks, an eighth of the widths, fewer epochs; never run on the real data.
    "laptop": dataclasses.replace(
        _PUBLISHED,
        train=300,
        test=150,
        hold=True,
        size=(32, 64),
        widths=(8, 16, 32, 64),
        epochs=16,
        lr_step=8,
        lr=1e-3,
        average_last=2,
        eval_every=4,
        per_batch=False,
        device="cpu",
        workers=0,
    ),
    "paper": _PUBLISHED,
    "paper-pixels": dataclasses.replace(_PUBLISHED, per_batch=False),
    "paper-segnet": dataclasses.replace(_PUBLISHED, network="segnet"),  # knows at=features
}

EXPERIMENT = Experiment(
    name="cityscapes",
    version=1,
    summary="Segmentation and depth of street scenes, Cityscapes (Nash-MTL, table 3); smoke: synthetic scenes",
    tasks=tuple(TASKS[task] for task in _PUBLISHED.tasks),
    presets=PRESETS,
    methods=METHODS,
    trial=SceneTrial(mtan_problem),
    prepare=prepare,
    at_features=True,
)
