"""Multi-Fashion: two overlaid articles of clothing, with the protocol of MultiMNIST."""

from __future__ import annotations

import dataclasses

from accord.bench.experiments.multimnist import PRESETS as MULTIMNIST
from accord.bench.experiments.multimnist import prepare
from accord.bench.experiments.multimnist_problem import TASKS, MultiMnist
from accord.bench.methods import METHODS
from accord.bench.spec import Experiment
from accord.bench.trial import TrialOf

# No protocol of Multi-Fashion is published in the papers that this package reproduces: this is MultiMNIST's.
PRESETS = {
    name: dataclasses.replace(preset, name="multi-fashion", left="fashion", right="fashion")
    for name, preset in MULTIMNIST.items()
}
PRESETS["smoke"] = dataclasses.replace(PRESETS["smoke"], left="made", right="made")

EXPERIMENT = Experiment(
    name="multi-fashion",
    version=1,
    summary="Two overlaid articles from Fashion-MNIST, with the protocol of MultiMNIST; smoke: synthetic images",
    tasks=TASKS,
    presets=PRESETS,
    methods=METHODS,
    trial=TrialOf(MultiMnist),
    prepare=prepare,
    at_features=True,
)
