"""Checks of a folder of IDX files: MNIST, Fashion-MNIST and their like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from accord.bench.data.finding import Advance, Finding
from accord.bench.data.idx import CLASSES, FILES, SIDE, find, read_idx
from accord.errors import DataError

COUNTS = {"train": 60_000, "test": 10_000}
_REMEDY = "get the file from http://yann.lecun.com/exdb/mnist/ or https://github.com/zalandoresearch/fashion-mnist"


def fits(root: Path) -> bool:
    """Whether there is a file named as IDX files are."""
    return any(root.glob("*-ubyte")) or any(root.glob("*-ubyte.gz"))


def check(root: Path, advance: Advance) -> Iterator[Finding]:
    """Whether images and labels of both splits are there, whole, and fit together."""
    for split, names in FILES.items():
        sizes = {}
        for kind, dimensions, name in zip(("images", "labels"), (3, 1), names, strict=True):
            path = find(root, name)
            if path is None:
                yield Finding("wrong", split, f"neither {name} nor {name}.gz is in {root}; {_REMEDY}")
                continue
            try:
                array = read_idx(path, dimensions)
            except DataError as error:
                yield Finding("wrong", f"{split}/{kind}", f"{error}; {_REMEDY}")
                continue
            finally:
                advance()
            sizes[kind] = len(array)
            yield from _judged(array, f"{split}/{kind}", kind, COUNTS[split])
        if len(set(sizes.values())) > 1:
            text = f"{sizes['images']:,} images and {sizes['labels']:,} labels do not belong together"
            yield Finding("wrong", split, text)


def _judged(array: np.ndarray, where: str, kind: str, count: int) -> Iterator[Finding]:
    yield Finding("ok", where, f"{array.shape} uint8; values {array.min(initial=255)} to {array.max(initial=0)}")
    if len(array) != count:
        yield Finding("note", where, f"{len(array):,} items; MNIST and Fashion-MNIST have {count:,}")
    if kind == "images" and array.shape[1:] != (SIDE, SIDE):
        yield Finding("wrong", where, f"images of {array.shape[1:]}, where {SIDE} × {SIDE} is needed")
    if kind == "labels" and array.max(initial=0) >= CLASSES:
        yield Finding("wrong", where, f"label {array.max()}, where classes are 0 to {CLASSES - 1}")
