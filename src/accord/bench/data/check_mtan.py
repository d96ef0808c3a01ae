"""Checks of NYUv2 and Cityscapes in MTAN's layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from accord.bench.data.arrays import open_array
from accord.bench.data.finding import Advance, Faults, Finding, count_of, named
from accord.bench.data.mtan_layout import SPLITS, Layout, fault_of_form, fault_of_values, numbers_in
from accord.errors import DataError


def fits(root: Path, layout: Layout) -> bool:
    """Whether a folder has a split with images and what sets this data set apart: normals, or ``label_7``."""
    mark, other = ("normal", "label_7") if "normal" in layout.folders else ("label_7", "normal")
    splits = [root / split for split in SPLITS if (root / split / "image").is_dir()]
    return any((split / mark).is_dir() for split in splits) and not any((split / other).is_dir() for split in splits)


def check(root: Path, layout: Layout, advance: Advance) -> Iterator[Finding]:
    """What each split lacks, and what is wrong in its files."""
    before = True
    for split in SPLITS:
        if not (root / split).is_dir():
            yield Finding("wrong", split, f"the folder {root / split} is missing")
            before = False
            continue
        numbers = {key: set(numbers_in(root / split / name)) for key, name in layout.folders.items()}
        every = set().union(*numbers.values())
        for key, name in layout.folders.items():
            for finding in _folder(root / split / name, f"{split}/{name}", key, layout, every, advance):
                before &= finding.status != "wrong"
                yield finding
        wanted = layout.counts[split]
        if len(every) != wanted:
            before = False
            gaps = sorted(set(range(wanted)) - every)
            lack = f"; missing are {named([f'{gap}.npy' for gap in gaps])}" if gaps else ""
            yield Finding("wrong", split, f"{count_of(list(every), 'scene')}, where {layout.title} has {wanted}{lack}")
    if not before:
        yield Finding("note", "remedy", layout.source)


def _folder(folder: Path, where: str, key: str, layout: Layout, every: set[int], advance: Advance) -> Iterator[Finding]:
    """One kind of map of one split; ``every`` are the numbers that any map of the split has."""
    if not folder.is_dir():
        yield Finding("wrong", where, f"the folder {folder} is missing")
        return
    numbers = numbers_in(folder)
    lacking = sorted(every - set(numbers))
    if lacking:
        files = [f"{number}.npy" for number in lacking]
        yield Finding("wrong", where, f"{count_of(files, 'file')} missing that other folders have: {named(files)}")
    if not every:
        yield Finding("wrong", where, "there are no files named <number>.npy")
        return
    odd = sorted(path.name for path in folder.iterdir() if not (path.suffix == ".npy" and path.stem.isdecimal()))
    if odd:
        yield Finding("note", where, f"ignored, not named <number>.npy: {named(odd)}")
    faults, seen = Faults(), Seen(key, layout)
    for number in numbers:
        path = folder / f"{number}.npy"
        try:
            array = open_array(path)
        except DataError as error:
            faults.add(str(error).removeprefix(f"{path}: "), path.name)
        else:
            fault = fault_of_form(array, key, layout)
            if fault is None:
                seen.add(array)
                fault = fault_of_values(array, key, layout)
            if fault is not None:
                faults.add(fault, path.name)
        advance()
    yield from faults.findings(where)
    yield from seen.findings(where)


class Seen:
    """What the readable files of one folder hold.

    Args:
        key: ``image``, ``label``, ``depth`` or ``normal``.
        layout: Which data set.
    """

    def __init__(self, key: str, layout: Layout) -> None:
        self.key, self.layout = key, layout
        self.forms: Counter[str] = Counter()
        self.low, self.high = np.inf, -np.inf
        self.pixels = self.unknown = self.off_unit = 0
        self.classes: set[float] = set()

    def add(self, array: np.ndarray) -> None:
        """Count one."""
        self.forms[f"{array.shape} {array.dtype}"] += 1
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.ravel()
        if len(finite):
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if self.key == "label":
            self.classes |= set(np.unique(finite).tolist())
            unknown = array == -1
        elif self.key == "normal":
            length = np.linalg.norm(array.astype(np.float64), axis=-1)
            unknown = length == 0
            self.off_unit += int((~unknown & (np.abs(length - 1) > 0.05)).sum())
        else:
            unknown = array == 0
        self.pixels, self.unknown = self.pixels + unknown.size, self.unknown + int(unknown.sum())

    def findings(self, where: str) -> Iterator[Finding]:
        """Counts, shapes, dtypes, range; and what is odd but no fault."""
        if not self.forms:
            return
        forms = ", ".join(f"{count:,} × {form}" for form, count in self.forms.items())
        share = f", {self.unknown / self.pixels:.1%} unknown" if self.key != "image" else ""
        yield Finding("ok", where, f"{forms}; values {self.low:g} to {self.high:g}{share}")
        absent = sorted(set(range(self.layout.classes)) - self.classes)
        if self.key == "label" and absent:
            yield Finding("note", where, f"classes that never occur: {named(absent, self.layout.classes)}")
        if self.key == "depth" and self.low < 0:
            yield Finding("note", where, "some depths are negative; only 0 counts as unknown, as published")
        if self.off_unit:
            off = self.off_unit / (self.pixels - self.unknown)
            yield Finding("note", where, f"{off:.1%} of normals are more than 5 % off length 1; they are rescaled")
        if self.key != "image" and self.unknown == self.pixels:
            yield Finding("wrong", where, "no pixel is known: there is nothing to learn")
