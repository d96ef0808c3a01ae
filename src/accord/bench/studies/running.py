"""Runs what a study needs and the store has not, and puts its rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accord.bench import experiments
from accord.bench.execute import Outcome
from accord.bench.progress import Progress
from accord.bench.report import STL, Report, summarise
from accord.bench.runner import check_preset, plan, run
from accord.bench.spec import Experiment, RunKey
from accord.bench.spelling import spelled
from accord.bench.store import Run, Store
from accord.bench.studies.study import LS, Column, Context, Line, Setting, Study, StudyReport, Table
from accord.errors import OptionError


def run_study(
    study: Study,
    experiment: Experiment | str | None = None,
    preset: str = "laptop",
    seeds: Sequence[int] = (0,),
    store: str | Path = "runs",
    jobs: int = 1,
    fresh: bool = False,
    progress: Progress | None = None,
) -> StudyReport:
    """Train what a study needs and the store has not, and answer its question.

    Args:
        study: As ``accord.bench.studies.load`` gives it.
        experiment: The problem, or its name; the study's own by default.
        preset: One of its presets.
        seeds: One run a method for each.
        store: The folder of the runs; those of ``accord run`` are used, and the other way round.
        jobs: How many runs to train at a time. Times are measured in the runs: take 1 where they matter.
        fresh: Discard earlier runs of these methods and seeds, and start anew.
        progress: Where to show what goes on; nowhere by default.

    Returns:
        The rows, tables and notes; ``failed`` names the runs that failed, which the tables lack.

    Raises:
        UnknownNameError: No such experiment or preset; nothing has run.
        OptionError: The study cannot be made with this experiment, or a seed is out of range; nothing has run, except
            where what is missing shows in the runs alone.
        DataError: The experiment's data are missing or damaged.
        DependencyError: A package is not installed.
        StoreError: The store cannot be used, or holds runs made with other settings of this preset.
        KeyboardInterrupt: On Ctrl-C or SIGTERM; the same call without ``fresh`` goes on.
    """
    if experiment is None:
        experiment = study.experiment
    if isinstance(experiment, str):
        experiment = experiments.load(experiment)
    check_preset(experiment, preset)
    if study.judged and not experiment.baseline:
        raise OptionError(
            f"study {study.name!r} compares by Δm against single-task learning, which experiment "
            f"{experiment.name!r} does not have; take one that has, such as {study.experiment}"
        )
    context = Context(experiment, preset, tuple(dict.fromkeys(seeds)), Path(store))
    study.check(context)
    rows = study.rows(context)
    baseline = [STL] if experiment.baseline and study.measured else []
    wanted = tuple(dict.fromkeys([*baseline, *(row.method for row in rows)]))
    names = spelled(wanted, experiment, preset, store)
    outcomes = list(run(experiment, preset, list(names.values()), context.seeds, store, jobs, fresh, progress))
    for work in study.more(context):
        methods = list(spelled(work.methods, work.experiment, preset, store).values())
        outcomes += run(work.experiment, preset, methods, work.seeds, store, jobs, fresh, progress)
    report = _gather(study, context, rows, names)
    return replace(study.finish(context, report), outcomes=_once(outcomes))


def lines_of(context: Context, rows: Sequence[Setting], names: dict[str, str]) -> tuple[tuple[Line, ...], Report]:
    """The rows with their runs and the harness's table of them.

    Args:
        context: What was asked for.
        rows: The settings.
        names: Every method's spec as the store spells it.
    """
    experiment, preset = context.experiment, context.preset
    keys = plan(experiment, preset, list(names.values()), context.seeds)
    report = summarise(Store(context.store), experiment, preset, only=set(keys))
    done = _done(context.store, keys)
    found = {row.method: row for row in report.rows}
    unit = found.get(names.get(LS, LS))
    lines = [
        Line(row, names[row.method], tuple(done.get(names[row.method], ())), found.get(names[row.method]), unit)
        for row in rows
    ]
    return tuple(lines), report


def table_of(title: str, knob: str, columns: Sequence[Column], lines: Sequence[Line]) -> Table:
    """The table of some lines; columns without a single value are left out."""
    several = any(line.setting.group for line in lines)
    cells = {column: [column.measure(line) for line in lines] for column in columns}
    shown = [column for column in columns if any(cell is not None for cell in cells[column])]
    named = [(each.group, each.value) if each.group else (each.value, "") for each in (line.setting for line in lines)]
    first = named if several else [(line.setting.value,) for line in lines]
    headings = (*(("method",) if several else ()), knob, *(column.heading for column in shown))
    forms = (*(("",) if several else ()), "", *(column.form for column in shown))
    body = [(*names, *(cells[column][i] for column in shown)) for i, names in enumerate(first)]
    return Table(title, headings, forms, tuple(body))


def _gather(study: Study, context: Context, rows: Sequence[Setting], names: dict[str, str]) -> StudyReport:
    lines, report = lines_of(context, rows, names)
    title = f"{study.name}: {study.title}; {context.experiment.name}, preset {context.preset}"
    table = table_of(title, study.knob, study.columns, lines)
    notes = [f"{note}." for note in report.notes if study.measured or note.startswith("Data:")]
    notes += [f"Not in the table: {each}" for each in report.left_out]
    return StudyReport(study, context.experiment, context.preset, context.seeds, lines, (table,), tuple(notes), report)


def _done(store: Path, keys: Sequence[RunKey]) -> dict[str, list[Run]]:
    home = Store(store)
    found: dict[str, list[Run]] = {}
    for key in keys:
        each = home.run(key)
        if each.status == "done":
            found.setdefault(str(key.method), []).append(each)
    return found


def _once(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The last outcome of each run."""
    return tuple({outcome.key: outcome for outcome in outcomes}.values())
