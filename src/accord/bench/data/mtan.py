"""NYUv2 and Cityscapes in MTAN's layout as scenes to train on, read one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from accord.bench.data.mtan_layout import Layout, read_map, scenes_in
from accord.errors import DataError


class MtanScenes:
    """A split in MTAN's layout, as a ``SceneSource`` (see ``accord.bench.scenes.problem``).

    Args:
        root: The folder with ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.
        layout: Which data set.
        size: Height and width to bring the scenes to; None leaves them as they are.
        limit: Use so many scenes, spread evenly; None uses all, and all of the published ones must be there.

    Raises:
        DataError: Folders or files are missing; files that are wrong in themselves are found when they are read.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        layout: Layout,
        size: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> None:
        self.root, self.split, self.layout = root, split, layout
        self.size = tuple(size or layout.size)
        numbers = scenes_in(root, split, layout)
        wanted = layout.counts[split] if limit is None else limit
        if len(numbers) < wanted or (limit is None and len(numbers) > wanted):
            raise DataError(
                f"{layout.name}: {root / split} has {len(numbers)} scenes; {layout.title} has {layout.counts[split]} "
                f"there, and {wanted} are needed. {layout.remedy}"
            )
        self.numbers = [numbers[index * len(numbers) // wanted] for index in range(wanted)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One scene.

        Raises:
            DataError: A file is missing, cut off or a pickle, or its shape, its dtype or its values are wrong.
        """
        number = self.numbers[index]
        scene = {
            key: _tensor(key, read_map(self.root, self.split, number, key, self.layout)) for key in self.layout.folders
        }
        if self.size != self.layout.size:
            scene = {key: _resized(key, value, self.size) for key, value in scene.items()}
        return scene


def _tensor(key: str, array: np.ndarray) -> Tensor:
    """A map with channels first, in the dtype of scenes."""
    if key == "label":
        return torch.from_numpy(array.astype(np.int64))
    array = array.astype(np.float32)
    array = array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
    tensor = torch.from_numpy(array)
    if key == "image":
        return tensor.clamp_(0, 1)
    return functional.normalize(tensor, dim=0) if key == "normal" else tensor


def _resized(key: str, value: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images as averages of areas; all else as the nearest pixel, since values in between may not exist."""
    if key == "image":
        return functional.interpolate(value[None], size=size, mode="area")[0]
    flat = value[None].float() if key == "label" else value
    near = functional.interpolate(flat[None], size=size, mode="nearest-exact")[0]
    return near[0].long() if key == "label" else near
