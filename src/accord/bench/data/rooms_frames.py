"""Frames of rooms as plain arrays, and files of them that carry their own version and checksum."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench.data.rooms_render import Frame
from accord.bench.files import write_atomic
from accord.errors import DataError, StoreError

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


def write_frames(path: Path, frames: Frames, made: dict[str, Any]) -> None:
    """Write one cache file, whole or not at all.

    Args:
        path: Where.
        frames: What.
        made: How they were made, for ``read_frames`` to compare and for people.

    Raises:
        DataError: The disk refuses.
    """
    arrays = frames.arrays()
    note = {"format": FORMAT, "data": "synthetic", "made": made, "sha256": _digest(arrays)}
    buffer = io.BytesIO()
    files: dict[str, Any] = {"note": np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays}
    np.savez_compressed(buffer, **files)
    try:
        write_atomic(path, buffer.getvalue())
    except StoreError as error:
        cause = getattr(error.__cause__, "strerror", None) or error
        remedy = "set ACCORD_CACHE to a folder that is yours and has room"
        raise DataError(f"rooms: cannot write the cache file {path}: {cause}; {remedy}") from error


def read_frames(path: Path, made: dict[str, Any]) -> Frames:
    """Read and verify one cache file; nothing in it is executed.

    Raises:
        DataError: The file is truncated, altered, of another format or of other frames.
    """
    remedy = "delete the file, and it is rendered anew"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        note = json.loads(arrays.pop("note").tobytes())
        version, kept, digest = note["format"], note["made"], note["sha256"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"rooms: the cache file {path} cannot be read ({error}); {remedy}") from error
    if version != FORMAT:
        raise DataError(f"rooms: the cache file {path} has format {version}, this version reads {FORMAT}; {remedy}")
    if kept != made:
        raise DataError(f"rooms: the cache file {path} holds {kept}, not {made}; {remedy}")
    if set(arrays) != {f.name for f in fields(Frames)} or _digest(arrays) != digest:
        raise DataError(f"rooms: the cache file {path} was altered: its checksum does not match; {remedy}")
    return Frames(**arrays)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Over the names, types, shapes and bytes of all arrays."""
    state = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        state.update(f"{name} {array.dtype.str} {array.shape};".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
