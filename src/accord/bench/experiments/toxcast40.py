"""Toxicity of molecules in 40 assays from one small network: real data with many tasks, on any laptop.

No paper has this protocol, it is ours: ECFP4 fingerprints, a fully connected trunk, a linear head and the binary
cross-entropy for each assay, and the test metrics of the epoch with the best mean validation AUC. A head's bias starts
at the log-odds of its assay in the training set.

Few molecules are active (22 % in the first assay, 4 % in the last), so a fixed threshold of ½ calls few of them active,
and F1 then says more about the threshold than about the ranking. F1 is therefore taken at the threshold that has the
best F1 on the validation set, each assay its own. AUC needs no threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from accord.bench.data import toxcast
from accord.bench.methods import METHODS
from accord.bench.models.mlp import SharedMLP
from accord.bench.problem import Problem, Training
from accord.bench.spec import Experiment, Metric, TaskSpec
from accord.bench.trial import TrialOf
from accord.errors import DependencyError, OptionError

SPLITS = ("random", "scaffold")


@dataclass(frozen=True)
class ToxCastPreset:
    """Settings of a preset.

    Attributes:
        molecules: How many to use, drawn with the split; None for all 7,934.
        val: Molecules to validate on.
        test: Molecules to test on; the rest is for training.
        split: ``"random"``, or ``"scaffold"``: molecules with the same Bemis–Murcko scaffold stay together, so that the
            test set holds other kinds of molecules than the training set (needs RDKit).
        epochs: Passes over the training set.
        batch: Molecules in a step.
        widths: Units of the trunk's hidden layers.
        dropout: Share of hidden units dropped in training.
        lr: Of Adam.
        method_lr: Learning rate of a balancer's own parameters (UW).
        threshold: Probability from which a molecule is called active, for F1; ``"validation"`` takes for each assay
            the one with the best F1 on the validation set.
        eval_every: Epochs between evaluations on validation and test set; the last epoch always has one.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
    """

    molecules: int | None = None
    val: int = 793
    test: int = 793
    split: Literal["random", "scaffold"] = "random"
    epochs: int = 16
    batch: int = 128
    widths: tuple[int, ...] = (128, 64)
    dropout: float = 0.3
    lr: float = 1e-3
    method_lr: float = 0.025
    threshold: float | Literal["validation"] = "validation"
    eval_every: int = 1
    device: str = "cpu"


# `paper` is the full size as in other experiments, but there is no paper: the settings are ours.
PRESETS = {
    # So short a training leaves some rankings upside down, whose F1 at the best threshold can be 0, and Δm undefined.
    "smoke": ToxCastPreset(
        molecules=2400, val=500, test=500, epochs=2, batch=100, widths=(32,), dropout=0.0, lr=5e-3, threshold=0.01
    ),
    "laptop": ToxCastPreset(),
    "laptop-scaffold": ToxCastPreset(split="scaffold"),
    "paper": ToxCastPreset(epochs=100, widths=(1024, 512), dropout=0.5, lr=3e-4, device="auto"),
    "paper-scaffold": ToxCastPreset(
        split="scaffold", epochs=100, widths=(1024, 512), dropout=0.5, lr=3e-4, device="auto"
    ),
}
TASKS = tuple(TaskSpec(name, (Metric("AUC", True), Metric("F1", True))) for name in toxcast.TASKS)


class ToxCast40(Problem):
    """40 assays of molecules, a binary task each.

    Args:
        settings: See ``ToxCastPreset``.

    Raises:
        OptionError: A setting is out of range.
        DataError: The file that came with the package is altered, or no split has both outcomes of every assay.
        DependencyError: scikit-learn, or with ``split="scaffold"`` RDKit, is not installed.
    """

    name = "toxcast40"
    tasks = TASKS

    def __init__(self, settings: ToxCastPreset) -> None:
        _check(settings)
        self.settings = settings
        self.epochs, self.eval_every, self.method_lr = settings.epochs, settings.eval_every, settings.method_lr

    def build(self) -> Training:
        """Draw the split, then the weights; all from the global generator of torch, and so from the seed alone."""
        settings = self.settings
        random = np.random.default_rng(int(torch.randint(2**62, ()).item()))
        molecules = toxcast.load()
        count = len(molecules) if settings.molecules is None else settings.molecules
        if not 0 < count <= len(molecules):
            raise OptionError(f"toxcast40: molecules={count} must be from 1 to {len(molecules):,}")
        rows = random.permutation(len(molecules))[:count]
        groups = toxcast.scaffolds()[rows] if settings.split == "scaffold" else None
        parts = toxcast.split(molecules.labels[rows], settings.val, settings.test, random, groups)
        device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
        )
        self._columns = [toxcast.TASKS.index(task) for task in self.active]
        sets = [_Set(molecules, rows[part], self._columns, device) for part in parts]
        self._train, self._val, self._test = sets
        self._model = SharedMLP(toxcast.BITS, settings.widths, len(toxcast.TASKS), settings.dropout).to(device)
        # Else the first steps would lower all outputs through the trunk, most for molecules with many bits set.
        share = molecules.labels[rows[parts[0]]].mean(axis=0)
        self._model.start_at(np.log(share / (1 - share)))
        return Training(
            model=self._model,
            batches=_Batches(self._train, settings.batch),
            shared=self._model.trunk,
            optimizer=torch.optim.Adam(self._model.parameters(), lr=settings.lr),
            features=self._model.trunk,
        )

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Binary cross-entropy of each assay, the mean over the batch."""
        x, y = batch  # (B, 1024), (B, T)
        outputs = self._model(x, self._columns)
        return {
            task: functional.binary_cross_entropy_with_logits(output, y[:, column])
            for column, (task, output) in enumerate(zip(self.active, outputs, strict=True))
        }

    def evaluate(self) -> dict[str, float]:
        """AUC and F1 on the test set, F1 at the thresholds of the settings."""
        return self._metrics(self._test)

    def validate(self) -> dict[str, float]:
        """AUC and F1 on the validation set; F1 is flattered there, as its thresholds are chosen on the same set."""
        return self._metrics(self._val)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Minus the mean AUC, which depends on no threshold."""
        values = [value for name, value in metrics.items() if name.endswith("/AUC")]
        return -sum(values) / len(values)

    def details(self) -> dict[str, Any]:
        """Sizes of the sets and of the trunk."""
        sizes = {"train": len(self._train.labels), "val": len(self._val.labels), "test": len(self._test.labels)}
        return {**sizes, "shared_parameters": sum(p.numel() for p in self._model.trunk.parameters())}

    def _metrics(self, judged: _Set) -> dict[str, float]:
        from accord.bench.binary import auc, best_threshold, f1

        scores = self._scores(judged)
        if self.settings.threshold == "validation":
            val = scores if judged is self._val else self._scores(self._val)
            thresholds = [best_threshold(y, s) for y, s in zip(self._val.labels.T, val, strict=True)]
        else:
            thresholds = [float(np.log(self.settings.threshold / (1 - self.settings.threshold)))] * len(scores)
        values = f1(judged.labels.T, scores >= np.array(thresholds)[:, None])
        found = {}
        for task, y, s, value in zip(self.active, judged.labels.T, scores, values, strict=True):
            found[f"{task}/AUC"], found[f"{task}/F1"] = auc(y, s), value
        return found

    @torch.no_grad()
    def _scores(self, judged: _Set) -> np.ndarray:
        """The outputs before the sigmoid, (T, N)."""
        return torch.stack(self._model(judged.x, self._columns)).double().cpu().numpy()


class _Set:
    """The molecules of one part of the split.

    Attributes:
        x: (N, 1024) float32, on the device.
        y: (N, T) float32, on the device.
        labels: (N, T) uint8, for the metrics.
    """

    def __init__(
        self, molecules: toxcast.Molecules, rows: np.ndarray, columns: list[int], device: torch.device
    ) -> None:
        self.labels = molecules.labels[rows][:, columns]
        self.x = torch.from_numpy(molecules.fingerprints[rows]).to(device, torch.float32)
        self.y = torch.from_numpy(self.labels).to(device, torch.float32)


class _Batches:
    """The training set in an order drawn anew by the global generator each time; the last batch may be smaller."""

    def __init__(self, of: _Set, size: int) -> None:
        self.of, self.size = of, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.of.x)).to(self.of.x.device).split(self.size):
            yield self.of.x[rows], self.of.y[rows]


def _check(settings: ToxCastPreset) -> None:
    """Raise unless the settings make sense."""
    threshold = settings.threshold
    if threshold != "validation" and not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise OptionError(
            f"toxcast40: threshold={threshold!r} must be between 0 and 1, or 'validation' for the one with the best F1 "
            "on the validation set"
        )
    if settings.split not in SPLITS:
        raise OptionError(f"toxcast40: split={settings.split!r} must be one of {SPLITS}")
    if settings.batch < 1 or settings.lr <= 0:
        raise OptionError(f"toxcast40: batch={settings.batch!r} must be 1 or more, and lr={settings.lr!r} positive")


def prepare(preset: ToxCastPreset) -> None:
    """Read the data once, so that what is missing or altered is told before any run starts."""
    try:
        import sklearn.metrics  # noqa: F401
    except ImportError as error:
        raise DependencyError("toxcast40: scikit-learn is missing: `pip install 'accord[experiments]'`") from error
    toxcast.load()
    if preset.split == "scaffold":
        toxcast.scaffolds()


EXPERIMENT = Experiment(
    name="toxcast40",
    version=1,
    summary="Toxicity of 7,934 molecules in 40 assays, real data that come with the package; the protocol is ours",
    tasks=TASKS,
    presets=PRESETS,
    methods=METHODS,
    trial=TrialOf(ToxCast40),
    prepare=prepare,
    averages=("AUC", "F1"),
    at_features=True,
)
