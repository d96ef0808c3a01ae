"""What goes on, for people: bars on a terminal, plain lines elsewhere, nothing in a library call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from accord.bench.execute import Outcome
from accord.bench.spec import RunKey

if TYPE_CHECKING:
    from rich.console import Console


class Progress(Protocol):
    """Hears of every step of a grid of runs; a context manager around all of them."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def planned(self, runs: int, done: int) -> None:
        """``done`` of ``runs`` are finished from before."""
        ...

    def advanced(self, key: RunKey, unit: int, length: int) -> None:
        """A run stands at ``unit`` of ``length``; the first call for a run says where it starts from."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A run is over."""
        ...


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def planned(self, runs: int, done: int) -> None:
        """Nothing."""

    def advanced(self, key: RunKey, unit: int, length: int) -> None:
        """Nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Nothing."""


class Lines(Silent):
    """One line when a run starts, when it ends, and every half minute in between."""

    EVERY = 30.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[RunKey, float] = {}
        self._start: dict[RunKey, float] = {}

    def planned(self, runs: int, done: int) -> None:
        """Say how much there is to do."""
        self._say(f"{runs} runs, {done} of them done before")

    def advanced(self, key: RunKey, unit: int, length: int) -> None:
        """Say that a run starts or goes on; then speak only now and then."""
        now = time.monotonic()
        if key not in self._start:
            self._start[key] = self._last[key] = now
            self._say(f"{_name(key)}: " + (f"goes on from {unit}/{length}" if unit else "starts"))
        elif now - self._last[key] > self.EVERY:
            self._last[key] = now
            self._say(f"{_name(key)}: {unit}/{length}")

    def ended(self, outcome: Outcome) -> None:
        """Say how a run ended."""
        began = self._start.get(outcome.key)
        took = f" in {time.monotonic() - began:.0f} s" if began else ""
        self._say(f"{_name(outcome.key)}: {_status(outcome)}{took}")
        for note in outcome.notes:
            self._say(f"  note: {note}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars(Silent):
    """One bar for the whole and one for each run that is going on; failures stay on the screen as lines."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
        )
        self._whole: Any = None
        self._tasks: dict[RunKey, Any] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def planned(self, runs: int, done: int) -> None:
        """Draw the bar of the whole."""
        self._whole = self._bars.add_task("all runs", total=runs, completed=done)

    def advanced(self, key: RunKey, unit: int, length: int) -> None:
        """Draw or move a run's bar."""
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(_name(key), total=length)
        self._bars.update(self._tasks[key], completed=unit)

    def ended(self, outcome: Outcome) -> None:
        """Take a run's bar away."""
        if outcome.key in self._tasks:
            self._bars.remove_task(self._tasks.pop(outcome.key))
        self._bars.advance(self._whole)
        if outcome.status != "done":
            self._console.print(f"{_name(outcome.key)}: {_status(outcome)}", markup=False, highlight=False)
        for note in outcome.notes:
            self._console.print(f"{_name(outcome.key)}: {note}", markup=False, highlight=False)


def shown(console: Console) -> Progress:
    """Bars where the console is a terminal, lines where it is a file or a pipe."""
    return Bars(console) if console.is_terminal else Lines(console)


def _name(key: RunKey) -> str:
    return f"{key.method} seed {key.seed}"


def _status(outcome: Outcome) -> str:
    words = {"done": "done", "skipped": "done before", "failed": "FAILED", "elsewhere": "running elsewhere"}
    return f"{words[outcome.status]}{': ' if outcome.cause else ''}{outcome.cause}"
