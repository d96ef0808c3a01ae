"""Random furnished rooms as plain solids in metres: what stands where, of which class, painted how, seen from where.

Every room is a function of its split and number alone. All draws come from a bit generator whose stream NumPy
promises to keep, so that a room does not change with the version of NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from accord.bench.spec import derive_seed

CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "television",
    "wall",
    "window",
)
"""The names and the order of NYUv2's 13 classes; what falls under them here is told in docs/experiments/rooms.md."""

Colour = tuple[float, float, float]
Point = tuple[float, float, float]
Shape = Literal["box", "ball", "rod", "sheet"]
_Value = TypeVar("_Value")


class Draws:
    """Random numbers from named parts, the same for ever."""

    def __init__(self, *parts: object) -> None:
        self._bits = np.random.PCG64(derive_seed("rooms", *parts))

    def array(self, *shape: int) -> np.ndarray:
        """Uniform float64 values in [0, 1) of a shape."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), np.uint64)
        return (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self.array(1)[0])

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.between(0, high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.between(0, 1) < probability

    def choice(self, values: Sequence[_Value]) -> _Value:
        """One of the values."""
        return values[self.whole(0, len(values) - 1)]


@dataclass(frozen=True)
class Paint:
    """How a surface looks.

    Attributes:
        pattern: ``plain``, ``planks``, ``tiles``, ``stripes``, ``checks``, ``cloth`` or ``picture``.
        colour: Linear reflectance in red, green and blue.
        other: The second colour of a pattern that has two.
        tile: Edge of one repetition of the pattern in metres; 0 stretches one over each face.
        seed: Of the pattern's own details.
        gloss: Whether it has a smooth coat.
    """

    pattern: str
    colour: Colour
    other: Colour = (0.0, 0.0, 0.0)
    tile: float = 0.0
    seed: int = 0
    gloss: bool = False


@dataclass(frozen=True)
class Part:
    """One solid of a room.

    Attributes:
        shape: A box, a ball, an upright cylinder (rod), or an upright rectangle without thickness that faces its
            local +y (sheet).
        centre: In metres; x and y along the floor, z up.
        size: Extent along its own x, y and z in metres, before it is turned.
        turn: Angle about the z axis in radians.
        kind: A name of ``CLASSES``.
        paint: Its surface.
        light: The radiance it emits in red, green and blue, or None.
    """

    shape: Shape
    centre: Point
    size: Point
    kind: str
    paint: Paint
    turn: float = 0.0
    light: Colour | None = None

    @property
    def label(self) -> int:
        """Index of the class."""
        return CLASSES.index(self.kind)

    def moved(self, x: float, y: float, z: float, turn: float) -> Part:
        """The part of an object that is turned about its own origin and then put at (x, y, z)."""
        cos, sin = math.cos(turn), math.sin(turn)
        px, py, pz = self.centre
        centre = (x + cos * px - sin * py, y + sin * px + cos * py, z + pz)
        return replace(self, centre=centre, turn=self.turn + turn)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without roll.

    Attributes:
        eye: Where it is, in metres.
        target: What its optical axis points at.
        field: Horizontal field of view in degrees.
        key: The luminance that the tone mapping gives to the frame's log-mean luminance.
    """

    eye: Point
    target: Point
    field: float
    key: float = 0.25

    def axes(self) -> np.ndarray:
        """(3, 3) rows: right, up, and backwards, the axes of camera space, in world coordinates."""
        back = np.subtract(self.eye, self.target)
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(back, right), back])

    def rays(self, height: int, width: int) -> np.ndarray:
        """(H, W, 3) world directions through the pixels' centres, of length 1 along the optical axis."""
        half = math.tan(math.radians(self.field) / 2)
        x = ((np.arange(width) + 0.5) / width * 2 - 1) * half
        y = (1 - (np.arange(height) + 0.5) / height * 2) * half * height / width
        local = np.stack([*np.meshgrid(x, y), -np.ones((height, width))], -1)
        return local @ self.axes()


@dataclass(frozen=True)
class Room:
    """A room and the camera in it.

    Attributes:
        size: Width (x), depth (y) and height (z) of its inside in metres; a corner of the floor is the origin.
        parts: All solids; walls, floor and ceiling are the first six.
        camera: Inside the room.
    """

    size: Point
    parts: tuple[Part, ...]
    camera: Camera


def overlap(first: Part, second: Part, margin: float = 0.0) -> bool:
    """Whether two parts' bounding boxes, which turn with them, come nearer than a margin in metres.

    Exact for boxes with margin 0; a rod or a ball is taken for its box.
    """
    gap = abs(first.centre[2] - second.centre[2]) - (first.size[2] + second.size[2]) / 2
    if gap >= margin:
        return False
    between = np.subtract(first.centre[:2], second.centre[:2])
    axes = [
        np.array([math.cos(t), math.sin(t)]) for turn in (first.turn, second.turn) for t in (turn, turn + np.pi / 2)
    ]
    for axis in axes:
        reach = sum(
            abs(axis @ (math.cos(part.turn + quarter), math.sin(part.turn + quarter))) * size / 2
            for part in (first, second)
            for quarter, size in ((0.0, part.size[0]), (np.pi / 2, part.size[1]))
        )
        if abs(axis @ between) - reach >= margin:
            return False
    return True
