"""Small made scenes in MTAN's layout, so that its loader and the experiments can be tried without the real data.

Each is one smooth random surface seen through a pinhole camera: its depth, its normals from the depth, random smooth
regions as classes, and an image in which a class is a colour, lit from the side. They are synthetic, and say nothing
about the real data sets.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from accord.bench.data.making import made
from accord.bench.data.mtan_layout import Layout
from accord.bench.spec import derive_seed

VERSION = 1
"""Raised when a change alters the scenes; part of the folder's name."""


def made_folder(layout: Layout) -> Path:
    """Where the scenes of a layout are: below ``$ACCORD_CACHE``, by default ``~/.cache/accord``."""
    height, width = layout.size
    counts = "-".join(str(count) for count in layout.counts.values())
    cache = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser()
    return cache / "made" / f"{layout.name}-{height}x{width}-{counts}-v{VERSION}"


def make(layout: Layout) -> Path:
    """Write the scenes of a layout unless they are there, whole or not at all; the folder.

    Raises:
        DataError: The cache folder cannot be written.
    """
    return made(made_folder(layout), lambda root: write(root, layout), f"{layout.name}: cannot make scenes")


def write(root: Path, layout: Layout) -> None:
    """Write all scenes of a layout below ``root``."""
    for split, count in layout.counts.items():
        for key in layout.folders:
            (root / split / layout.folders[key]).mkdir(parents=True)
        for number in range(count):
            for key, array in scene(layout, split, number).items():
                np.save(root / split / layout.folders[key] / f"{number}.npy", array)


def scene(layout: Layout, split: str, number: int) -> dict[str, np.ndarray]:
    """One scene in the shapes of MTAN's files, float64."""
    random = np.random.default_rng(derive_seed("made", layout.name, VERSION, split, number))
    height, width = layout.size
    depth = 2.5 + 0.8 * _smooth(random, height, width)
    normal = _normals(depth)
    label = np.stack([_smooth(random, height, width) for _ in range(layout.classes)]).argmax(axis=0)
    # classes have the same colours in every scene
    palette = np.random.default_rng(derive_seed("made", layout.name, "palette")).uniform(0.2, 1, (layout.classes, 3))
    light = np.array([0.5, -0.5, -0.7]) / np.linalg.norm([0.5, -0.5, -0.7])
    shade = 0.4 + 0.6 * (normal @ light).clip(0, 1)
    image = (palette[label] * shade[..., None] + 0.02 * random.standard_normal((height, width, 3))).clip(0, 1)
    known = random.random((height, width)) > 0.05
    maps = {
        "image": image,
        "label": np.where(known, label, -1).astype(np.float64),
        "depth": (depth * known)[..., None],
        "normal": normal * known[..., None],
    }
    return {key: maps[key] for key in layout.folders}


def _smooth(random: np.random.Generator, height: int, width: int, waves: int = 6) -> np.ndarray:
    """A sum of waves that repeat once or twice over the image; from about −1 to 1."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    directions, phases = random.normal(0, 8, (waves, 2)), random.uniform(0, 2 * np.pi, waves)
    total = sum(np.sin(a * x + b * y + phase) for (a, b), phase in zip(directions, phases, strict=True))
    return total / np.sqrt(2 * waves)


def _normals(depth: np.ndarray) -> np.ndarray:
    """Unit normals (H, W, 3) towards a pinhole camera (x right, y down, z forward) whose focal length is the width."""
    height, width = depth.shape
    y, x = np.mgrid[0:height, 0:width]
    points = np.stack(((x - width / 2) / width, (y - height / 2) / width, np.ones_like(depth)), axis=-1)
    points *= depth[..., None]
    down, right = np.gradient(points, axis=(0, 1))
    normal = np.cross(down, right)  # down × right points to the camera, along −z
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)
