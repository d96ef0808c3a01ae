"""The comparison table: the text of ``accord report``, with the numbers behind it for sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accord.bench.html.fragments import Markup, hidden, tag
from accord.bench.html.material import Material
from accord.bench.report import STL, Value
from accord.bench.tables import Column, columns

ARROWS = {"↓": "lower is better", "↑": "higher is better"}


@dataclass(frozen=True)
class Sortable:
    """A column and the number behind each cell; None where there is none."""

    column: Column
    numbers: Sequence[float | None]


def comparison(material: Material) -> Markup:
    """The table, what sums a method up first, in a region that scrolls by itself."""
    rows, keys = material.report.rows, material.keys
    every = sortables(material)
    head = tag("tr", tag("th", "method", scope="col", data_kind="text"), *(_head(each.column) for each in every))
    body = []
    for i, row in enumerate(rows):
        name = tag("th", row.method, scope="row")
        cells = [name, *(_cell(each, i) for each in every)]
        single = row.method == STL
        body.append(tag("tr", *cells, Markup("\n"), class_="single" if single else None, data_key=keys.get(row.method)))
    caption = f"{material.experiment.name}, preset {material.report.preset}: one row a method, the best values in bold"
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="comparison"),
        class_="scroll",
        role="region",
        aria_label="Comparison of the methods",
        tabindex=0,
    )


def sortables(material: Material) -> list[Sortable]:
    """The columns in the page's order: means and Δm, each metric, then costs."""
    report = material.report
    metrics, summary = columns(report)
    rows = report.rows
    numbers: list[list[float | None]] = []
    for name in report.experiment.averages:
        numbers.append([_mean(row.averages.get(name)) for row in rows])
    if report.experiment.baseline:
        numbers.append([row.mean_rank for row in rows])
        numbers.append([_mean(row.delta_m) for row in rows])
    rated = len(numbers)
    numbers += [[row.seconds_per_step for row in rows], [row.residual for row in rows], [row.unsolved for row in rows]]
    numbers.append([float(row.seeds) for row in rows])
    sums = [Sortable(column, values) for column, values in zip(summary, numbers, strict=True)]
    each = []
    for column, (name, _) in zip(metrics, report.experiment.metrics, strict=True):
        each.append(Sortable(column, [_mean(row.metrics.get(name)) for row in rows]))
    return [*sums[:rated], *each, *sums[rated:]]


def _mean(value: Value | None) -> float | None:
    return None if value is None else value.mean


def _head(column: Column) -> Markup:
    name, unit = column.heading
    arrow = unit[-1:] if unit[-1:] in ARROWS else ""
    unit = unit.removesuffix(arrow).strip()
    below: list[str] = [f"{unit} "] if unit else []
    if arrow:
        below += [tag("span", arrow, aria_hidden="true"), hidden(ARROWS[arrow])]
    parts = [name, " ", tag("span", *below, class_="unit")] if below else [name]
    return tag("th", *parts, scope="col", data_first="descending" if arrow == "↑" else "ascending")


def _cell(each: Sortable, row: int) -> Markup:
    number = each.numbers[row]
    known = number is not None and math.isfinite(number)
    mean, sign, error = each.column.cells[row].partition(" ±")
    best = row in each.column.best
    return tag(
        "td",
        tag("strong", mean) if best else mean,
        tag("span", sign + error, class_="error") if sign else "",
        data_v=f"{number:.17g}" if known else None,
    )
