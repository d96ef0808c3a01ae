"""``accord.Log``: balanced steps over time, as JSON lines, in TensorBoard, or both."""

from __future__ import annotations

import numbers
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from accord.balancers import Balance
from accord.balancers.options import check_positive
from accord.balancers.registry import suggest
from accord.diagnostics.board import Board
from accord.diagnostics.diagnose import Diagnosis
from accord.diagnostics.records import dumps, record_of
from accord.errors import OptionError, ShapeError, StoreError, UnknownNameError

CALLER = "accord.Log"


class Log:
    """Logs balanced steps: losses, weights, gradient norms, cosines, residual and outcome, by task name.

    ``log(balance, step)`` after each ``balancer.backward``; an ``accord.diagnose`` can be logged too. A JSONL file gets
    one line a step, whole or, where the process was killed in the middle, cut off; it is only ever appended to, so a
    resumed run goes on in the same file, and ``accord.read_log`` knows which steps were made again. Steps and diagnoses
    go through one log: a file has one ``Log`` at a time. With several processes rank 0 alone writes, and all may call.

    Args:
        path: Of the JSONL file; folders are made.
        tensorboard: A TensorBoard folder, beside the file or in its place (extra ``tensorboard``).
        tasks: The tasks to log, all if left away.
        every: Log the steps that this number divides.

    Raises:
        OptionError: Neither a path nor a folder, or an option out of range.
        DependencyError: TensorBoard is wanted and not installed.
        StoreError: The file cannot be opened, or written.

    Example:
        >>> import accord, accord.diagnostics, tempfile, torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> balancer, path = accord.MGDA(["a", "b"]), f"{tempfile.mkdtemp()}/run.jsonl"
        >>> with accord.diagnostics.Log(path) as log:
        ...     for step in range(3):
        ...         log(balancer.backward({"a": x[0] ** 2, "b": 3 * x[1] ** 2}, x), step)
        >>> accord.diagnostics.read_log(path).series("weights", "a")
        (array([0, 1, 2]), array([0.9, 0.9, 0.9]))
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        tensorboard: str | os.PathLike[str] | None = None,
        tasks: Sequence[str] | None = None,
        every: int = 1,
    ) -> None:
        if path is None and tensorboard is None:
            raise OptionError(
                f"{CALLER}: nowhere to log; give the path of a JSONL file, or tensorboard=FOLDER, or both"
            )
        check_positive(every, "every", CALLER, integer=True)
        if tasks is not None and (isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks)):
            raise OptionError(f"{CALLER}: tasks = {tasks!r} is not a list of one or more distinct names")
        self.path = None if path is None else Path(path)
        self.tasks = None if tasks is None else tuple(tasks)
        self.every = every
        self._started = time.time()
        self._board = None if tensorboard is None else Board(Path(tensorboard))
        self._file = None if self.path is None else _open(self.path)
        self._closed = False
        self._torn = True  # until it is known that the file ends with a whole line

    def __call__(self, entry: Balance | Diagnosis, step: int) -> None:
        """Log a step.

        Args:
            entry: What ``balancer.backward`` returned, or ``accord.diagnose``.
            step: Which step, a number of at least 0; a diagnosis may have the same as a balance.

        Raises:
            UnknownNameError: ``tasks`` names one that the step does not have; the nearest are suggested.
            StoreError: The disk is full, or the log was closed.
        """
        if not isinstance(entry, Balance | Diagnosis):
            raise ShapeError(
                f"{CALLER}: got a {type(entry).__name__}; log what balancer.backward or accord.diagnose returned"
            )
        if isinstance(step, bool) or not isinstance(step, numbers.Integral) or step < 0:
            raise OptionError(f"{CALLER}: step = {step!r} is not a whole number of at least 0")
        if self._closed:
            where = self.path if self.path is not None else self._board and self._board.folder
            raise StoreError(f"{CALLER}: {where} was closed; make a new Log to go on in the same place")
        chosen = self._chosen(entry.tasks)
        if step % self.every or (dist.is_available() and dist.is_initialized() and dist.get_rank()):
            return
        head = {"step": int(step), "time": time.time(), "started": self._started}
        record = {**head, **record_of(entry, chosen)}
        if self.path is not None and self._file is not None:
            self._append(self.path, self._file, dumps(record))
        if self._board is not None:
            self._board.write(record)

    def close(self) -> None:
        """Close the file and the TensorBoard folder; nothing can be logged after it."""
        self._closed = True
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        board = None if self._board is None else str(self._board.folder)
        return f"Log({None if self.path is None else str(self.path)!r}, tensorboard={board!r}, every={self.every})"

    def _chosen(self, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for name in self.tasks or ():
            if name not in tasks:
                raise UnknownNameError(
                    f"{CALLER}: tasks names {name!r}, but the step has no such task{suggest(name, tasks)}"
                )
        return self.tasks or tasks

    def _append(self, path: Path, file: int, line: bytes) -> None:
        """One line by one write, so that it is there at once, whatever happens to this process afterwards."""
        try:
            if self._torn and not _ends_whole(path):
                line = b"\n" + line  # a line that was cut off stays as it is, for the reader to name
            self._torn = True
            while line:
                line = line[os.write(file, line) :]
            self._torn = False
        except OSError as error:
            raise StoreError(f"{CALLER}: cannot write {path}: {error.strerror}; the lines before are whole") from error


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise StoreError(
            f"{CALLER}: cannot open {path}: {error.strerror}; name a file in a folder that can be written"
        ) from error


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
