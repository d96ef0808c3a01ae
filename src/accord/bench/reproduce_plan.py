"""What must run for a published table: which experiment, which methods, and which columns they fill."""

from __future__ import annotations

from collections.abc import Sequence

from accord.balancers.registry import suggest
from accord.bench import experiments
from accord.bench.published.item import Column, Item, PublishedRow
from accord.bench.report import STL
from accord.bench.spec import Experiment
from accord.errors import OptionError, UnknownNameError


def experiment_of(item: Item, on: str | None = None) -> Experiment | None:
    """The experiment whose runs stand beside a table; None if nothing in this library does.

    Args:
        item: The table or figure.
        on: Another experiment with the same columns, in the place of its own.

    Raises:
        UnknownNameError: This version has no such experiment.
        OptionError: ``on`` has not the same columns.
        DependencyError: The experiment needs a package that is not installed.
    """
    families = [each.partition(":")[0] + ":" for each in item.on if ":" in each]
    if on not in (None, item.experiment, *item.on) and not str(on).startswith(tuple(families)):
        allowed = f"{', '.join(item.on)} only" if item.on else "nothing else"
        raise OptionError(f"{item.id} can be put on {allowed}, not on {on!r}: other experiments have other columns")
    name = on or item.experiment
    if name is None:
        return None
    if name not in experiments.names() and not name.startswith(tuple(families)):
        near = suggest(name, experiments.names(), listing=False)
        raise UnknownNameError(
            f"{item.id} needs the experiment {name!r}, which this version of accord does not have{near}; "
            "--no-run prints what was published"
        )
    return experiments.load(name)


def methods_of(item: Item, experiment: Experiment, chosen: Sequence[str] = ()) -> list[str]:
    """The specs to run for a table: those of its rows, and single-task learning where it is needed for Δm.

    Args:
        item: The table or figure.
        experiment: What makes the rows.
        chosen: Names or specs of some of its rows; none for all.

    Raises:
        UnknownNameError: A chosen row is not in the table.
    """
    if item.rows and not any(applies(column, experiment) for column in item.columns):
        return []
    rows = [row for row in item.rows if row.method is not None and _has_number(row, item, experiment)]
    specs = [row.method for row in rows if row.method is not None] or list(item.methods or experiment.methods)
    if chosen:
        known = {row.name.lower(): row.method for row in rows if row.method is not None}
        specs = [_chosen(item, each, known, specs) for each in chosen]
    needs_baseline = experiment.baseline and (not item.rows or item.column("delta_m") is not None)
    return list(dict.fromkeys([*([STL] if needs_baseline else []), *specs]))


def applies(column: Column, experiment: Experiment) -> bool:
    """Whether a column is measured by an experiment."""
    if column.metric is None or column.of not in (None, experiment.name):
        return False
    if column.averaged is not None:
        return column.averaged in experiment.averages
    return not column.judges or column.metric in dict(experiment.metrics)


def _has_number(row: PublishedRow, item: Item, experiment: Experiment) -> bool:
    """Whether anything is printed for this experiment: CAGrad has another c on MT50 than on MT10."""
    columns = (column.of in (None, experiment.name) for column in item.columns)
    return any(own and cell is not None for own, cell in zip(columns, row.cells, strict=True))


def _chosen(item: Item, text: str, known: dict[str, str], specs: Sequence[str]) -> str:
    found = known.get(text.lower(), text)
    if found not in specs:
        raise UnknownNameError(f"{item.id} has no row {text!r}{suggest(text, [*known, *specs])}")
    return found
