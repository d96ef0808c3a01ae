"""A table side by side as text: for the terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accord.bench.published.item import STATUSES, Cell, Item
from accord.bench.report import Value
from accord.bench.reproduce import Line, Ours, SideBySide
from accord.bench.studies import text as study_text
from accord.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NONE_YET = "no finished run"


def print_side_by_side(side: SideBySide, console: Console) -> None:
    """Print the table, in two or more parts on a narrow console, and its remarks."""
    console.print(title(side), style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(side.item.paper, markup=False, highlight=False, soft_wrap=True)
    if side.lines and side.columns:
        columns, notes = _printed(side)
        first, *rest = columns
        for part in _parts(first, rest, console):
            console.print(_table([first, *part]))
    else:
        notes = []
    if side.study is not None:
        study_text.print_study(side.study, console)
    for line in [*notes, *footer(side)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def plain(side: SideBySide) -> str:
    """What ``print_side_by_side`` prints, for a file."""
    from rich.console import Console

    buffer = io.StringIO()
    print_side_by_side(side, Console(file=buffer, width=1000))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def markdown(side: SideBySide) -> str:
    """The table as GitHub Markdown: under each published row ours, with where each comes from, and the remarks."""
    lines = [f"## {title(side)}", "", f"{side.item.paper}.", ""]
    if side.lines and side.columns:
        head = ["method", *(column.name for column in side.columns), "from", "remark"]
        lines += [_bar(head), "|" + "|".join([":--", *["--:"] * len(side.columns), ":--", ":--"]) + "|"]
        for line in side.lines:
            if line.published is not None:
                cells = [cell.text if cell else "" for cell in line.published.cells]
                lines.append(_bar([line.name, *cells, line.published.source, line.remark]))
            if line.ours is not None:
                ours = [f"*{each}*" if each else "" for each in _ours(side, line.ours)]
                lines.append(_bar([f"`{line.ours.method}`", *ours, f"*{_from(side, line.ours)}*", ""]))
            elif line.method is not None and side.experiment is not None:
                lines.append(_bar([f"`{line.method}`", *[""] * len(side.columns), f"*{NONE_YET}*", ""]))
        lines.append("")
    if side.study is not None:
        lines += [study_text.markdown(side.study)]
    return "\n".join([*lines, *(f"* {line}" for line in footer(side))]).rstrip() + "\n"


def check_form(item: Item, form: str) -> None:
    """Refuse a form that an item does not have.

    Raises:
        OptionError: ``"csv"`` for an item that a study shows.
    """
    if form == "csv" and item.is_study:
        raise OptionError(f"{item.id} is shown by the study {item.study}, which has no csv: take json")


def to_csv(side: SideBySide) -> str:
    """Two lines a method, published and ours, with every digit; errors have columns of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [name for column in side.columns for name in (column.name, f"{column.name} ±")]
    writer.writerow(["method", "spec", "whose", *names, "seeds", "commit", "date", "preset", "source", "remark"])
    for line in side.lines:
        if line.published is not None:
            numbers = [part for cell in line.published.cells for part in _pair(cell)]
            source = line.published.source
            writer.writerow([line.name, line.method, "published", *numbers, "", "", "", "", source, line.remark])
        if line.ours is not None:
            ours = line.ours
            numbers = [part for value in ours.values for part in _pair(value)]
            origin = [" ".join(map(str, ours.seeds)), " ".join(ours.commits), " ".join(ours.dates), side.preset]
            writer.writerow([line.name, ours.method, "ours", *numbers, *origin, side.experiment, ""])
    return buffer.getvalue()


def to_json(side: SideBySide) -> str:
    """Everything, as JSON text; numbers that are not finite become null."""
    item = side.item
    data = {
        "id": item.id,
        "paper": item.paper,
        "title": item.title,
        "status": item.status,
        "experiment": side.experiment,
        "preset": side.preset,
        "columns": [{"name": c.name, "metric": c.metric} for c in side.columns],
        "rows": [_row(side, line) for line in side.lines],
        "remarks": list(side.remarks),
        "pictures": [str(path) for path in side.pictures],
    }
    if side.study is not None:
        data["study"] = json.loads(study_text.to_json(side.study))
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def title(side: SideBySide) -> str:
    """The id, what it shows, and what stands beside it."""
    beside = f"; ours: {side.experiment}, preset {side.preset}" if side.experiment else ""
    return f"{side.item.id}: {side.item.title}{beside}"


def footer(side: SideBySide) -> list[str]:
    """What is known of the published numbers, the remarks, and the figures drawn."""
    lines = [] if side.item.status == "numbers" else [f"Status: {STATUSES[side.item.status]}."]
    ours = [line.ours for line in side.lines if line.ours is not None]
    if any(value is not None and value.error is not None for each in ours for value in each.values):
        lines.append("Ours are means over seeds ± standard error of the mean.")
    if any(commit.endswith("+") for each in ours for commit in each.commits):
        lines.append("A + after a commit: files of the package differed from it.")
    if side.item.study and not side.item.is_study:
        lines.append(f"The same question as a study: `accord study {side.item.study}`.")
    return [*lines, *side.remarks, *(f"Figure: {path}" for path in side.pictures)]


def _row(side: SideBySide, line: Line) -> dict[str, Any]:
    names = [column.name for column in side.columns]
    data: dict[str, Any] = {"name": line.name, "method": line.method, "published": None, "ours": None}
    if line.published is not None:
        cells = zip(names, line.published.cells, strict=True)
        printed = {n: {"printed": c.text, "value": c.value, "error": c.error} for n, c in cells if c is not None}
        data["published"] = {"source": line.published.source, "values": printed}
    if line.ours is not None:
        ours = line.ours
        values = zip(names, ours.values, strict=True)
        measured = {n: {"mean": _finite(v.mean), "error": _finite(v.error)} for n, v in values if v is not None}
        origin = {"seeds": ours.seeds, "commits": ours.commits, "dates": ours.dates}
        data["ours"] = {"method": ours.method, "preset": side.preset, **origin, "values": measured}
    return data | {"remark": line.remark}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _pair(value: Cell | Value | None) -> tuple[Any, Any]:
    if value is None:
        return "", ""
    number = value.value if isinstance(value, Cell) else value.mean
    return number, "" if value.error is None else value.error


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ours(side: SideBySide, ours: Ours) -> list[str]:
    """Our numbers with as many decimals as the published ones of the column."""
    places = [_places(side, i) for i in range(len(side.columns))]
    return [_number(value, place) for value, place in zip(ours.values, places, strict=True)]


def _number(value: Value | None, places: int) -> str:
    if value is None:
        return ""
    size = abs(value.mean)
    if math.isfinite(size) and size:
        places = max(places, 1 - math.floor(math.log10(size)))  # two digits that count, at the least
    error = "" if value.error is None else f" ± {value.error:.{places}f}"
    return f"{value.mean:.{places}f}{error}".replace("-", "−")


def _places(side: SideBySide, index: int) -> int:
    printed = [line.published.cells[index] for line in side.lines if line.published is not None]
    digits = [len(cell.text.partition("±")[0].strip().partition(".")[2]) for cell in printed if cell is not None]
    if digits:
        return max(digits)
    sizes = [line.ours.values[index] for line in side.lines if line.ours is not None]
    found = sorted(abs(v.mean) for v in sizes if v is not None and v.mean and math.isfinite(v.mean))
    return min(6, max(0, 3 - math.floor(math.log10(found[len(found) // 2])))) if found else 2


def _from(side: SideBySide, ours: Ours) -> str:
    """Where our row comes from: preset, seeds, commit, date."""
    many = f"{len(ours.seeds)} seed{'s' * (len(ours.seeds) != 1)}"
    commit = ", ".join(ours.commits) or "commit unknown"
    return f"{side.preset}, {many}, {commit}, {' to '.join(ours.dates)}"


def _printed(side: SideBySide) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Columns of the terminal's table, heading and cells, and the remarks of rows as numbered notes."""
    columns: list[tuple[str, list[str]]] = [(name, []) for name in ("method", *(c.name for c in side.columns), "from")]
    notes: dict[str, int] = {}

    def add(cells: Sequence[str]) -> None:
        for (_, column), cell in zip(columns, cells, strict=True):
            column.append(cell)

    for line in side.lines:
        if line.published is not None:
            mark = f" [{notes.setdefault(line.remark, len(notes) + 1)}]" if line.remark else ""
            cells = [cell.text if cell else "" for cell in line.published.cells]
            add([line.name + mark, *cells, line.published.source])
        if line.ours is not None:
            add([f"  ours: {line.ours.method}", *_ours(side, line.ours), _from(side, line.ours)])
        elif line.method is not None and side.experiment is not None:
            add([f"  ours: {line.method}", *[""] * len(side.columns), NONE_YET])
    return columns, [f"[{number}] {remark}" for remark, number in notes.items()]


def _table(columns: Sequence[tuple[str, list[str]]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, (heading, _) in enumerate(columns):
        left = i == 0 or heading == "from"
        table.add_column(Text(heading), justify="left" if left else "right", no_wrap=heading != "from")
    for cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*(Text(cell, style="bold" if cells[0].startswith("  ours") else "") for cell in cells))
    return table


def _parts(
    first: tuple[str, list[str]], rest: Sequence[tuple[str, list[str]]], console: Console
) -> list[list[tuple[str, list[str]]]]:
    """The columns in runs that fit the console, at least one in each."""
    wide = console.options.update(width=100_000)
    parts: list[list[tuple[str, list[str]]]] = [[]]
    for column in rest:
        longer = _table([first, *parts[-1], column])
        if parts[-1] and console.measure(longer, options=wide).maximum > console.width:
            parts.append([])
        parts[-1].append(column)
    return parts


FORMS = {"table": plain, "markdown": markdown, "csv": to_csv, "json": to_json}
"""The side-by-side table as text, by the name of the form."""
