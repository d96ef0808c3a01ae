"""How a room is furnished: walls, windows, things along the walls, things in the middle, pictures, lamp, camera."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from accord.bench.data import rooms_furniture as furniture
from accord.bench.data.rooms_camera import place_camera
from accord.bench.data.rooms_furniture import Item, shade, solid
from accord.bench.data.rooms_scene import CLASSES, Colour, Draws, Paint, Part, Point, Room, overlap

LIFT = 0.008
"""What stands on the floor stands this much above it, in metres, over a rug of a little less."""

SHELL = 0.1
"""Thickness of walls, floor and ceiling in metres."""


def make_room(split: str, number: int) -> Room:
    """Room ``number`` of a split: the same for ever, and different in every split."""
    draws = Draws("second set of rooms", split, number)  # settings were chosen by the test frames of a first set
    kind = draws.choice(tuple(AT_WALL))
    size = (draws.between(3.0, 5.6), draws.between(3.0, 5.6), draws.between(2.35, 3.0))
    plan = _Plan(size, _shell(draws, size))
    _ceiling_lamp(draws, plan)
    _windows(draws, plan)
    _at_walls(draws, plan, kind)
    _in_middle(draws, plan, kind)
    _pictures(draws, plan)
    _rug(draws, plan)
    return Room(size, tuple(plan.parts), place_camera(draws, size, plan.parts))


@dataclass
class _Plan:
    """A room while it is being furnished; ``taken`` are the boxes around what is there."""

    size: Point
    parts: list[Part]
    taken: list[Part] = field(default_factory=list)

    def put(self, item: Item, x: float, y: float, z: float, turn: float, margin: float) -> bool:
        """Put an item with its back's middle at (x, y, z) if there is room for it."""
        half = item.width / 2
        box = solid(CLASSES[0], _NONE, (-half, 0, 0), (half, item.depth, item.height)).moved(x, y, z, turn)
        if not self._inside(box) or any(overlap(box, other, margin) for other in self.taken):
            return False
        self.taken.append(box)
        self.parts += [part.moved(x, y, z, turn) for part in item.parts]
        return True

    def wall(self, side: int, along: float, off: float = 0.01) -> tuple[float, float, float]:
        """x, y and the turn of what stands with its back to a wall, ``along`` metres from the wall's start."""
        width, depth, _ = self.size
        return (
            (along, off, 0.0),
            (width - off, along, math.pi / 2),
            (width - along, depth - off, math.pi),
            (off, depth - along, -math.pi / 2),
        )[side]

    def length(self, side: int) -> float:
        """Length of a wall in metres."""
        return self.size[side % 2]

    def _inside(self, box: Part) -> bool:
        cos, sin = abs(math.cos(box.turn)), abs(math.sin(box.turn))
        reach_x = (box.size[0] * cos + box.size[1] * sin) / 2
        reach_y = (box.size[0] * sin + box.size[1] * cos) / 2
        x, y, z = box.centre
        width, depth, height = self.size
        return reach_x < x < width - reach_x and reach_y < y < depth - reach_y and z + box.size[2] / 2 < height


AT_WALL = {
    "living": "sofa television bookshelf cupboard armchair plant floor_lamp",
    "bedroom": "bed nightstand cupboard desk nightstand bookshelf toy floor_lamp",
    "dining": "cupboard bookshelf sofa television plant chair floor_lamp",
    "study": "desk bookshelf cupboard desk armchair plant bookshelf chair",
}
"""What stands at the walls of each kind of room, the most important first: functions of ``rooms_furniture``."""

IN_MIDDLE = {
    "living": "coffee_table armchair toy plant",
    "bedroom": "chair toy toy armchair",
    "dining": "dining_set toy chair",
    "study": "dining_set chair toy coffee_table",
}
"""What stands in the middle of each, likewise."""

_NONE = Paint("plain", (0.0, 0.0, 0.0))

WALLS: tuple[Colour, ...] = (
    (0.75, 0.72, 0.66),
    (0.72, 0.72, 0.72),
    (0.62, 0.52, 0.38),
    (0.45, 0.55, 0.6),
    (0.5, 0.57, 0.44),
    (0.62, 0.42, 0.36),
    (0.35, 0.38, 0.42),
    (0.7, 0.62, 0.42),
)


def _shell(draws: Draws, size: Point) -> list[Part]:
    """Floor, ceiling and four walls, as boxes around the inside."""
    width, depth, height = size
    tint = shade(draws, draws.choice(WALLS), 0.15)
    walls = [Paint("plain", tint)] * 4
    if draws.chance(0.3):  # one wall of another colour, or papered
        other = shade(draws, draws.choice(WALLS))
        pattern = draws.choice(("plain", "stripes", "cloth"))
        walls[draws.whole(0, 3)] = Paint(pattern, other, shade(draws, other, 0.2), draws.between(0.6, 1.5))
    t, white = SHELL, Paint("plain", shade(draws, (0.78, 0.78, 0.76), 0.08))
    return [
        solid("floor", _floor(draws), (0, 0, -t), (width, depth, 0)),
        solid("ceiling", white, (0, 0, height), (width, depth, height + t)),
        solid("wall", walls[0], (0, -t, 0), (width, 0, height)),
        solid("wall", walls[1], (width, 0, 0), (width + t, depth, height)),
        solid("wall", walls[2], (0, depth, 0), (width, depth + t, height)),
        solid("wall", walls[3], (-t, 0, 0), (0, depth, height)),
    ]


def _floor(draws: Draws) -> Paint:
    seed = draws.whole(0, 1 << 30)
    what = draws.choice(("planks", "planks", "tiles", "cloth"))
    if what == "planks":
        colour = shade(draws, draws.choice(furniture.WOODS))
        return Paint("planks", colour, shade(draws, colour), draws.between(0.8, 1.6), seed, draws.chance(0.4))
    if what == "tiles":
        colour = shade(draws, draws.choice(((0.6, 0.58, 0.52), (0.35, 0.35, 0.36), (0.4, 0.24, 0.16))))
        return Paint("tiles", colour, shade(draws, (0.3, 0.3, 0.3), 0.5), draws.between(1.0, 2.4), seed, True)
    colour = shade(draws, draws.choice(furniture.CLOTHS))
    return Paint("cloth", colour, shade(draws, colour, 0.4), draws.between(0.8, 2.0), seed)


def _windows(draws: Draws, plan: _Plan) -> None:
    """One to three windows, where there is room, by day, when they light the room, or by night."""
    glow = draws.between(3, 10)
    light = (glow * draws.between(0.8, 1), glow * draws.between(0.88, 1), glow) if draws.chance(0.8) else None
    for _ in range(draws.whole(1, 3)):
        side = draws.whole(0, 3)
        width, height = draws.between(0.7, 1.8), draws.between(0.9, 1.4)
        bottom = draws.between(0.75, 0.95)
        along = draws.between(0.2, 0.8) * plan.length(side)
        if bottom + height < plan.size[2] - 0.1:
            x, y, turn = plan.wall(side, along)
            plan.put(_window(draws, width, height, light), x, y, bottom, turn, 0.05)


def _window(draws: Draws, width: float, height: float, light: Colour | None) -> Item:
    half, edge, frame = (
        width / 2,
        0.06,
        Paint("plain", shade(draws, draws.choice(((0.7, 0.7, 0.68), (0.3, 0.18, 0.1))))),
    )
    parts = [
        solid("window", frame, (-half, 0, 0), (half, 0.07, edge)),
        solid("window", frame, (-half, 0, height - edge), (half, 0.07, height)),
        solid("window", frame, (-half, 0, edge), (-half + edge, 0.07, height - edge)),
        solid("window", frame, (half - edge, 0, edge), (half, 0.07, height - edge)),
    ]
    panes = 1 if width < 0.9 else 2
    inner, night = width - 2 * edge, Paint("plain", (0.02, 0.025, 0.04), gloss=True)
    for number in range(panes):
        x = number / panes * inner - inner / 2
        low = (x + (0.02 if number else 0.0), 0.01, edge)
        high = (x + inner / panes - (0.02 if number < panes - 1 else 0.0), 0.01, height - edge)
        parts.append(solid("window", night, low, high, "sheet", light))
    if panes == 2:
        parts.append(solid("window", frame, (-0.02, 0, edge), (0.02, 0.06, height - edge)))
    return Item(tuple(parts), width, 0.07, height)


def _builders(names: str) -> list[Callable[[Draws], Item]]:
    return [getattr(furniture, name) for name in names.split()]


def _at_walls(draws: Draws, plan: _Plan, kind: str) -> None:
    """The kind's furniture along the walls, each piece tried in a few places."""
    for build in _builders(AT_WALL[kind]):
        if not draws.chance(0.85):
            continue
        item = build(draws)
        for _ in range(8):
            side = draws.whole(0, 3)
            along = draws.between(item.width / 2 + 0.03, max(item.width / 2 + 0.04, plan.length(side) - item.width / 2))
            x, y, turn = plan.wall(side, along, draws.between(0.015, 0.08))
            if plan.put(item, x, y, LIFT, turn, 0.06):
                break


def _in_middle(draws: Draws, plan: _Plan, kind: str) -> None:
    """Things away from the walls, turned as they like."""
    width, depth, _ = plan.size
    for build in _builders(IN_MIDDLE[kind]):
        if not draws.chance(0.85):
            continue
        item = build(draws)
        for _ in range(8):
            x, y = draws.between(0.15, 0.85) * width, draws.between(0.15, 0.85) * depth
            turn = draws.whole(0, 3) * math.pi / 2
            if item.width < 1.2:
                turn += draws.between(-0.6, 0.6)
            x, y = x + math.sin(turn) * item.depth / 2, y - math.cos(turn) * item.depth / 2
            if plan.put(item, x, y, LIFT, turn, 0.1):
                break


def _pictures(draws: Draws, plan: _Plan) -> None:
    for _ in range(draws.whole(2, 6)):
        side = draws.whole(0, 3)
        width, height = draws.between(0.35, 1.1), draws.between(0.35, 0.8)
        x, y, turn = plan.wall(side, draws.between(0.1, 0.9) * plan.length(side))
        plan.put(_picture(draws, width, height), x, y, draws.between(1.2, 1.45), turn, 0.04)


def _picture(draws: Draws, width: float, height: float) -> Item:
    half, edge = width / 2, draws.between(0.02, 0.05)
    image = Paint("picture", (0.5, 0.5, 0.5), seed=draws.whole(0, 1 << 30))
    frame = Paint("plain", shade(draws, draws.choice(((0.04, 0.04, 0.04), (0.7, 0.7, 0.68), (0.4, 0.25, 0.1)))))
    parts = (
        solid("picture", frame, (-half, 0, 0), (half, 0.025, height)),
        solid("picture", image, (-half + edge, 0.03, edge), (half - edge, 0.03, height - edge), "sheet"),
    )
    return Item(parts, width, 0.03, height)


def _rug(draws: Draws, plan: _Plan) -> None:
    """A thin rug under all that stands on it; it counts as floor."""
    if not draws.chance(0.45):
        return
    width, depth, _ = plan.size
    a, b = width * draws.between(0.2, 0.35), depth * draws.between(0.2, 0.35)
    colour = shade(draws, draws.choice(furniture.CLOTHS + furniture.LIVELY))
    pattern = draws.choice(("cloth", "stripes", "checks"))
    paint = Paint(pattern, colour, shade(draws, draws.choice(furniture.CLOTHS)), seed=draws.whole(0, 1 << 30))
    low, high = (width / 2 - a, depth / 2 - b, 0.0), (width / 2 + a, depth / 2 + b, LIFT * 0.75)
    plan.parts.append(solid("floor", paint, low, high))


def _ceiling_lamp(draws: Draws, plan: _Plan) -> None:
    """A lit globe that hangs from the ceiling."""
    width, depth, height = plan.size
    r, drop, glow = draws.between(0.14, 0.22), draws.between(0.2, 0.35), draws.between(6, 20)
    light = (glow, glow * draws.between(0.75, 0.95), glow * draws.between(0.55, 0.9))
    wire = Paint("plain", (0.2, 0.2, 0.2))
    parts = (
        solid("objects", wire, (-r, 0, 0), (r, 2 * r, 2 * r), "ball", light),
        solid("objects", wire, (-0.012, r - 0.012, 2 * r), (0.012, r + 0.012, 2 * r + drop - 0.002), "rod"),
    )
    x, y = width * draws.between(0.4, 0.6), depth * draws.between(0.4, 0.6)
    plan.put(Item(parts, 2 * r, 2 * r, 2 * r + drop - 0.002), x, y, height - drop - 2 * r, 0.0, 0.0)
