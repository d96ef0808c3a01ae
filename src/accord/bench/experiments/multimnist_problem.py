"""Which two images are overlaid? The problem of MultiMNIST, Multi-Fashion and Multi-Fashion+MNIST.

After Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS 2018), section 4.1: the task
``left`` is to classify the image at the top left, ``right`` that at the bottom right; each has the mean negative
log-likelihood for its loss, and the share of test images classified rightly for its metric.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from accord.bench.data import mnist
from accord.bench.data.idx import Labelled
from accord.bench.data.mnist_made import made
from accord.bench.data.multimnist import Pairs, pair
from accord.bench.models.lenet import PairNet
from accord.bench.problem import Problem, Training
from accord.bench.spec import Metric, TaskSpec
from accord.errors import DataError, OptionError

SIDES = ("left", "right")
TASKS = tuple(TaskSpec(side, (Metric("accuracy", True, "%"),)) for side in SIDES)

MEAN, DEVIATION = 0.1307, 0.3081
"""Of MNIST's pixels from 0 to 1; by these the published code of MultiMNIST normalises the overlaid images."""

Source = Literal["mnist", "fashion", "made"]
Batch = tuple[Tensor, Tensor]  # images (b, 1, S, S) uint8, labels (b, 2) int64


@dataclass(frozen=True)
class MultiMnistPreset:
    """Settings of a preset.

    Attributes:
        name: Of the experiment.
        left: Where the images at the top left come from: ``"mnist"``, ``"fashion"``, or ``"made"`` for synthetic ones.
        right: The same for the bottom right.
        train: Training images to use, spread evenly over those there are; None for all.
        validation: How many of these, the last ones, are set aside to choose the epoch; 0: the last epoch counts.
        test: Test images to use, spread evenly; None for all.
        partners: In how many pairs each image stands on the left.
        offset: Pixels from the left image's corner to the right one's, 6 or 8.
        size: Height and width of the overlaid image: 28, or 36 for the whole canvas.
        data_seed: Of the pairs, which are the same for all runs.
        network: ``"lenet"`` or ``"shrunk"``; see ``accord.bench.models.lenet``.
        batch_dropout: LeNet's dropout as in the published code: a channel mask for the whole batch, not rescaled.
        epochs: Passes over the training pairs.
        batch: Pairs in a step.
        optimizer: ``"sgd"``, with momentum, or ``"adam"``.
        lr: Its learning rate at first.
        momentum: Of SGD.
        weight_decay: Of the network's parameters.
        lr_factor: What the learning rate is multiplied by every ``lr_every`` epochs.
        lr_every: See ``lr_factor``.
        lr_early: How many epochs earlier this is done. In the published code one: before the 10th, 20th, … epoch.
        method_lr: Learning rate of a balancer's own parameters (UW).
        eval_every: Epochs between evaluations; the last epoch always has one.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
    """

    name: str = "multimnist"
    left: Source = "mnist"
    right: Source = "mnist"
    train: int | None = None
    validation: int = 10_000
    test: int | None = None
    partners: int = 1
    offset: int = 6
    size: int = 28
    data_seed: int = 0
    network: Literal["lenet", "shrunk"] = "lenet"
    batch_dropout: bool = True
    epochs: int = 100
    batch: int = 256
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_factor: float = 0.85
    lr_every: int = 10
    lr_early: int = 1
    method_lr: float = 0.025
    eval_every: int = 1
    device: str = "cpu"


class MultiMnist(Problem):
    """Classify both of two overlaid images.

    Args:
        preset: Settings.

    Raises:
        OptionError: A setting is out of range.
    """

    tasks = TASKS

    def __init__(self, preset: MultiMnistPreset) -> None:
        _check(preset)
        self.preset, self.name, self.epochs = preset, preset.name, preset.epochs
        self.eval_every, self.method_lr = preset.eval_every, preset.method_lr
        device = preset.device
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    def build(self) -> Training:
        """The network, its optimiser, and the pairs in random order."""
        preset = self.preset
        self.splits, self.origins = splits(preset)
        self._held = {name: _tensors(pairs, self.device) for name, pairs in self.splits.items() if name != "train"}
        self.model = PairNet(SIDES, preset.network, preset.size, preset.batch_dropout).to(self.device)
        return Training(
            model=self.model,
            batches=Batches(*_tensors(self.splits["train"], self.device), preset.batch),
            shared=self.model.trunk,
            optimizer=self._optimizer(),
            schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor),
            features=self.model.trunk,
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean negative log-likelihood of each task of this run."""
        images, labels = batch
        logits = self.model(_normalised(images), self.active)
        return {side: functional.cross_entropy(logits[side], labels[:, SIDES.index(side)]) for side in self.active}

    def evaluate(self) -> dict[str, float]:
        """Accuracy in % on the test pairs."""
        return self._accuracy("test")

    def validate(self) -> dict[str, float] | None:
        """Accuracy in % on the validation pairs, if some are set aside."""
        return self._accuracy("validation") if "validation" in self._held else None

    def details(self) -> Mapping[str, Any]:
        """The pairs of each split, where the images come from, and the size of the network."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "pairs": {name: len(pairs) for name, pairs in self.splits.items()},
            "data": dict(zip(SIDES, self.origins, strict=True)),
            "parameters": parameters,
        }

    @torch.no_grad()
    def _accuracy(self, split: str) -> dict[str, float]:
        images, labels = self._held[split]
        right = dict.fromkeys(self.active, 0)
        for chosen in torch.arange(len(labels), device=self.device).split(1_000):
            logits = self.model(_normalised(images[chosen]), self.active)
            for side in self.active:
                right[side] += int((logits[side].argmax(1) == labels[chosen, SIDES.index(side)]).sum())
        return {f"{side}/accuracy": 100 * count / len(labels) for side, count in right.items()}

    def _optimizer(self) -> torch.optim.Optimizer:
        preset = self.preset
        # The decay belongs to this group alone: a balancer's own parameters, which form another, are not to decay.
        groups = [{"params": list(self.model.parameters()), "weight_decay": preset.weight_decay}]
        if preset.optimizer == "adam":
            return torch.optim.Adam(groups, lr=preset.lr)
        return torch.optim.SGD(groups, lr=preset.lr, momentum=preset.momentum)

    def _factor(self, epoch: int) -> float:
        """What the learning rate is multiplied by after so many epochs."""
        return self.preset.lr_factor ** ((epoch + self.preset.lr_early) // self.preset.lr_every)


class Batches:
    """Pairs in an order that the global generator draws anew in each pass; the last batch may be smaller.

    Args:
        images: (n, 1, S, S) uint8.
        labels: (n, 2) int64.
        size: Pairs in a batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels, self.size = images, labels, size

    def __iter__(self) -> Iterator[Batch]:
        for chosen in torch.randperm(len(self.labels)).to(self.labels.device).split(self.size):
            yield self.images[chosen], self.labels[chosen]

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)


def splits(preset: MultiMnistPreset) -> tuple[dict[str, Pairs], tuple[str, str]]:
    """The pairs ``train``, ``validation`` (if any) and ``test`` of a preset, and where the images come from.

    No image of one split is in another. The pairs depend on the settings alone.

    Raises:
        DataError: The images are missing or damaged, or there are fewer than the preset asks for.
        DependencyError: The package with the images is not installed.
    """
    sources = [made() if side == "made" else mnist.load(side) for side in (preset.left, preset.right)]
    settings = (preset.train, preset.validation, preset.test, preset.partners, preset.offset, preset.size)
    return _splits(*sources, *settings, preset.data_seed), (sources[0].origin, sources[1].origin)


@functools.lru_cache(maxsize=2)
def _splits(
    left: mnist.DataSet,
    right: mnist.DataSet,
    train: int | None,
    validation: int,
    test: int | None,
    partners: int,
    offset: int,
    size: int,
    seed: int,
) -> dict[str, Pairs]:
    parts = []
    for source in (left,) if left is right else (left, right):
        used = _spread(source.train, train, f"training images ({source.origin})")
        cut = len(used) - validation
        if cut < 2:
            raise DataError(f"{len(used):,} training images ({source.origin}), of which {validation:,} are to validate")
        tested = _spread(source.test, test, f"test images ({source.origin})")
        parts.append({"train": _some(used, slice(cut)), "validation": _some(used, slice(cut, None)), "test": tested})
    times = {"train": partners, "validation": 1, "test": partners}
    return {
        name: pair(parts[0][name], parts[-1][name], times[name], offset, size, name, seed)
        for name in times
        if len(parts[0][name])
    }


def _spread(images: Labelled, count: int | None, what: str) -> Labelled:
    """So many of the images, evenly spread: their order is not random (MNIST's first test images are easier)."""
    if count is None or count == len(images):
        return images
    if count > len(images):
        raise DataError(f"multimnist: the preset takes {count:,} {what}, and there are {len(images):,}")
    return _some(images, np.arange(count) * len(images) // count)


def _some(images: Labelled, chosen: Any) -> Labelled:
    return Labelled(images.images[chosen], images.labels[chosen])


def _tensors(pairs: Pairs, device: torch.device) -> Batch:
    images, labels = torch.from_numpy(pairs.images)[:, None], torch.from_numpy(pairs.labels.astype(np.int64))
    return images.to(device), labels.to(device)


def _normalised(images: Tensor) -> Tensor:
    """Bytes to numbers of about mean 0 and deviation 1."""
    return (images.float() / 255 - MEAN) / DEVIATION


def _check(preset: MultiMnistPreset) -> None:
    wrong = {
        "left": preset.left not in ("mnist", "fashion", "made"),
        "right": preset.right not in ("mnist", "fashion", "made"),
        "network": preset.network not in ("lenet", "shrunk"),
        "optimizer": preset.optimizer not in ("sgd", "adam"),
        "train": preset.train is not None and preset.train < 2,
        "test": preset.test is not None and preset.test < 2,
        "validation": preset.validation < 0 or preset.validation == 1,
        "batch": preset.batch < 2,
        "lr": preset.lr <= 0,
        "lr_every": preset.lr_every < 1,
    }
    bad = [f"{setting}={getattr(preset, setting)!r}" for setting, is_wrong in wrong.items() if is_wrong]
    if bad:
        raise OptionError(f"{preset.name}: {', '.join(bad)} is out of range; see MultiMnistPreset")
