"""The settings of training on scenes, and the tasks there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from accord.bench.models.segnet import WIDTHS
from accord.bench.spec import Metric, TaskSpec
from accord.errors import OptionError

TASKS = {
    "seg": TaskSpec("seg", (Metric("mIoU", True, "%"), Metric("PixAcc", True, "%"))),
    "depth": TaskSpec("depth", (Metric("AbsErr"), Metric("RelErr"))),
    "normal": TaskSpec(
        "normal",
        (
            Metric("mean", unit="°"),
            Metric("median", unit="°"),
            Metric("11.25", True, "%"),
            Metric("22.5", True, "%"),
            Metric("30", True, "%"),
        ),
    ),
}
"""The tasks with their metrics, in the order of the published tables."""

MAPS = {"seg": "label", "depth": "depth", "normal": "normal"}
"""Which map each task predicts."""

NETWORKS = ("segnet", "mtan")


@dataclass(frozen=True)
class SceneSettings:
    """All settings of training on scenes; an experiment's presets add those of its data.

    Attributes:
        classes: Classes of the segmentation.
        tasks: Which of ``seg``, ``depth`` and ``normal``, in this order.
        network: Of the multi-task methods: ``"mtan"``, or ``"segnet"``, whose tasks part at the last layer.
        stl_network: Of single-task learning.
        widths: Channels of the encoder's blocks; each halves the resolution.
        size: Height and width of the images.
        batch: Scenes a step.
        epochs: Passes over the training scenes.
        lr: Of Adam.
        lr_step: Epochs after which the learning rate is multiplied by ``lr_factor``.
        lr_factor: See ``lr_step``.
        method_lr: Learning rate of a balancer's own parameters (UW).
        average_last: The result is the mean over the test metrics of so many last epochs.
        eval_every: Epochs between evaluations before those.
        augment: Whether to enlarge and mirror training scenes at random.
        per_batch: Average depth and normal metrics batch by batch, as the published code does.
        workers: Processes that read the scenes; 0 reads in the training process.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
    """

    classes: int = 13
    tasks: tuple[str, ...] = ("seg", "depth", "normal")
    network: Literal["segnet", "mtan"] = "mtan"
    stl_network: Literal["segnet", "mtan"] = "segnet"
    widths: tuple[int, ...] = WIDTHS
    size: tuple[int, int] = (288, 384)
    batch: int = 2
    epochs: int = 200
    lr: float = 1e-4
    lr_step: int = 100
    lr_factor: float = 0.5
    method_lr: float = 0.025
    average_last: int = 10
    eval_every: int = 10
    augment: bool = True
    per_batch: bool = False
    workers: int = 0
    device: str = "cpu"


def check(settings: SceneSettings, name: str) -> None:
    """Raise OptionError unless the settings make sense."""
    wrong = {
        "tasks": not settings.tasks or list(settings.tasks) != [task for task in TASKS if task in settings.tasks],
        "network": settings.network not in NETWORKS,
        "stl_network": settings.stl_network not in NETWORKS,
        "classes": settings.classes < 2,
        "batch": settings.batch < 1,
        "lr": settings.lr <= 0,
        "lr_step": settings.lr_step < 1,
        "workers": settings.workers < 0,
        "size": len(settings.size) != 2 or min(settings.size) < 2 ** len(settings.widths),
    }
    for setting, is_wrong in wrong.items():
        if is_wrong:
            raise OptionError(f"{name}: {setting}={getattr(settings, setting)!r} {_WANTED[setting]}")


_WANTED: dict[str, str] = {
    "tasks": f"must be some of {tuple(TASKS)}, in this order",
    "network": f"must be one of {NETWORKS}",
    "stl_network": f"must be one of {NETWORKS}",
    "classes": "must be 2 at the least",
    "batch": "must be 1 at the least",
    "lr": "must be positive",
    "lr_step": "must be 1 at the least",
    "workers": "must not be negative",
    "size": "must be a height and a width that can be halved once for each of the widths",
}


def device_of(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is CUDA where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
