"""Any model of one's own under several methods and seeds, by the harness and the report of the experiments."""

from __future__ import annotations

import copy
import inspect
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accord.bench.balancing import place_of
from accord.bench.execute import Outcome
from accord.bench.fingerprint import code_digest, describe
from accord.bench.problem import Problem, task_specs
from accord.bench.report import Report, summarise
from accord.bench.runner import check_methods, run
from accord.bench.spec import Experiment, MethodSpec
from accord.bench.store import Store, label
from accord.bench.trial import TrialOf, name_of
from accord.errors import AccordError, DependencyError, OptionError

METHODS = ("stl", "ls", "uw", "mgda", "pcgrad", "cagrad", "nash-mtl", "fairgrad", "famo")
"""What is compared when no methods are named: one or two of each kind."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of ``compare``; ``print`` shows its table.

    Attributes:
        report: One row a method: means over the seeds with their standard errors, mean rank, Δm against STL.
        folder: Where the runs are kept; None where they are not.
        notes: What happened on the way that a reader should know, such as a damaged checkpoint that was stepped over.
    """

    report: Report
    folder: Path | None
    notes: tuple[str, ...] = ()

    @property
    def frame(self) -> Any:
        """The table as a ``polars.DataFrame``, with every digit."""
        _require("polars")
        from accord.bench.report import frame

        return frame(self.report)

    @property
    def markdown(self) -> str:
        """The table as GitHub Markdown."""
        from accord.bench.tables import markdown

        return markdown(self.report)

    def __str__(self) -> str:
        _require("rich")
        from accord.bench.tables import plain

        return plain(self.report)


def compare(
    problem: Problem,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0,),
    store: str | Path | None = None,
    jobs: int = 1,
    fresh: bool = False,
    show: bool | None = None,
) -> Comparison:
    """Train a problem with each method and seed, and compare.

    All methods of one seed start from the same weights and see the same batches. Every run works on a deep copy of the
    problem, so that none sees what another has changed.

    Args:
        problem: Model, data, losses and metrics.
        methods: Method specs such as ``"cagrad:c=0.5"`` or ``"mgda:at=features"``; ``"stl"`` trains one model a
            task, which Δm compares with.
        seeds: Non-negative integers, each once; one run a method for each.
        store: A folder for the runs, so that what is done is skipped and what was interrupted goes on; None for none.
        jobs: How many runs to train at a time, each in a process of its own; the problem's class must then be
            defined at the top level of a module, and the call stand under ``if __name__ == "__main__":``.
        fresh: Discard earlier runs of these methods and seeds in the store.
        show: Whether to show progress on stderr; by default where that is a terminal.

    Returns:
        The table; ``print(accord.compare(…))`` shows it.

    Raises:
        AccordError: A run failed, or was left to another process; the message says which and why. Those that are done
            are kept, without a store in a folder that the message names.
        OptionError, UnknownNameError: The problem, a method, an option or a seed is wrong; nothing has run.
        StoreError: The store holds runs of this problem made with other settings, data or code.
        DependencyError: A package of ``accord[bench]`` is not installed.
    """
    if not isinstance(problem, Problem):
        what = f"the class {problem.__name__}" if isinstance(problem, type) else f"a {type(problem).__name__}"
        remedy = (
            f"give an object of it, {problem.__name__}(…)"
            if isinstance(problem, type) and issubclass(problem, Problem)
            else "derive a class from it with build(), losses(batch) and evaluate(), and give an object of it"
        )
        raise OptionError(f"compare: got {what}, not an accord.Problem: {remedy}")
    for package in ("filelock", "rich"):  # rich prints the table, which is too late to find out after hours of training
        _require(package)
    progress = _progress(show)
    experiment = experiment_of(problem, methods)
    folder = Path(tempfile.mkdtemp(prefix="accord-") if store is None else store)
    try:
        outcomes = run(experiment, "given", experiment.methods, seeds, folder, jobs, fresh, progress)
        bad = [each for each in outcomes if each.status not in ("done", "skipped")]
        if bad:
            raise AccordError(_failures(bad, len(outcomes), Store(folder)))
        chosen = {each.key for each in outcomes}
        report = summarise(Store(folder), experiment, "given", chosen, "name stl among the methods")
    except BaseException as error:
        if store is None and not _tidy(folder):
            error.add_note(f"What is done is kept: compare(…, store={str(folder)!r}) goes on from there.")
        raise
    notes = [f"{label(each.key)}: {note}" for each in outcomes for note in each.notes]
    if store is None:
        shutil.rmtree(folder)
    return Comparison(report, None if store is None else folder, tuple(notes))


def experiment_of(problem: Problem, methods: Sequence[str] = METHODS) -> Experiment:
    """A problem as an experiment with the one preset ``given``."""
    methods = check_methods(methods)
    tasks = getattr(problem, "tasks", None)
    if tasks is None:
        raise OptionError(
            f"compare: {type(problem).__name__} has no tasks; write them into the class, as in "
            'tasks = {"depth": {"abs_err": "min"}}: the metrics of each task, and which way is better'
        )
    name = re.sub(r"[^a-z0-9]+", "-", name_of(problem).lower()).strip("-") or "problem"
    at_features = any(place_of(MethodSpec.parse(method))[1] == "features" for method in methods)
    return Experiment(
        name=name,
        version=1,
        summary=(inspect.getdoc(type(problem)) or name).split("\n")[0],
        tasks=task_specs(tasks),
        presets={"given": _Given(problem)},
        methods=methods,
        trial=TrialOf(_problem),
        prepare=_check_copy,
        at_features=at_features,
    )


class _Given:
    """A problem as a preset: its settings are its attributes, data among them, and the code of its class."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def settings(self) -> dict[str, Any]:
        """What tells this problem from another of the same name."""
        problem = self.problem
        given = {name: getattr(problem, name, None) for name in ("epochs", "eval_every", "average_last", "method_lr")}
        own = {name: describe(value) for name, value in {**given, **vars(problem)}.items()}
        return {"class": type(problem).__qualname__, "code": code_digest(type(problem), Problem), **own}


def _problem(given: _Given) -> Problem:
    """A copy for one run."""
    return copy.deepcopy(given.problem)


def _check_copy(given: _Given) -> None:
    """Raise OptionError, naming the attribute, if the problem cannot be copied."""
    try:
        copy.deepcopy(given.problem)
    except Exception as error:  # whatever a __deepcopy__ raises
        culprits = []
        for name, value in vars(given.problem).items():
            try:
                copy.deepcopy(value)
            except Exception:  # noqa: BLE001 - the same; only its name is of interest
                culprits.append(name)
        raise OptionError(
            f"compare: {type(given.problem).__name__} cannot be copied, and every run works on a copy of its own: "
            f"{', '.join(culprits) or 'the object'}: {error}; make that in build()"
        ) from error


def _failures(bad: Sequence[Outcome], runs: int, store: Store) -> str:
    """What failed, those of one cause together, and the traceback of the first."""
    causes: dict[str, list[str]] = {}
    for each in bad:
        causes.setdefault(each.cause, []).append(f"{each.key.method} seed {each.key.seed}")
    lines = [f"compare: {len(bad)} of {runs} runs are not done:"]
    lines += [f"{', '.join(names)}: {cause}" for cause, names in causes.items()]
    first = store.run(bad[0].key)
    if not first.damage() and first.status == "failed" and (trace := first.failure()["traceback"].rstrip()):
        lines += [f"The first in full, {bad[0].key.method} seed {bad[0].key.seed}:", trace]
    return "\n".join(lines)


def _tidy(folder: Path) -> bool:
    """Remove a temporary store if there is nothing in it worth keeping."""
    if any(folder.rglob("result.json")) or any(folder.rglob("checkpoint.pt")):
        return False
    shutil.rmtree(folder)
    return True


def _require(package: str) -> None:
    if package in sys.modules and sys.modules[package] is not None:
        return
    if package in sys.modules or find_spec(package) is None:
        raise DependencyError(f"accord.compare needs the package {package!r}: pip install 'accord[bench]'")


def _progress(show: bool | None) -> Any:
    from accord.bench.progress import Silent, shown

    if show is None:
        show = sys.stderr is not None and sys.stderr.isatty()
    if not show:
        return Silent()
    _require("rich")
    from rich.console import Console

    return shown(Console(stderr=True))
