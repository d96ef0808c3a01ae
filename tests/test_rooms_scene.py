"""Furnished rooms: nothing overlaps, all is inside, the camera sees, and the same number is the same room for ever."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accord.bench.data.rooms_camera import cast
from accord.bench.data.rooms_layout import make_room
from accord.bench.data.rooms_scene import CLASSES, Camera, Draws, Paint, Part, Room, overlap

PAINT = Paint("plain", (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [make_room(split, number) for split in ("train", "test") for number in range(12)]


def inside(part: Part, points: np.ndarray) -> np.ndarray:
    """Which points (N, 3) are inside a part, by the definition of its shape."""
    cos, sin = math.cos(part.turn), math.sin(part.turn)
    off = points - part.centre
    x, y, z = off[:, 0] * cos + off[:, 1] * sin, off[:, 1] * cos - off[:, 0] * sin, off[:, 2]
    width, depth, height = np.array(part.size) / 2 - 1e-6
    if part.shape == "ball":
        return x**2 + y**2 + z**2 < width**2
    if part.shape == "rod":
        return (x**2 + y**2 < width**2) & (abs(z) < height)
    return (abs(x) < width) & (abs(y) < depth) & (abs(z) < height)


def within(part: Part, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random points and the corners of a part's bounding box, those that are in it."""
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3) * (1 - 1e-5)
    local = np.concatenate([corners, rng.uniform(-1, 1, (count, 3))]) * np.array(part.size) / 2
    cos, sin = math.cos(part.turn), math.sin(part.turn)
    x, y = local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos
    points = np.stack([x, y, local[:, 2]], -1) + part.centre
    return points if part.shape == "sheet" else points[inside(part, points)]


def test_no_part_reaches_into_another(rooms: list[Room]) -> None:
    rng = np.random.default_rng(0)
    for room in rooms:
        points = [within(part, 40, rng) for part in room.parts]
        owner = np.repeat(np.arange(len(points)), [len(each) for each in points])
        every = np.concatenate(points)
        for number, part in enumerate(room.parts):
            strangers = owner[inside(part, every) & (owner != number)]
            assert not len(strangers), (part, [room.parts[i] for i in set(strangers)])


def test_everything_is_in_the_room(rooms: list[Room]) -> None:
    rng = np.random.default_rng(1)
    for room in rooms:
        for part in room.parts[6:]:
            points = within(part, 0, rng)
            assert (points >= 0).all(), part
            assert (points <= room.size).all(), part
        assert {part.kind for part in room.parts[:6]} == {"floor", "ceiling", "wall"}
        assert all(part.kind in CLASSES for part in room.parts)
        assert any(part.light for part in room.parts)


def test_the_camera_is_inside_and_sees_the_room(rooms: list[Room]) -> None:
    for room in rooms:
        eye = np.array([room.camera.eye])
        assert (eye > 0.2).all()
        assert (eye < np.array(room.size) - 0.2).all()
        assert not any(inside(part, eye)[0] for part in room.parts)
        depth, index = cast(room.parts, room.camera.eye, room.camera.rays(24, 32).reshape(-1, 3))
        assert depth.min() > 0.3
        assert depth.max() < math.dist((0, 0, 0), room.size)  # the room is closed
        assert len({room.parts[i].kind for i in index}) >= 4


def test_every_class_occurs_in_some_room(rooms: list[Room]) -> None:
    assert {part.kind for room in rooms for part in room.parts} == set(CLASSES)


def test_a_room_is_the_same_for_ever_and_no_two_are_alike(rooms: list[Room]) -> None:
    assert make_room("train", 3) == rooms[3]
    assert len({room.size for room in rooms}) == len(rooms)
    # If these change, so do all frames: raise rooms_frames.FORMAT, and the experiment's version.
    assert rooms[0].size == pytest.approx((3.38411589484, 3.48283549838, 2.66497852594), abs=1e-9)
    assert len(rooms[0].parts) == 97
    assert rooms[0].camera.eye == pytest.approx((0.618967281481, 1.54593540242, 1.33419933038), abs=1e-9)


def test_draws_are_uniform_and_follow_their_name() -> None:
    values = Draws("a").array(20_000)
    assert ((values >= 0) & (values < 1)).all()
    np.testing.assert_allclose(np.histogram(values, 10, (0, 1))[0] / 20_000, 0.1, atol=0.01)
    assert (values == Draws("a").array(20_000)).all()
    assert not (values == Draws("b").array(20_000)).any()
    faces = [Draws("die", i).whole(1, 3) for i in range(300)]
    assert set(faces) == {1, 2, 3}


def test_overlap_agrees_with_random_points() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(300):
        first, second = (
            Part("box", tuple(rng.uniform(-1, 1, 3)), tuple(rng.uniform(0.3, 2, 3)), "table", PAINT, rng.uniform(0, 7))
            for _ in range(2)
        )
        shared = inside(second, within(first, 3000, rng)).any() or inside(first, within(second, 3000, rng)).any()
        if shared:
            assert overlap(first, second)
        found.append((shared, overlap(first, second)))
    assert np.mean([shared == said for shared, said in found]) > 0.97  # points miss a very small intersection
    assert {said for _, said in found} == {True, False}
    assert overlap(first, first.moved(0, 0, 9, 0), margin=10)
    assert not overlap(first, first.moved(0, 0, 9, 0), margin=5)


def test_rays_end_on_the_surface_of_the_part_they_meet() -> None:
    room = make_room("test", 0)
    rays = room.camera.rays(30, 40).reshape(-1, 3)
    depth, index = cast(room.parts, room.camera.eye, rays)
    before, behind = (np.array(room.camera.eye) + rays * (depth + step)[:, None] for step in (-1e-4, 1e-4))
    solid = np.array([room.parts[i].shape != "sheet" for i in index])
    entered = np.array([inside(room.parts[i], behind[n : n + 1])[0] for n, i in enumerate(index)])
    assert entered[solid].mean() > 0.995  # a ray may graze an edge
    assert not any(inside(part, before).any() for part in room.parts)


def test_the_camera_looks_at_its_target() -> None:
    camera = Camera((1.0, 2.0, 1.5), (4.0, 3.0, 0.5), field=70)
    axes = camera.axes()
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert axes[0, 2] == pytest.approx(0)  # no roll
    assert axes[1, 2] > 0
    rays = camera.rays(3, 5)
    ahead = np.subtract(camera.target, camera.eye)
    np.testing.assert_allclose(rays[1, 2], ahead / np.linalg.norm(ahead), atol=1e-12)
    edge = camera.rays(1, 10_000)[0]
    spread = math.degrees(math.acos(edge[0] @ edge[-1] / np.linalg.norm(edge[0]) / np.linalg.norm(edge[-1])))
    assert spread == pytest.approx(70, abs=0.02)
