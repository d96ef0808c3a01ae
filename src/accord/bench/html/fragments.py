"""HTML in small pieces: whatever is no ``Markup`` yet is text, and is escaped when it becomes part of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = frozenset({"meta", "br", "img"})


class Markup(str):
    """Text that is HTML already; all other strings are escaped."""

    __slots__ = ()


def safe(text: str) -> Markup:
    """Escape a text, or leave markup as it is."""
    return text if isinstance(text, Markup) else Markup(escape(text))


def tag(name: str, /, *children: str, **attributes: str | int | bool | None) -> Markup:
    """An element.

    Args:
        name: Of the element.
        children: Markup, or text that is escaped.
        attributes: ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``. True gives an attribute without
            a value, False and None give none.
    """
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {key}")
        elif value is not None and value is not False:
            written.append(f' {key}="{escape(str(value))}"')
    start = f"<{name}{''.join(written)}>"
    return Markup(start if name in VOID else f"{start}{joined(children)}</{name}>")


def joined(parts: Iterable[str], separator: str = "") -> Markup:
    """Pieces one after the other, text among them escaped."""
    return Markup(separator.join(safe(part) for part in parts))


def hidden(text: str) -> Markup:
    """Text for screen readers alone."""
    return tag("span", text, class_="vh")


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Markup:
    """A small table: the first cell of each row is its heading."""
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest), Markup("\n"))
        for first, *rest in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
            tag("tbody", *body),
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def folded(summary: str, *children: str) -> Markup:
    """What a reader may open."""
    return tag("details", tag("summary", summary), *children)
