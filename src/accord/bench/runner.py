"""Methods × seeds of an experiment: what is done is skipped, what was interrupted goes on, failures are told."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

from accord.balancers import registry
from accord.bench.balancing import place_of
from accord.bench.execute import CHECKPOINT_SECONDS, Job, Outcome
from accord.bench.progress import Progress, Silent
from accord.bench.spec import Experiment, MethodSpec, RunKey
from accord.bench.store import Store
from accord.bench.workers import run_here, run_parallel
from accord.bench.writing import require_locks
from accord.errors import OptionError, StoreError, UnknownNameError


def run(
    experiment: Experiment,
    preset: str = "laptop",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    store: str | Path = "runs",
    jobs: int = 1,
    fresh: bool = False,
    progress: Progress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> list[Outcome]:
    """Train every method with every seed, and record it in a store.

    Runs that are done are skipped; interrupted ones go on from their checkpoint to the same numbers, bit for
    bit; failed ones are tried again from theirs. A failure does not stop the other runs. Each run computes
    with one thread, so its numbers do not depend on ``jobs``.

    Args:
        experiment: What to run.
        preset: One of its presets.
        methods: Method specs such as ``"cagrad:c=0.5"``; the experiment's own list by default. ``"stl"``
            stands for one run per task.
        seeds: Non-negative integers.
        store: The folder of the runs.
        jobs: How many runs to train at a time, each in a process of its own.
        fresh: Discard earlier runs of these methods and seeds, and start anew.
        progress: Where to show what goes on; nowhere by default.
        checkpoint_seconds: How often to save a run's state.

    Returns:
        One outcome a run, in the order of seeds, then methods.

    Raises:
        UnknownNameError: No such preset, method or task; nothing has run.
        OptionError: An option of a method, a seed or ``jobs`` is out of range, or a seed is given twice; nothing has
            run.
        StoreError: The store cannot be used, or holds runs made with other settings of this preset.
        KeyboardInterrupt: On Ctrl-C or SIGTERM. The store is whole; the same call without ``fresh`` goes on.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise OptionError(f"jobs={jobs!r}: at least one run must go at a time; give a whole number")
    require_locks()
    keys = plan(experiment, preset, methods, seeds)
    settings = settings_of(experiment.presets[preset])
    progress = progress or Silent()
    home = Store(store, create=True)
    runs = [home.run(key) for key in keys]
    if not fresh:
        for each in runs:
            if not each.damage():  # one that is damaged is told, or mended, when its turn comes
                each.check_settings(settings)
    outcomes = {each.key: Outcome(each.key, "skipped") for each in runs if not fresh and each.is_done_and_whole()}
    todo = [
        Job(each, experiment.trial, experiment.presets[preset], settings, 1, fresh, checkpoint_seconds)
        for each in runs
        if each.key not in outcomes
    ]

    def ended(outcome: Outcome) -> None:
        outcomes[outcome.key] = outcome
        progress.ended(outcome)

    with progress, _stoppable():
        progress.planned(len(runs), len(outcomes))
        if todo:
            experiment.prepare(experiment.presets[preset])
        if jobs == 1 or len(todo) < 2:
            run_here(todo, progress.advanced, ended)
        else:
            run_parallel(_longest_first(todo, home), jobs, progress.advanced, ended)
    return [outcomes[key] for key in keys]


def plan(experiment: Experiment, preset: str, methods: Sequence[str] | None, seeds: Sequence[int]) -> list[RunKey]:
    """The keys of all runs asked for, each once, after checking every name and option.

    Raises:
        UnknownNameError: No such preset, method or task.
        OptionError: A method's option or a seed is out of range, or a seed is given twice.
    """
    check_preset(experiment, preset)
    seeds = check_seeds(seeds)
    specs: dict[MethodSpec, None] = {}
    for text in experiment.methods if methods is None else check_methods(methods):
        specs.update(dict.fromkeys(expand(experiment, text)))
    if not specs or not seeds:
        raise OptionError(f"experiment {experiment.name!r}: no methods or no seeds, so there is nothing to run")
    return [RunKey(experiment.name, experiment.version, preset, spec, seed) for seed in seeds for spec in specs]


def check_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """The seeds as integers, each once.

    Raises:
        OptionError: They are no list, one is no integer from 0 up, or one is there twice.
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise OptionError(f"seeds={seeds!r}: give a list of whole numbers, such as (0, 1, 2)")
    found: dict[int, None] = {}
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
            raise OptionError(f"seed {seed!r}: seeds are non-negative integers")
        if int(seed) in found:
            raise OptionError(
                f"seed {seed} is given twice: runs of one seed are equal, so that it would count double in means and "
                "standard errors; give each seed once"
            )
        found[int(seed)] = None
    return tuple(found)


def check_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """The method specs as a tuple.

    Raises:
        OptionError: They are no list of texts.
    """
    if isinstance(methods, str):
        raise OptionError(f"methods={methods!r}: give a list of them, as in methods=[{methods!r}]")
    if not isinstance(methods, Iterable):
        raise OptionError(f"methods={methods!r}: give a list of method specs, such as ['stl', 'cagrad:c=0.5']")
    found = tuple(methods)
    for each in found:
        if not isinstance(each, str):
            raise OptionError(f"methods: {each!r} is no text; name methods by their specs, such as 'cagrad:c=0.5'")
    return found


def check_preset(experiment: Experiment, preset: str) -> None:
    """Raise UnknownNameError, with a suggestion, unless the experiment has that preset."""
    if preset not in experiment.presets:
        near = registry.suggest(preset, experiment.presets)
        raise UnknownNameError(f"experiment {experiment.name!r} has no preset {preset!r}{near}")


def expand(experiment: Experiment, text: str) -> list[MethodSpec]:
    """A method spec as runs: itself, or one per task for ``stl``."""
    spec = MethodSpec.parse(text)
    tasks = [task.name for task in experiment.tasks]
    if spec.name != "stl":
        plain, place = place_of(experiment.own_options(spec))
        registry.make(str(plain), tasks)  # raises on unknown names and wrong options
        if place == "features" and not experiment.at_features:
            raise OptionError(f"experiment {experiment.name!r} has no shared representation: leave at=features away")
        return [spec]
    if not spec.options:
        return [MethodSpec("stl", {"task": task}) for task in tasks]
    wrong = [option for option in spec.options if option != "task"]
    if wrong:
        raise OptionError(f"method 'stl' has no option {wrong[0]!r}; its only option: task")
    task = str(spec.options["task"])
    if task not in tasks:
        raise UnknownNameError(f"experiment {experiment.name!r} has no task {task!r}{registry.suggest(task, tasks)}")
    return [spec]


def settings_of(preset: Any) -> Any:
    """A preset's settings as plain JSON data, as stored with each run: its fields, or what ``settings()`` says."""
    if hasattr(preset, "settings"):
        return preset.settings()
    return plain_json(dataclasses.asdict(preset) if dataclasses.is_dataclass(preset) else preset)


def plain_json(data: Any) -> Any:
    """The data as it comes back from a JSON file."""
    return json.loads(json.dumps(data, default=str))


def _longest_first(jobs: list[Job], store: Store) -> list[Job]:
    """Begin with the methods that took longest with other seeds, so that none runs on alone at the end."""
    key = jobs[0].run.key
    cost: dict[str, float] = {}
    try:
        for done in store.runs(key.experiment, key.version, key.preset):
            if done.status == "done":
                seconds = sum(record.get("seconds", 0.0) for record in done.records())
                cost[str(done.key.method)] = max(seconds, cost.get(str(done.key.method), 0.0))
    except StoreError:
        pass  # a damaged run costs the order, no more; who reads it is told
    return sorted(jobs, key=lambda job: -cost.get(str(job.run.key.method), float("inf")))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM stop the runs as Ctrl-C does (in the main thread; elsewhere signals are not ours)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
