"""Reading and checking the files of published tables and figures."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from accord.balancers.registry import suggest
from accord.bench.published.item import AVERAGE, MEASURED, STATUSES, SUMMARY, Cell, Column, Item, PublishedRow
from accord.errors import DataError, UnknownNameError

FOLDER = Path(__file__).parent
NUMBER = re.compile(r"[−-]?\d+(\.\d+)?")

_ITEM = {
    "title": str,
    "status": str,
    "source": str,
    "experiment": str,
    "protocol": str,
    "on": list,
    "study": str,
    "pictures": list,
    "methods": list,
    "columns": list,
    "rows": list,
    "baselines": str,
    "remarks": list,
    "tolerance": dict,
}
_COLUMN = {"name": str, "metric": str, "higher": bool, "scale": (int, float), "of": str, "ratio_of": str}
_ROW = {"name": str, "method": str, "cells": str, "source": str, "remark": str, "recomputed": dict}


@dataclass(frozen=True)
class Paper:
    """A paper whose tables and figures are listed.

    Attributes:
        name: The first part of the ids.
        citation: Authors, title, venue.
        known: What is known of its tables and figures, and from where.
        items: The ids, in the paper's order.
    """

    name: str
    citation: str
    known: str
    items: tuple[str, ...]


@cache
def papers(folder: Path = FOLDER) -> tuple[Paper, ...]:
    """Every paper of the index.

    Raises:
        DataError: The index and the files beside it do not agree.
    """
    data = _parse(folder / "index.toml")
    found = []
    for name, entry in data.items():
        if not isinstance(entry, dict) or set(entry) != {"citation", "known", "items"}:
            raise DataError(f"{folder / 'index.toml'}: [{name}] must have citation, known and items, and no more")
        items = tuple(f"{name}/{item}" for item in entry["items"])
        found.append(Paper(name, entry["citation"], entry["known"], items))
    listed = [item for paper in found for item in paper.items]
    there = {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.toml")}
    if sorted(listed) != sorted(there):
        odd = sorted(set(listed) ^ there) or sorted(item for item in listed if listed.count(item) > 1)
        raise DataError(f"{folder / 'index.toml'} and the files beside it differ in {', '.join(odd)}")
    return tuple(found)


def ids(folder: Path = FOLDER) -> tuple[str, ...]:
    """The ids of all tables and figures, paper by paper."""
    return tuple(item for paper in papers(folder) for item in paper.items)


@cache
def load(name: str, folder: Path = FOLDER) -> Item:
    """The table or figure of that id.

    Args:
        name: Such as ``"nash-mtl/table-2"``.
        folder: Where the files are; those of this package by default.

    Raises:
        UnknownNameError: There is none; the nearest is suggested.
        DataError: Its file is malformed.
    """
    paper = next((paper for paper in papers(folder) if name in paper.items), None)
    if paper is None:
        near = suggest(name, ids(folder), listing=False)
        raise UnknownNameError(f"no table or figure {name!r}{near} (`accord reproduce` lists all)")
    path = folder / f"{name}.toml"
    return _item(path, name, paper, _parse(path), lambda other: load(other, folder))


def _item(path: Path, name: str, paper: Paper, data: dict[str, Any], other: Callable[[str], Item]) -> Item:
    _check(path, "the file", data, _ITEM, ("title", "status"))
    status = next((each for each in STATUSES if each == data["status"]), None)
    if status is None:
        raise DataError(f"{path}: status {data['status']!r} is none of {', '.join(STATUSES)}")
    columns = tuple(_column(path, entry) for entry in data.get("columns", ()))
    source = data.get("source", "")
    rows = [_row(path, entry, columns, source) for entry in data.get("rows", ())]
    if "baselines" in data:
        rows = [*_aligned(other(data["baselines"]), columns), *rows]
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a row's name stands twice: {', '.join(sorted(names))}")
    if (data["status"] == "numbers") != bool(rows):
        raise DataError(f"{path}: status {data['status']!r} with {len(rows)} rows: numbers need rows, others have none")
    if any(not row.source for row in rows):
        raise DataError(f"{path}: row {next(row.name for row in rows if not row.source)!r} has no source")
    return Item(
        id=name,
        paper=paper.citation,
        title=data["title"],
        status=status,
        source=source,
        experiment=data.get("experiment"),
        protocol=data.get("protocol", "paper"),
        on=tuple(data.get("on", ())),
        study=data.get("study"),
        pictures=tuple(data.get("pictures", ())),
        methods=tuple(data.get("methods", ())),
        columns=columns,
        rows=tuple(replace(row, cells=_with_ratios(path, row, rows, columns)) for row in rows),
        remarks=tuple(data.get("remarks", ())),
        tolerance=tuple((metric, float(value)) for metric, value in data.get("tolerance", {}).items()),
    )


def _column(path: Path, entry: Any) -> Column:
    _check(path, "a column", entry, _COLUMN, ("name",))
    metric = entry.get("metric")
    general = metric is not None and ("/" in metric or metric.startswith(AVERAGE))
    if metric is not None and not general and metric not in (*SUMMARY, *MEASURED):
        known = ", ".join((*SUMMARY, *MEASURED))
        raise DataError(
            f"{path}: column {entry['name']!r}: metric {metric!r} is neither task/metric nor 'mean metric' nor one of "
            f"{known}"
        )
    return Column(
        entry["name"],
        metric,
        entry.get("higher", False),
        float(entry.get("scale", 1.0)),
        entry.get("of"),
        entry.get("ratio_of"),
    )


def _row(path: Path, entry: Any, columns: Sequence[Column], source: str) -> PublishedRow:
    _check(path, "a row", entry, _ROW, ("name", "cells"))
    where = f"{path}: row {entry['name']!r}"
    printed = iter(entry["cells"].split())
    cells = []
    for column in columns:
        text = None if column.ratio_of else next(printed, None)
        if text is None and not column.ratio_of:
            raise DataError(f"{where} has no cell for column {column.name!r}")
        cells.append(None if text in (None, "-") else _cell(where, text))
    if (spare := next(printed, None)) is not None:
        raise DataError(f"{where} has more cells than the table has columns: {spare!r} is left over")
    recomputed = tuple((metric, float(value)) for metric, value in entry.get("recomputed", {}).items())
    method, remark = entry.get("method"), entry.get("remark", "")
    return PublishedRow(entry["name"], method, tuple(cells), entry.get("source", source), remark, recomputed)


def _cell(where: str, text: str) -> Cell:
    parts = text.split("±")
    if len(parts) > 2 or not all(NUMBER.fullmatch(part) for part in parts):
        raise DataError(f"{where}: {text!r} is not a number, number±error, or - for what is not printed")
    value, *error = (float(part.replace("−", "-")) for part in parts)
    return Cell(" ± ".join(parts).replace("-", "−"), value, error[0] if error else None)


def _aligned(item: Item, columns: Sequence[Column]) -> list[PublishedRow]:
    """Rows of another table under these columns; mean ranks stay behind, since the sets of methods differ."""
    places = [None if c.metric in (None, "mean_rank") else item.column(c.metric or "") for c in columns]
    found = []
    for row in item.rows:
        cells = tuple(None if place is None else row.cells[place] for place in places)
        kept = tuple((metric, value) for metric, value in row.recomputed if metric != "mean_rank")
        remark = row.remark if kept == row.recomputed else ""  # a remark on a mean rank stays behind with it
        found.append(replace(row, cells=cells, recomputed=kept, remark=remark))
    return found


def _with_ratios(
    path: Path, row: PublishedRow, rows: Sequence[PublishedRow], columns: Sequence[Column]
) -> tuple[Cell | None, ...]:
    """The cells, with those that are computed as ratios to the row of ``ls``."""
    cells = list(row.cells)
    for i, column in enumerate(columns):
        if column.ratio_of is None:
            continue
        place = next((j for j, each in enumerate(columns) if each.name == column.ratio_of), None)
        unit = next((each for each in rows if each.method == "ls"), None)
        base = None if place is None or unit is None else unit.cells[place]
        if place is None or base is None:
            raise DataError(
                f"{path}: column {column.name!r}: no {column.ratio_of!r} of a row with method ls to divide by"
            )
        cell = cells[place]
        if cell is not None:
            ratio = cell.value / base.value
            cells[i] = Cell(f"{ratio:.2f}", ratio)
    return tuple(cells)


def _check(path: Path, what: str, entry: Any, known: Mapping[str, Any], needed: Sequence[str]) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: {what} is {entry!r}, not a table")
    for key, value in entry.items():
        if key not in known:
            raise DataError(f"{path}: {what} has an unknown key {key!r}{suggest(key, known)}")
        if not isinstance(value, known[key]):
            raise DataError(f"{path}: {what} has {key} = {value!r}, a {type(value).__name__}")
    missing = [key for key in needed if key not in entry]
    if missing:
        raise DataError(f"{path}: {what} lacks {', '.join(missing)}")


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}: reinstall accord") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML ({error}): reinstall accord") from error
