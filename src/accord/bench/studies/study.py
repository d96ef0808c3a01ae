"""What a study is: a question, the runs that answer it, the columns of its table and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.bench.execute import Outcome
from accord.bench.report import Report, Row, Value
from accord.bench.spec import Experiment
from accord.bench.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = Value | str | None
LS = "ls"


@dataclass(frozen=True)
class Setting:
    """One row to run.

    Attributes:
        value: The knob's setting, as the table and the figure name it.
        method: The method spec.
        group: What the knob is turned on, where there are several; rows of a group are one line of the figure.
    """

    value: str
    method: str
    group: str = ""


@dataclass(frozen=True)
class Context:
    """What a study is asked for.

    Attributes:
        experiment: On which problem.
        preset: With which of its presets.
        seeds: One run a method for each.
        store: The folder of the runs.
    """

    experiment: Experiment
    preset: str
    seeds: tuple[int, ...]
    store: Path


@dataclass(frozen=True)
class Work:
    """Runs that a study needs beyond its settings.

    Attributes:
        experiment: What to run.
        methods: Method specs.
        seeds: One run a method for each.
    """

    experiment: Experiment
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """A setting with its runs.

    Attributes:
        setting: What was asked for.
        method: The spec as the store spells it.
        runs: Those that are done, one a seed.
        row: The report's row; None if no run is done.
        unit: The report's row of LS, in whose steps time is measured.
    """

    setting: Setting
    method: str
    runs: tuple[Run, ...]
    row: Row | None
    unit: Row | None


@dataclass(frozen=True)
class Column:
    """A column of a study's table.

    Attributes:
        heading: With the unit, and an arrow where one way is better.
        measure: What it shows of a line; None leaves the cell blank.
        form: Format of its numbers, such as ``".2f"``.
    """

    heading: str
    measure: Callable[[Line], Cell]
    form: str = ".2f"


@dataclass(frozen=True)
class Table:
    """A table to print.

    Attributes:
        title: What it shows.
        headings: One a column.
        forms: The format of each column's numbers.
        rows: Cells, as many as headings.
    """

    title: str
    headings: tuple[str, ...]
    forms: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class StudyReport:
    """The outcome of a study.

    Attributes:
        study: Which one.
        experiment: On which problem.
        preset: With which preset.
        seeds: The seeds asked for.
        lines: One a setting; those of the references, such as LS, first.
        tables: What is printed.
        notes: What a reader must know.
        report: All runs of the study as a table of the harness: metrics, mean rank, Δm, speed, certificates.
        outcomes: What became of the runs that were asked for.
        data: What the study's own figures are drawn from.
    """

    study: Study
    experiment: Experiment
    preset: str
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    report: Report
    outcomes: tuple[Outcome, ...] = ()
    data: Any = None

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The runs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    def line(self, method: str) -> Line | None:
        """The first line of that method, in the spelling of the study or of the store."""
        return next((line for line in self.lines if method in (line.setting.method, line.method)), None)


@dataclass(frozen=True)
class Study:
    """A question that runs of an experiment answer.

    Attributes:
        name: As typed on the command line.
        title: One line.
        source: The table, figure or section it follows; or why it is here.
        question: What is asked, in a sentence or two.
        knob: What the rows differ in: the heading of their first column.
        settings: The rows, from the context; the methods of the references and single-task learning run beside them.
        columns: What the table shows of each row.
        figures: Each draws a figure, or nothing: file name to ``draw(report)``.
        experiment: The default one.
        references: Methods to compare with, the first rows of the table.
        judged: Whether the study needs Δm, and so an experiment with single-task runs to compare with.
        measured: Whether single-task learning runs beside the rows where the experiment has it, to give Δm.
        check: Raises where the study cannot be made with an experiment; called before anything runs.
        more: Further runs, which may depend on those of the settings.
        finish: Adds what the study computes beyond its columns.
    """

    name: str
    title: str
    source: str
    question: str
    knob: str
    settings: Callable[[Context], Sequence[Setting]]
    columns: tuple[Column, ...]
    figures: tuple[tuple[str, Callable[[StudyReport], Figure | None]], ...]
    experiment: str = "qm9"
    references: tuple[str, ...] = (LS,)
    judged: bool = True
    measured: bool = True
    check: Callable[[Context], None] = lambda context: None
    more: Callable[[Context], Iterable[Work]] = lambda context: ()
    finish: Callable[[Context, StudyReport], StudyReport] = lambda context, report: report

    def rows(self, context: Context) -> tuple[Setting, ...]:
        """References, then settings."""
        references = [Setting(method, method) for method in self.references]
        return (*references, *self.settings(context))
