"""Augmentation of scenes: a random zoom by cropping, and a random mirror image, with depth and normals kept right."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SCALES = (1.0, 1.2, 1.5)
"""Enlargements, one of which is drawn for each scene."""


def augment(scene: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw an enlargement, a place and a mirroring from torch's global generator, and apply them.

    Args:
        scene: One scene, as ``accord.bench.scenes.problem.SceneSource`` gives it.
    """
    height, width = scene["image"].shape[-2:]
    scale = SCALES[int(torch.randint(len(SCALES), ()))]
    rows, columns = int(height / scale), int(width / scale)
    top = int(torch.randint(height - rows + 1, ()))
    left = int(torch.randint(width - columns + 1, ()))
    scene = crop(scene, top, left, rows, columns, scale)
    return mirror(scene) if bool(torch.rand(()) < 0.5) else scene


def crop(scene: dict[str, Tensor], top: int, left: int, rows: int, columns: int, scale: float) -> dict[str, Tensor]:
    """A part of a scene, enlarged to the size of the whole.

    A crop enlarged by s is what a lens of s times the focal length sees. Depth is divided by s: what looks s times as
    large through the usual lens is s times nearer. Normals stay, as the surfaces have not turned. Classes and depth
    take the nearest pixel, since no value in between need exist; images and normals are interpolated bilinearly, and
    normals brought back to length 1. All four agree about where the centres of pixels are.
    """
    size = scene["image"].shape[-2:]
    if (rows, columns) == tuple(size) and scale == 1:
        return scene
    part = {name: tensor[..., top : top + rows, left : left + columns] for name, tensor in scene.items()}
    found = {"image": _bilinear(part["image"], size)}
    if "label" in part:
        found["label"] = _nearest(part["label"][None].float(), size)[0].long()
    if "depth" in part:
        found["depth"] = _nearest(part["depth"], size) / scale
    if "normal" in part:
        # where some neighbour is unknown (zero), the others decide
        found["normal"] = functional.normalize(_bilinear(part["normal"], size), dim=0)
    return found


def mirror(scene: dict[str, Tensor]) -> dict[str, Tensor]:
    """The scene with left and right exchanged, where the x components of normals change their sign."""
    found = {name: tensor.flip(-1) for name, tensor in scene.items()}
    if "normal" in found:
        found["normal"] = found["normal"] * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    return found


def _bilinear(map_: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(map_[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def _nearest(map_: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(map_[None], size=tuple(size), mode="nearest-exact")[0]
