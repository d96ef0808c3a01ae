"""A report as text: a table for the terminal, split where it is too wide, and Markdown."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accord.bench.report import Report, Value

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Column:
    """Heading lines, one cell a row, and which cells hold the best value."""

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


def print_report(report: Report, console: Console) -> None:
    """Print the table, its notes and what was left out; in two or more parts on a narrow console."""
    metrics, summary = columns(report)
    first = _methods(report)
    title = f"{report.experiment.name} (version {report.experiment.version}), preset {report.preset}"
    if report.rows:
        whole = _table([first, *metrics, *summary], title)
        if _fits(whole, console):
            console.print(whole)
        else:
            for i, part in enumerate([*_parts(first, summary, console), *_parts(first, metrics, console)]):
                console.print(_table([first, *part], None if i else title))
    for line in footer(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def markdown(report: Report) -> str:
    """The whole table as GitHub Markdown, best values in bold, with the notes below it."""
    metrics, summary = columns(report)
    table = [_methods(report), *metrics, *summary]
    lines = [
        f"## {report.experiment.name} (version {report.experiment.version}), preset {report.preset}",
        "",
        "| " + " | ".join(" ".join(part for part in c.heading if part) for c in table) + " |",
        "|" + "|".join([":--"] + ["--:"] * (len(table) - 1)) + "|",
    ]
    for i in range(len(report.rows)):
        cells = [f"**{c.cells[i]}**" if i in c.best else c.cells[i] for c in table]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"* {line}" for line in footer(report))]).rstrip() + "\n"


def plain(report: Report) -> str:
    """The whole table as text without colours, for a file."""
    from rich.console import Console

    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=1000))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def columns(report: Report) -> tuple[list[Column], list[Column]]:
    """The metrics' columns, and those that sum a method up."""
    single = all(len(task.metrics) == 1 for task in report.experiment.tasks)
    metrics = []
    for name, metric in report.experiment.metrics:
        task = name.rpartition("/")[0]
        arrow = "↑" if metric.higher_is_better else "↓"
        heading = (task if single else name, f"({metric.unit}) {arrow}" if metric.unit else arrow)
        values = [row.metrics.get(name) for row in report.rows]
        metrics.append(_numbers(report, heading, values, metric.higher_is_better))
    summary = []
    for name in report.experiment.averages:
        metric = next(m for task in report.experiment.tasks for m in task.metrics if m.name == name)
        arrow = "↑" if metric.higher_is_better else "↓"
        values = [row.averages.get(name) for row in report.rows]
        summary.append(_numbers(report, ("mean", f"{name} {arrow}"), values, metric.higher_is_better))
    if report.experiment.baseline:
        summary.append(_numbers(report, ("mean", "rank ↓"), [_plain(r.mean_rank) for r in report.rows], places=2))
        summary.append(_numbers(report, ("Δm", "(%) ↓"), [r.delta_m for r in report.rows], places=2))
    speeds = [r.seconds_per_step and 1000 * r.seconds_per_step for r in report.rows]
    summary.append(_numbers(report, ("time", "(ms/step)"), [_plain(s) for s in speeds], rate=False))
    residuals = ["" if r.residual is None else f"{r.residual:.0e}" for r in report.rows]
    summary.append(Column(("worst", "residual"), tuple(residuals)))
    unsolved = ["" if r.unsolved is None else f"{100 * r.unsolved:.2f}" for r in report.rows]
    summary.append(Column(("unsolved", "(% of steps)"), tuple(unsolved)))
    summary.append(Column(("seeds", ""), tuple(str(r.seeds) for r in report.rows)))
    return metrics, summary


def footer(report: Report) -> list[str]:
    """What the metrics are, the notes, and the runs left out with their causes."""
    lines = []
    kinds = {task.metrics[0].name for task in report.experiment.tasks}
    if all(len(task.metrics) == 1 for task in report.experiment.tasks) and len(kinds) == 1:
        lines.append(f"Metric of every task: {kinds.pop()}.")
    if any(row.metrics and any(v.error is not None for v in row.metrics.values()) for row in report.rows):
        lines.append("Means over seeds ± standard error of the mean.")
    if any(row.delta_m is not None and row.delta_m.error is not None for row in report.rows):
        lines.append("Δm compares each seed with stl's mean over seeds, whose own error is not in the ±.")
    if any(row.method == "stl" for row in report.rows):
        unranked = ", and it takes no part in the mean rank" if report.experiment.baseline else ""
        lines.append(f"stl trains one network a task: its time is their sum{unranked}.")
    lines += [f"Note: {note}." for note in report.notes]
    if report.left_out:
        lines.append(
            "Not in the table; the same `accord run` takes up what failed or is unfinished at its last checkpoint; "
            "what is damaged says what helps:"
        )
        lines += [f"  {line}" for line in report.left_out]
    return lines


def _methods(report: Report) -> Column:
    return Column(("method", ""), tuple(row.method for row in report.rows))


def _plain(number: float | None) -> Value | None:
    return None if number is None else Value(number)


def _numbers(
    report: Report,
    heading: tuple[str, ...],
    values: Sequence[Value | None],
    higher: bool = False,
    places: int | None = None,
    rate: bool = True,
) -> Column:
    """Cells with as many decimals as the column needs for four digits, the best multi-task method marked."""
    finite = [v.mean for v in values if v is not None and math.isfinite(v.mean)]
    if places is None:
        places = _places(finite)
    cells = tuple(_cell(value, places) for value in values)
    rivals = {
        i: value.mean
        for i, (row, value) in enumerate(zip(report.rows, values, strict=True))
        if value is not None and math.isfinite(value.mean) and row.method != "stl"
    }
    best: Callable[[Iterable[float]], float] = max if higher else min
    marked = {i for i, x in rivals.items() if x == best(rivals.values())} if rate and len(rivals) > 1 else set()
    return Column(heading, cells, frozenset(marked))


def _places(numbers: Sequence[float]) -> int:
    sizes = sorted(abs(x) for x in numbers if x)
    if not sizes:
        return 1
    return min(6, max(0, 3 - math.floor(math.log10(sizes[len(sizes) // 2]))))


def _cell(value: Value | None, places: int) -> str:
    if value is None:
        return ""
    return f"{value.mean:.{places}f}" + ("" if value.error is None else f" ±{value.error:.{places}f}")


def _table(columns: Sequence[Column], title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for i, column in enumerate(columns):
        heading = Text("\n".join(column.heading))
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for i in range(len(columns[0].cells)):
        table.add_row(*(Text(c.cells[i], style="bold" if i in c.best else "") for c in columns))
    return table


def _fits(table: Table, console: Console) -> bool:
    return console.measure(table, options=console.options.update(width=100_000)).maximum <= console.width


def _parts(first: Column, metrics: Sequence[Column], console: Console) -> list[list[Column]]:
    """Split columns into runs that fit the console, at least one column each."""
    parts: list[list[Column]] = [[]]
    for column in metrics:
        if parts[-1] and not _fits(_table([first, *parts[-1], column]), console):
            parts.append([])
        parts[-1].append(column)
    return parts
