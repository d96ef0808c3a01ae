"""The writing side of a run: one writer at a time, checkpoints that are proved before they are trusted."""

from __future__ import annotations

import io
import platform
import shutil
import sys
import time
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accord.bench.commit import commit, modified
from accord.bench.files import LineWriter, disk, write_atomic, write_json
from accord.bench.store import Run, accord_version, key_to_json, label
from accord.errors import DependencyError, LockedError, StoreError

DAMAGED = "checkpoint.damaged.pt"


@contextmanager
def writing(run: Run, fresh: bool = False) -> Iterator[RunWriter]:
    """Hold a run's lock and yield its writer.

    Args:
        run: The run.
        fresh: Discard what an earlier attempt left.

    Raises:
        LockedError: Another process holds the run.
        StoreError: The disk refuses.
    """
    with locked(run):
        _sweep(run)
        if fresh:
            discard(run)
        writer = RunWriter(run)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold a run's lock; the operating system frees it when the process ends, however it ends.

    Raises:
        LockedError: Another process holds it.
    """
    require_locks()
    import filelock

    lock = filelock.FileLock(run.lock_file, timeout=0)
    with disk("lock", run.lock_file):
        run.lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise LockedError(
                f"run {label(run.key)} is being trained by another process (it holds {run.lock_file}): "
                "wait for that one, or stop it"
            ) from None
    try:
        yield
    finally:
        lock.release()


def require_locks() -> None:
    """Raise DependencyError unless the package that locks runs is installed."""
    try:
        import filelock  # noqa: F401
    except ModuleNotFoundError as error:
        raise DependencyError("keeping runs needs the package filelock: pip install 'accord[bench]'") from error


def discard(run: Run) -> None:
    """Remove a run's folder: at once for all readers, even if the process dies half way."""
    with disk("remove", run.folder):
        if run.folder.exists():
            run.folder.rename(_doomed(run))
            shutil.rmtree(_doomed(run))


def _sweep(run: Run) -> None:
    """Remove what a process that died while discarding has left."""
    with disk("remove", _doomed(run)):
        if _doomed(run).exists():
            shutil.rmtree(_doomed(run))


def _doomed(run: Run) -> Path:
    return run.folder.with_name(f".{run.folder.name}.discarded")


class RunWriter:
    """Writes one run's files; make it with ``writing``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lines: LineWriter | None = None
        self._proved = False

    def begin(self, settings: Any, threads: int) -> None:
        """Begin an attempt: note the machine, clear an old failure and left-over temporary files.

        Args:
            settings: The preset's settings as plain JSON data; those of an earlier attempt must be equal.
            threads: How many threads torch computes with.

        Raises:
            StoreError: Other settings than before, or the disk refuses.
        """
        self.run.check_settings(settings)
        folder = self.run.folder
        with disk("write to", folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
            (folder / "failure.json").unlink(missing_ok=True)
        earlier = [] if self.run.status == "absent" else self.run.info()["attempts"]
        info = {
            "key": key_to_json(self.run.key),
            "settings": settings,
            "attempts": [*earlier, attempt(threads)],
        }
        write_json(folder / "run.json", info)
        self._lines = LineWriter(folder / "metrics.jsonl")

    def append(self, record: dict[str, Any]) -> None:
        """Add one unit's record."""
        self._opened.append(record)

    def checkpoint(self, unit: int, state: dict[str, Any]) -> None:
        """Save the state after ``unit`` units; the one before it is kept as ``checkpoint.prev.pt``.

        Raises:
            StoreError: The disk refuses, or the state holds what ``weights_only=True`` cannot load.
        """
        import torch

        buffer = io.BytesIO()
        torch.save({"unit": unit, "state": state}, buffer)
        if not self._proved:  # find out now, not when a run of hours is to be resumed
            self._prove(buffer)
        self._opened.sync()  # the records up to this unit reach the disk before the state that relies on them
        path = self.run.folder / "checkpoint.pt"
        with disk("write", path):
            if path.exists():
                path.replace(_previous(path))
        write_atomic(path, buffer.getvalue())

    def load(self) -> tuple[int, dict[str, Any] | None, str]:
        """The newest whole checkpoint.

        Returns:
            The unit (0 with no checkpoint), the state or None, and a note that is empty unless the newest
            was unusable.

        Raises:
            StoreError: There are checkpoints, but none that is whole, or records are missing.
        """
        path = self.run.folder / "checkpoint.pt"
        faults: list[str] = []
        for candidate in (path, _previous(path)):
            if not candidate.exists():
                continue
            try:
                saved = load_checkpoint(candidate)
            except StoreError as error:
                faults.append(str(error))
                continue
            self._check_records(saved["unit"])
            if not faults:
                return saved["unit"], saved["state"], ""
            aside = path.with_name(DAMAGED)  # or the next checkpoint would push the whole one out
            with disk("rename", path):
                path.replace(aside)
            note = f"{faults[0]}; kept as {aside.name}; going on from the one before, unit {saved['unit']}"
            return saved["unit"], saved["state"], note
        if faults:
            raise StoreError(
                f"{'; '.join(faults)}; no older checkpoint is whole: give --fresh (fresh=True) to run it anew"
            )
        return 0, None, ""

    def finish(self, result: dict[str, Any]) -> None:
        """Write the final record: from here on the run is done."""
        write_json(self.run.folder / "result.json", result)
        for old in (_previous(self.run.folder / "checkpoint.pt"), self.run.folder / DAMAGED):
            with disk("remove", old):
                old.unlink(missing_ok=True)

    def fail(self, error: BaseException, unit: int, settings: Any) -> None:
        """Record why this attempt ended; the checkpoint stays for the next one."""
        trace = "".join(traceback.format_exception(error))
        write_failure(self.run, settings, unit, type(error).__name__, str(error), trace)

    def close(self) -> None:
        """Close the open file."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    @property
    def _opened(self) -> LineWriter:
        if self._lines is None:
            raise StoreError(f"run {label(self.run.key)}: begin() comes before append() and checkpoint()")
        return self._lines

    def _prove(self, buffer: io.BytesIO) -> None:
        import pickle

        import torch

        buffer.seek(0)
        try:
            torch.load(buffer, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise StoreError(
                f"run {label(self.run.key)}: the trial's state_dict() cannot be loaded again with "
                f"weights_only=True: {error}; keep it to tensors, numbers, strings, lists, tuples and dicts"
            ) from error
        self._proved = True

    def _check_records(self, unit: int) -> None:
        present = {record["unit"] for record in self.run.records()}
        missing = [u for u in range(1, unit + 1) if u not in present]
        if missing:
            raise StoreError(
                f"{self.run.folder / 'metrics.jsonl'} lacks unit {missing[0]} ({len(missing)} of the {unit} "
                "units before the checkpoint): it was cut or altered; give --fresh (fresh=True) to run it anew"
            )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: ``{"unit": …, "state": …}``.

    torch.load takes flipped bits for weights without a word, so the archive's checksums are verified first.

    Raises:
        StoreError: The file is cut, altered, or not a checkpoint.
    """
    import pickle

    import torch

    with disk("read", path):
        data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or saved.keys() != {"unit", "state"}:
            raise ValueError("not a checkpoint of accord")
    except pickle.UnpicklingError as error:
        raise StoreError(
            f"checkpoint {path} is damaged or not of accord's making: it asks for code to be run, or for objects other "
            "than tensors and plain data; nothing of it was run"
        ) from error
    except Exception as error:  # damaged bytes make zipfile and torch raise almost anything
        raise StoreError(f"checkpoint {path} is damaged ({error})") from error
    return saved


def write_failure(run: Run, settings: Any, unit: int, kind: str, message: str, trace: str) -> None:
    """Write ``failure.json``, and ``run.json`` for a run that failed before its first attempt began."""
    if run.status == "absent":
        write_json(run.folder / "run.json", {"key": key_to_json(run.key), "settings": settings, "attempts": []})
    failure = {"unit": unit, "time": now(), "type": kind, "message": message, "traceback": trace}
    write_json(run.folder / "failure.json", failure)


def attempt(threads: int) -> dict[str, Any]:
    """What an attempt's numbers may depend on: versions, the kind of machine, threads; and when it began."""
    import numpy
    import torch

    return {
        "started": now(),
        "accord": accord_version(),
        "commit": commit(),  # None where accord is not run from a checkout
        "modified": modified(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "threads": threads,
    }


def now() -> str:
    """Local time to the second, with its offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _previous(path: Path) -> Path:
    return path.with_name("checkpoint.prev.pt")
