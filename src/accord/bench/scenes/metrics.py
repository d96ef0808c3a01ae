"""The metrics of the scene-understanding benchmarks, over a whole test set or, as first published, batch by batch.

The published code takes mIoU and pixel accuracy from one confusion matrix of the test set, but depth errors and the
statistics of normals from each batch, and averages those. A mean of medians is not a median, and it depends on the
batch size; so by default everything here is over all pixels at once; ``per_batch=True`` gives the published average.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ANGLES = (11.25, 22.5, 30.0)
"""In degrees: the share of normals that are nearer to the truth is reported."""


class SegmentationMeter:
    """Mean intersection over union, and accuracy, from the confusion matrix of a data set.

    The mean is over the classes that occur, in the truth or in the predictions.

    Args:
        classes: How many.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes), np.int64)  # [true, predicted]

    def add(self, scores: Tensor, label: Tensor) -> None:
        """Count a batch: scores (B, C, H, W), classes (B, H, W) with −1 for unknown."""
        known = label >= 0
        pairs = label[known] * self.classes + scores.argmax(dim=1)[known]
        counts = torch.bincount(pairs, minlength=self.classes**2)
        self.counts += counts.reshape(self.classes, self.classes).cpu().numpy()

    def values(self) -> dict[str, float]:
        """``mIoU`` and ``PixAcc`` in per cent; NaN where nothing is known."""
        right = self.counts.diagonal()
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - right
        occurs = union > 0
        if not occurs.any():
            return {"mIoU": float("nan"), "PixAcc": float("nan")}
        return {
            "mIoU": float(100 * (right[occurs] / union[occurs]).mean()),
            "PixAcc": float(100 * right.sum() / self.counts.sum()),
        }


class DepthMeter:
    """Mean absolute and mean relative error of depth, over the pixels whose depth is not 0.

    Args:
        per_batch: Average the batches' means instead of all pixels.
    """

    def __init__(self, per_batch: bool = False) -> None:
        self.per_batch = per_batch
        self.sums: list[tuple[float, float, int]] = []

    def add(self, prediction: Tensor, depth: Tensor) -> None:
        """Count a batch, both of shape (B, 1, H, W)."""
        known = depth != 0
        truth = depth[known].double()
        error = (prediction[known].double() - truth).abs()
        if known.any():
            self.sums.append((float(error.sum()), float((error / truth.abs()).sum()), len(truth)))

    def values(self) -> dict[str, float]:
        """``AbsErr``, in the unit of depth, and ``RelErr``, a ratio; NaN where nothing is known."""
        if not self.sums:
            return {"AbsErr": float("nan"), "RelErr": float("nan")}
        absolute, relative, count = np.array(self.sums).T
        if self.per_batch:
            return {"AbsErr": float((absolute / count).mean()), "RelErr": float((relative / count).mean())}
        return {"AbsErr": float(absolute.sum() / count.sum()), "RelErr": float(relative.sum() / count.sum())}


class NormalMeter:
    """Mean and median angle between predicted and true normals, and the shares within 11.25, 22.5 and 30 degrees.

    The angles of all known pixels are kept (4 bytes each) until ``values``, since a median needs them all.

    Args:
        per_batch: Average the batches' statistics instead: the published variant.
    """

    def __init__(self, per_batch: bool = False) -> None:
        self.per_batch = per_batch
        self.angles: list[np.ndarray] = []

    def add(self, prediction: Tensor, normal: Tensor) -> None:
        """Count a batch: predictions of any length, true normals of length 1, or 0 where unknown; (B, 3, H, W)."""
        known = (normal != 0).any(dim=1)
        # in float64, because a cosine in float32 cannot tell angles below 0.03 degrees from 0
        unit = functional.normalize(prediction.double(), dim=1)
        cosine = (unit * functional.normalize(normal.double(), dim=1)).sum(dim=1)
        angles = torch.rad2deg(torch.acos(cosine[known].clamp(-1, 1)))
        if len(angles):
            self.angles.append(angles.float().cpu().numpy())

    def values(self) -> dict[str, float]:
        """``mean`` and ``median`` in degrees; ``11.25``, ``22.5``, ``30`` in per cent; NaN where nothing is known."""
        if not self.angles:
            return dict.fromkeys(("mean", "median", *map(_name, ANGLES)), float("nan"))
        batches = self.angles if self.per_batch else [np.concatenate(self.angles)]
        found = [_statistics(angles) for angles in batches]
        return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def meter_of(task: str, classes: int, per_batch: bool = False) -> SegmentationMeter | DepthMeter | NormalMeter:
    """A fresh meter for ``"seg"``, ``"depth"`` or ``"normal"``."""
    if task == "seg":
        return SegmentationMeter(classes)
    return DepthMeter(per_batch) if task == "depth" else NormalMeter(per_batch)


def _statistics(angles: np.ndarray) -> dict[str, float]:
    within = {_name(limit): float(100 * (angles < limit).mean()) for limit in ANGLES}
    return {"mean": float(angles.mean(dtype=np.float64)), "median": float(np.median(angles)), **within}


def _name(limit: float) -> str:
    return f"{limit:g}"
