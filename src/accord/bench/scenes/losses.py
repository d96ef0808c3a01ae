"""The losses of the scene-understanding benchmarks, each a mean over the pixels whose truth is known."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def loss_of(task: str, prediction: Tensor, truth: Tensor) -> Tensor:
    """The loss of ``"seg"``, ``"depth"`` or ``"normal"``."""
    return LOSSES[task](prediction, truth)


def segmentation_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Mean negative log-likelihood of the true classes.

    Args:
        scores: Unnormalised, shape (B, C, H, W).
        label: Classes, shape (B, H, W), int64; −1 is left out.
    """
    total = functional.cross_entropy(scores, label, ignore_index=-1, reduction="sum")
    return total / (label != -1).sum().clamp(min=1)


def depth_loss(prediction: Tensor, depth: Tensor) -> Tensor:
    """Mean absolute error of depth, in its unit, over pixels whose depth is not 0; both of shape (B, 1, H, W)."""
    known = depth != 0
    return ((prediction - depth).abs() * known).sum() / known.sum().clamp(min=1)


def normal_loss(prediction: Tensor, normal: Tensor) -> Tensor:
    """One minus the mean cosine between predicted and true normals.

    Args:
        prediction: Of any length, shape (B, 3, H, W); only its direction counts.
        normal: Of length 1, or 0 where unknown, shape (B, 3, H, W).
    """
    known = (normal != 0).any(dim=1)  # (B, H, W)
    cosine = (functional.normalize(prediction, dim=1) * normal).sum(dim=1)
    return ((1 - cosine) * known).sum() / known.sum().clamp(min=1)


LOSSES = {"seg": segmentation_loss, "depth": depth_loss, "normal": normal_loss}
