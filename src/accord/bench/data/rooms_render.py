"""A room through Mitsuba 3: a path-traced photograph, and exact depth, normals and classes of the same pixels.

The scalar variant of Mitsuba runs everywhere, without a compiler or a GPU, and a frame is a function of the room
and of the number of samples alone: it does not depend on how many threads or processes share the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from accord.bench.data.rooms_scene import Draws, Paint, Part, Room
from accord.errors import DependencyError, OptionError

VARIANT = "scalar_rgb"
_TEXELS = 64


@dataclass(frozen=True)
class Frame:
    """One view of a room, H×W pixels.

    Attributes:
        image: (H, W, 3) uint8, sRGB.
        label: (H, W) uint8, index into ``CLASSES``; every pixel has one.
        depth: (H, W) float32, metres along the optical axis (not along the ray), as in NYUv2.
        normal: (H, W, 3) float32 of length 1 in camera space: x right, y up, z towards the camera.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def mitsuba() -> Any:
    """The module ``mitsuba`` with the scalar variant set.

    Raises:
        DependencyError: It is not installed.
    """
    try:
        import mitsuba as mi
    except ImportError as error:
        raise DependencyError("rooms: mitsuba is missing: `pip install 'accord[experiments]'`") from error
    mi.set_variant(VARIANT)
    return mi


def render(room: Room, height: int, width: int, samples: int) -> Frame:
    """Render one frame.

    Args:
        room: What to see, and from where.
        height: Pixels.
        width: Pixels.
        samples: Light paths per pixel, a square number; fewer make a noisier image and leave the other channels as
            they are.

    Raises:
        DependencyError: Mitsuba is not installed.
        OptionError: A number is out of range.
    """
    check_size(height, width, samples)
    mi = mitsuba()
    scene = mi.load_dict(_scene(mi, room), optimize=False)
    order = {shape.id(): number for number, shape in enumerate(scene.shapes())}
    labels = np.full(len(order), 255, np.uint8)
    for name, part in _names(room).items():
        labels[order[name]] = part.label
    radiance = np.array(mi.render(scene, sensor=_sensor(mi, room, height, width, samples, jitter=True), seed=0))
    exact = mi.load_dict({"type": "aov", "aovs": "p:position,n:geo_normal,i:shape_index", "block_size": 16})
    channels = np.array(
        mi.render(scene, sensor=_sensor(mi, room, height, width, 1, jitter=False), integrator=exact, seed=0)
    )
    position, normal, index = channels[..., :3], channels[..., 3:6], channels[..., 6]
    axes, towards = room.camera.axes(), position - np.asarray(room.camera.eye)
    normal = normal * np.where((normal * towards).sum(-1, keepdims=True) > 0, -1.0, 1.0)
    normal = normal @ axes.T
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    label = labels[np.rint(index).astype(np.int64) - 1]  # shapes count from 1
    depth = -(towards @ axes[2])
    return Frame(photograph(radiance, room.camera.key), label, depth.astype(np.float32), normal.astype(np.float32))


def check_size(height: int, width: int, samples: int) -> None:
    """Raise OptionError unless frames can be rendered so."""
    if height < 1 or width < 1:
        raise OptionError(f"rooms: frames of {height}×{width} pixels were asked for; both must be 1 or more")
    if samples < 1 or math.isqrt(samples) ** 2 != samples:
        raise OptionError(
            f"rooms: samples={samples}: paths are spread over a square grid in each pixel; use 4, 9, 16, 25, 36, 64, …"
        )


def photograph(radiance: np.ndarray, key: float) -> np.ndarray:
    """(H, W, 3) uint8 sRGB from linear radiance: exposed by the log-mean luminance, highlights compressed.

    The curve is Reinhard et al. 2002, equation 4, on each channel, with white at four times the key of 1.
    """
    radiance = radiance.astype(np.float64)
    luminance = radiance @ (0.2126, 0.7152, 0.0722)
    x = radiance * (key / math.exp(float(np.log(luminance + 1e-4).mean())))
    x = np.clip(x * (1 + x / 16) / (1 + x), 0, 1)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.rint(srgb * 255).astype(np.uint8)


def _names(room: Room) -> dict[str, Part]:
    """A name for every Mitsuba shape, with the part it belongs to; a rod is a tube and two ends."""
    names = {}
    for number, part in enumerate(room.parts):
        for piece in ("side", "top", "foot") if part.shape == "rod" else ("all",):
            names[f"part{number:04d}{piece}"] = part
    return names


def _sensor(mi: Any, room: Room, height: int, width: int, samples: int, jitter: bool) -> Any:
    camera = room.camera
    return mi.load_dict(
        {
            "type": "perspective",
            "fov": camera.field,
            "fov_axis": "x",
            "near_clip": 0.01,
            "far_clip": 100.0,
            "to_world": mi.ScalarTransform4f().look_at(list(camera.eye), list(camera.target), [0, 0, 1]),
            # One sample without jitter goes through the middle of its pixel.
            "sampler": {"type": "stratified", "sample_count": samples, "jitter": jitter},
            "film": {
                "type": "hdrfilm",
                "width": width,
                "height": height,
                "rfilter": {"type": "box"},
                "pixel_format": "rgb",
                "component_format": "float32",
            },
        }
    )


def _scene(mi: Any, room: Room) -> dict[str, Any]:
    # The size of blocks is fixed, or it would follow the number of threads, and the samples with it.
    scene: dict[str, Any] = {"type": "scene", "integrator": {"type": "path", "max_depth": 6, "block_size": 16}}
    for name, part in _names(room).items():
        scene[name] = _shape(mi, part, name)
    return scene


def _shape(mi: Any, part: Part, name: str) -> dict[str, Any]:
    (x, y, z), (width, depth, height) = part.centre, part.size
    place = mi.ScalarTransform4f().translate([x, y, z]).rotate([0, 0, 1], math.degrees(part.turn))
    if part.shape == "box":
        shape: dict[str, Any] = {"type": "cube", "to_world": place.scale([width / 2, depth / 2, height / 2])}
    elif part.shape == "sheet":
        shape = {"type": "rectangle", "to_world": place.rotate([1, 0, 0], -90).scale([width / 2, height / 2, 1])}
    elif part.shape == "ball":
        shape = {"type": "sphere", "to_world": place.scale(width / 2)}
    elif name.endswith("side"):
        ends = {"p0": [0, 0, -height / 2], "p1": [0, 0, height / 2]}
        shape = {"type": "cylinder", "to_world": place, "radius": width / 2, **ends}
    else:
        up = 1 if name.endswith("top") else -1
        shape = {"type": "disk", "to_world": place.translate([0, 0, up * height / 2]).scale([width / 2, width / 2, up])}
    shape["bsdf"] = _surface(mi, part)
    if part.light is not None:
        strength = sum(part.light) * width * height  # so that light is looked for where most of it comes from
        radiance = {"type": "rgb", "value": list(part.light)}
        shape["emitter"] = {"type": "area", "radiance": radiance, "sampling_weight": strength}
    return shape


def _surface(mi: Any, part: Part) -> dict[str, Any]:
    paint = part.paint
    reflectance: dict[str, Any] = {"type": "rgb", "value": list(paint.colour)}
    if paint.pattern != "plain":
        reflectance = {"type": "bitmap", "bitmap": mi.Bitmap(pattern(paint)), "raw": True}
        if paint.tile:
            wide, long, high = part.size
            sizes = (wide, long) if part.kind == "floor" else (max(wide, long), high)
            reflectance["to_uv"] = mi.ScalarTransform3f().scale([size / paint.tile for size in sizes])
    if paint.gloss:  # not roughplastic, which takes 45 ms a surface to set up
        surface = {"type": "principled", "base_color": reflectance, "roughness": 0.35, "specular": 0.5}
    else:
        surface = {"type": "diffuse", "reflectance": reflectance}
    return {"type": "twosided", "surface": surface}


def pattern(paint: Paint) -> np.ndarray:
    """(64, 64, 3) float32 linear reflectances of one tile."""
    draws = Draws("pattern", paint.pattern, paint.seed)
    first, second = np.array(paint.colour), np.array(paint.other)
    row, column = np.mgrid[:_TEXELS, :_TEXELS]
    if paint.pattern == "planks":
        board = row // 8
        tone = draws.array(_TEXELS // 8)[board] * 0.8
        grain = draws.array(_TEXELS)[row] * 0.4 + draws.array(_TEXELS, _TEXELS) * 0.15
        gap = np.where(row % 8 == 0, 0.6, 1.0)
        tile = (first + (second - first) * tone[..., None]) * ((0.8 + grain) * gap)[..., None]
    elif paint.pattern == "tiles":
        joint = (row % 16 < 1) | (column % 16 < 1)
        tone = 0.9 + 0.2 * draws.array(4, 4)[row // 16, column // 16]
        tile = np.where(joint[..., None], second, first * tone[..., None])
    elif paint.pattern == "stripes":
        tile = np.where((row // 8 % 2 == 0)[..., None], first, second)
    elif paint.pattern == "checks":
        tile = np.where(((row // 8 + column // 8) % 2 == 0)[..., None], first, second)
    elif paint.pattern == "cloth":
        coarse = np.kron(draws.array(8, 8), np.ones((8, 8)))
        mix = 0.5 * coarse + 0.5 * draws.array(_TEXELS, _TEXELS)
        tile = first + (second - first) * mix[..., None]
    else:
        tile = _painting(draws, row, column)
    return np.clip(tile, 0.0, 0.95).astype(np.float32)


def _painting(draws: Draws, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A sky, a ground, and discs and rectangles in front of them."""
    sky, ground = draws.array(3) * 0.8, draws.array(3) * 0.6
    line = draws.whole(20, 50)
    tile = np.where((row < line)[..., None], sky * (0.5 + 0.5 * row / _TEXELS)[..., None], ground)
    for _ in range(draws.whole(2, 6)):
        y, x, reach = draws.whole(5, 58), draws.whole(5, 58), draws.whole(4, 18)
        if draws.chance(0.5):
            inside = (row - y) ** 2 + (column - x) ** 2 < reach**2
        else:
            inside = (abs(row - y) < reach) & (abs(column - x) < draws.whole(3, 18))
        tile = np.where(inside[..., None], draws.array(3) * 0.85, tile)
    return tile
