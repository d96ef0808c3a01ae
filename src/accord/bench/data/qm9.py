"""QM9 for the 11-task benchmark: a deterministic subset of molecules, converted once and cached.

All presets take their molecules from one fixed pseudo-random order of the data set, so that a small subset is
the beginning of every larger one and nothing is converted twice.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from accord.bench.data.molecules import FORMAT, Molecules, read_molecules, write_molecules
from accord.bench.data.qm9_source import ROWS, Source, convert
from accord.bench.spec import derive_seed
from accord.errors import DataError, DependencyError, OptionError

BLOCK = 1024
"""Rows of the data set per cache file."""


def cache_folder() -> Path:
    """``$ACCORD_CACHE/qm9/v1``, by default under ``~/.cache/accord``."""
    return Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "qm9" / f"v{FORMAT}"


def load(count: int | None = None, *, source: Path | None = None, show: bool = False) -> Molecules:
    """The first ``count`` usable molecules in the benchmark's order, from the cache where they are there.

    Several processes may call this at once: each block is converted by one of them.

    Args:
        count: How many molecules; None for all.
        source: Folder with the three CSV files; None for ``$ACCORD_QM9`` or the installed ``qm9pack``.
        show: Show a progress bar while converting.

    Raises:
        OptionError: More molecules are asked for than there are.
        DataError: A data or cache file is missing, truncated or altered, or the cache cannot be written.
        DependencyError: The extra ``accord[qm9]`` is not installed.
    """
    if count is not None and count < 1:
        raise OptionError(f"qm9: {count} molecules were asked for; ask for one at least")
    total = -(-ROWS // BLOCK)
    needed = total if count is None else min(total, -(-count // BLOCK))
    parts: list[Molecules] = []
    while True:
        _convert_missing(range(len(parts), needed), source, show)
        parts += [read_molecules(block_file(number)) for number in range(len(parts), needed)]
        have = sum(len(part) for part in parts)
        if count is not None and have >= count:
            return Molecules.join(parts).head(count)
        if needed == total:
            break
        needed += 1  # about 0.35 % of the rows are dropped, so the last block seldom needs another one
    if count is not None:
        raise OptionError(
            f"qm9: {count:,} molecules were asked for; {have:,} have a SMILES that matches their geometry"
        )
    return Molecules.join(parts)


def block_file(number: int) -> Path:
    """The cache file of block ``number``."""
    return cache_folder() / f"block-{number:03d}.npz"


def block_rows(number: int) -> np.ndarray:
    """Rows of the data set in block ``number``."""
    return _order()[number * BLOCK : (number + 1) * BLOCK]


@functools.cache
def _order() -> np.ndarray:
    # By a hash of the row's number, because generators' streams may change from version to version.
    return np.argsort([derive_seed("qm9", "order", row) for row in range(ROWS)], kind="stable")


def _convert_missing(numbers: Sequence[int], folder: Path | None, show: bool) -> None:
    missing = [number for number in numbers if not block_file(number).exists()]
    if not missing:
        return
    try:
        import filelock
        import polars  # noqa: F401 - needed later; its absence is better told before any work is done
    except ImportError as error:
        raise DependencyError(f"qm9: {error.name} is missing: `pip install 'accord[qm9]'`") from error
    source = Source(folder)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with _bar(len(missing), show) as advance:
            for patience in (0, -1):  # first the blocks that nobody works on, then wait for the others
                for number in list(missing):
                    file = block_file(number)
                    try:
                        with filelock.FileLock(file.with_suffix(".lock"), timeout=patience):
                            if not file.exists():
                                write_molecules(file, convert(source.frame(block_rows(number))))
                    except filelock.Timeout:
                        continue
                    missing.remove(number)
                    advance()
    except OSError as error:
        raise DataError(
            f"qm9: cannot use the cache folder {cache_folder()}: {error.strerror or error}; "
            "set ACCORD_CACHE to a folder that is yours and has room"
        ) from error


@contextmanager
def _bar(blocks: int, show: bool) -> Iterator[Callable[[], None]]:
    """A progress bar over blocks; yields what to call after each."""
    if not show:
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        raise DependencyError("qm9: rich is missing: `pip install 'accord[qm9]'`") from error
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"QM9: converting {blocks * BLOCK:,} molecules into {cache_folder()}")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("QM9: converting molecules", total=blocks)
        yield lambda: progress.advance(task)
