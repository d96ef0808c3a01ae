"""Which runs of a preset a store holds, each looked at once, and those that one asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from accord.bench.runner import check_methods, check_preset, check_seeds, expand
from accord.bench.spec import Experiment, RunKey
from accord.bench.store import Run, Store
from accord.errors import StoreError

STL = "stl"


@dataclass(frozen=True)
class Reading:
    """The runs of a preset as a store held them at one moment, so that a table and its figures speak of the same.

    Attributes:
        done: Finished runs.
        other: Failed and unfinished ones.
        damaged: Folders that cannot be read, each with the error that names the file, its fault and a remedy.
    """

    done: tuple[Run, ...]
    other: tuple[Run, ...]
    damaged: tuple[tuple[Path, StoreError], ...]


def read(store: Store, experiment: Experiment, preset: str, only: Collection[RunKey] | None = None) -> Reading:
    """Look once at each run of a preset; the arguments are those of ``summarise``."""
    done: list[Run] = []
    other: list[Run] = []
    damaged: list[tuple[Path, StoreError]] = []
    for run in readable(store, experiment, preset, lambda path, error: damaged.append((path, error)), only):
        (done if run.status == "done" else other).append(run)
    return Reading(tuple(done), tuple(other), tuple(damaged))


def readable(
    store: Store,
    experiment: Experiment,
    preset: str,
    damaged: Callable[[Path, StoreError], None],
    only: Collection[RunKey] | None = None,
) -> Iterator[Run]:
    """The runs of a preset whose records and whose result or failure can be read, so that one cannot spoil the rest.

    Args:
        store: Where the runs are.
        experiment: Whose runs.
        preset: Which preset.
        damaged: Called with the folder of each other run, and the error that names the file, its fault and a remedy.
        only: The runs to take; None for all. Those that cannot say which they are count as taken.
    """
    for run in store.runs(experiment.name, experiment.version, preset, damaged):
        if only is not None and run.key not in only:
            continue
        try:
            run.records()
            if (status := run.status) == "done":
                run.result()
            elif status == "failed":
                run.failure()
        except StoreError as error:
            damaged(run.folder, error)
        else:
            yield run


def select(
    store: Store, experiment: Experiment, preset: str, methods: Iterable[str] = (), seeds: Iterable[int] = ()
) -> set[RunKey]:
    """The runs in a store of some methods and seeds, for ``summarise``; no methods or no seeds stand for all.

    Raises:
        UnknownNameError, OptionError: A spec is not known, or a seed is given twice.
        StoreError: There is no run of a method, or none of a seed.
    """
    check_preset(experiment, preset)
    wanted = {text: expand(experiment, text) for text in check_methods(methods)}
    numbers = check_seeds(seeds)
    broken: list[str] = []
    runs = store.runs(
        experiment.name, experiment.version, preset, lambda path, error: broken.append(damage_of(path, error))
    )
    there = [run.key for run in runs]
    specs = [spec for found in wanted.values() for spec in found]
    keys = {k for k in there if (not specs or k.method in specs) and (not numbers or k.seed in numbers)}
    missing = [text for text, found in wanted.items() if not any(key.method in found for key in keys)]
    missing += [f"seed {seed}" for seed in numbers if not any(key.seed == seed for key in keys)]
    if missing:
        have = ", ".join(dict.fromkeys(STL if key.method.name == STL else str(key.method) for key in there))
        raise StoreError(
            f"store {store.root} has no runs of {', '.join(missing)} in {experiment.name}, preset {preset!r}"
            + (f"; it has {have}, of seeds {', '.join(map(str, sorted({key.seed for key in there})))}" if there else "")
            + "".join(f"; {each}" for each in broken)
        )
    return keys


def damage_of(folder: Path, error: StoreError) -> str:
    """One line for a run that cannot be read: which, and the error that names its file, fault and remedy."""
    return f"{folder.parent.name} {folder.name.replace('-', ' ')}: damaged: {error}"
