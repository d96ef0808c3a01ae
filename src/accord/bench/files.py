"""Files that are whole or absent: atomic writes, append-only lines, and disk errors told plainly."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accord.errors import StoreError

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and give the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and give the same command again",
    errno.EROFS: "the file system is read-only; name another folder with --store",
    errno.EACCES: "permission denied; name a folder that is yours with --store",
    errno.EPERM: "permission denied; name a folder that is yours with --store",
    errno.EFBIG: "the file would pass the size this process may write (ulimit -f); raise the limit",
    errno.EIO: "the disk reports a hardware or network error; check it or name another folder with --store",
    errno.ENOTDIR: "a part of this path is a file, not a folder; name another folder with --store",
    errno.EISDIR: "this path is a folder; name a file",
    errno.ENOENT: "a part of this path does not exist; create it first",
}


@contextmanager
def disk(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a StoreError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "see the cause above")
        raise StoreError(f"cannot {action} {path}: {cause}: {remedy}") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` so that a reader, or a crash at any moment, sees the old file or the new one.

    Raises:
        StoreError: The disk is full, read-only or otherwise refuses; the old file is untouched.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` of indented JSON."""
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value at ``path``.

    Raises:
        StoreError: The file cannot be read, or is not JSON.
    """
    with disk("read", path):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except ValueError as error:
        raise StoreError(f"{path} is not valid JSON ({error}): it was altered by hand or by a disk fault") from error


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; ``os.write`` alone may stop half way on a disk that fills up."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut (a no-op where folders cannot be opened)."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LineWriter:
    """Appends JSON lines to a file: each is there in full or not at all.

    A torn last line, left by a crash, is cut off when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk("open", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                data = path.read_bytes()
                if not data.endswith(b"\n"):
                    os.ftruncate(self._fd, data.rfind(b"\n") + 1)
            except BaseException:
                os.close(self._fd)
                raise

    def append(self, record: dict[str, Any]) -> None:
        """Add one line; where the disk refuses, the file is left as it was."""
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        with disk("append to", self.path):
            end = os.fstat(self._fd).st_size
            try:
                write_all(self._fd, line)
            except BaseException:
                os.ftruncate(self._fd, end)
                raise

    def sync(self) -> None:
        """Force what was appended to the disk."""
        with disk("write", self.path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none if it is absent, and without a torn last line.

    Raises:
        StoreError: The file cannot be read, or a whole line is not JSON.
    """
    with disk("read", path):
        if not path.exists():
            return []
        data = path.read_bytes()
    records = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise StoreError(
                f"{path}, line {number} is not valid JSON ({error}): altered by hand or by a disk fault; "
                "run it again with --fresh (fresh=True)"
            ) from error
    return records
