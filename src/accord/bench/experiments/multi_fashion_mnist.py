"""Multi-Fashion+MNIST: an article of clothing under a digit (CAGrad, figure 4)."""

from __future__ import annotations

import dataclasses

from accord.bench.experiments.multimnist import PRESETS as MULTIMNIST
from accord.bench.experiments.multimnist import prepare
from accord.bench.experiments.multimnist_problem import TASKS, MultiMnist, MultiMnistPreset
from accord.bench.methods import METHODS
from accord.bench.spec import Experiment
from accord.bench.trial import TrialOf

# CAGrad's appendix B.1: the shrunk LeNet, Adam at 1e-3 with weight decay 0.01, 50 epochs, a batch of 256, 120,000 pairs
# of 36 × 36 to train on and 20,000 to test on; no validation set. Not published there: how the pairs are made, which
# image lies where, and how pixels are normalised. The article at the top left, the digit in the corner, two partners
# for each article and MNIST's mean are ours.
PUBLISHED = MultiMnistPreset(
    name="multi-fashion-mnist",
    left="fashion",
    right="mnist",
    validation=0,
    partners=2,
    offset=8,
    size=36,
    network="shrunk",
    epochs=50,
    batch=256,
    optimizer="adam",
    lr=1e-3,
    weight_decay=0.01,
    lr_factor=1.0,
    device="auto",
)

PRESETS = {
    "smoke": dataclasses.replace(
        PUBLISHED, left="made", right="made", train=300, test=100, epochs=2, batch=50, device="cpu"
    ),
    # A fifth of the pairs, a third of the epochs, half the batch.
    "laptop": dataclasses.replace(
        PUBLISHED, train=12_000, test=5_000, epochs=16, batch=128, eval_every=4, device="cpu"
    ),
    "paper": PUBLISHED,
    # The network and the protocol of MultiMNIST.
    "paper-lenet": dataclasses.replace(MULTIMNIST["paper"], name="multi-fashion-mnist", left="fashion"),
}

EXPERIMENT = Experiment(
    name="multi-fashion-mnist",
    version=1,
    summary="An article from Fashion-MNIST overlaid with a digit (CAGrad, figure 4); smoke: synthetic images",
    tasks=TASKS,
    presets=PRESETS,
    methods=METHODS,
    trial=TrialOf(MultiMnist),
    prepare=prepare,
    at_features=True,
)
