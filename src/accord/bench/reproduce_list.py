"""The list of all published tables and figures, with what each needs and the command for it."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from accord.bench import experiments
from accord.bench.published.item import STATUSES, Item
from accord.bench.published.reading import ids, load, papers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HEADINGS = ("id", "title", "status", "needs", "command")


def print_table(console: Console) -> None:
    """All ids, what they show, and what each needs."""
    from rich import box
    from rich.table import Table

    table: Table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(("table or figure", "shows", "published", "needs")):
        table.add_column(heading, no_wrap=i != 1)
    for name, shows, status, needed, _ in entries():
        table.add_row(name, shows, status, needed)
    console.print(table)
    for line in [*(f"{status}: {meaning}." for status, meaning in STATUSES.items()), CLOSING]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


CLOSING = "`accord reproduce ID` runs what the store has not, and shows published and ours side by side."


def plain() -> str:
    """What ``print_table`` prints, for a file."""
    from rich.console import Console

    buffer = io.StringIO()
    print_table(Console(file=buffer, width=1000))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def markdown() -> str:
    """The list as Markdown, a table a paper."""
    lines = []
    for paper in papers():
        lines += [f"### {paper.citation}", "", paper.known, "", "| shows | published | needs | command |"]
        lines.append("|:--|:--|:--|:--|")
        for name, shows, status, needed, command in entries():
            if name in paper.items:
                lines.append(f"| {shows} | {status} | {needed} | `{command}` |")
        lines.append("")
    lines += [f"* {status}: {meaning}." for status, meaning in STATUSES.items()]
    return "\n".join(lines) + "\n"


def to_csv() -> str:
    """The list with one line an item."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([HEADINGS, *entries()])
    return buffer.getvalue()


def to_json() -> str:
    """The list as JSON text."""
    found = [dict(zip(HEADINGS, entry, strict=True)) for entry in entries()]
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def entries() -> list[tuple[str, str, str, str, str]]:
    """Id, title, status, need and command of each, in the order of the index."""
    known = experiments.names()
    found: list[tuple[str, str, str, str, str]] = []
    for name in ids():
        item = load(name)
        runs = item.experiment is None or item.experiment in known
        command = f"accord reproduce {name}" if runs else f"accord reproduce {name} --no-run"
        found.append((name, item.title, item.status, _needs(item, known), command))
    return found


def _needs(item: Item, known: tuple[str, ...]) -> str:
    """The experiment, its published preset, and what else the item can be put on."""
    if item.experiment is None:
        return "no experiment here measures it" if item.rows else "nothing to run"
    if item.experiment not in known:
        return f"{item.experiment}, which is not in this version"
    other = f"; or --on {', '.join(item.on)}" if item.on else ""
    by = f" by the study {item.study}" if item.is_study else ""
    return f"{item.experiment}{by}, published as --preset {item.protocol}{other}"


FORMS = {"table": plain, "markdown": markdown, "csv": to_csv, "json": to_json}
"""The list as text, by the name of the form."""
