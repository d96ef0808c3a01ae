"""The tables of the documentation say what the kept results say, digit for digit."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QM9, DIGITS = "2026-11-22-qm9-laptop-seeds", "2026-11-23-multimnist-laptop"
TOXCAST, ROOMS = "2026-11-23-toxcast40-laptop", "2026-11-29-rooms-laptop"
EQUAL, SPREAD = "2026-11-30-mt10-imitation-laptop", "2026-11-30-mt10-imitation-laptop-spread"
BOTH = ("left/accuracy", "right/accuracy")
TABLES = [  # page, heading, columns after the method's name as (results, number)
    ("choosing.md", "### QM9", [(QM9, "delta_m"), (QM9, "mean_rank")]),
    ("choosing.md", "### MultiMNIST", [*((DIGITS, name) for name in BOTH), (DIGITS, "delta_m")]),
    ("choosing.md", "### ToxCast", [(TOXCAST, "mean_rank"), (TOXCAST, "delta_m")]),
    ("choosing.md", "### Rooms", [(ROOMS, "delta_m"), (ROOMS, "mean_rank")]),
    ("choosing.md", "### MT10 by", [(EQUAL, "mean success"), (SPREAD, "mean success")]),
    ("experiments/mt10-imitation.md", "## Results", [(EQUAL, "mean success"), (SPREAD, "mean success")]),
    ("experiments/multimnist.md", "## Results", [(DIGITS, name) for name in (*BOTH, "mean_rank", "delta_m")]),
    ("experiments/toxcast40.md", "## Results", [(TOXCAST, n) for n in ("mean AUC", "mean F1", "mean_rank", "delta_m")]),
    ("experiments/qm9.md", "## Results", [(QM9, "mean_rank"), (QM9, "delta_m")]),
    ("experiments/mt10.md", "## Results", [("2026-11-30-mt-four-tasks-laptop", "mean success")]),
    (
        "experiments/rooms.md",
        "## Results",
        [(ROOMS, n) for n in ("seg/mIoU", "depth/AbsErr", "normal/mean", "mean_rank", "delta_m")],
    ),
]


def rows(page, heading):
    """``{method: cells}`` of the tables below a heading, down to the next of its level."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text[text.index(f"\n{heading}") + 1 :]
    level = heading.partition(" ")[0]
    section = section.partition(f"\n{level} ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(" `*").lower(): [cell.strip(" *") for cell in cells[1:]] for cells in lines}


@pytest.mark.parametrize(("page", "heading", "columns"), TABLES, ids=[f"{page}-{title}" for page, title, _ in TABLES])
def test_a_table_of_the_docs_is_that_of_the_results(page, heading, columns):
    known = {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name, _ in columns}
    results = {name: {row["method"]: row for row in data["rows"]} for name, data in known.items()}
    checked = 0
    for method, cells in rows(page, heading).items():
        for (name, key), cell in zip(columns, cells, strict=False):
            if method not in results[name]:
                continue
            row = results[name][method]
            for text, value in zip(
                re.findall(r"-?\d+\.\d+", cell.replace("−", "-")), (row[key], row.get(f"{key} ±")), strict=False
            ):
                assert value is not None
                assert abs(float(text) - value) <= 0.5001 * 10 ** -len(text.partition(".")[2]), (method, key)
                checked += 1
    assert checked >= 4 * len(columns)
