"""Frames of rooms as plain arrays, and files of them that carry their own version and checksum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench.data.rooms_render import Frame
from accord.bench.data.sealed import Seal

FORMAT = 2
"""Version of the rooms and of the files; a change of either raises it, and older files are left alone."""


@dataclass(frozen=True)
class Frames:
    """N frames, synthetic, of H×W pixels each.

    Attributes:
        image: (N, H, W, 3) uint8, sRGB.
        label: (N, H, W) uint8, index into ``rooms_scene.CLASSES``.
        depth: (N, H, W) float32, metres along the optical axis.
        normal: (N, H, W, 3) float16, of length 1, in camera space: x right, y up, z towards the camera.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def head(self, count: int) -> Frames:
        """The first ``count`` frames."""
        return Frames(**{name: array[:count] for name, array in self.arrays().items()})

    @classmethod
    def join(cls, parts: Sequence[Frames]) -> Frames:
        """All frames of all parts, in order."""
        return cls(**{name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()})

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Frames:
        """Single frames together; normals are rounded to float16, an error below 0.06°."""
        stacked = {f.name: np.stack([getattr(frame, f.name) for frame in frames]) for f in fields(cls)}
        return cls(**{**stacked, "normal": stacked["normal"].astype(np.float16)})


_SEAL = Seal("rooms", FORMAT, "synthetic", tuple(f.name for f in fields(Frames)), "it is rendered anew")


def write_frames(path: Path, frames: Frames, made: dict[str, Any]) -> None:
    """Write one cache file, whole or not at all.

    Args:
        path: Where.
        frames: What.
        made: How they were made, for ``read_frames`` to compare and for people.

    Raises:
        DataError: The disk refuses.
    """
    _SEAL.write(path, frames.arrays(), made)


def read_frames(path: Path, made: dict[str, Any]) -> Frames:
    """Read and verify one cache file; nothing in it is executed.

    Raises:
        DataError: The file is truncated, altered, of another format or of other frames.
    """
    return Frames(**_SEAL.read(path, made))
