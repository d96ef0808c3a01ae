"""Images in MNIST's form that are made, not photographed: for runs that only show that everything works.

Class c is a bar at an angle of 18°·c under noise; place, length, thickness and brightness differ from image to image.
They stand where real images cannot be expected to be installed, and results name them as synthetic.
"""

from __future__ import annotations

import functools

import numpy as np

from accord.bench.data.idx import CLASSES, SIDE, Labelled
from accord.bench.data.mnist import DataSet
from accord.bench.spec import derive_seed


@functools.cache
def made(name: str = "bars", train: int = 1_000, test: int = 500) -> DataSet:
    """Bars at ten angles; the same for the same arguments."""
    return DataSet(_bars(f"{name}/train", train), _bars(f"{name}/test", test), "synthetic bars")


def _bars(name: str, count: int) -> Labelled:
    draw = np.random.RandomState(derive_seed("mnist", "made", name) % 2**32)  # its stream never changes
    labels = draw.permutation(np.arange(count) % CLASSES)  # no order that taking every tenth would keep
    angle = np.pi / CLASSES * labels + draw.uniform(-0.1, 0.1, count)
    centre = (SIDE - 1) / 2 + draw.uniform(-2, 2, (2, count))
    length, width = draw.uniform(7, 11, count), draw.uniform(1, 2, count)
    brightness = draw.uniform(170, 255, count)
    y, x = np.mgrid[:SIDE, :SIDE]
    dy, dx = (c[:, None, None] for c in centre)
    dy, dx = y - dy, x - dx  # (n, 28, 28)
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along, across = np.abs(dx * cos + dy * sin), np.abs(dy * cos - dx * sin)
    inside = (along < length[:, None, None]) & (across < width[:, None, None])
    images = np.where(inside, brightness[:, None, None], 0) + draw.uniform(0, 40, inside.shape)
    return Labelled(images.clip(0, 255).astype(np.uint8), labels.astype(np.uint8))
