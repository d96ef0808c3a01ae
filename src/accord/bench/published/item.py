"""What a published table or figure is: columns, rows as printed, and what of it this library can compute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Status = Literal["numbers", "figure-only", "not-found"]
STATUSES: dict[Status, str] = {
    "numbers": "the published numbers are here",
    "figure-only": "published as a picture, without numbers",
    "not-found": "what the paper shows was not found",
}

SUMMARY = ("mean_rank", "delta_m")
"""Columns that a report computes from the metrics."""

MEASURED = ("minutes_per_epoch", "seconds_per_step", "time_over_ls", "train_loss", "solved", "best_success")
"""Columns taken from the records of the runs.

``time_over_ls`` is the time of a step divided by that of ``ls``, ``train_loss`` the mean over tasks in the last epoch,
and ``solved`` the share of steps, in percent, whose weights meet the method's definition. ``best_success`` is the
success of the evaluation with the largest mean over seeds and tasks, as the tables of MT10 print it; ``mean success``
is that of the last evaluation.
"""

AVERAGE = "mean "
"""Before a metric's name: its mean over tasks, of the experiment's ``averages``; ``"mean success"``."""


@dataclass(frozen=True)
class Cell:
    """One printed number.

    Attributes:
        text: As printed, such as ``"177.6 ± 3.4"``.
        value: The number.
        error: What stands behind the ±, if anything.
    """

    text: str
    value: float
    error: float | None = None

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit: how far rounding may have moved the number."""
        digits = self.text.partition("±")[0].strip().partition(".")[2]
        return 0.5 * 10.0 ** -len(digits)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: As in the paper, with its unit where it has one.
        metric: What it is here: ``"task/metric"`` of the experiment, ``"mean metric"`` over its tasks, or one of
            ``SUMMARY`` or ``MEASURED``; None if this library does not compute it.
        higher_is_better: Decides the sign in Δm and the order in the mean rank.
        scale: The published number is ours times this.
        of: The experiment this column belongs to, in a table over several data sets; None for all.
        ratio_of: The column is not printed, but computed: the named column divided by its value for ``ls``.
    """

    name: str
    metric: str | None = None
    higher_is_better: bool = False
    scale: float = 1.0
    of: str | None = None
    ratio_of: str | None = None

    @property
    def judges(self) -> bool:
        """Whether it is one of the metrics that Δm and the mean rank are made of."""
        return self.metric is not None and "/" in self.metric

    @property
    def averaged(self) -> str | None:
        """The metric of which it is a mean over tasks; None if it is not one."""
        if self.metric == "best_success":
            return "success"
        return self.metric.removeprefix(AVERAGE) if self.metric and self.metric.startswith(AVERAGE) else None


@dataclass(frozen=True)
class PublishedRow:
    """One method's line.

    Attributes:
        name: As in the paper.
        method: The method here, such as ``"cagrad:c=0.4"`` or ``"ls:net=care"``; None if this library does not have
            it. It is run where the row has a number for the experiment.
        cells: One a column; None where nothing is printed.
        source: The paper and the table it was read from.
        remark: What a reader must know.
        recomputed: Summary columns that do not follow from the printed row, with the value that does.
    """

    name: str
    method: str | None
    cells: tuple[Cell | None, ...]
    source: str
    remark: str = ""
    recomputed: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Item:
    """One table or figure.

    Attributes:
        id: Such as ``"nash-mtl/table-2"``.
        paper: The paper in words.
        title: What it shows.
        status: Whether its numbers are known.
        source: Where the rows come from, unless a row says otherwise.
        experiment: What makes our rows; None if nothing here does.
        protocol: The preset that is the published protocol.
        on: Other experiments with the same columns, for those who lack the data; ``"mt:TASK,TASK"`` stands for all
            whose names begin with ``mt:``.
        study: A study of this library that shows the same.
        pictures: The stems of the figures of the experiment that correspond.
        methods: What to run where there are no rows; empty for the experiment's own list.
        columns: The columns.
        rows: The rows.
        remarks: What a reader must know.
        tolerance: How far Δm and the mean rank, computed from a printed row, may lie from the printed ones.
    """

    id: str
    paper: str
    title: str
    status: Status
    source: str = ""
    experiment: str | None = None
    protocol: str = "paper"
    on: tuple[str, ...] = ()
    study: str | None = None
    pictures: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    rows: tuple[PublishedRow, ...] = ()
    remarks: tuple[str, ...] = ()
    tolerance: tuple[tuple[str, float], ...] = ()

    def column(self, metric: str) -> int | None:
        """The place of the column with that metric; None if there is none."""
        return next((i for i, column in enumerate(self.columns) if column.metric == metric), None)

    @property
    def is_study(self) -> bool:
        """Whether a study stands in the place of our rows: where there is one, and no numbers to put beside."""
        return self.study is not None and not self.rows

    @property
    def baseline(self) -> PublishedRow | None:
        """The row of single-task learning."""
        return next((row for row in self.rows if row.method == "stl"), None)

    def printed(self, row: PublishedRow) -> dict[str, float]:
        """``{"task/metric": value}`` of a row, as printed; NaN where nothing is."""
        return {
            column.metric: math.nan if cell is None else cell.value
            for column, cell in zip(self.columns, row.cells, strict=True)
            if column.metric is not None and column.judges
        }

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """The direction of each metric that Δm and the mean rank are made of."""
        return {c.metric: c.higher_is_better for c in self.columns if c.metric is not None and c.judges}
