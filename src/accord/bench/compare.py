"""Any model of one's own under several methods and seeds, by the harness and the report of the experiments."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.bench.balancing import place_of
from accord.bench.problem import Problem, task_specs
from accord.bench.report import Report, summarise
from accord.bench.runner import run
from accord.bench.spec import Experiment, MethodSpec
from accord.bench.store import Store
from accord.bench.trial import TrialOf, name_of
from accord.errors import AccordError, OptionError

METHODS = ("stl", "ls", "uw", "mgda", "pcgrad", "cagrad", "nash-mtl", "fairgrad", "famo")
"""What is compared when no methods are named: one or two of each kind."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of ``compare``.

    Attributes:
        report: One row a method: means over the seeds with their standard errors, mean rank, Δm against STL.
        folder: Where the runs are kept; None where they are not.
    """

    report: Report
    folder: Path | None

    @property
    def frame(self) -> Any:
        """The table as a ``polars.DataFrame``."""
        from accord.bench.report import frame

        return frame(self.report)

    @property
    def markdown(self) -> str:
        """The table as GitHub Markdown."""
        from accord.bench.tables import markdown

        return markdown(self.report)

    def __str__(self) -> str:
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

    All methods of one seed start from the same weights and see the same batches.

    Args:
        problem: Model, data, losses and metrics.
        methods: Method specs such as ``"cagrad:c=0.5"`` or ``"mgda:at=features"``; ``"stl"`` trains one model a
            task, which Δm compares with.
        seeds: One run a method for each.
        store: A folder for the runs, so that what is done is skipped and what was interrupted goes on; None for none.
        jobs: How many runs to train at a time, each in a process of its own; the problem's class must then be
            defined at the top level of a module.
        fresh: Discard earlier runs of these methods and seeds in the store.
        show: Whether to show progress on stderr; by default where that is a terminal.

    Returns:
        The table; ``print(accord.compare(…))`` shows it.

    Raises:
        AccordError: A run failed, or was left to another process; the message says which and why. Those that are done
            are kept in the store.
        OptionError, UnknownNameError: A method, an option or a seed is wrong; nothing has run.
        StoreError: The store holds runs of this problem made with other settings or another class body.
    """
    if not isinstance(problem, Problem):
        raise OptionError(
            f"compare: got a {type(problem).__name__}, not an accord.Problem: derive a class from it with build(), "
            "losses(batch) and evaluate(), and give an object of it"
        )
    if isinstance(methods, str):
        raise OptionError(f"compare: methods={methods!r}: give a list of them, as in methods=[{methods!r}]")
    experiment = experiment_of(problem, methods)
    seeds = tuple(dict.fromkeys(seeds))
    keep = nullcontext(store) if store is not None else tempfile.TemporaryDirectory(prefix="accord-")
    with keep as folder:
        outcomes = run(experiment, "given", methods, seeds, folder, jobs, fresh, _progress(show))
        bad = [each for each in outcomes if each.status not in ("done", "skipped")]
        if bad:
            lines = [f"{each.key.method} seed {each.key.seed}: {each.cause}" for each in bad]
            raise AccordError(f"compare: {len(bad)} of {len(outcomes)} runs are not done:\n" + "\n".join(lines))
        wanted = {each.key for each in outcomes}
        report = summarise(Store(folder), experiment, "given", only=wanted)
    return Comparison(report, None if store is None else Path(store))


def experiment_of(problem: Problem, methods: Sequence[str] = METHODS) -> Experiment:
    """A problem as an experiment with the one preset ``given``."""
    name = re.sub(r"[^a-z0-9]+", "-", name_of(problem).lower()).strip("-") or "problem"
    at_features = any(place_of(MethodSpec.parse(method))[1] == "features" for method in methods)
    return Experiment(
        name=name,
        version=1,
        summary=(inspect.getdoc(type(problem)) or name).split("\n")[0],
        tasks=task_specs(problem.tasks),
        presets={"given": _Given(problem)},
        methods=tuple(methods),
        trial=TrialOf(_problem),
        at_features=at_features,
    )


class _Given:
    """A problem as a preset: its settings are its attributes and the text of its class."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def settings(self) -> dict[str, Any]:
        """What tells this problem from another of the same name."""
        from accord.bench.runner import plain_json

        cls = type(self.problem)
        own = {k: v for k, v in vars(self.problem).items() if isinstance(v, (bool, int, float, str, tuple, list, dict))}
        return plain_json({"class": cls.__qualname__, "text": _digest(cls), **own})


def _problem(given: _Given) -> Problem:
    return given.problem


def _digest(cls: type) -> str:
    """A hash of the source of a class and its bases up to Problem; "unknown" where there is none to read."""
    try:
        text = "".join(inspect.getsource(each) for each in cls.__mro__ if each not in Problem.__mro__)
    except (OSError, TypeError):
        return "unknown"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _progress(show: bool | None) -> Any:
    from accord.bench.progress import Silent, shown

    if show is None:
        show = sys.stderr.isatty()
    if not show:
        return Silent()
    from rich.console import Console

    return shown(Console(stderr=True))
