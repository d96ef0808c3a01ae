"""Folders of files that are made here: written once, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from accord.errors import DataError


def made(folder: Path, write: Callable[[Path], None], what: str) -> Path:
    """Have ``write`` fill a folder, unless it is there.

    Processes may do so at the same time: the files are the same, and the first to be done puts them in place.

    Args:
        folder: Where the files are to be.
        write: Called with an empty folder beside it, which is then renamed.
        what: For errors, such as ``"nyuv2: cannot make scenes"``.

    Returns:
        The folder.

    Raises:
        DataError: The folder cannot be written.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            write(temporary)
            os.chmod(temporary, 0o755)  # mkdtemp makes folders that only their owner can read
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{what} in {folder.parent}: {error.strerror or error}; set ACCORD_CACHE to a folder that is yours and has "
            "room"
        ) from error
    return folder
