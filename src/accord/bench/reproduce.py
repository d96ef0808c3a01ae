"""A published table beside ours: what must run for it, and the two side by side; for some figures, a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from accord.bench import experiments
from accord.bench.execute import Outcome
from accord.bench.measured import Runs
from accord.bench.progress import Progress
from accord.bench.published.item import AVERAGE, SUMMARY, Column, Item, PublishedRow
from accord.bench.report import Value
from accord.bench.reproduce_plan import applies, experiment_of, methods_of
from accord.bench.runner import check_preset, run
from accord.bench.spec import Experiment
from accord.bench.spelling import spelled
from accord.errors import DataError, DependencyError, OptionError, UnknownNameError

if TYPE_CHECKING:
    from accord.bench.studies import StudyReport

Result = TypeVar("Result")

MOST = 12
"""A figure whose experiment has more metrics than this is told by mean rank and Δm alone."""


@dataclass(frozen=True)
class Ours:
    """What the store holds for one row.

    Attributes:
        method: The spec its runs have in the store.
        values: One a column, mean and standard error over seeds; None where nothing is measured.
        seeds: The seeds that are done (for single-task learning: for all tasks).
        commits: The commits its runs were made from, shortened, with a ``+`` where files differed from them.
        dates: The days its runs began, the first and the last; empty if there are none.
    """

    method: str
    values: tuple[Value | None, ...]
    seeds: tuple[int, ...]
    commits: tuple[str, ...]
    dates: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """A published row, ours, and what a reader must know about the two.

    ``published`` is None for a method of a figure, which has no numbers, ``ours`` where there are no finished runs,
    ``method`` where this library, or the experiment at hand, has none for the row.
    """

    name: str
    method: str | None
    published: PublishedRow | None
    ours: Ours | None
    remark: str


@dataclass(frozen=True)
class SideBySide:
    """A table or figure, with ours.

    Attributes:
        item: The published one.
        experiment: The name of what made ours; None if nothing here does.
        preset: With which settings.
        columns: The item's, or, where a figure has none, the metrics of the experiment.
        lines: One a method.
        remarks: What a reader must know about the whole.
        pictures: Figures drawn from our runs.
        outcomes: What became of the runs that were asked for.
        study: What stands in the place of a table, for a figure that a study of this library shows.
    """

    item: Item
    experiment: str | None
    preset: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...]
    pictures: tuple[Path, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    study: StudyReport | None = None


def reproduce(
    item: Item,
    preset: str = "laptop",
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    store: str | Path = "runs",
    jobs: int = 1,
    on: str | None = None,
    progress: Progress | None = None,
) -> SideBySide:
    """Train what a table needs and the store has not, then put published and ours side by side.

    Args:
        item: The table or figure.
        preset: A preset of its experiment.
        methods: Names or specs of some of its rows; none for all.
        seeds: One run a method for each.
        store: The folder of the runs.
        jobs: How many runs to train at a time.
        on: Another experiment with the same columns.
        progress: Where to show what goes on.

    Raises:
        UnknownNameError, OptionError: A name or an option is wrong, or the experiment is not in this version.
        DataError: The experiment's data are missing or damaged.
        DependencyError: A package is not installed.
    """
    experiment = experiment_of(item, on)
    if experiment is None:
        return side_by_side(item, preset, store, on)
    check_preset(experiment, preset)
    if item.is_study:
        if methods:
            raise OptionError(
                f"{item.id} is shown by the study {item.study}, which has methods of its own: leave out --methods"
            )
        return _studied(item, experiment, preset, seeds, store, jobs, on, progress)
    specs = list(spelled(methods_of(item, experiment, methods), experiment, preset, store).values())
    outcomes = []
    if specs:
        outcomes = _with_data(item, on, lambda: run(experiment, preset, specs, seeds, store, jobs, progress=progress))
    return replace(side_by_side(item, preset, store, on), outcomes=tuple(outcomes))


def _studied(
    item: Item,
    experiment: Experiment,
    preset: str,
    seeds: Sequence[int],
    store: str | Path,
    jobs: int,
    on: str | None,
    progress: Progress | None,
) -> SideBySide:
    """A figure by the study that shows the same."""
    from accord.bench import studies

    assert item.study is not None
    study = studies.load(item.study)
    report = _with_data(
        item, on, lambda: studies.run_study(study, experiment, preset, seeds, store, jobs, progress=progress)
    )
    remarks = [*item.remarks, *_about(item, experiment, preset, (), on, True)]
    return SideBySide(
        item, experiment.name, preset, (), (), tuple(remarks), outcomes=tuple(report.outcomes), study=report
    )


def _with_data(item: Item, on: str | None, run_all: Callable[[], Result]) -> Result:
    """Run; where data are missing that others have, say so."""
    try:
        return run_all()
    except DataError as error:
        others = [name for name in item.on if name != on and name in experiments.names()]
        if not others:
            raise
        raise DataError(f"{error}\nThe same on other data: --on {' or --on '.join(others)}") from error


def side_by_side(item: Item, preset: str = "laptop", store: str | Path = "runs", on: str | None = None) -> SideBySide:
    """Published and ours side by side, from what the store holds; nothing is run.

    Ours are means over all seeds in the store. The mean rank is taken over our rows of this table.

    Args:
        item: The table or figure.
        preset: Whose runs.
        store: The folder of the runs; it may be absent.
        on: Another experiment with the same columns.

    Raises:
        OptionError: ``on`` has not the same columns.
        UnknownNameError: The experiment has no such preset.
        StoreError: The store is of another version, or cannot be read.
    """
    remarks = list(item.remarks)
    try:
        experiment = experiment_of(item, on)
    except (UnknownNameError, DependencyError) as error:
        remarks.append(str(error).partition(";")[0])
        experiment = None
    columns = item.columns
    specs: list[str] = []
    ours: dict[str, Ours] = {}
    if experiment is not None and item.is_study:
        remarks.append(f"Without --no-run, the study {item.study} shows this on {experiment.name}.")
    elif experiment is not None:
        check_preset(experiment, preset)
        columns = columns or _columns_of(experiment)
        specs = methods_of(item, experiment)
        runs = Runs(store, experiment, preset, specs)
        ours = {spec: _ours(runs, spec, experiment, columns) for spec in specs if runs.has(spec)}
        remarks += _about(item, experiment, preset, columns, on, bool(ours)) if specs else []
        remarks += runs.data
        remarks += runs.notes if any(c.metric in SUMMARY or c.averaged is not None for c in columns) else ()
        remarks += runs.left_out
    lines = []
    for row in item.rows:
        method = row.method if experiment is None or row.method in specs else None
        lines.append(Line(row.name, method, row, ours.get(method or ""), row.remark))
    lines += [Line(spec, spec, None, each, "") for spec, each in ours.items() if not item.rows]
    return SideBySide(
        item, None if experiment is None else experiment.name, preset, columns, tuple(lines), tuple(remarks)
    )


def draw_pictures(side: SideBySide, store: str | Path, kind: str = "png") -> SideBySide:
    """The same, with the figures of the experiment that correspond to the published one drawn."""
    from accord.bench.plots import draw
    from accord.bench.store import Store, figures_folder
    from accord.bench.studies import draw_study

    if side.experiment is None:
        return side
    folder = figures_folder(Path(store), side.experiment, side.preset)
    if side.study is not None:
        return replace(side, pictures=tuple(draw_study(side.study, folder / "studies", kind)))
    if not side.item.pictures or all(line.ours is None for line in side.lines):
        return side
    experiment = experiments.load(side.experiment)
    paths = draw(Store(store), experiment, side.preset, folder, kind)
    return replace(side, pictures=tuple(path for path in paths if path.stem in side.item.pictures))


def _columns_of(experiment: Experiment) -> tuple[Column, ...]:
    """Columns for a figure: the metrics of its experiment, and what sums them up."""
    found = []
    if len(experiment.metrics) <= MOST:
        for name, metric in experiment.metrics:
            arrow = "↑" if metric.higher_is_better else "↓"
            heading = f"{name} ({metric.unit}) {arrow}" if metric.unit else f"{name} {arrow}"
            found.append(Column(heading, name, metric.higher_is_better))
    for name in experiment.averages:
        higher = next(metric.higher_is_better for own, metric in experiment.metrics if own.endswith(f"/{name}"))
        found.append(Column(f"mean {name} {'↑' if higher else '↓'}", f"{AVERAGE}{name}", higher))
    if experiment.baseline:
        found += [Column("MR ↓", "mean_rank"), Column("Δm% ↓", "delta_m")]
    return tuple(found)


def _ours(runs: Runs, spec: str, experiment: Experiment, columns: Sequence[Column]) -> Ours:
    values = []
    for column in columns:
        value = runs.value(spec, column.metric) if column.metric and applies(column, experiment) else None
        if value is not None and column.scale != 1.0:
            value = Value(value.mean * column.scale, value.error and value.error * column.scale)
        values.append(value)
    return Ours(runs.method(spec), tuple(values), runs.seeds(spec), runs.commits(spec), runs.dates(spec))


def _about(
    item: Item, experiment: Experiment, preset: str, columns: Sequence[Column], on: str | None, there: bool
) -> list[str]:
    """Remarks that follow from what ours are."""
    found = []
    if on not in (None, item.experiment) and not any(column.of == experiment.name for column in columns):
        found.append(f"Ours are of other data: {experiment.name} ({experiment.summary}).")
    if preset != item.protocol:
        found.append(
            f"Ours have the preset {preset}, which is not the published protocol (that is {item.protocol}): compare "
            "the order of the methods rather than the numbers."
        )
    blank = [c.name for c in columns if not applies(c, experiment)]
    if blank:
        found.append(f"Not measured by {experiment.name}: {', '.join(blank)}.")
    if not there:
        found.append(f"There are no finished runs of {experiment.name}, preset {preset}, for this in the store.")
    return found
