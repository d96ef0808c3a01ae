"""One run from start, or from its checkpoint, to its end; whatever goes wrong is recorded, not raised."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from accord.bench.spec import MethodSpec, RunKey, Trial, derive_seed
from accord.bench.store import Run
from accord.bench.writing import RunWriter, writing
from accord.errors import LockedError, StoreError

CHECKPOINT_SECONDS = 5.0
"""A killed run loses at most this much work plus one unit; shorter units are not saved one by one."""

Listener = Callable[[int, int], None]
"""Called as ``listener(unit, length)`` when a run starts, at the unit it goes on from, and after each unit."""


@dataclass(frozen=True)
class Job:
    """All that a worker process needs for one run; it can be pickled if ``trial`` is importable by name."""

    run: Run
    trial: Callable[[Any, MethodSpec, int], Trial]
    preset: Any
    settings: Any
    threads: int = 1
    fresh: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        key: Which run.
        status: ``"done"`` now, ``"skipped"`` (done before), ``"failed"``, or ``"elsewhere"`` (another
            process is training it).
        cause: Why it failed or was left out; empty when done.
        notes: What the user should hear all the same, such as a damaged checkpoint that was stepped over.
    """

    key: RunKey
    status: Literal["done", "skipped", "failed", "elsewhere"]
    cause: str = ""
    notes: tuple[str, ...] = ()


def execute(job: Job, listener: Listener) -> Outcome:
    """Train one run to its end.

    Any exception of the trial or of the disk becomes an outcome and, where the disk allows, the run's
    ``failure.json``. Only KeyboardInterrupt and SystemExit pass.
    """
    key, unit = job.run.key, 0
    notes: list[str] = []

    def listen(at: int, length: int) -> None:
        nonlocal unit
        unit = at
        listener(at, length)

    try:
        with writing(job.run, fresh=job.fresh) as writer:
            if job.run.is_done_and_whole():
                return Outcome(key, "skipped")
            try:
                _train(job, writer, listen, notes)
            except Exception as error:  # noqa: BLE001 - recorded with its traceback; the other runs go on
                cause = _cause(error)
                try:
                    writer.fail(error, unit, job.settings)
                except StoreError:
                    cause = f"{cause} (nor can failure.json be written)"
                return Outcome(key, "failed", cause, tuple(notes))
    except LockedError as error:
        return Outcome(key, "elsewhere", str(error))
    except StoreError as error:
        return Outcome(key, "failed", str(error), tuple(notes))
    return Outcome(key, "done", notes=tuple(notes))


def _train(job: Job, writer: RunWriter, listen: Listener, notes: list[str]) -> None:
    from accord.bench import rng

    key = job.run.key
    damage = job.run.damage()
    writer.begin(job.settings, job.threads)
    unit, state, note = writer.load()
    if note:
        notes.append(note)
    with (
        rng.isolated(derive_seed(key.experiment, key.seed, "global")),
        _threads(job.threads),
        _collected() as heard,
    ):
        trial = job.trial(job.preset, key.method, key.seed)
        if state is not None:
            trial.load_state_dict(state["trial"])
            rng.set_state(state["rng"])
            heard.drain()  # warnings from making the trial stand in the records of the first attempt
        listen(unit, trial.length)
        saved, saved_at = unit, time.monotonic()
        while unit < trial.length:
            record = trial.advance()
            unit += 1
            writer.append({"unit": unit, **record, **heard.drain()})
            listen(unit, trial.length)
            if time.monotonic() - saved_at >= job.checkpoint_seconds:
                _save(writer, trial, unit)
                saved, saved_at = unit, time.monotonic()
        if saved < unit:
            _save(writer, trial, unit)
        writer.finish({"units": unit, **trial.result(), **heard.drain()})
        if damage:
            notes.append(f"{damage} (which is done now)")


def _save(writer: RunWriter, trial: Trial, unit: int) -> None:
    from accord.bench import rng

    writer.checkpoint(unit, {"trial": trial.state_dict(), "rng": rng.get_state()})


def _cause(error: Exception) -> str:
    """The first line of an error, with its type unless it is one of accord's own."""
    text = str(error).strip().split("\n")[0]
    return text if isinstance(error, StoreError) else f"{type(error).__name__}: {text}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads inside: sums, and so results, depend on it in the last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Heard:
    """Warnings since the last drain, one entry a place in the code, with a count."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str, int], dict[str, Any]] = {}

    def show(self, message: Warning | str, category: type[Warning], file: str, line: int, *_: Any, **__: Any) -> None:
        """Stands in for ``warnings.showwarning``."""
        fresh = {"category": category.__name__, "message": str(message), "count": 0}
        entry = self._entries.setdefault((category.__name__, file, line), fresh)
        entry["count"] += 1

    def drain(self) -> dict[str, Any]:
        """``{"warnings": […]}``, or nothing when there were none."""
        entries, self._entries = list(self._entries.values()), {}
        return {"warnings": entries} if entries else {}


@contextmanager
def _collected() -> Iterator[_Heard]:
    """Send warnings to the run's records: on the terminal they would break the progress bars and be lost."""
    heard = _Heard()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard.show
        yield heard
