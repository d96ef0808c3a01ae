"""The colours of the page, by name, on a light and on a dark ground; figures use them through CSS variables.

Lines stand at least 3:1 against their ground and stay apart for readers who do not tell red, green or blue apart; the
tests hold both. Where there are more lines than colours, dashes tell them apart (``accord.bench.plots.line_style``).
"""

from __future__ import annotations

from collections.abc import Mapping

from accord.bench.plots import FAINT, INK, PALETTE, SOFT

LIGHT = {
    "ground": "#ffffff",
    "raised": "#f4f5f7",
    "ink": "#1b1f24",
    "soft": "#5d6670",
    "faint": "#d9dde2",
    "accent": "#005a9c",
    "warn": "#fff4d6",
    "warn-edge": "#c98500",
    "c0": "#005a9c",
    "c1": "#c98500",
    "c2": "#00997a",
    "c3": "#c05a9a",
    "c4": "#3c9bdd",
    "c5": "#a83200",
    "c6": "#555555",
    "c7": "#111111",
}
DARK = {
    "ground": "#14171c",
    "raised": "#1e232a",
    "ink": "#e8ebef",
    "soft": "#a3adb8",
    "faint": "#3a424c",
    "accent": "#7cc0f5",
    "warn": "#3a2f12",
    "warn-edge": "#e69f00",
    "c0": "#3d9be9",
    "c1": "#e69f00",
    "c2": "#17b587",
    "c3": "#d97fb4",
    "c4": "#9ad4f7",
    "c5": "#f0703a",
    "c6": "#737373",
    "c7": "#f2f2f2",
}
LINES = tuple(f"c{i}" for i in range(len(PALETTE)))
"""The variables of lines, in the order of ``accord.bench.plots.PALETTE``."""

BLACK = "#111111"
"""Drawn in the place of pure black: matplotlib does not write the fill of that, and it could not become a variable."""

VARIABLES = {
    **{colour.lower(): f"var(--{name})" for colour, name in zip(PALETTE, LINES, strict=True)},
    BLACK: f"var(--{LINES[-1]})",
    INK.lower(): "var(--ink)",
    SOFT.lower(): "var(--soft)",
    FAINT.lower(): "var(--faint)",
    "#ffffff": "var(--ground)",
}
"""What each colour that the figures draw with becomes on the page."""


def drawn(colour: str) -> str:
    """A colour of ``accord.bench.plots`` as figures of the page must draw it."""
    return BLACK if colour == "#000000" else colour


def css() -> str:
    """The variables: light by default, dark where the reader's system or the reader asks for it."""
    dark = _block(DARK, "dark")
    return (
        f":root {{ {_block(LIGHT, 'light')} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark} }} }}\n"
        f"@media screen {{ :root[data-theme=dark] {{ {dark} }} }}\n"
    )


def _block(colours: Mapping[str, str], scheme: str) -> str:
    return f"color-scheme: {scheme}; " + " ".join(f"--{name}: {value};" for name, value in colours.items())
