"""One problem for all data sets of scenes: an image, and up to three maps of it to be predicted.

A data set is two ``SceneSource``, one to train on and one to be judged by. A source has a length, and its item i is a
dict of tensors of one scene:

==========  ===========  =======  =================================================
key         shape        dtype    values
==========  ===========  =======  =================================================
``image``   (3, H, W)    float32  in [0, 1]
``label``   (H, W)       int64    classes from 0 up; −1 for unknown
``depth``   (1, H, W)    float32  0 for unknown
``normal``  (3, H, W)    float32  of length 1; 0, 0, 0 for unknown
==========  ===========  =======  =================================================

A map that no task of the settings needs may be missing. All scenes of a source have one size. Sources are read lazily,
an item at a time; wrap a small one in ``Held`` to keep it in memory.

An experiment derives a frozen dataclass from ``SceneSettings`` for its presets, and makes ``SceneProblem(settings,
train, test, name)``, with ``trial=SceneTrial(make_problem)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from accord.bench.balancing import place_of
from accord.bench.models.mtan import MTAN
from accord.bench.models.segnet import SegNet
from accord.bench.problem import Problem, Training
from accord.bench.scenes.augment import augment
from accord.bench.scenes.losses import loss_of
from accord.bench.scenes.metrics import meter_of
from accord.bench.scenes.settings import MAPS, TASKS, SceneSettings, check, device_of
from accord.bench.scenes.source import Held, Scenes, SceneSource
from accord.bench.spec import MethodSpec
from accord.bench.trial import ProblemTrial
from accord.errors import OptionError

__all__ = ["MAPS", "TASKS", "Held", "SceneProblem", "SceneSettings", "SceneSource", "SceneTrial"]

NETWORKS = {"segnet": SegNet, "mtan": MTAN}


class SceneProblem(Problem):
    """Segmentation, depth and normals, or some of them, with SegNet or MTAN.

    Args:
        settings: See ``SceneSettings``.
        train: The scenes to train on.
        test: The scenes whose metrics are reported. (NYUv2 and Cityscapes have no third split; the last epochs count.)
        name: Names the runs and seeds all draws.
        notes: What the results should say about the data, such as ``{"data": "synthetic"}``.

    Raises:
        OptionError: A setting is out of range.
    """

    def __init__(
        self,
        settings: SceneSettings,
        train: SceneSource,
        test: SceneSource,
        name: str,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        check(settings, name)
        self.settings, self.train, self.test, self.name = settings, train, test, name
        self.notes = dict(notes or {})
        self.tasks = tuple(TASKS[task] for task in settings.tasks)
        self.epochs, self.eval_every = settings.epochs, settings.eval_every
        self.average_last, self.method_lr = settings.average_last, settings.method_lr
        self.device = device_of(settings.device)

    def build(self) -> Training:
        """The network, Adam with a stepwise learning rate, and batches in random order."""
        settings = self.settings
        self.model = self._network().to(self.device)
        keep = ("image", *(MAPS[task] for task in self.active))
        self._test = self._loader(Scenes(self.test, keep, settings.size, f"{self.name}, test"), shuffle=False)
        train = Scenes(self.train, keep, settings.size, f"{self.name}, train", augment if settings.augment else None)
        return Training(
            model=self.model,
            batches=self._loader(train, shuffle=True),
            shared=self.model.shared(),
            optimizer=torch.optim.Adam(self.model.parameters(), lr=settings.lr),
            schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, settings.lr_step, settings.lr_factor),
            features=self.model.trunk if isinstance(self.model, SegNet) else None,
        )

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the tasks of this run; see ``accord.bench.scenes.losses``."""
        found = self.model(batch["image"].to(self.device), self.active)
        return {task: loss_of(task, found[task], batch[MAPS[task]].to(self.device)) for task in self.active}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The metrics of the tasks of this run on the test scenes; see ``accord.bench.scenes.metrics``."""
        meters = {task: meter_of(task, self.settings.classes, self.settings.per_batch) for task in self.active}
        for batch in self._test:
            found = self.model(batch["image"].to(self.device), self.active)
            for task, meter in meters.items():
                meter.add(found[task], batch[MAPS[task]].to(self.device))
        return {f"{task}/{name}": value for task, meter in meters.items() for name, value in meter.values().items()}

    def details(self) -> dict[str, Any]:
        """Sizes of the splits and of the network, and the notes on the data."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        return {**self.notes, "train": len(self.train), "test": len(self.test), "parameters": count}

    def _network(self) -> SegNet | MTAN:
        alone = len(self.active) < len(self.settings.tasks)
        outputs = {"seg": self.settings.classes, "depth": 1, "normal": 3}
        network = NETWORKS[self.settings.stl_network if alone else self.settings.network]
        return network({task: outputs[task] for task in self.active}, self.settings.widths)

    def _loader(self, scenes: Scenes, shuffle: bool) -> DataLoader:
        return DataLoader(
            scenes,
            self.settings.batch,
            shuffle=shuffle,
            num_workers=self.settings.workers,
            pin_memory=self.device.type == "cuda",
        )


@dataclass(frozen=True)
class SceneTrial:
    """The ``trial`` of an experiment on scenes: ``problem(preset)`` makes the problem."""

    problem: Callable[[Any], SceneProblem]

    def __call__(self, preset: Any, method: MethodSpec, seed: int) -> ProblemTrial:
        """A fresh run.

        Raises:
            OptionError: ``at=features`` with MTAN, which has no one representation.
        """
        if place_of(method)[1] == "features" and preset.network == "mtan":
            raise OptionError(
                f"method {str(method)!r}: MTAN has no representation to balance at: each task's attention reads every "
                "block of the shared SegNet, and the shared extractors read what a task has attended, so they lie on "
                "both sides of it. Leave at=features away, or use network='segnet', whose tasks part at the last layer"
            )
        return ProblemTrial(self.problem(preset), method, seed)
