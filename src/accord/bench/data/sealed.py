"""Cache files of arrays that say how they were made and carry a checksum; nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench.files import write_atomic
from accord.errors import DataError, StoreError


@dataclass(frozen=True)
class Seal:
    """What the cache files of one kind have in common: compressed npz archives with a note.

    The note is JSON: ``format``, ``data``, ``made`` (how the arrays were made) and ``sha256`` over the arrays.

    Attributes:
        owner: Whose files these are, for messages: ``"rooms"``.
        format: Version of the files; another one is refused.
        data: What the arrays are, for people: ``"synthetic"``.
        arrays: The names that every file has.
        again: What happens once a file is deleted: ``"it is rendered anew"``.
    """

    owner: str
    format: int
    data: str
    arrays: tuple[str, ...]
    again: str

    def write(self, path: Path, arrays: Mapping[str, np.ndarray], made: Mapping[str, Any]) -> None:
        """Write one file, whole or not at all.

        Args:
            path: Where; folders are made.
            arrays: By name.
            made: How they were made, plain JSON data, for ``read`` to compare and for people.

        Raises:
            DataError: The disk refuses.
        """
        note = {"format": self.format, "data": self.data, "made": dict(made), "sha256": _digest(arrays)}
        buffer = io.BytesIO()
        files: dict[str, Any] = {"note": np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays}
        np.savez_compressed(buffer, **files)
        try:
            write_atomic(path, buffer.getvalue())
        except StoreError as error:
            cause = getattr(error.__cause__, "strerror", None) or error
            remedy = "set ACCORD_CACHE to a folder that is yours and has room"
            raise DataError(f"{self.owner}: cannot write the cache file {path}: {cause}; {remedy}") from error

    def read(self, path: Path, made: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Read and verify one file.

        Args:
            path: Where.
            made: What the file must say of itself.

        Returns:
            The arrays by name.

        Raises:
            DataError: The file is absent, truncated, altered, of another format or made otherwise.
        """
        what, remedy = f"{self.owner}: the cache file {path}", f"delete the file, and {self.again}"
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            note = json.loads(arrays.pop("note").tobytes())
            version, kept, digest = note["format"], note["made"], note["sha256"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{what} cannot be read ({error}); {remedy}") from error
        if version != self.format:
            raise DataError(f"{what} has format {version}, this version reads {self.format}; {remedy}")
        if kept != dict(made):
            raise DataError(f"{what} holds {kept}, not {dict(made)}; {remedy}")
        if set(arrays) != set(self.arrays) or _digest(arrays) != digest:
            raise DataError(f"{what} was altered: its checksum does not match; {remedy}")
        return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Over the names, types, shapes and bytes of all arrays."""
    state = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        state.update(f"{name} {array.dtype.str} {array.shape};".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
