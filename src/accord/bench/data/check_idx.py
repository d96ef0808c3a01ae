"""Checks of a folder of IDX files: MNIST, Fashion-MNIST and their like."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from accord.bench.data.finding import Advance, Finding
from accord.errors import DataError

SPLITS = {"train": 60_000, "t10k": 10_000}
_REMEDY = "get the file from http://yann.lecun.com/exdb/mnist/ or https://github.com/zalandoresearch/fashion-mnist"


def fits(root: Path) -> bool:
    """Whether there is a file named as IDX files are."""
    return any(root.glob("*-ubyte")) or any(root.glob("*-ubyte.gz"))


def check(root: Path, advance: Advance) -> Iterator[Finding]:
    """Whether images and labels of both splits are there, whole, and fit together."""
    for split, count in SPLITS.items():
        sizes = {}
        for kind, dims in (("images", 3), ("labels", 1)):
            name = f"{split}-{kind}-idx{dims}-ubyte"
            path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
            if path is None:
                yield Finding("wrong", split, f"neither {name} nor {name}.gz is in {root}; {_REMEDY}")
                continue
            try:
                array = read(path, dims)
            except DataError as error:
                yield Finding("wrong", f"{split}/{kind}", f"{error}; {_REMEDY}")
                continue
            finally:
                advance()
            sizes[kind] = len(array)
            yield from _judged(array, f"{split}/{kind}", kind, count)
        if len(set(sizes.values())) > 1:
            text = f"{sizes['images']:,} images and {sizes['labels']:,} labels do not belong together"
            yield Finding("wrong", split, text)


def read(path: Path, dims: int) -> np.ndarray:
    """The array of bytes in an IDX file, which may be compressed.

    Raises:
        DataError: The file is cut off, or is not of this form.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read ({error}): cut off or altered") from error
    head = 4 + 4 * dims
    if len(data) < head or data[:4] != bytes((0, 0, 8, dims)):
        seen = data[:4].hex(" ") or "nothing"
        raise DataError(f"{path.name} begins with {seen}, where an IDX file of {dims} dimensions has 00 00 08 0{dims}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dims, 4))
    if len(data) - head != math.prod(shape):
        what = "cut off" if len(data) - head < math.prod(shape) else "too long"
        raise DataError(f"{path.name} is {what}: {len(data) - head:,} bytes for an array of shape {shape}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _judged(array: np.ndarray, where: str, kind: str, count: int) -> Iterator[Finding]:
    yield Finding("ok", where, f"{array.shape} uint8; values {array.min(initial=255)} to {array.max(initial=0)}")
    if len(array) != count:
        yield Finding("note", where, f"{len(array):,} items; MNIST and Fashion-MNIST have {count:,}")
    if kind == "images" and array.shape[1:] != (28, 28):
        yield Finding("wrong", where, f"images of {array.shape[1:]}, where 28 × 28 is needed")
    if kind == "labels" and array.max(initial=0) > 9:
        yield Finding("wrong", where, f"label {array.max()}, where classes are 0 to 9")
