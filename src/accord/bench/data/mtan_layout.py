"""The folder layout in which MTAN's authors published NYUv2 and Cityscapes: what must be where.

``ROOT/{train,val}/{image,label,depth,normal}/<number>.npy``: image (H, W, 3) in [0, 1], label (H, W) with −1 for
unknown, depth (H, W, 1) with 0 for unknown, normal (H, W, 3) of length 1; all of them numbers, mostly floats.
Cityscapes has its seven classes in ``label_7``, inverse depth in ``depth`` and no normals.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accord.bench.data.arrays import open_array
from accord.errors import DataError

SPLITS = ("train", "val")
"""``val`` is what the papers report on."""


@dataclass(frozen=True)
class Layout:
    """One data set in MTAN's layout.

    Attributes:
        name: As typed: ``nyuv2``.
        title: As shown.
        variable: Environment variable that names the folder.
        size: Height and width of all maps.
        classes: Of the segmentation.
        folders: Which folder holds ``image``, ``label``, ``depth`` and ``normal``.
        counts: Scenes in each split.
        source: Where the official files are.
    """

    name: str
    title: str
    variable: str
    size: tuple[int, int]
    classes: int
    folders: Mapping[str, str]
    counts: Mapping[str, int]
    source: str

    @property
    def remedy(self) -> str:
        """What to do when files are missing or wrong."""
        return f"{self.source} Unpack it, set {self.variable} to its folder, and try `accord data check FOLDER`."

    def shapes(self, key: str) -> tuple[tuple[int, ...], ...]:
        """The shapes that a file of ``image``, ``label``, ``depth`` or ``normal`` may have."""
        if key in ("image", "normal"):
            return ((*self.size, 3),)
        return ((*self.size, 1), self.size) if key == "depth" else (self.size,)


NYUV2 = Layout(
    name="nyuv2",
    title="NYUv2",
    variable="ACCORD_NYUV2",
    size=(288, 384),
    classes=13,
    folders={"image": "image", "label": "label", "depth": "depth", "normal": "normal"},
    counts={"train": 795, "val": 654},
    source="The README of https://github.com/lorenmt/mtan links NYUv2 as MTAN preprocessed it (nyuv2.zip).",
)
CITYSCAPES = Layout(
    name="cityscapes",
    title="Cityscapes",
    variable="ACCORD_CITYSCAPES",
    size=(128, 256),
    classes=7,
    folders={"image": "image", "label": "label_7", "depth": "depth"},
    counts={"train": 2975, "val": 500},
    source="The README of https://github.com/lorenmt/mtan links Cityscapes as MTAN preprocessed it; take the 128×256 "
    "version (cityscapes2.zip). Using Cityscapes needs a registration at https://www.cityscapes-dataset.com.",
)
LAYOUTS = {layout.name: layout for layout in (NYUV2, CITYSCAPES)}


def folder_of(layout: Layout) -> Path:
    """The folder that the environment variable names.

    Raises:
        DataError: The variable is not set, or names no folder.
    """
    named = os.environ.get(layout.variable)
    if not named:
        raise DataError(
            f"{layout.name}: the data set is yours to bring, and {layout.variable} is not set. {layout.remedy}"
        )
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"{layout.name}: {layout.variable}={named} is not a folder. {layout.remedy}")
    return folder


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the files ``<number>.npy`` in a folder, in order."""
    return sorted(int(path.stem) for path in folder.glob("*.npy") if path.stem.isdecimal())


def scenes_in(root: Path, split: str, layout: Layout) -> list[int]:
    """The numbers of a split's scenes, in order.

    Raises:
        DataError: The split or one of its folders is missing, or a scene lacks one of its maps.
    """
    found: dict[str, list[int]] = {}
    for key, name in layout.folders.items():
        folder = root / split / name
        if not folder.is_dir():
            raise DataError(f"{layout.name}: the folder {folder} is missing. {layout.remedy}")
        found[key] = numbers_in(folder)
    for key, numbers in found.items():
        odd = sorted(set(numbers) ^ set(found["image"]))
        if odd:
            where = layout.folders[key if odd[0] in found["image"] else "image"]
            raise DataError(
                f"{layout.name}: {root / split / where} lacks {odd[0]}.npy: it has {len(numbers)} files of {key} "
                f"beside {len(found['image'])} images. {layout.remedy}"
            )
    return found["image"]


def read_map(root: Path, split: str, number: int, key: str, layout: Layout) -> np.ndarray:
    """One map of a scene, as it is in its file, after checks.

    Raises:
        DataError: The file is missing, cut off or a pickle, or its shape, its dtype or its values are wrong.
    """
    path = root / split / layout.folders[key] / f"{number}.npy"
    try:
        array = open_array(path)
    except DataError as error:
        raise DataError(f"{layout.name}: {error}. {layout.remedy}") from error
    wrong = fault(array, key, layout)
    if wrong:
        raise DataError(f"{layout.name}: {path}: {wrong}. {layout.remedy}")
    return np.asarray(array)


def fault(array: np.ndarray, key: str, layout: Layout) -> str | None:
    """What is wrong with a map, or None."""
    return fault_of_form(array, key, layout) or fault_of_values(array, key, layout)


def fault_of_form(array: np.ndarray, key: str, layout: Layout) -> str | None:
    """What is wrong with a map's shape or dtype, or None; its values are not read."""
    shapes = layout.shapes(key)
    if array.shape not in shapes:
        return f"{key} has the shape {array.shape}, where {layout.title} has {shapes[0]}"
    if array.dtype.kind not in "fiu":
        return f"{key} has the dtype {array.dtype}, where numbers are needed"
    return None


def fault_of_values(array: np.ndarray, key: str, layout: Layout) -> str | None:
    """What is wrong with a map's values, or None."""
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high):
        return f"{key} holds NaN or infinity"
    if key == "image" and (low < -_SLACK or high > 1 + _SLACK):
        return f"image has values from {low:g} to {high:g}, where [0, 1] is needed"
    if key == "normal" and (low < -1 - _SLACK or high > 1 + _SLACK):
        return f"normal has values from {low:g} to {high:g}, where unit vectors are needed"
    if key == "label":
        classes = np.unique(array)
        odd = classes[(classes != np.rint(classes)) | (classes < -1) | (classes >= layout.classes)]
        if len(odd):
            return f"label holds {odd[0]:g}, where classes are 0 to {layout.classes - 1}, and −1 for unknown"
    return None


_SLACK = 0.01  # what interpolation and rounding may have added
