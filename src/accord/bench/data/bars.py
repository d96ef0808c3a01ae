"""A progress bar for data that are made once and take a while: decoded, rendered, recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from accord.errors import DependencyError


@contextmanager
def counted(
    owner: str, doing: str, total: int, show: bool, extra: str = "experiments"
) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far some work is: as a bar on a terminal, as one line when it begins elsewhere.

    Args:
        owner: Whose data, such as ``"rooms"``; the message begins with it.
        doing: What is done to what, such as ``"rendering frames"``.
        total: How many things there are.
        show: Whether to show anything.
        extra: The extra of accord that brings the package which draws the bar.

    Yields:
        A function to call with each number of things done.

    Raises:
        DependencyError: That package is not installed.
    """
    if not show:
        yield lambda count: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        raise DependencyError(f"{owner}: rich is missing: `pip install 'accord[{extra}]'`") from error
    console = Console(stderr=True)
    title = f"{owner}: {doing}"
    if not console.is_terminal:
        console.print(f"{title}: {total:,}, once", markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
