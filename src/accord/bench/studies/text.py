"""A study as text: for the terminal, as Markdown and as JSON; and the list of all studies."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any

from accord.bench.measured import SHORT
from accord.bench.report import Value
from accord.bench.studies import load, names
from accord.bench.studies.study import Cell, StudyReport, Table

if TYPE_CHECKING:
    from rich.console import Console


def print_list(console: Console) -> None:
    """All studies: name, what it shows, its source, and on what."""
    from rich import box
    from rich.table import Table as Shown

    shown = Shown(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(("study", "shows", "after", "experiment")):
        shown.add_column(heading, no_wrap=i in (0, 3))
    for name in names():
        study = load(name)
        shown.add_row(study.name, study.title, study.source, study.experiment)
    console.print(shown)
    closing = "`accord study NAME` runs what the store has not, prints the table and draws the figures."
    console.print(closing, markup=False, highlight=False, soft_wrap=True)


def print_study(report: StudyReport, console: Console) -> None:
    """The question, the tables and the notes."""
    from rich import box
    from rich.table import Table as Shown
    from rich.text import Text

    for line in (report.study.question, f"After: {report.study.source}."):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for table in report.tables:
        shown = Shown(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading, form in zip(table.headings, table.forms, strict=True):
            shown.add_column(Text(heading), justify="right" if form else "left")
        for row in _cells(table):
            shown.add_row(*map(Text, row))
        console.print(shown)
    for line in footer(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def plain(report: StudyReport) -> str:
    """What ``print_study`` prints, for a file."""
    from rich.console import Console

    buffer = io.StringIO()
    print_study(report, Console(file=buffer, width=240))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def markdown(report: StudyReport) -> str:
    """The question, the tables and the notes as GitHub Markdown."""
    lines = [report.study.question, "", f"After: {report.study.source}.", ""]
    for table in report.tables:
        lines += [f"## {table.title}", "", _bar(table.headings)]
        lines.append("|" + "|".join("--:" if form else ":--" for form in table.forms) + "|")
        lines += [*(_bar(row) for row in _cells(table)), ""]
    return "\n".join([*lines, *(f"* {line}" for line in footer(report))]).rstrip() + "\n"


def to_json(report: StudyReport) -> str:
    """Everything, as JSON text with every digit; numbers that are not finite become null."""
    data = {
        "study": report.study.name,
        "title": report.study.title,
        "source": report.study.source,
        "experiment": report.experiment.name,
        "version": report.experiment.version,
        "preset": report.preset,
        "seeds": list(report.seeds),
        "tables": [
            {"title": t.title, "headings": list(t.headings), "rows": [[_plain(cell) for cell in row] for row in t.rows]}
            for t in report.tables
        ],
        "notes": footer(report),
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def footer(report: StudyReport) -> list[str]:
    """Where the runs come from, and the notes."""
    attempts = [attempt for line in report.lines for run in line.runs for attempt in run.info()["attempts"]]
    days = sorted({attempt["started"][:10] for attempt in attempts})
    commits = {a["commit"][:SHORT] + ("+" if a.get("modified") else "") for a in attempts if a.get("commit")}
    many = f"seed{'s' * (len(report.seeds) > 1)} {', '.join(map(str, report.seeds))}"
    when = f", {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    lines = [f"Runs: {many}{when}{', commit ' if commits else ''}{', '.join(sorted(commits))}."]
    if any(isinstance(cell, Value) and cell.error is not None for t in report.tables for row in t.rows for cell in row):
        lines.append("Means over seeds ± standard error of the mean.")
    return [*lines, *report.notes]


def _cells(table: Table) -> list[list[str]]:
    return [[_cell(cell, form) for cell, form in zip(row, table.forms, strict=True)] for row in table.rows]


def _cell(cell: Cell, form: str) -> str:
    if not isinstance(cell, Value):
        return cell or ""
    error = "" if cell.error is None else f" ±{cell.error:{form}}"
    return f"{cell.mean:{form}}{error}"


def _plain(cell: Cell) -> Any:
    if not isinstance(cell, Value):
        return cell
    return {"mean": _finite(cell.mean), "error": _finite(cell.error)}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _bar(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


FORMS = {"table": plain, "markdown": markdown, "json": to_json}
"""A study as text, by the name of the form."""
