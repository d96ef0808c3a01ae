"""Small made images in CelebA's official layout, so that its loader and the experiment can be tried without the data.

They show no faces: each attribute is a patch of an 8×5 grid, bright where the image has it. They are synthetic, and say
nothing about CelebA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from accord.bench.data.celeba import ATTRIBUTES, SIZE, SPLITS
from accord.bench.data.making import made
from accord.bench.spec import derive_seed
from accord.errors import DependencyError

VERSION = 1
"""Raised when a change alters the images; part of the folder's name."""
_ROWS, _COLUMNS = 8, 5


def made_folder(counts: Mapping[str, int]) -> Path:
    """Where the images are: below ``$ACCORD_CACHE``, by default ``~/.cache/accord``."""
    cache = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser()
    return cache / "made" / f"celeba-{'-'.join(str(counts[split]) for split in SPLITS)}-v{VERSION}"


def make(counts: Mapping[str, int]) -> Path:
    """Write so many images of each split unless they are there, whole or not at all; the folder.

    Raises:
        DataError: The cache folder cannot be written.
        DependencyError: Pillow is not installed.
    """
    return made(made_folder(counts), lambda root: write(root, counts), "celeba: cannot make images")


def write(root: Path, counts: Mapping[str, int]) -> None:
    """Write the two lists and the images below ``root``.

    Raises:
        DependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DependencyError("celeba: Pillow is missing: `pip install 'accord[experiments]'`") from error
    (root / "img_align_celeba").mkdir()
    attributes, partition = [], []
    for code, split in enumerate(SPLITS):
        for index in range(counts[split]):
            name = f"{len(attributes) + 1:06}.jpg"
            labels, pixels = image(split, index)
            Image.fromarray(pixels).save(root / "img_align_celeba" / name, quality=90)
            attributes.append(f"{name} {' '.join('1' if label else '-1' for label in labels)}")
            partition.append(f"{name} {code}")
    head = [str(len(attributes)), " ".join(ATTRIBUTES)]
    (root / "list_attr_celeba.txt").write_text("\n".join([*head, *attributes]) + "\n", "ascii")
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n", "ascii")


def image(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels (40,) bool and the pixels (218, 178, 3) uint8 of one image."""
    random = np.random.default_rng(derive_seed("made", "celeba", VERSION, split, index))
    labels = random.random(len(ATTRIBUTES)) < 0.8  # so that F1 is not 0 for a network that has learnt nothing
    bright = np.where(labels, 200, 60).reshape(_ROWS, _COLUMNS, 1) + random.normal(0, 20, (_ROWS, _COLUMNS, 3))
    width, height = SIZE
    rows, columns = np.arange(height) * _ROWS // height, np.arange(width) * _COLUMNS // width
    return labels, bright.clip(0, 255).astype(np.uint8)[rows][:, columns]
