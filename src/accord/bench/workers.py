"""Runs in parallel processes: each on its own threads, each able to die without taking others along."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from accord.bench.execute import Job, Outcome, execute
from accord.bench.spec import RunKey
from accord.bench.writing import locked, write_failure
from accord.errors import AccordError, LockedError, StoreError

TOP_LEVEL = (
    "define its classes and functions at the top level of a module that can be imported (not in a notebook, at a "
    "prompt or inside a function, and no lambda among the attributes), or run with jobs=1"
)
Advanced = Callable[[RunKey, int, int], None]
Ended = Callable[[Outcome], None]


def run_here(jobs: Sequence[Job], advanced: Advanced, ended: Ended) -> None:
    """Train one run after the other in this process."""
    for job in jobs:
        key = job.run.key
        ended(execute(job, lambda unit, length, key=key: advanced(key, unit, length)))


def run_parallel(jobs: Sequence[Job], processes: int, advanced: Advanced, ended: Ended) -> None:
    """Train runs in ``processes`` worker processes, in the order given.

    A worker that dies (killed, out of memory, a crash in native code) is recorded as the failure of the
    run it had, and replaced.

    Raises:
        AccordError: A worker cannot even start.
    """
    waiting = deque(jobs)
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.job for worker in workers):
            idle = sum(worker.job is None for worker in workers)
            for _ in range(min(processes - len(workers), len(waiting) - idle)):
                workers.append(_Worker.start())
            for ready in connection.wait([worker.conn for worker in workers]):
                worker = next(w for w in workers if w.conn is ready)
                try:
                    message = worker.conn.recv()
                except (EOFError, ConnectionResetError):
                    workers.remove(worker)
                    ended(_died(worker))
                    continue
                if isinstance(message, _Unreadable):
                    raise AccordError(f"a worker process cannot read the run sent to it ({message.cause}): {TOP_LEVEL}")
                if isinstance(message, tuple) and worker.job:
                    worker.unit = message[0]
                    advanced(worker.job.run.key, *message)
                    continue
                if isinstance(message, Outcome):
                    worker.job = None
                    ended(message)
                worker.give(waiting.popleft() if waiting else None)
                if worker.job is None:
                    workers.remove(worker)
                    worker.process.join()
    finally:
        for worker in workers:  # an interrupt or an error above: stores survive a kill at any point
            worker.process.kill()
            worker.process.join()


@dataclass(frozen=True)
class _Unreadable:
    """A worker's answer to a run it cannot unpickle."""

    cause: str


@dataclass
class _Worker:
    process: Any
    conn: Connection
    job: Job | None = None
    unit: int = 0

    @classmethod
    def start(cls) -> _Worker:
        context = multiprocessing.get_context("spawn")
        conn, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,))  # a daemon could have no DataLoader with workers
        try:
            with _deaf_to_interrupts():
                process.start()
        except BaseException:
            conn.close()  # then it goes home by itself
            raise
        finally:
            theirs.close()  # so that the death of the worker closes the pipe
        return cls(process, conn)

    def give(self, job: Job | None) -> None:
        """Send the next job; None lets the worker go home."""
        self.job, self.unit = job, 0
        try:
            data = pickle.dumps(job)  # not conn.send(job): that would put tensors into memory that processes share
        except Exception as error:
            raise AccordError(f"a run cannot be sent to a worker process ({error}): {TOP_LEVEL}") from error
        with suppress(BrokenPipeError, ConnectionResetError):  # it died meanwhile: the next recv() says so
            self.conn.send_bytes(data)


def _serve(conn: Connection) -> None:
    """A worker's whole life: say that it is there, then one job after the other."""

    def advanced(unit: int, length: int) -> None:
        try:
            conn.send((unit, length))
        except OSError:
            raise SystemExit from None  # the parent is gone; that is no failure of the run

    try:
        conn.send(None)
        while True:
            data = conn.recv_bytes()
            try:
                job = pickle.loads(data)
            except Exception as error:  # noqa: BLE001 - whatever an import or a constructor raises; the parent tells it
                conn.send(_Unreadable(f"{type(error).__name__}: {error}"))
                return
            if job is None:
                return
            conn.send(execute(job, advanced))
    except (OSError, EOFError):
        return


def _died(worker: _Worker) -> Outcome:
    """Record the end of a worker as its run's failure."""
    worker.process.join()
    code = worker.process.exitcode
    how = f"exit code {code}" if code >= 0 else f"signal {-code}: {signal.strsignal(-code)}"
    if -code == signal.SIGKILL:
        how += ", as the system does when memory runs out"
    if worker.job is None:
        raise AccordError(
            f"a worker process died before it took any work ({how}): see its message above; a program that trains "
            'with jobs above 1 must be a file and needs `if __name__ == "__main__":` around the call, or jobs=1'
        )
    run, settings, cause = worker.job.run, worker.job.settings, f"its worker process died ({how})"
    try:
        with locked(run):
            write_failure(run, settings, worker.unit, "WorkerDied", cause, "")
    except LockedError:
        pass  # someone else has taken it up already
    except StoreError:
        cause = f"{cause} (nor can failure.json be written)"
    return Outcome(run.key, "failed", cause)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start children that ignore Ctrl-C: the parent hears it and decides for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
