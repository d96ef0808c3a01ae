"""Furniture of random size and colour, made of boxes, balls and rods, each standing at its own origin.

An object's local frame has x along its width, y from its back (0) to its front, z up from what it stands on. Its
parts do not overlap one another; where they touch they share a face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from accord.bench.data.rooms_scene import Colour, Draws, Paint, Part, Point, Shape


@dataclass(frozen=True)
class Item:
    """An object: its parts, and the width, depth and height of the box around them."""

    parts: tuple[Part, ...]
    width: float
    depth: float
    height: float


def shade(draws: Draws, colour: Colour, spread: float = 0.25) -> Colour:
    """A colour near another: brighter or darker, and a little off in hue."""
    gain = draws.between(1 - spread, 1 + spread)
    red, green, blue = (min(0.9, max(0.02, c * gain * draws.between(1 - spread / 3, 1 + spread / 3))) for c in colour)
    return red, green, blue


WOODS: tuple[Colour, ...] = ((0.45, 0.26, 0.13), (0.25, 0.13, 0.07), (0.6, 0.42, 0.25), (0.14, 0.09, 0.06))
PAINTS: tuple[Colour, ...] = ((0.75, 0.74, 0.7), (0.35, 0.37, 0.38), (0.1, 0.1, 0.11), (0.3, 0.42, 0.42))
CLOTHS: tuple[Colour, ...] = (
    (0.35, 0.32, 0.28),
    (0.12, 0.16, 0.3),
    (0.38, 0.08, 0.07),
    (0.16, 0.26, 0.15),
    (0.55, 0.48, 0.38),
    (0.2, 0.2, 0.22),
    (0.5, 0.36, 0.1),
    (0.24, 0.12, 0.25),
)
LIVELY: tuple[Colour, ...] = (
    (0.6, 0.08, 0.06),
    (0.08, 0.2, 0.5),
    (0.1, 0.4, 0.12),
    (0.7, 0.55, 0.08),
    (0.65, 0.3, 0.08),
    (0.7, 0.7, 0.68),
    (0.08, 0.08, 0.1),
    (0.35, 0.12, 0.4),
    (0.1, 0.45, 0.45),
)


def wood(draws: Draws) -> Paint:
    """Wood, or a painted board."""
    seed = draws.whole(0, 1 << 30)
    if draws.chance(0.3):
        return Paint("plain", shade(draws, draws.choice(PAINTS)), seed=seed, gloss=draws.chance(0.5))
    colour = shade(draws, draws.choice(WOODS))
    return Paint("planks", colour, shade(draws, colour, 0.1), seed=seed, gloss=draws.chance(0.3))


def cloth(draws: Draws) -> Paint:
    """Upholstery: mostly of one colour."""
    colour = shade(draws, draws.choice(CLOTHS))
    pattern = draws.choice(("cloth", "cloth", "cloth", "stripes", "checks"))
    return Paint(pattern, colour, shade(draws, colour, 0.35), seed=draws.whole(0, 1 << 30))


def lively(draws: Draws) -> Paint:
    """A bright colour, for small things."""
    return Paint("plain", shade(draws, draws.choice(LIVELY), 0.3), gloss=draws.chance(0.4))


def solid(kind: str, paint: Paint, low: Point, high: Point, shape: Shape = "box", light: Colour | None = None) -> Part:
    """A part between two opposite corners of its bounding box."""
    x, y, z = ((a + b) / 2 for a, b in zip(low, high, strict=True))
    width, depth, height = (b - a for a, b in zip(low, high, strict=True))
    return Part(shape, (x, y, z), (width, depth, height), kind, paint, light=light)


def legs(kind: str, paint: Paint, width: float, depth: float, height: float, edge: float) -> list[Part]:
    """Four square legs under the corners of a rectangle whose back is y = 0."""
    return [
        solid(kind, paint, (x, y, 0), (x + edge, y + edge, height))
        for x in (-width / 2, width / 2 - edge)
        for y in (0.0, depth - edge)
    ]


def clutter(draws: Draws, z: float, width: float, depth: float, much: float = 0.5) -> list[Part]:
    """Small things in the cells of a grid on a surface at height z, so that none meets another."""
    parts: list[Part] = []
    columns, rows = max(1, int(width / 0.28)), max(1, int(depth / 0.28))
    step_x, step_y = width / columns, depth / rows
    for column in range(columns):
        for row in range(rows):
            if not draws.chance(much):
                continue
            x, y = (column + 0.5) * step_x - width / 2, (row + 0.5) * step_y
            reach = 0.45 * min(step_x, step_y)  # half the edge of the free square
            parts += _small(draws, x, y, z, reach)
    return parts


def _small(draws: Draws, x: float, y: float, z: float, reach: float) -> list[Part]:
    """One small thing, or a pile of books."""
    what = draws.choice(("ball", "box", "cup", "books", "vase"))
    paint = lively(draws)
    if what == "ball":
        r = reach * draws.between(0.45, 0.9)
        return [solid("objects", paint, (x - r, y - r, z), (x + r, y + r, z + 2 * r), "ball")]
    if what == "box":
        a, b, h = reach * draws.between(0.5, 1), reach * draws.between(0.4, 1), draws.between(0.06, 0.25)
        return [solid("objects", paint, (x - a, y - b, z), (x + a, y + b, z + h))]
    if what == "books":
        parts = []
        for _ in range(draws.whole(1, 4)):
            a, b, h = reach * draws.between(0.75, 1), reach * draws.between(0.6, 0.8), draws.between(0.025, 0.05)
            parts.append(solid("books", lively(draws), (x - a, y - b, z), (x + a, y + b, z + h)))
            z += h
        return parts
    r = reach * (draws.between(0.3, 0.4) if what == "cup" else draws.between(0.4, 0.7))
    h = 0.1 if what == "cup" else draws.between(0.18, 0.35)
    return [solid("objects", paint, (x - r, y - r, z), (x + r, y + r, z + h), "rod")]


def bed(draws: Draws) -> Item:
    """A bed with its head at the back."""
    width, depth, low, top = draws.between(0.9, 1.8), draws.between(1.95, 2.15), draws.between(0.22, 0.35), 0.2
    frame, sheet, cover = wood(draws), Paint("plain", shade(draws, (0.7, 0.7, 0.7), 0.15)), cloth(draws)
    head, half = draws.between(0.8, 1.25), width / 2
    soft = low + top
    parts = [
        solid("bed", frame, (-half, 0, 0), (half, 0.07, head)),
        solid("bed", frame, (-half, 0.07, 0), (half, depth, low)),
        solid("bed", sheet, (-half + 0.03, 0.07, low), (half - 0.03, depth - 0.03, soft)),
        solid("bed", cover, (-half + 0.02, 0.75, soft), (half - 0.02, depth - 0.02, soft + 0.05)),
    ]
    pillows = 1 if width < 1.25 else 2
    for number in range(pillows):
        x, reach = (number + 0.5) / pillows * width - half, min(0.35, width / pillows * 0.42)
        parts.append(solid("bed", sheet, (x - reach, 0.12, soft), (x + reach, 0.55, soft + 0.12)))
    return Item(tuple(parts), width, depth, max(head, soft + 0.12))


def sofa(draws: Draws, width: float | None = None) -> Item:
    """A sofa, or an armchair if it is narrow."""
    width = width or draws.between(1.4, 2.4)
    depth, seat, arm, back = draws.between(0.8, 1.0), 0.3, draws.between(0.12, 0.22), draws.between(0.75, 0.95)
    paint, half, rest = cloth(draws), width / 2, draws.between(0.55, 0.68)
    parts = [
        solid("sofa", paint, (-half + arm, 0, 0.06), (half - arm, depth - 0.04, seat)),
        solid("sofa", paint, (-half + arm, 0, seat), (half - arm, 0.22, back)),
        solid("sofa", paint, (-half, 0, 0), (-half + arm, depth, rest)),
        solid("sofa", paint, (half - arm, 0, 0), (half, depth, rest)),
    ]
    inner = width - 2 * arm
    seats = max(1, round(inner / 0.65))
    for number in range(seats):
        x = (number + 0.5) / seats * inner - inner / 2
        reach = inner / seats / 2 - 0.01
        parts.append(solid("sofa", paint, (x - reach, 0.23, seat), (x + reach, depth - 0.02, seat + 0.14)))
        if draws.chance(0.4):
            edge, other = min(0.2, reach), cloth(draws)
            low, high = (x - edge, 0.24, seat + 0.14), (x + edge, 0.36, seat + 0.14 + 2 * edge)
            parts.append(solid("sofa", other, low, high))
    return Item(tuple(parts), width, depth, max(back, rest, seat + 0.54))


def armchair(draws: Draws) -> Item:
    """A sofa for one."""
    return sofa(draws, draws.between(0.75, 0.95))


def cupboard(draws: Draws) -> Item:
    """A wardrobe, or a chest with things on it."""
    tall = draws.chance(0.5)
    width, depth = draws.between(0.6, 1.8), draws.between(0.38, 0.6)
    height = draws.between(1.7, 2.15) if tall else draws.between(0.6, 1.1)
    return _chest(draws, width, depth, height, rows=1 if tall else draws.whole(1, 3))


def nightstand(draws: Draws) -> Item:
    """A small chest."""
    return _chest(draws, draws.between(0.4, 0.55), draws.between(0.35, 0.45), draws.between(0.4, 0.6), rows=2)


def _chest(draws: Draws, width: float, depth: float, height: float, rows: int) -> Item:
    body, front, half, body_depth = wood(draws), wood(draws), width / 2, depth - 0.04
    parts = [solid("furniture", body, (-half, 0, 0), (half, body_depth, height))]
    columns = max(1, round(width / 0.55))
    step_x, step_z, gap, knob = width / columns, (height - 0.08) / rows, 0.012, lively(draws)
    for column in range(columns):
        for row in range(rows):
            x, z = column * step_x - half, row * step_z + 0.06
            high = (x + step_x - gap, depth - 0.02, z + step_z - gap)
            parts.append(solid("furniture", front, (x + gap, body_depth, z), high))
            x, z = x + step_x * 0.8, z + step_z * 0.5
            low = (x - 0.015, depth - 0.02, z - 0.04)
            parts.append(solid("furniture", knob, low, (x + 0.015, depth, z + 0.04)))
    top = clutter(draws, height, width - 0.08, body_depth) if height < 1.3 else []
    return Item((*parts, *top), width, depth, height + (0.36 if top else 0.0))


def bookshelf(draws: Draws) -> Item:
    """Open shelves with books and a few other things."""
    width, depth, height = draws.between(0.7, 1.5), draws.between(0.26, 0.36), draws.between(1.0, 2.1)
    paint, half, board = wood(draws), width / 2, 0.03
    parts = [
        solid("furniture", paint, (-half, 0, 0), (-half + board, depth, height)),
        solid("furniture", paint, (half - board, 0, 0), (half, depth, height)),
        solid("furniture", paint, (-half + board, 0, 0), (half - board, 0.02, height)),
    ]
    shelves = max(2, round(height / 0.38))
    step = (height - board) / shelves
    for number in range(shelves + 1):
        z = number * step
        parts.append(solid("furniture", paint, (-half + board, 0.02, z), (half - board, depth, z + board)))
        if number < shelves:
            parts += _row_of_books(draws, z + board, step - board, half - board, depth)
    return Item(tuple(parts), width, depth, height)


def _row_of_books(draws: Draws, z: float, room: float, half: float, depth: float) -> list[Part]:
    parts: list[Part] = []
    x, end = -half + 0.01, half - 0.01
    while x < end - 0.12:
        thick, high = draws.between(0.03, 0.11), room * draws.between(0.6, 0.92)
        if draws.chance(0.12):
            x += draws.between(0.05, 0.2)
            continue
        front = depth - draws.between(0.02, 0.06)
        parts.append(solid("books", lively(draws), (x, 0.03, z), (x + thick, front, z + high)))
        x += thick + 0.002
    return parts


def television(draws: Draws) -> Item:
    """A television on a low cupboard."""
    width, depth, height = draws.between(1.2, 1.9), draws.between(0.38, 0.5), draws.between(0.4, 0.6)
    stand = _chest_without_top(draws, width, depth, height)
    wide = draws.between(0.85, min(1.35, width - 0.1))
    tall, y, z = wide * 0.58, depth * 0.45, height + 0.06
    dark = Paint("plain", (0.03, 0.03, 0.035), gloss=True)
    parts = [
        *stand,
        solid("television", dark, (-0.2, y - 0.05, height), (0.2, y + 0.09, z)),
        solid("television", dark, (-wide / 2, y - 0.02, z), (wide / 2, y + 0.04, z + tall)),
    ]
    if draws.chance(0.5):
        parts.append(_lit_screen(draws, wide - 0.06, y + 0.045, z + 0.03, tall - 0.06))
    return Item(tuple(parts), width, depth, z + tall)


def _lit_screen(draws: Draws, width: float, y: float, z: float, height: float) -> Part:
    glow = draws.between(0.5, 1.5)
    light = (glow * draws.between(0.4, 1), glow * draws.between(0.4, 1), glow * draws.between(0.6, 1))
    paint = Paint("picture", (0.3, 0.3, 0.5), seed=draws.whole(0, 1 << 30))
    return solid("television", paint, (-width / 2, y, z), (width / 2, y, z + height), "sheet", light)


def _chest_without_top(draws: Draws, width: float, depth: float, height: float) -> list[Part]:
    parts = _chest(draws, width, depth, height, rows=1).parts
    return [part for part in parts if part.centre[2] < height]


def table(draws: Draws, width: float, depth: float, height: float, much: float = 0.3) -> Item:
    """A table on four legs with things on it."""
    paint, board = wood(draws), draws.between(0.03, 0.06)
    half, under = width / 2, height - board
    parts = legs("table", paint, width - 0.06, depth - 0.06, under, draws.between(0.04, 0.08))
    parts = [part.moved(0, 0.03, 0, 0) for part in parts]
    parts.append(solid("table", paint, (-half, 0, under), (half, depth, height)))
    return Item((*parts, *clutter(draws, height, width - 0.08, depth, much)), width, depth, height + 0.36)


def coffee_table(draws: Draws) -> Item:
    """A low table."""
    return table(draws, draws.between(0.7, 1.3), draws.between(0.5, 0.8), draws.between(0.35, 0.5), 0.35)


def chair(draws: Draws, paint: Paint | None = None) -> Item:
    """A chair; it looks along +y."""
    paint = paint or (wood(draws) if draws.chance(0.6) else cloth(draws))
    width, depth, seat, back = (
        draws.between(0.4, 0.5),
        draws.between(0.42, 0.5),
        draws.between(0.43, 0.48),
        draws.between(0.85, 1.05),
    )
    half, board, leg = width / 2, 0.05, 0.04
    parts = [
        *legs("chair", paint, width, depth, seat - board, leg),
        solid("chair", paint, (-half, 0, seat - board), (half, depth, seat)),
    ]
    if draws.chance(0.5):
        parts.append(solid("chair", paint, (-half, 0, seat), (half, 0.04, back)))
    else:  # two posts and a board
        parts += [solid("chair", paint, (x, 0, seat), (x + leg, leg, back)) for x in (-half, half - leg)]
        low, high = (-half + leg, 0.005, back - 0.25), (half - leg, leg - 0.005, back - 0.02)
        parts.append(solid("chair", paint, low, high))
    return Item(tuple(parts), width, depth, back)


def dining_set(draws: Draws) -> Item:
    """A table with chairs at its long sides."""
    width, depth, height = draws.between(1.2, 2.0), draws.between(0.75, 1.0), draws.between(0.72, 0.78)
    paint = wood(draws) if draws.chance(0.6) else cloth(draws)
    seats, room = max(1, int(width / 0.65)), 0.66
    parts = [part.moved(0, room, 0, 0) for part in table(draws, width, depth, height, 0.2).parts]
    like = chair(draws, paint)
    for number in range(seats):
        x = (number + 0.5) / seats * width - width / 2
        for front in (False, True):
            if not draws.chance(0.85):
                continue
            wobble, gap = draws.between(-0.15, 0.15), draws.between(0.02, 0.05)
            shift = like.depth + 0.05 + gap  # room for the wobble as well
            y, turn = (room + depth + shift, math.pi + wobble) if front else (room - shift, wobble)
            parts += [part.moved(x, y, 0, turn) for part in like.parts]
    return Item(tuple(parts), width + 0.15, depth + 2 * room, height + 0.36)


def desk(draws: Draws) -> Item:
    """A desk with a screen, and a chair in front."""
    width, depth, height = draws.between(1.1, 1.7), draws.between(0.6, 0.75), draws.between(0.71, 0.76)
    paint, half = wood(draws), width / 2
    parts = [
        solid("table", paint, (-half, 0.02, 0), (-half + 0.04, depth - 0.02, height - 0.04)),
        solid("table", paint, (half - 0.04, 0.02, 0), (half, depth - 0.02, height - 0.04)),
        solid("table", paint, (-half, 0, height - 0.04), (half, depth, height)),
    ]
    wide, dark, z = draws.between(0.45, 0.65), Paint("plain", (0.04, 0.04, 0.045), gloss=True), height + 0.12
    parts += [
        solid("television", dark, (-0.1, 0.08, height), (0.1, 0.2, height + 0.02)),
        solid("television", dark, (-0.03, 0.1, height + 0.02), (0.03, 0.14, z)),
        solid("television", dark, (-wide / 2, 0.1, z), (wide / 2, 0.15, z + wide * 0.6)),
    ]
    if draws.chance(0.5):
        parts.append(_lit_screen(draws, wide - 0.04, 0.155, z + 0.02, wide * 0.6 - 0.04))
    side = (width - 0.7) / 2
    for x in (-half + side / 2, half - side / 2):
        things = clutter(draws, height, side - 0.04, depth - 0.04, 0.5)
        parts += [part.moved(x, 0.02, 0, 0) for part in things]
    seat, x = chair(draws), draws.between(-0.1, 0.1)
    parts += [part.moved(x, depth + seat.depth + 0.08, 0, math.pi) for part in seat.parts]
    return Item(tuple(parts), width, depth + seat.depth + 0.1, z + 0.4)


def floor_lamp(draws: Draws) -> Item:
    """A lamp on a pole; it is lit."""
    high, r, paint = draws.between(1.3, 1.7), draws.between(0.13, 0.2), lively(draws)
    warm = draws.between(5, 14)
    parts = (
        solid("objects", paint, (-0.14, r - 0.14, 0), (0.14, r + 0.14, 0.03), "rod"),
        solid("objects", paint, (-0.015, r - 0.015, 0.03), (0.015, r + 0.015, high), "rod"),
        solid("objects", paint, (-r, 0, high), (r, 2 * r, high + 2 * r), "ball", (warm, warm * 0.8, warm * 0.55)),
    )
    return Item(parts, 2 * max(r, 0.14), 2 * max(r, 0.14), high + 2 * r)


def plant(draws: Draws) -> Item:
    """A pot, a stem and round foliage."""
    r, pot, high = draws.between(0.16, 0.3), draws.between(0.25, 0.4), draws.between(0.2, 0.6)
    green = Paint("cloth", shade(draws, (0.08, 0.22, 0.06), 0.4), (0.05, 0.12, 0.03), seed=draws.whole(0, 1 << 30))
    stem = Paint("plain", (0.2, 0.12, 0.06))
    parts = [
        solid("objects", lively(draws), (-0.15, r - 0.15, 0), (0.15, r + 0.15, pot), "rod"),
        solid("objects", stem, (-0.02, r - 0.02, pot), (0.02, r + 0.02, pot + high), "rod"),
    ]
    z = pot + high
    for scale in (1.0, 0.7):
        half = r * scale
        parts.append(solid("objects", green, (-half, r - half, z), (half, r + half, z + 2 * half), "ball"))
        z += 2 * half
    return Item(tuple(parts), 2 * r, 2 * r, z)


def toy(draws: Draws) -> Item:
    """A ball or a carton on the floor."""
    if draws.chance(0.5):
        r = draws.between(0.08, 0.3)
        paint = lively(draws)
        if draws.chance(0.4):
            paint = Paint("stripes", paint.colour, shade(draws, draws.choice(LIVELY)))
        return Item((solid("objects", paint, (-r, 0, 0), (r, 2 * r, 2 * r), "ball"),), 2 * r, 2 * r, 2 * r)
    width, depth, height = (draws.between(0.25, 0.6) for _ in range(3))
    paint = Paint("cloth", shade(draws, (0.4, 0.28, 0.16)), (0.3, 0.2, 0.1)) if draws.chance(0.5) else lively(draws)
    return Item((solid("objects", paint, (-width / 2, 0, 0), (width / 2, depth, height)),), width, depth, height)
