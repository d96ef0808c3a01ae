"""Synthetic indoor scenes, rendered once and cached: photographs with exact classes, depth and normals.

Frame i of a split shows room i of that split, and no room is in both splits. A small set is the beginning of every
larger one of the same size and quality, so that nothing is rendered twice. The same numbers make the same bytes in
every process; another version of Mitsuba or another kind of processor may round the last bit of a colour elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accord.bench.data.bars import counted
from accord.bench.data.rooms_frames import FORMAT, Frames, read_frames, write_frames
from accord.bench.data.rooms_layout import make_room
from accord.bench.data.rooms_render import check_size, mitsuba, render
from accord.errors import DataError, DependencyError, OptionError

BLOCK = 16
"""Frames per cache file."""

SPLITS = ("train", "validation", "test")
"""Choose settings by ``"validation"``; experiments train on ``"train"`` and report ``"test"``."""


def cache_folder(height: int, width: int, samples: int) -> Path:
    """``$ACCORD_CACHE/rooms/v2/<height>x<width>-<samples>``, by default under ``~/.cache/accord``."""
    root = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser()
    return root / "rooms" / f"v{FORMAT}" / f"{height}x{width}-{samples}"


def load(
    split: str,
    count: int,
    height: int,
    width: int,
    samples: int,
    *,
    processes: int | None = 1,
    show: bool = False,
) -> Frames:
    """The first ``count`` frames of a split, from the cache where they are there.

    Several processes may call this at once: each block of frames is rendered by one of them.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        count: How many frames.
        height: Pixels.
        width: Pixels.
        samples: Light paths per pixel, a square number.
        processes: How many render what is missing; None for one on each core.
        show: Show a progress bar while rendering.

    Raises:
        OptionError: An argument is out of range.
        DataError: A cache file is damaged or cannot be written, or a rendering process died.
        DependencyError: The extra ``accord[experiments]`` is not installed.
    """
    if split not in SPLITS:
        raise OptionError(f"rooms: there is no split {split!r}; the splits are {', '.join(SPLITS)}")
    if count < 1:
        raise OptionError(f"rooms: {count} frames were asked for; ask for one at least")
    if processes is not None and processes < 1:
        raise OptionError(f"rooms: processes={processes} must be 1 or more, or None for one on each core")
    check_size(height, width, samples)
    numbers = range(-(-count // BLOCK))
    missing = [n for n in numbers if not block_file(split, n, height, width, samples).exists()]
    if missing:
        _require()
        wanted = min(len(missing), processes or _cores())
        doing = f"rendering synthetic frames ({split}, {height}×{width})"
        with counted("rooms", doing, len(missing) * BLOCK, show) as advance:
            if wanted == 1:
                render_blocks(split, missing, height, width, samples, advance)
            else:
                _render_parallel(wanted, (split, height, width, samples, *missing), advance)
    parts = [
        read_frames(block_file(split, n, height, width, samples), _made(split, n, height, width, samples))
        for n in numbers
    ]
    return Frames.join(parts).head(count)


def block_file(split: str, number: int, height: int, width: int, samples: int) -> Path:
    """The cache file of block ``number``."""
    return cache_folder(height, width, samples) / f"{split}-{number:04d}.npz"


def render_blocks(
    split: str,
    numbers: Sequence[int],
    height: int,
    width: int,
    samples: int,
    advance: Callable[[int], None] = lambda frames: None,
) -> None:
    """Render the blocks that are missing and that no other process is rendering; then wait for those.

    Args:
        split: As in ``load``.
        numbers: Of the blocks.
        height: As in ``load``.
        width: As in ``load``.
        samples: As in ``load``.
        advance: Called with the number of frames done here since the last call.

    Raises:
        DataError: The cache cannot be used.
    """
    import filelock

    waiting = list(numbers)
    folder = cache_folder(height, width, samples)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for patience in (0, -1):
            for number in list(waiting):
                file = block_file(split, number, height, width, samples)
                try:
                    with filelock.FileLock(file.with_suffix(".lock"), timeout=patience):
                        if not file.exists():
                            frames = []
                            for index in range(number * BLOCK, (number + 1) * BLOCK):
                                frames.append(render(make_room(split, index), height, width, samples))
                                advance(1)
                            write_frames(file, Frames.of(frames), _made(split, number, height, width, samples))
                except filelock.Timeout:
                    continue
                waiting.remove(number)
    except OSError as error:
        raise DataError(
            f"rooms: cannot use the cache folder {folder}: {error.strerror or error}; "
            "set ACCORD_CACHE to a folder that is yours and has room"
        ) from error


def _made(split: str, number: int, height: int, width: int, samples: int) -> dict[str, Any]:
    """What a file must say of itself."""
    return {"split": split, "first": number * BLOCK, "height": height, "width": width, "samples": samples}


def _render_parallel(processes: int, arguments: tuple[str | int, ...], advance: Callable[[int], None]) -> None:
    """Render in processes of their own, which share the blocks out among themselves by the blocks' locks.

    They are plain children and not ``multiprocessing`` ones, so that a script without a main guard may load frames.
    """
    command = [sys.executable, "-m", "accord.bench.data.rooms_worker", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ours, theirs = os.pipe()
    children: list[subprocess.Popen[bytes]] = []
    with open(ours, "rb", buffering=0) as done, tempfile.TemporaryFile() as said:
        try:
            try:
                for _ in range(processes):
                    children.append(subprocess.Popen(command, stdout=theirs, stderr=said, env=environment))
            finally:
                os.close(theirs)  # so that the pipe ends with the last child
            while text := done.read(4096):
                advance(len(text))  # a byte a frame
            codes = [child.wait() for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
        if any(codes):
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise DataError(f"rooms: a rendering process ended with exit code {next(filter(None, codes))}: {last[0]}")


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require() -> None:
    """Raise DependencyError before any work is done unless all that rendering needs is installed."""
    mitsuba()
    try:
        import filelock  # noqa: F401
    except ImportError as error:
        raise DependencyError("rooms: filelock is missing: `pip install 'accord[experiments]'`") from error
