"""CelebA in its official layout: 202,599 aligned photographs of faces, 40 binary attributes, the official partition.

The folder holds ``img_align_celeba/*.jpg``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, each either in it
or in the official archive's subfolders ``Img``, ``Anno`` and ``Eval``. The data are the user's to bring: their terms
forbid to pass them on.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accord.errors import DataError, DependencyError, OptionError

VARIABLE = "ACCORD_CELEBA"
SPLITS = ("train", "val", "test")
COUNTS = {"train": 162_770, "val": 19_867, "test": 19_962}
"""Images of each part of the official partition."""
SIZE = (178, 218)
"""Width and height of the aligned images."""
REMEDY = (
    "Get CelebA from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (for non-commercial research, not to be passed "
    "on): Img/img_align_celeba.zip, unpacked, Anno/list_attr_celeba.txt and Eval/list_eval_partition.txt; set "
    f"{VARIABLE} to the folder that holds them, and try `accord data check FOLDER`."
)

ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""In the official order."""

_ATTRIBUTE_LIST, _PARTITION_LIST, _IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
_SUBFOLDERS = {_ATTRIBUTE_LIST: "Anno", _PARTITION_LIST: "Eval", _IMAGES: "Img"}
_NAME = re.compile(r"\w+\.jpg", re.ASCII)  # no separators: a list must not lead out of the folder


@dataclass(frozen=True)
class Split:
    """N images of one part of the partition.

    Attributes:
        name: ``"train"``, ``"val"`` or ``"test"``.
        folder: Where the images are.
        names: Their file names.
        labels: (N, 40) uint8, 1 where the image has the attribute.
    """

    name: str
    folder: Path
    names: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def some(self, count: int | None) -> Split:
        """``count`` images spread evenly over the split; None for all, which must be the official number.

        Raises:
            OptionError: ``count`` is below one.
            DataError: There are not so many.
        """
        if count is not None and count < 1:
            raise OptionError(f"celeba: {self.name}={count} images were asked for; ask for one at least")
        official, have = COUNTS[self.name], len(self)
        if have < (count or 0) or (count is None and have != official):
            wanted = f"all {official:,}" if count is None else f"{count:,}"
            raise DataError(
                f"celeba: {wanted} images of the official {self.name} split are needed, and {_PARTITION_LIST} beside "
                f"{self.folder} names {have:,} there. {REMEDY}"
            )
        if count is None:
            return self
        rows = np.arange(count) * have // count
        return Split(self.name, self.folder, tuple(self.names[row] for row in rows), self.labels[rows])


def folder_of() -> Path:
    """The folder that ``$ACCORD_CELEBA`` names.

    Raises:
        DataError: It is not set, or names no folder.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise DataError(f"celeba: the data set is yours to bring, and {VARIABLE} is not set. {REMEDY}")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"celeba: {VARIABLE}={named} is not a folder. {REMEDY}")
    return folder


def read_splits(root: Path) -> dict[str, Split]:
    """The three splits by name, as the lists say, after a look whether all images are there.

    Raises:
        DataError: A list or image is missing, or a list is cut off, altered or contradicts the other.
    """
    paths = {name: _find(root, name) for name in _SUBFOLDERS}
    # read once a process, unless something changes
    return dict(_read_splits(*((path, path.stat().st_mtime_ns) for path in paths.values())))


def read_image(path: Path, size: int) -> np.ndarray:
    """An image as the published code reads it: RGB, squeezed to a square by Pillow's bilinear filter.

    Args:
        path: A JPEG file.
        size: Height and width to bring it to.

    Returns:
        (3, size, size) uint8.

    Raises:
        DataError: The file is missing, cut off, no JPEG, or not of the size of aligned images.
        DependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DependencyError("celeba: Pillow is missing: `pip install 'accord[experiments]'`") from error
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            if image.size != SIZE:
                raise DataError(
                    f"celeba: {path} has {image.size[0]}×{image.size[1]} pixels, where the aligned images have "
                    f"{SIZE[0]}×{SIZE[1]}. {REMEDY}"
                )
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"celeba: {path} is not a JPEG image of a face. {REMEDY}") from error
    except OSError as error:
        raise DataError(f"celeba: {path} cannot be read: {error.strerror or error}. {REMEDY}") from error
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def _find(root: Path, name: str) -> Path:
    """A list or the folder of images, in ``root`` or in the archive's subfolder."""
    for path in (root / name, root / _SUBFOLDERS[name] / name):
        if path.exists():
            return path
    raise DataError(f"celeba: {root} has neither {name} nor {_SUBFOLDERS[name]}/{name}. {REMEDY}")


@functools.lru_cache(maxsize=4)
def _read_splits(
    attributes: tuple[Path, int], partition: tuple[Path, int], images: tuple[Path, int]
) -> dict[str, Split]:
    names, labels = _read_attributes(attributes[0])
    codes = _read_partition(partition[0], names)
    folder = images[0]
    try:
        missing = set(names).difference(os.listdir(folder))
    except OSError as error:
        raise DataError(f"celeba: {folder}: {error.strerror or error}. {REMEDY}") from error
    if missing:
        raise DataError(
            f"celeba: {folder} lacks {len(missing):,} of the {len(names):,} images that {attributes[0].name} lists, "
            f"such as {min(missing)}. {REMEDY}"
        )
    splits = {}
    for code, split in enumerate(SPLITS):
        rows = np.flatnonzero(codes == code)
        if not len(rows):
            raise DataError(f"celeba: {partition[0]} names no image of the {split} split (code {code}). {REMEDY}")
        splits[split] = Split(split, folder, tuple(names[row] for row in rows), labels[rows])
    return splits


def _read_attributes(path: Path) -> tuple[list[str], np.ndarray]:
    """File names, and labels (N, 40) of 0 and 1."""
    lines = _lines(path)
    count, head = next(lines, (0, ""))[1].strip(), tuple(next(lines, (0, ""))[1].split())
    if not count.isdecimal() or head != ATTRIBUTES:
        raise DataError(
            f"celeba: {path} must begin with the number of images and a line with the {len(ATTRIBUTES)} attributes in "
            f"their official order, and begins with {count[:40]!r} and {len(head)} names. {REMEDY}"
        )
    names, values = [], []
    for number, line in lines:
        name, *row = line.split() or [""]
        if not _NAME.fullmatch(name) or len(row) != len(ATTRIBUTES) or not _SIGNS.issuperset(row):
            raise DataError(
                f"celeba: {path}, line {number}: a file name and {len(ATTRIBUTES)} values of 1 or -1 are needed, seen "
                f"{line[:60]!r}. {REMEDY}"
            )
        names.append(name)
        values.append([value == "1" for value in row])
    if len(names) != int(count) or len(set(names)) < len(names):
        raise DataError(
            f"celeba: {path} announces {int(count):,} images and lists {len(names):,}, {len(set(names)):,} of them "
            f"with names of their own: it was cut off or altered. {REMEDY}"
        )
    return names, np.array(values, np.uint8).reshape(-1, len(ATTRIBUTES))


_SIGNS = {"1", "-1"}


def _read_partition(path: Path, names: list[str]) -> np.ndarray:
    """The code of each image's split (N,): 0, 1 or 2."""
    codes: dict[str, int] = {}
    for number, line in _lines(path):
        row = line.split()
        if len(row) != 2 or row[1] not in ("0", "1", "2") or row[0] in codes:
            raise DataError(
                f"celeba: {path}, line {number}: a file name that no other line has, and 0, 1 or 2 are needed, seen "
                f"{line[:60]!r}. {REMEDY}"
            )
        codes[row[0]] = int(row[1])
    odd = set(codes).symmetric_difference(names)
    if odd:
        raise DataError(
            f"celeba: {path} lists {len(codes):,} images, {_ATTRIBUTE_LIST} {len(names):,}, and {len(odd):,} are in "
            f"one of them only, such as {min(odd)}. {REMEDY}"
        )
    return np.array([codes[name] for name in names], np.int64)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list with their numbers, without empty ones at its end."""
    try:
        text = path.read_text("ascii").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        cause = "not a text file" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise DataError(f"celeba: {path}: {cause}. {REMEDY}") from error
    return iter(enumerate(text.split("\n") if text else [], start=1))
