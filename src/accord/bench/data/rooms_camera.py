"""Where the camera stands, and which part of a room a ray meets first, by the geometry of boxes, balls and rods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from accord.bench.data.rooms_scene import Camera, Draws, Part, Point

CLEARANCE = 0.5
"""Metres that are free in front of the camera."""


def cast(parts: Sequence[Part], origin: Point, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first part that each ray meets.

    Args:
        parts: The solids.
        origin: Where all rays begin.
        directions: (R, 3), of any length.

    Returns:
        (R,) distances in units of the directions' lengths, infinite where nothing is met; (R,) the parts' indices.
    """
    nearest, index = np.full(len(directions), np.inf), np.full(len(directions), -1)
    for meet, shapes in ((_meet_slabs, ("box", "sheet")), (_meet_ball, ("ball",)), (_meet_rod, ("rod",))):
        numbers = np.array([number for number, part in enumerate(parts) if part.shape in shapes])
        if not len(numbers):
            continue
        chosen = [parts[number] for number in numbers]
        cos, sin = np.cos([part.turn for part in chosen]), np.sin([part.turn for part in chosen])
        offset = np.subtract(origin, [part.centre for part in chosen])
        half = np.array([part.size for part in chosen]) / 2
        distance = meet(_turned(offset, cos, sin), _turned(directions[:, None], cos, sin), half)  # (R, N)
        first = distance.argmin(axis=1)
        found = distance[np.arange(len(directions)), first]
        nearer = found < nearest
        nearest[nearer], index[nearer] = found[nearer], numbers[first[nearer]]
    return nearest, index


def _turned(vectors: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Vectors (…, N, 3) in the frames of N parts."""
    x, y, z = np.broadcast_arrays(vectors[..., 0], vectors[..., 1], vectors[..., 2])
    return np.stack(np.broadcast_arrays(cos * x + sin * y, cos * y - sin * x, z), -1)


def place_camera(draws: Draws, size: Point, parts: Sequence[Part]) -> Camera:
    """Of sixteen views from near a wall, the one that shows most: many parts of many classes, and not too near."""
    best, found = -math.inf, None
    key, field = draws.between(0.18, 0.34), draws.between(62, 78)
    for _ in range(16):
        camera = _candidate(draws, size, field, key)
        rays = camera.rays(12, 16).reshape(-1, 3)
        depth, index = cast(parts, camera.eye, rays)
        near = float(depth.min())
        labels, counts = np.unique([parts[i].label for i in index], return_counts=True)
        seen = len(set(index[index >= 6].tolist()))
        score = len(labels) + 0.08 * seen + float(np.median(depth)) / 2 - 4 * float(counts.max()) / len(rays)
        score -= 10 * max(0.0, CLEARANCE - near)
        if score > best:
            best, found = score, camera
    assert found is not None
    return found


def _candidate(draws: Draws, size: Point, field: float, key: float) -> Camera:
    width, depth, _ = size
    along, off = draws.between(0.12, 0.88), draws.between(0.25, 0.7)
    x, y = draws.choice(
        ((along * width, off), (along * width, depth - off), (off, along * depth), (width - off, along * depth))
    )
    eye = (x, y, draws.between(1.15, 1.75))
    target = (width * draws.between(0.3, 0.7), depth * draws.between(0.3, 0.7), draws.between(0.45, 1.1))
    if math.dist(eye[:2], target[:2]) < 0.5:
        target = (width - x, depth - y, target[2])
    return Camera(eye, target, field, key)


def _meet_slabs(o: np.ndarray, d: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Where rays enter boxes, or leave them if they begin inside: (R, N) from (N, 3), (R, N, 3), (N, 3)."""
    d = np.where(d == 0, 1e-300, d)
    with np.errstate(over="ignore"):
        first, second = (-half - o) / d, (half - o) / d
    near, far = np.minimum(first, second), np.maximum(first, second)
    enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), near[..., 2])  # several times as fast as .max(-1)
    leave = np.minimum(np.minimum(far[..., 0], far[..., 1]), far[..., 2])
    distance = np.where(enter > 0, enter, leave)
    return np.where((enter <= leave) & (distance > 0), distance, np.inf)


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The real solutions of a t² + 2 b t + c = 0, the smaller first; infinite where there is none."""
    a = np.where(a == 0, 1e-300, a)
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    with np.errstate(over="ignore"):
        return np.where(inside >= 0, (-b - root) / a, np.inf), np.where(inside >= 0, (-b + root) / a, np.inf)


def _meet_ball(o: np.ndarray, d: np.ndarray, half: np.ndarray) -> np.ndarray:
    first, second = _roots((d * d).sum(-1), (d * o).sum(-1), (o * o).sum(-1) - half[:, 0] ** 2)
    distance = np.where(first > 0, first, second)
    return np.where(distance > 0, distance, np.inf)


def _meet_rod(o: np.ndarray, d: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The curved sides and the ends of upright cylinders."""
    flat, start, radius = d[..., :2], o[:, :2], half[:, 0]
    best = np.full(d.shape[:-1], np.inf)
    for t in _roots((flat * flat).sum(-1), (flat * start).sum(-1), (start * start).sum(-1) - radius**2):
        with np.errstate(invalid="ignore", over="ignore"):
            hit = (t > 0) & (np.abs(o[:, 2] + t * d[..., 2]) <= half[:, 2])
        best = np.where(hit & (t < best), t, best)
    rise = np.where(d[..., 2] == 0, 1e-300, d[..., 2])
    for end in (-half[:, 2], half[:, 2]):
        with np.errstate(over="ignore"):
            t = (end - o[:, 2]) / rise
            hit = (t > 0) & (((start + t[..., None] * flat) ** 2).sum(-1) <= radius**2)
        best = np.where(hit & (t < best), t, best)
    return best
