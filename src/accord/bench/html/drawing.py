"""What every figure of the page has: panels with a text for each, a legend, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from accord.bench.html.fragments import Markup, folded, joined, tag
from accord.bench.html.palette import LINES, drawn
from accord.bench.html.svg import inline
from accord.bench.plots import DASHES, PALETTE, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
CHART = (4.5, 3.1)
"""Inches of a chart that stands alone: its text is legible on a phone, and not too large on a desk."""

PANEL = (2.7, 2.0)
"""Inches of one of many panels, which the page puts beside each other as there is room."""

MOST = 160
"""Points of a line: more than a screen shows of a panel."""


@dataclass(frozen=True)
class Entry:
    """A line of a legend: a key that ties it to the series, a name, and the number of its look."""

    key: str
    name: str
    look: int
    marker: bool = False


@dataclass(frozen=True)
class Panel:
    """One SVG, with a heading of its own where there are several."""

    svg: Markup
    title: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        key: Unique in the page.
        title: Its heading.
        caption: What the axes are and how to read it.
        panels: In order; those after ``shown`` are folded away.
        legend: What the lines are; may be empty.
        data: The numbers as a table, for those who do not see the figure.
        shown: How many panels are open.
        paper: A picture with colours of its own: it keeps them, on white, and its size.
    """

    key: str
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: Sequence[Entry] = ()
    data: Markup | None = None
    shown: int = 12
    paper: bool = False

    def html(self) -> Markup:
        """The ``<figure>``."""
        parts = [_panels(self.panels[: self.shown])]
        if rest := self.panels[self.shown :]:
            parts.append(folded(f"{len(rest)} more panels", _panels(rest)))
        legend = legend_of(self.legend)
        several = len(self.panels) > 1
        kind = "panels" if several else "chart paper" if self.paper else "chart"
        body = [legend, *parts] if several else [*parts, legend]
        return tag(
            "section",
            tag("h3", self.title, id=f"{self.key}-title"),
            tag(
                "figure",
                tag("figcaption", self.caption),
                tag("div", *body, class_=kind),
                folded("The numbers as a table", self.data) if self.data else "",
                aria_labelledby=f"{self.key}-title",
            ),
            class_="figure",
        )


def legend_of(entries: Sequence[Entry]) -> Markup:
    """A list; the page's script makes its entries buttons that single out a series."""
    if not entries:
        return Markup("")
    items = [tag("li", _swatch(entry), tag("span", entry.name), data_key=entry.key) for entry in entries]
    return tag("ul", *items, class_="legend")


def draw(size: tuple[float, float], paint: Callable[[Axes], Any]) -> Figure:
    """One pair of axes of a size in inches, painted by a function."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.subplots()
    axes.grid()
    paint(axes)
    return figure


def panel(
    key: str, title: str, label: str, paint: Callable[[Axes], Any], names: dict[str, str], size: tuple = PANEL
) -> Panel:
    """One of many panels."""
    return Panel(inline(draw(size, paint), key, label, names), title)


def line(axes: Axes, entry: Entry, x: Sequence[float], y: Sequence[float], **more: Any) -> None:
    """One series as a line, thinned to what a screen shows."""
    xs, ys = thin(x, y)
    axes.plot(xs, ys, gid=f"series-{entry.key}", **{**line_style(entry.look), **more})


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points of a line: its ends, and the lowest and highest of each of equal stretches.

    Args:
        x: Positions (N,), in order.
        y: Values (N,); those that are not finite are left out where anything is left out.
        most: At least 4.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(xs) <= most:
        return xs, ys
    keep = {0, len(xs) - 1}
    for stretch in np.array_split(np.arange(1, len(xs) - 1), (most - 2) // 2):
        finite = stretch[np.isfinite(ys[stretch])]
        if len(finite):
            keep |= {int(finite[ys[finite].argmin()]), int(finite[ys[finite].argmax()])}
    chosen = sorted(keep)
    return xs[chosen], ys[chosen]


def colour_of(look: int) -> str:
    """The colour of the ``look``-th series."""
    return drawn(PALETTE[look % len(PALETTE)])


def marker_of(look: int) -> str:
    """The marker of the ``look``-th point: 64 combinations with the eight colours."""
    return MARKERS[(look + look // len(MARKERS)) % len(MARKERS)]


def number(value: float) -> str:
    """Four digits, for the tables of figures."""
    return f"{value:.4g}"


def _panels(panels: Sequence[Panel]) -> Markup:
    each = [
        tag("div", tag("p", each.title, class_="panel-title") if each.title else "", each.svg, class_="panel")
        for each in panels
    ]
    return tag("div", joined(each, "\n"), class_="grid")


def _swatch(entry: Entry) -> Markup:
    """The look of a series, 28 by 10."""
    colour = f"var(--{LINES[entry.look % len(LINES)]})"
    dashes = DASHES[entry.look // len(LINES) % len(DASHES)]
    pattern = None if isinstance(dashes, str) else " ".join(f"{2 * part:g}" for part in dashes[1])
    if entry.marker:
        mark = tag("path", d=_SHAPES[marker_of(entry.look)], style=f"fill:{colour}")
    else:
        mark = tag("line", x1=0, x2=28, y1=5, y2=5, stroke_dasharray=pattern, style=f"stroke:{colour};stroke-width:2.5")
    return tag("svg", mark, viewBox="0 0 28 10", class_="swatch", aria_hidden="true")


_SHAPES = {
    "o": "M9 5a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "s": "M9.5.5h9v9h-9z",
    "D": "M14-1l6 6-6 6-6-6z",
    "^": "M14 0l5 9.5h-10z",
    "v": "M14 10l5-9.5h-10z",
    "P": "M12 0h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "X": "M10.5 0l3.5 3.2 3.5-3.2 1.5 1.5-3 3.5 3 3.5-1.5 1.5-3.5-3.2-3.5 3.2-1.5-1.5 3-3.5-3-3.5z",
    "*": "M14-1l1.6 4 4.4.3-3.4 2.8 1.1 4.2-3.7-2.3-3.7 2.3 1.1-4.2-3.4-2.8 4.4-.3z",
}
"""Markers of matplotlib as paths in a box of 28 by 10."""
