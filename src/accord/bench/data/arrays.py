"""NumPy files from outside: opened without ever executing what they hold, and refused with the cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from accord.errors import DataError

_MAGIC = b"\x93NUMPY"


def open_array(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file, mapped to memory, so that only what is used is read.

    Raises:
        DataError: The file is missing, cut off, no NumPy file, or holds Python objects (a pickle), which are never
            loaded. The message is the path and the cause.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: {_cause(path, error)}") from error


def _cause(path: Path, error: Exception) -> str:
    """Why the file is not a plain array, from its first bytes and what NumPy says."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if not start:
        return "the file is empty"
    if start[:1] == b"\x80":
        return "a pickle, which could execute anything and is never loaded"
    if start[:2] == b"PK":
        return "a zip archive, not a .npy file"
    if not _MAGIC.startswith(start) and start != _MAGIC:
        return "not a NumPy file"
    if "Python objects" in str(error):
        return "an array of Python objects, which is a pickle, could execute anything and is never loaded"
    return f"cut off or altered ({error})"
