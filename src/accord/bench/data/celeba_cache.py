"""CelebA decoded once: small uint8 images in one file, because 200,000 JPEGs are slow to decode in every epoch.

A cache file belongs to the image files it was made from: another folder, another choice of images, another size or a
changed file make another cache file. It is written whole or not at all, and its checksum is verified once a process.
"""

from __future__ import annotations

import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench.data.arrays import open_array
from accord.bench.data.bars import counted
from accord.bench.data.celeba import REMEDY, Split, read_image
from accord.bench.files import read_json, write_json
from accord.errors import DataError, DependencyError, StoreError

FORMAT = 1
"""Version of the files; raised when a change alters what they hold."""
_BLOCK = 256  # images decoded at a time
_REDO = "delete it and the .json file beside it, and the images are decoded anew"


def cache_folder() -> Path:
    """``$ACCORD_CACHE/celeba/v1``, by default under ``~/.cache/accord``."""
    return Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "celeba" / f"v{FORMAT}"


def cache_file(split: Split, size: int) -> Path:
    """Where the decoded images of a split are kept, for the image files as they are now.

    Raises:
        DataError: An image is missing.
    """
    state = hashlib.sha256(f"{split.folder.resolve()} {size};".encode())
    for name in split.names:
        try:
            found = os.stat(split.folder / name)
        except OSError as error:
            raise DataError(f"celeba: {split.folder / name}: {error.strerror or error}. {REMEDY}") from error
        state.update(f"{name} {found.st_size} {found.st_mtime_ns};".encode())
    return cache_folder() / f"{split.name}-{len(split)}-{size}-{state.hexdigest()[:16]}.npy"


def decoded(split: Split, size: int, *, show: bool = False) -> Path:
    """A file with the images of a split, decoded unless it is there; several processes may call this at once.

    Args:
        split: Which images.
        size: Height and width to bring them to.
        show: Show a progress bar while decoding.

    Returns:
        A ``.npy`` file of (N, 3, size, size) uint8, verified.

    Raises:
        DataError: An image is missing or damaged, or a cache file is damaged or cannot be written.
        DependencyError: The extra ``accord[experiments]`` is not installed.
    """
    file = cache_file(split, size)
    if not _note(file).exists():
        _decode(file, split, size, show)
    _verify(file, (len(split), 3, size, size), _stamp(file))
    return file


def _stamp(file: Path) -> tuple[int, int]:
    """What tells a file that was changed from what it was; 0, 0 for one that is not there."""
    if not file.exists():
        return 0, 0
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _verify(file: Path, shape: tuple[int, ...], stamp: tuple[int, int]) -> None:
    """Compare a cache file's form and checksum with the note beside it, once a process for each ``stamp``."""
    try:
        note = read_json(_note(file))
        array = open_array(file)
    except (StoreError, DataError) as error:
        raise DataError(f"celeba: the cache file {file} cannot be read ({error}); {_REDO}") from error
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    if array.dtype != np.uint8 or array.shape != shape or note != _said(digest, shape):
        raise DataError(
            f"celeba: the cache file {file} was altered: {array.dtype} {array.shape}, where uint8 {shape} is needed, "
            f"or its checksum is not that of {_note(file).name}; {_REDO}"
        )


def _note(file: Path) -> Path:
    """The file beside it that says what it holds; written last, so that its presence says that both are whole."""
    return file.with_suffix(".json")


def _said(digest: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"format": FORMAT, "shape": list(shape), "sha256": digest}


def _decode(file: Path, split: Split, size: int, show: bool) -> None:
    try:
        import filelock
        import PIL  # noqa: F401 - needed later; its absence is better told before any work is done
    except ImportError as error:
        raise DependencyError(f"celeba: {error.name} is missing: `pip install 'accord[experiments]'`") from error
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_suffix(".lock")):
            if _note(file).exists():  # another process did it while this one waited
                return
            try:
                digest = _write(temporary, split, size, show)
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
            write_json(_note(file), _said(digest, (len(split), 3, size, size)))
    except (OSError, StoreError) as error:
        cause = error if isinstance(error, StoreError) else error.strerror or error
        raise DataError(
            f"celeba: cannot write the cache file {file}: {cause}; it needs {len(split) * 3 * size * size / 1e9:.2f} "
            "GB: set ACCORD_CACHE to a folder that is yours and has room, or set cache=False to decode in every epoch"
        ) from error


def _write(path: Path, split: Split, size: int, show: bool) -> str:
    """Decode all images into a ``.npy`` file; the checksum of its array."""
    state = hashlib.sha256()
    paths = [split.folder / name for name in split.names]
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), 3, size, size)}
    bar = counted("celeba", f"decoding the {split.name} images", len(split), show)
    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count() or 1) as pool, bar as advance:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(paths), _BLOCK):
            block = paths[start : start + _BLOCK]
            # Pillow lets go of the interpreter's lock while it decodes
            data = np.stack(list(pool.map(lambda each: read_image(each, size), block))).tobytes()
            state.update(data)
            file.write(data)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())
    return state.hexdigest()
