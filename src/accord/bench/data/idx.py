"""IDX files, the form in which MNIST and data sets like it are published, compressed with gzip or not.

A file begins with two zero bytes, the type of its numbers (8 for unsigned bytes, the only one here) and the number of
its dimensions; their sizes follow as big-endian 32-bit numbers, then the numbers themselves.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accord.errors import DataError

SIDE = 28
"""Height and width of an image in pixels."""

CLASSES = 10

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The official names of images and labels; the files may end in ``.gz``, and have a dot before ``idx``."""

_BYTES = 8  # the code for unsigned bytes
_MOST = 1 << 30  # bytes: more than any data set of this kind has, and less than a compressed bomb


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images and what they show.

    Attributes:
        images: (n, 28, 28) uint8; 0 is background.
        labels: (n,) uint8, 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def read_folder(folder: Path) -> dict[str, Labelled]:
    """The training and the test images of a folder with the four official files.

    Returns:
        ``{"train": …, "test": …}``.

    Raises:
        DataError: The folder or a file is missing, or is not what it should be; the message ends with the cause.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    missing = [name for names in FILES.values() for name in names if find(folder, name) is None]
    if missing:
        raise DataError(f"{folder} has no {', no '.join(missing)} (nor any of them with .gz)")
    return {split: _read_split(folder, *names) for split, names in FILES.items()}


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes in an IDX file, as an array that cannot be written to.

    Args:
        path: The file; compressed if its first bytes say so, whatever its name.
        dimensions: How many there must be: 3 for images, 1 for labels.

    Raises:
        DataError: The file cannot be read, is damaged, cut off or too long, or holds something else.
    """
    data = _contents(path)
    start = 4 + 4 * dimensions
    if len(data) < 4:
        raise DataError(f"{path} has {len(data)} bytes, too few for the head of an IDX file: it is cut off")
    magic = bytes((0, 0, _BYTES, dimensions))
    if data[:4] != magic:
        raise DataError(f"{path} begins with {data[:4].hex(' ')}, not {magic.hex(' ')}: {_told_apart(data[:4])}")
    if len(data) < start:
        raise DataError(f"{path} is cut off: it ends before the sizes of its {dimensions} dimensions do")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
    wanted, found = math.prod(shape), len(data) - start
    if found != wanted:
        how = "cut off" if found < wanted else "longer than it says"
        raise DataError(f"{path} is {how}: its head says {shape}, {wanted:,} bytes, and {found:,} follow")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_split(folder: Path, images_name: str, labels_name: str) -> Labelled:
    paths = [find(folder, name) for name in (images_name, labels_name)]
    images_path, labels_path = (path for path in paths if path is not None)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_path} has images of shape {images.shape[1:]}, not {(SIDE, SIDE)}")
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images):,} images and {labels_path} has {len(labels):,} labels: they do not "
            "belong together"
        )
    if not len(labels):
        raise DataError(f"{images_path} has no images")
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_path} has the label {labels.max()}; labels are 0 to {CLASSES - 1}")
    return Labelled(images, labels)


def find(folder: Path, name: str) -> Path | None:
    """The file of an official name, by any of the spellings in use; None if there is none."""
    for stem in (name, name.replace("-idx", ".idx")):
        for ending in ("", ".gz"):
            path = folder / (stem + ending)
            if path.is_file():
                return path
    return None


def _contents(path: Path) -> bytes:
    """All bytes of a file, decompressed."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:  # a damaged gzip file too
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is cut off or damaged: {error}") from error
    if len(data) > _MOST:
        raise DataError(f"{path} holds more than {_MOST:,} bytes, more than any data set of this kind")
    return data


def _told_apart(magic: bytes) -> str:
    """What a file with another magic number is."""
    if magic[:2] == b"\x00\x00" and magic[2] == _BYTES:
        kinds = {1: "labels", 3: "images"}
        return f"it holds {kinds.get(magic[3], f'{magic[3]} dimensions')}"
    if magic[:2] == b"\x00\x00" and 9 <= magic[2] <= 14:
        return "its numbers are not unsigned bytes"
    return "it is not an IDX file"
