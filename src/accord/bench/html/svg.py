"""A figure of matplotlib as SVG inside the page: its colours follow the page's, and its text is the page's text.

What is drawn with the gid ``series-KEY`` becomes a group of class ``series`` with ``data-key`` KEY, so that a legend
can point at it. The same figure always gives the same text.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from accord.bench.html.fragments import Markup
from accord.bench.html.palette import VARIABLES
from accord.bench.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS: dict[str, Any] = {
    **STYLE,
    "svg.fonttype": "none",
    "text.parse_math": False,  # the names of tasks may hold a dollar sign
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
}
PLACES = 2  # decimals of a coordinate, in points
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
GEOMETRY = ("d", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "points", "transform", "viewBox", "style")
NAMES = {"http://www.w3.org/2000/svg": "", "http://www.w3.org/1999/xlink": ""}
LINK = "{http://www.w3.org/1999/xlink}href"


def inline(figure: Figure, key: str, label: str, titles: dict[str, str] | None = None) -> Markup:
    """A figure as an ``<svg>`` element.

    Args:
        figure: Drawn with ``SETTINGS``.
        key: Unique in the page; begins the ids inside.
        label: What the figure shows, for those who do not see it.
        titles: ``{series key: name}``, shown where the pointer rests on a series.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return adopt(buffer.getvalue(), key, label, titles)


def adopt(data: bytes, key: str, label: str, titles: dict[str, str] | None = None, themed: bool = True) -> Markup:
    """The text of an SVG file by matplotlib as an ``<svg>`` element; see ``inline``.

    Args:
        data: The file.
        key: Unique in the page.
        label: What the figure shows.
        titles: Names of series.
        themed: Whether colours follow the page; else they stay as they are.
    """
    root = ElementTree.fromstring(data)
    used = _references(root)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")) or _invisible(child):
                parent.remove(child)
    for element in root.iter():
        _clean(element, key, used, titles or {}, themed)
    root.attrib = {
        "class": "plot",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": label,
        "style": f"--wide:{float(root.attrib['viewBox'].split()[2]) * 4 / 3:.0f}px",
    }
    _prune(root)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True))


def _references(root: ElementTree.Element) -> set[str]:
    found = set()
    for element in root.iter():
        if link := element.attrib.get(LINK, ""):
            found.add(link.removeprefix("#"))
        for value in element.attrib.values():
            found.update(REFERENCE.findall(value))
    return found


def _invisible(element: ElementTree.Element) -> bool:
    """A path with neither line nor fill, such as the ground of a figure."""
    return element.tag.endswith("}path") and element.get("style", "").strip("; ") == "fill: none"


def _clean(element: ElementTree.Element, key: str, used: set[str], titles: dict[str, str], themed: bool) -> None:
    element.tag = element.tag.rpartition("}")[2]
    element.text = (element.text or "").strip() or None
    element.tail = None
    kept = {}
    for name, value in element.attrib.items():
        if name == "id":
            if value.startswith("series-"):
                series = value.removeprefix("series-")
                kept |= {"class": "series", "data-key": series}
                if series in titles:
                    title = ElementTree.Element("title")
                    title.text = titles[series]
                    element.insert(0, title)
            elif value in used:
                kept["id"] = f"{key}-{value}"
        elif name == LINK:
            kept["href"] = f"#{key}-{value[1:]}" if value.startswith("#") else value
        else:
            kept[name] = REFERENCE.sub(rf"url(#{key}-\1)", _short(name, value, themed))
    element.attrib = kept


def _short(name: str, value: str, themed: bool) -> str:
    if name in GEOMETRY:
        value = NUMBER.sub(lambda match: f"{float(match.group()):.{PLACES}f}".rstrip("0").rstrip("."), value)
    if name == "d":
        return re.sub(r"\s*([A-Za-z])\s*", r"\1", value).strip()
    if name == "transform":
        return value.replace("rotate(-0 ", "rotate(0 ")
    if name == "style":
        if themed:
            value = COLOUR.sub(lambda match: VARIABLES.get(match.group().lower(), match.group()), value)
        parts = (part.strip() for part in value.split(";"))
        return ";".join(re.sub(r":\s+", ":", part) for part in parts if part and not part.startswith("font-family"))
    return value


def _prune(element: ElementTree.Element) -> None:
    """Drop groups and definitions that hold nothing."""
    for child in list(element):
        _prune(child)
        if child.tag in ("g", "defs") and not len(child):
            element.remove(child)
        elif child.tag == "g" and not child.attrib:  # a group that says nothing: its children stand for it
            place = list(element).index(child)
            element.remove(child)
            for offset, grandchild in enumerate(list(child)):
                element.insert(place + offset, grandchild)
