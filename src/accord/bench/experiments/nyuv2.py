"""NYUv2: segmentation, depth and surface normals of indoor scenes (Nash-MTL, Table 2).

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
    dataset="nyuv2",
    classes=13,
    size=(288, 384),
    batch=2,
    epochs=200,
    eval_every=10,  # only for the curves: the last 10 epochs count, and each of them has an evaluation
    per_batch=True,
    device="auto",
    workers=2,
)

PRESETS = {
    "smoke": MtanPreset(
        dataset="nyuv2",
        train=8,
        test=4,
        synthetic=True,
        size=(24, 32),
        widths=(6, 8, 8),
        epochs=2,
        average_last=1,
        lr=1e-3,
    ),
    # A sixth of the resolution, so four blocks, an eighth of the widths, fewer epochs; never run on the real data.
    "laptop": MtanPreset(
        dataset="nyuv2",
        train=120,
        test=120,
        hold=True,
        size=(48, 64),
        widths=(8, 16, 32, 64),
        epochs=12,
        lr_step=6,
        lr=1e-3,
        average_last=2,
        eval_every=4,
    ),
    "paper": _PUBLISHED,
    "paper-pixels": dataclasses.replace(_PUBLISHED, per_batch=False),
    "paper-segnet": dataclasses.replace(_PUBLISHED, network="segnet"),  # knows at=features
}

EXPERIMENT = Experiment(
    name="nyuv2",
    version=1,
    summary="Segmentation, depth and normals of indoor scenes, NYUv2 (Nash-MTL, table 2); smoke: synthetic scenes",
    tasks=tuple(TASKS.values()),
    presets=PRESETS,
    methods=METHODS,
    trial=SceneTrial(mtan_problem),
    prepare=prepare,
    at_features=True,
)
