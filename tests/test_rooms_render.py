"""Rendered rooms against geometry: depth, normals and classes of every pixel, and the same bytes from any process."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from accord.bench.data.rooms_camera import cast
from accord.bench.data.rooms_layout import make_room
from accord.bench.data.rooms_render import Frame, pattern, photograph, render
from accord.bench.data.rooms_scene import CLASSES, Camera, Paint, Part, Room
from accord.errors import DependencyError, OptionError

pytest.importorskip("mitsuba")
HEIGHT, WIDTH = 48, 64
FLOOR, CEILING, WALL, OBJECTS = (CLASSES.index(kind) for kind in ("floor", "ceiling", "wall", "objects"))


@pytest.fixture(scope="module")
def views() -> list[tuple[Room, Frame]]:
    return [(room, render(room, HEIGHT, WIDTH, 1)) for room in (make_room("test", number) for number in range(4))]


def empty_room() -> Room:
    """4 × 5 × 3 metres, seen along +y from its middle."""
    room = make_room("test", 0)
    parts = [dataclasses.replace(part, paint=Paint("plain", (0.5, 0.5, 0.5))) for part in room.parts[:6]]
    boxes = [((2, 2.5, -0.05), (4, 5, 0.1)), ((2, 2.5, 3.05), (4, 5, 0.1)), ((2, -0.05, 1.5), (4, 0.1, 3))]
    boxes += [((4.05, 2.5, 1.5), (0.1, 5, 3)), ((2, 5.05, 1.5), (4, 0.1, 3)), ((-0.05, 2.5, 1.5), (0.1, 5, 3))]
    shell = [dataclasses.replace(p, centre=c, size=s) for p, (c, s) in zip(parts, boxes, strict=True)]
    lamp = Part("ball", (2, 2.5, 2.7), (0.2, 0.2, 0.2), "objects", parts[0].paint, light=(9, 9, 9))
    return Room((4, 5, 3), (*shell, lamp), Camera((2, 1, 1.5), (2, 4, 1.5), field=90))


def points_of(frame_depth: np.ndarray, field: float) -> np.ndarray:
    """(H, W, 3) camera-space points (x right, y up, z backwards) from planar depth alone."""
    height, width = frame_depth.shape
    half = np.tan(np.radians(field) / 2)
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * half
    y = -((np.arange(height) + 0.5) / height * 2 - 1) * half * height / width
    return np.stack([x[None] * frame_depth, y[:, None] * frame_depth, -frame_depth], -1)


def test_depth_and_normals_of_an_empty_room_are_those_of_its_planes() -> None:
    frame = render(empty_room(), 60, 80, 1)
    rays = points_of(np.ones((60, 80)), 90)  # of planar depth 1
    right, up = rays[..., 0], rays[..., 1]
    # The camera looks along +y: right is +x. Walls at 2 m to both sides, 4 m ahead; floor 1.5 m below, ceiling above.
    with np.errstate(divide="ignore"):
        distance = np.stack([2 / abs(right), 1.5 / abs(up), np.full_like(up, 4.0)])
    which, expected = distance.argmin(0), distance.min(0)
    keep = frame.label != OBJECTS  # the lamp
    assert keep.mean() > 0.98
    np.testing.assert_allclose(frame.depth[keep], expected[keep], rtol=1e-5)
    zero, sign_x, sign_y = np.zeros_like(up), -np.sign(right), -np.sign(up)
    normals = np.stack(
        [np.stack([sign_x, zero, zero], -1), np.stack([zero, sign_y, zero], -1), np.stack([zero, zero, zero + 1], -1)]
    )
    truth = np.take_along_axis(normals, which[None, ..., None], 0)[0]
    np.testing.assert_allclose(frame.normal[keep], truth[keep], atol=1e-5)
    kinds = np.where(which == 1, np.where(up < 0, FLOOR, CEILING), WALL)
    assert (frame.label[keep] == kinds[keep]).all()


def test_depth_and_classes_agree_with_rays_cast_without_mitsuba(views: list[tuple[Room, Frame]]) -> None:
    for room, frame in views:
        rays = room.camera.rays(HEIGHT, WIDTH)  # of planar depth 1
        depth, index = cast(room.parts, room.camera.eye, rays.reshape(-1, 3))
        labels = np.array([part.label for part in room.parts])[index]
        assert (labels == frame.label.ravel()).mean() > 0.999
        assert (abs(depth - frame.depth.ravel()) < 1e-3).mean() > 0.999
        assert np.median(abs(depth - frame.depth.ravel())) < 1e-5


def test_normals_agree_with_those_of_the_depth_map(views: list[tuple[Room, Frame]]) -> None:
    for room, frame in views:
        points = points_of(frame.depth.astype(np.float64), room.camera.field)
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        found = np.cross(down, across)
        found /= np.linalg.norm(found, axis=-1, keepdims=True)
        cosine = (found * frame.normal[1:-1, 1:-1]).sum(-1)
        angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        inverse = 1 / frame.depth.astype(np.float64)  # on a plane an affine function of the pixel
        bend_x = abs(inverse[1:-1, 2:] + inverse[1:-1, :-2] - 2 * inverse[1:-1, 1:-1])
        bend_y = abs(inverse[2:, 1:-1] + inverse[:-2, 1:-1] - 2 * inverse[1:-1, 1:-1])
        plane = (bend_x < 1e-5) & (bend_y < 1e-5)
        assert plane.mean() > 0.3
        assert np.median(angles[plane]) < 0.02
        assert np.quantile(angles[plane], 0.99) < 0.5


def test_classes_are_consistent_with_geometry(views: list[tuple[Room, Frame]]) -> None:
    for room, frame in views:
        world = frame.normal @ room.camera.axes()
        points = room.camera.eye + room.camera.rays(HEIGHT, WIDTH) * frame.depth[..., None].astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(frame.normal, axis=-1), 1, atol=1e-5)
        towards = (frame.normal * points_of(np.ones((HEIGHT, WIDTH)), room.camera.field)).sum(-1)
        assert (towards < 1e-6).all()  # every visible surface faces the camera
        level = {FLOOR: 0.0, CEILING: room.size[2]}
        for label, sign in ((FLOOR, 1), (CEILING, -1)):
            chosen = frame.label == label
            flat = world[chosen] @ (0, 0, sign) > 0.999
            assert flat.mean() > 0.99 if label == FLOOR else flat.all()  # a rug has an edge of some millimetres
            assert (abs(points[chosen][:, 2] - level[label]) < 0.01).all()
        wall = world[frame.label == WALL]
        assert (abs(wall[:, 2]) < 1e-4).all()
        assert ((points > -1e-3) & (points < np.array(room.size) + 1e-3)).all()
        assert set(np.unique(frame.label)) <= {part.label for part in room.parts}


def test_a_ball_is_round() -> None:
    room = empty_room()
    ball = Part("ball", (2.3, 2.5, 1.2), (0.8, 0.8, 0.8), "objects", Paint("plain", (0.5, 0.1, 0.1)))
    frame = render(dataclasses.replace(room, parts=(*room.parts, ball)), HEIGHT, WIDTH, 1)
    points = room.camera.eye + room.camera.rays(HEIGHT, WIDTH) * frame.depth[..., None].astype(np.float64)
    radius = np.linalg.norm(points - ball.centre, axis=-1)
    chosen = abs(radius - 0.4) < 1e-3
    assert chosen.sum() > 100
    assert (frame.label[chosen] == OBJECTS).all()
    truth = (points[chosen] - ball.centre) / 0.4
    assert ((frame.normal[chosen] @ room.camera.axes() * truth).sum(-1) > 0.9999).all()


def digest(frame: Frame) -> str:
    arrays = (frame.image, frame.label, frame.depth, frame.normal)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_the_same_bytes_in_another_process_and_with_other_threads() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import drjit, test_rooms_render as t\n"
        "for threads in (1, 3):\n"
        "    drjit.set_thread_count(threads); print(t.digest(t.render(t.make_room('train', 5), 24, 32, 4)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, os.path.dirname(__file__)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.split() == [digest(render(make_room("train", 5), 24, 32, 4))] * 2


def test_more_samples_change_the_photograph_alone() -> None:
    room = make_room("train", 7)
    one, many, most = (render(room, 24, 32, samples) for samples in (1, 16, 144))
    for name in ("label", "depth", "normal"):
        assert (getattr(one, name) == getattr(many, name)).all()
    noise = [np.square(frame.image.astype(float) - most.image).mean() for frame in (one, many)]
    assert noise[1] < noise[0] / 4
    assert most.image.std() > 10  # something is to be seen
    assert 30 < most.image.mean() < 220


def test_a_photograph_is_srgb() -> None:
    radiance = np.linspace(0, 5, 60).reshape(4, 5, 3)
    image = photograph(radiance, 0.25)
    assert image.dtype == np.uint8
    assert (np.diff(image.ravel().astype(int)) >= 0).all()
    assert image.min() == 0
    assert (photograph(radiance, 0.3) >= image).all()
    np.testing.assert_allclose(photograph(radiance * 1000, 0.25).astype(int), image, atol=2)  # exposed by itself
    grey = photograph(np.full((2, 2, 3), 7.0), 0.25)  # 0.25 · (1 + 1/64) / 1.25 = 0.2031, in sRGB 0.488
    assert (grey == round(255 * (1.055 * 0.203125 ** (1 / 2.4) - 0.055))).all()


@pytest.mark.parametrize("name", ["planks", "tiles", "stripes", "checks", "cloth", "picture"])
def test_patterns_are_reflectances_that_vary_and_follow_their_seed(name: str) -> None:
    paint = Paint(name, (0.6, 0.3, 0.1), (0.2, 0.2, 0.5), seed=4)
    tile = pattern(paint)
    assert tile.shape == (64, 64, 3)
    assert tile.dtype == np.float32
    assert (tile >= 0).all()
    assert (tile < 1).all()
    assert tile.std() > 0.01
    assert (pattern(paint) == tile).all()


def test_what_cannot_be_rendered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    room = make_room("train", 0)
    with pytest.raises(OptionError, match=r"samples=5.*square"):
        render(room, 4, 4, 5)
    with pytest.raises(OptionError, match="0×4"):
        render(room, 0, 4, 4)
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(DependencyError, match=r"pip install 'accord\[experiments\]'"):
        render(room, 4, 4, 4)
