"""CelebA: 40 attributes of faces from one network (the many-task experiment of FAMO and FairGrad).

The photographs are the user's to bring, in their official layout; ``smoke`` makes images of its own, which show no
faces.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from accord.bench.data.celeba import ATTRIBUTES, SPLITS, Split, folder_of, read_image, read_splits
from accord.bench.data.celeba_cache import decoded
from accord.bench.data.celeba_made import make
from accord.bench.methods import METHODS
from accord.bench.models.celeba import HIDDEN, WIDTHS, CelebANet
from accord.bench.problem import Problem, Training
from accord.bench.spec import Experiment, MethodSpec, Metric, TaskSpec
from accord.bench.trial import ProblemTrial
from accord.errors import DependencyError, OptionError

_STL = """
0.6736886 0.68121034 0.81524944 0.5760289 0.7205613 0.8555076 0.38203922 0.58225113 0.787647 0.8321292 0.5029583
0.68694085 0.6781237 0.5240381 0.5161666 0.95694304 0.6968786 0.67976356 0.8808315 0.8582131 0.97034 0.93267566
0.5057539 0.40307626 0.9703734 0.48644206 0.60786104 0.5261031 0.56907415 0.59815097 0.6858371 0.924108
0.5424991 0.7406311 0.71019936 0.87365365 0.9305602 0.33704284 0.7647628 0.91907
"""
PUBLISHED_STL_F1 = dict(zip(ATTRIBUTES, map(float, _STL.split()), strict=True))
"""Test F1 of single-task learning that FAMO's authors gave on request (FAMO repository, issue 2), for reference.

They were evaluated with batch normalisation in training mode. Δm in tables is taken against the single-task runs in the
same store, never against these.
"""


@dataclass(frozen=True)
class CelebAPreset:
    """Settings of a preset.

    Attributes:
        train: Training images to use, spread evenly over the official split; None for all 162,770.
        val: Validation images; None for all 19,867.
        test: Test images; None for all 19,962.
        size: Height and width that images are squeezed to.
        epochs: Passes over the training images.
        batch: Images in a step.
        widths: Channels of the network's four stages.
        hidden: Units of its fully connected layers.
        lr: Of Adam.
        method_lr: Learning rate of a balancer's own parameters (UW).
        uw_trained: Whether a balancer's own parameters are trained at all. False is what FAMO's and FairGrad's released
            code does on CelebA, where they are in no optimiser, so that UW is half of LS.
        stl_train_mode: Whether single-task networks are evaluated with batch normalisation in training mode, on the
            statistics of each batch of test images, as in that code.
        eval_every: Epochs between evaluations on validation and test set; the last epoch always has one.
        cache: Decode the images once, into a file below ``$ACCORD_CACHE``, and hold them on the device. False decodes
            them in every epoch. The numbers are the same.
        workers: Processes that decode, without the cache; 0 decodes in the training process.
        synthetic: Make the images, in files of the same layout, instead of reading the user's folder.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
    """

    train: int | None = None
    val: int | None = None
    test: int | None = None
    size: int = 64
    epochs: int = 15
    batch: int = 256
    widths: tuple[int, ...] = WIDTHS
    hidden: int = HIDDEN
    lr: float = 3e-4
    method_lr: float = 0.025
    uw_trained: bool = True
    stl_train_mode: bool = False
    eval_every: int = 1
    cache: bool = True
    workers: int = 0
    synthetic: bool = False
    device: str = "cpu"


_PUBLISHED = CelebAPreset(device="auto", workers=2)

PRESETS = {
    "smoke": CelebAPreset(
        train=160, val=64, test=64, size=16, epochs=2, batch=16, widths=(4, 6, 8, 8), hidden=16, lr=1e-2, synthetic=True
    ),
    # Three eighths of the size, an eighth of the widths or less, a fortieth of the images; never run on the real data.
    "laptop": CelebAPreset(
        train=4000, val=1000, test=1000, size=24, epochs=8, batch=100, widths=(8, 12, 16, 24), hidden=32, lr=3e-3
    ),
    # The published protocol; the learning rate of UW's parameters is not published, since none was used.
    "paper": _PUBLISHED,
    "paper-released": replace(_PUBLISHED, uw_trained=False, stl_train_mode=True),
}
TASKS = tuple(TaskSpec(name, (Metric("F1", True),)) for name in ATTRIBUTES)


class CelebA(Problem):
    """40 attributes of images, a binary task each.

    Args:
        settings: See ``CelebAPreset``.

    Raises:
        OptionError: A setting is out of range.
        DataError: The user's folder is not named, lacks files or holds damaged ones, or the cache cannot be written.
        DependencyError: Pillow or scikit-learn is not installed.
    """

    name = "celeba"
    tasks = TASKS

    def __init__(self, settings: CelebAPreset) -> None:
        _check(settings)
        self.settings = settings
        self.epochs, self.eval_every, self.method_lr = settings.epochs, settings.eval_every, settings.method_lr

    def build(self) -> Training:
        """The network, Adam, and batches in random order."""
        settings = self.settings
        self._device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
        )
        self._columns = [ATTRIBUTES.index(task) for task in self.active]
        self._sets = {split: _Images(chosen, settings, self._device) for split, chosen in _splits(settings).items()}
        for split, images in self._sets.items():
            self._refuse_single(split, len(images))
        self._model = CelebANet(len(ATTRIBUTES), settings.widths, settings.hidden).to(self._device)
        return Training(
            model=self._model,
            batches=_Batches(self._sets["train"], settings, shuffle=True),
            shared=self._model.trunk,
            optimizer=torch.optim.Adam(self._model.parameters(), lr=settings.lr),
            features=self._model.trunk,
        )

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Binary cross-entropy of each attribute, the mean over the batch."""
        outputs, labels = self._outputs(batch)
        return {
            task: functional.binary_cross_entropy_with_logits(output, label.float())
            for task, output, label in zip(self.active, outputs, labels, strict=True)
        }

    def evaluate(self) -> dict[str, float]:
        """F1 of each attribute on the test images, at a probability of ½."""
        return self._metrics("test")

    def validate(self) -> dict[str, float]:
        """F1 of each attribute on the validation images; the epoch with the best mean counts."""
        return self._metrics("val")

    def details(self) -> dict[str, Any]:
        """What the data are, and the sizes of the splits and of the network."""
        data = "synthetic: patches made in the layout of CelebA; not CelebA" if self.settings.synthetic else "CelebA"
        sizes = {split: len(images) for split, images in self._sets.items()}
        return {"data": data, **sizes, "shared_parameters": sum(p.numel() for p in self._model.trunk.parameters())}

    def _outputs(self, batch: tuple[Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Outputs, (B,) a task, and labels (T, B)."""
        images, labels = (each.to(self._device) for each in batch)  # (B, 3, H, W) and (B, 40), uint8
        return self._model(images.float() / 255, self._columns), labels.T[self._columns]

    @torch.no_grad()
    def _metrics(self, split: str) -> dict[str, float]:
        from accord.bench.binary import f1

        if self.settings.stl_train_mode and len(self.active) < len(ATTRIBUTES):
            self._model.train()
        called, labels = [], []
        for batch in _Batches(self._sets[split], self.settings, shuffle=False):
            outputs, right = self._outputs(batch)
            called.append(torch.stack(outputs) > 0)  # a probability above ½
            labels.append(right)
        calls, rights = torch.cat(called, 1).cpu().numpy(), torch.cat(labels, 1).cpu().numpy()  # (T, N)
        return {f"{task}/F1": value for task, value in zip(self.active, f1(rights, calls), strict=True)}

    def _refuse_single(self, split: str, count: int) -> None:
        """Raise where batch normalisation would see a single image."""
        trains = split == "train" or self.settings.stl_train_mode
        if trains and count % self.settings.batch == 1:
            raise OptionError(
                f"celeba: {count} {split} images in batches of {self.settings.batch} leave one for the last batch, and "
                "batch normalisation needs two: change either number"
            )


class _Images(Dataset[tuple[Tensor, Tensor]]):
    """The images and labels of a split: decoded and on the device, or read one at a time.

    Attributes:
        held: (N, 3, H, W) uint8 on the device; None without the cache.
        labels: (N, 40) uint8, on the device where the images are there.
    """

    def __init__(self, split: Split, settings: CelebAPreset, device: torch.device) -> None:
        self.split, self.size = split, settings.size
        self.labels = torch.from_numpy(split.labels)
        self.held: Tensor | None = None
        if settings.cache:
            self.held = _on_device(decoded(split, settings.size), device)
            self.labels = self.labels.to(device)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = read_image(self.split.folder / self.split.names[index], self.size)
        return torch.from_numpy(image), self.labels[index]


class _Batches:
    """The batches of a split, in an order drawn anew by the global generator each time if shuffled."""

    def __init__(self, images: _Images, settings: CelebAPreset, shuffle: bool) -> None:
        self.images, self.settings, self.shuffle = images, settings, shuffle

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.images)
        order = (torch.randperm(count) if self.shuffle else torch.arange(count)).split(self.settings.batch)
        if self.images.held is None:
            yield from DataLoader(
                self.images, batch_sampler=[rows.tolist() for rows in order], num_workers=self.settings.workers
            )
            return
        for rows in order:
            rows = rows.to(self.images.held.device)
            yield self.images.held[rows], self.images.labels[rows]


@functools.lru_cache(maxsize=len(SPLITS))  # the runs of one process share them
def _on_device(file: Path, device: torch.device) -> Tensor:
    """The images in a cache file, which was verified before; on the CPU they stay mapped to memory."""
    # mapped for writing to memory, not to the file: torch warns of arrays that cannot be written
    return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False)).to(device)


def _splits(settings: CelebAPreset) -> dict[str, Split]:
    """The images of the settings, by split."""
    counts = {split: getattr(settings, split) for split in SPLITS}
    if settings.synthetic and None in counts.values():
        raise OptionError("celeba: synthetic images need to know how many: set train, val and test")
    splits = read_splits(make(counts) if settings.synthetic else folder_of())
    return {name: splits[name].some(count) for name, count in counts.items()}


def _check(settings: CelebAPreset) -> None:
    """Raise unless the settings make sense."""
    least = {"size": 8, "batch": 2, "workers": 0}  # three poolings halve the size
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise OptionError(f"celeba: {name}={getattr(settings, name)!r} must be {value} at the least")
    if settings.lr <= 0:
        raise OptionError(f"celeba: lr={settings.lr!r} must be positive")


def trial(preset: CelebAPreset, method: MethodSpec, seed: int) -> ProblemTrial:
    """A fresh run, with the method's own parameters held at their start if the preset says so."""
    made = ProblemTrial(CelebA(preset), method, seed)
    if made.balancer is not None and not preset.uw_trained:
        own = {id(parameter) for parameter in made.balancer.parameters()}
        for group in made.optimizer.param_groups:
            if own.issuperset(map(id, group["params"])):
                group["lr"] = 0.0
    return made


def prepare(preset: CelebAPreset) -> None:
    """Make the images of a synthetic preset, look whether the user's folder has what is needed, and decode it."""
    try:
        import sklearn.metrics  # noqa: F401
    except ImportError as error:
        raise DependencyError("celeba: scikit-learn is missing: `pip install 'accord[experiments]'`") from error
    for split in _splits(preset).values():
        if preset.cache:
            decoded(split, preset.size, show=not preset.synthetic)


EXPERIMENT = Experiment(
    name="celeba",
    version=1,
    summary="40 attributes of faces, CelebA (FAMO, FairGrad); smoke: synthetic patches, no faces",
    tasks=TASKS,
    presets=PRESETS,
    methods=METHODS,
    trial=trial,
    prepare=prepare,
    averages=("F1",),
    at_features=True,
)
