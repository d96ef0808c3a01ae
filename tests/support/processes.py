"""Groups of processes, joined by gloo, that run functions of a test module side by side."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Failure:
    """What a process has instead of a result.

    Attributes:
        kind: The names of the exception's classes, itself first; ("Died",) where the process is gone.
        text: Its message.
        trace: Where it was raised.
        seconds: Since the function was called.
    """

    kind: tuple[str, ...]
    text: str
    trace: str = ""
    seconds: float = 0.0


class Processes:
    """Processes that stay, because starting them takes seconds; torch is imported once, where they are forked from.

    Args:
        size: How many.
        timeout: Seconds after which a collective operation fails.
    """

    def __init__(self, size: int, timeout: float = 30.0) -> None:
        self.size, self.timeout = size, timeout
        self._workers: list[Any] = []

    def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        """Call a module's function on every process; the results by rank.

        Raises:
            AssertionError: It failed on one of them; the message has its traceback.
        """
        found = self.outcomes(function, *arguments, **options)
        failed = [f"rank {rank}: {f.text}\n{f.trace}" for rank, f in enumerate(found) if isinstance(f, Failure)]
        assert not failed, "\n".join(failed)
        return found

    def outcomes(
        self, function: Callable[..., Any], *arguments: Any, limit: float = 60.0, together: bool = False, **options: Any
    ) -> list[Any]:
        """As ``run``, with a ``Failure`` in the place of a result; after one, fresh processes are started.

        Args:
            function: What to call.
            arguments: For the function.
            limit: Seconds to wait.
            together: All are expected to fail at the same place, so that the same processes can go on.
            options: For the function.

        Raises:
            TimeoutError: They were not done within ``limit`` seconds.
        """
        if not self._workers:
            self._start()
        for _, pipe in self._workers:
            pipe.send((function, arguments, options))
        deadline, found = time.monotonic() + limit, []
        for rank, (_, pipe) in enumerate(self._workers):
            try:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise TimeoutError(f"rank {rank} of {self.size} did not return from {function.__name__}")
                found.append(pipe.recv())
            except EOFError:
                found.append(Failure(("Died",), "the process has died"))
        failed = [isinstance(f, Failure) for f in found]
        if any(failed) and not (together and all(failed)):
            self.close()
        return found

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
            process.join()
        if self._workers:
            shutil.rmtree(self._folder)
        self._workers = []

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "accord"])
        self._folder = tempfile.mkdtemp()
        store = str(Path(self._folder) / "store")
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, self.size, store, self.timeout, theirs), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))


def _work(rank: int, size: int, store: str, timeout: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    seconds = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=seconds)
    while True:
        try:
            function, arguments, options = pipe.recv()
        except EOFError:
            os._exit(0)  # not every group has all its members left to say goodbye to
        begin = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = function(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - it is handed to the test
            kind = tuple(cls.__name__ for cls in type(error).__mro__)
            result = Failure(kind, str(error), traceback.format_exc(), time.monotonic() - begin)
        pipe.send(result)
