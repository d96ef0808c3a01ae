"""MultiMNIST: two overlaid digits (Sener and Koltun, NeurIPS 2018, table 3)."""

from __future__ import annotations

import dataclasses

from accord.bench.experiments.multimnist_problem import TASKS, MultiMnist, MultiMnistPreset, splits
from accord.bench.methods import METHODS
from accord.bench.spec import Experiment
from accord.bench.trial import TrialOf

# The paper's appendix C.1 has SGD with momentum, a batch of 256, 100 epochs and the best of six learning rates, 1e-4 to
# 5e-2, by validation accuracy; the published code has the momentum 0.9 and the schedule. Which rate was chosen and how
# many images it was validated on are not published: 1e-2 and the 10,000 here are ours.
PUBLISHED = MultiMnistPreset(device="auto")

PRESETS = {
    "smoke": MultiMnistPreset(train=700, validation=100, test=200, epochs=2, batch=50, lr=5e-2),
    # A third of the digits, a fifth of the epochs and of the intervals at which the learning rate falls, half the
    # batch; the largest of the paper's six rates, because with 1e-2 so few steps do not come far.
    "laptop": MultiMnistPreset(
        train=22_000, validation=2_000, epochs=20, batch=128, lr=5e-2, lr_every=2, lr_early=0, eval_every=2
    ),
    "paper": PUBLISHED,
    # The schedule of the paper's text in the place of its code's.
    "paper-halved": dataclasses.replace(PUBLISHED, lr_factor=0.5, lr_every=30, lr_early=0),
    "paper-dropout": dataclasses.replace(PUBLISHED, batch_dropout=False),
}


def prepare(preset: MultiMnistPreset) -> None:
    """Look whether the images are there."""
    splits(preset)


EXPERIMENT = Experiment(
    name="multimnist",
    version=1,
    summary="Two overlaid digits from MNIST, left and right (Sener and Koltun, table 3)",
    tasks=TASKS,
    presets=PRESETS,
    methods=METHODS,
    trial=TrialOf(MultiMnist),
    prepare=prepare,
    at_features=True,
)
