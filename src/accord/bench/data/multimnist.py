"""Two images in one: MultiMNIST, after Sener and Koltun (NeurIPS 2018), and its like from Fashion-MNIST.

On a canvas of 36 × 36 pixels one image lies at the top left and another towards the bottom right; where they overlap,
the brighter pixel shows. The published code then stretches the canvas to the full range of brightness and takes the
pixels nearest to a grid of 28 × 28 (``scipy.misc.imresize``, which did both and is gone).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accord.bench.data.idx import SIDE, Labelled
from accord.bench.spec import derive_seed
from accord.errors import OptionError, ShapeError

CANVAS = 36
"""Height and width of the canvas in pixels."""

OFFSETS = (6, 8)
"""Where the right image begins: at 6 in the published code of MultiMNIST, with two pixels free; at 8, in the corner."""

SIZES = (28, 36)
"""Sizes of the result: 28 in the published code of MultiMNIST; 36, the canvas itself, in that of Pareto MTL."""

_BLOCK = 5_000  # pairs at a time, to keep memory low


@dataclass(frozen=True, eq=False)
class Pairs:
    """Overlaid images and what they show.

    Attributes:
        images: (n, S, S) uint8.
        labels: (n, 2) uint8, of the left and the right image.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def pair(left: Labelled, right: Labelled, times: int, offset: int, size: int, *seeds: object) -> Pairs:
    """Overlay every left image with random right ones.

    Args:
        left: The n images for the top left.
        right: Those for the bottom right. If it is ``left`` itself, no image meets itself.
        times: How many partners each left image has, one after the other.
        offset: See ``OFFSETS``.
        size: See ``SIZES``.
        *seeds: Names of the draw: equal names give equal pairs on every machine.

    Returns:
        ``times · n`` pairs; pair i has the left image i modulo n.

    Raises:
        OptionError: ``times``, ``offset`` or ``size`` is out of range.
        ShapeError: There are too few images.
    """
    if times < 1:
        raise OptionError(f"multimnist: times={times} partners for each image; there must be one at least")
    same = right is left
    if not len(left) or len(right) - same < 1:
        raise ShapeError(f"multimnist: {len(left)} left and {len(right)} right images cannot be paired")
    first = np.tile(np.arange(len(left)), times)
    second = np.array([derive_seed("multimnist", *seeds, i) % (len(right) - same) for i in range(len(first))])
    if same:
        second += second >= first  # over all images but the one itself
    images = np.concatenate(
        [
            overlay(left.images[first[i : i + _BLOCK]], right.images[second[i : i + _BLOCK]], offset, size)
            for i in range(0, len(first), _BLOCK)
        ]
    )
    return Pairs(images, np.stack([left.labels[first], right.labels[second]], axis=1))


def overlay(left: np.ndarray, right: np.ndarray, offset: int = 6, size: int = 28) -> np.ndarray:
    """Lay images over each other.

    Args:
        left: (n, 28, 28) uint8, at the top left.
        right: (n, 28, 28) uint8, ``offset`` pixels further down and to the right.
        offset: See ``OFFSETS``.
        size: See ``SIZES``; 28 stretches the brightness and takes the nearest pixels, 36 gives the canvas as it is.

    Returns:
        (n, size, size) uint8.

    Raises:
        OptionError: ``offset`` or ``size`` is none of the published ones.
        ShapeError: The images have other shapes.
    """
    if offset not in OFFSETS or size not in SIZES:
        raise OptionError(f"multimnist: offset={offset} must be one of {OFFSETS} and size={size} one of {SIZES}")
    if left.shape != right.shape or left.shape[1:] != (SIDE, SIDE):
        raise ShapeError(f"multimnist: images of shape {left.shape} and {right.shape}; both must be (n, 28, 28)")
    canvas = np.zeros((len(left), CANVAS, CANVAS), np.uint8)
    canvas[:, :SIDE, :SIDE] = left
    corner = canvas[:, offset : offset + SIDE, offset : offset + SIDE]
    np.maximum(corner, right, out=corner)
    if size == CANVAS:
        return canvas
    nearest = ((np.arange(size) + 0.5) * CANVAS / size).astype(int)
    brightest = canvas.max((1, 2), initial=1)[:, None, None]  # the darkest is 0: two corners are always empty
    stretched = canvas[:, nearest[:, None], nearest] * (255.0 / brightest) + 0.5
    return stretched.astype(np.uint8)
