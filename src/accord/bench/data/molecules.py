"""Molecules as plain arrays, and files of them that carry their own version and checksum."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench.files import write_atomic
from accord.errors import DataError, StoreError

FORMAT = 1
"""Version of the files; a change of what they hold raises it, and older files are left alone."""


@dataclass(frozen=True)
class Molecules:
    """M molecules with A atoms and B bonds in all, one after the other.

    Attributes:
        index: (M,) the molecules' numbers in QM9.
        sizes: (M,) atoms per molecule, hydrogens included.
        atoms: (A, 4) atomic number, aromatic (0 or 1), hybridisation (1 sp, 2 sp², 3 sp³, 0 other), number
            of bonded hydrogens.
        positions: (A, 3) in Ångström.
        bond_counts: (M,) bonds per molecule.
        bonds: (B, 3) first atom, second atom (counted within the molecule), type (1 single, 2 double,
            3 triple, 4 aromatic).
        targets: (M, 11) as `accord.bench.data.qm9_source.targets` has them.
        dropped: How many rows were left out because their SMILES and geometry disagree.
    """

    index: np.ndarray
    sizes: np.ndarray
    atoms: np.ndarray
    positions: np.ndarray
    bond_counts: np.ndarray
    bonds: np.ndarray
    targets: np.ndarray
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def head(self, count: int) -> Molecules:
        """The first ``count`` molecules."""
        atoms, bonds = int(self.sizes[:count].sum()), int(self.bond_counts[:count].sum())
        ends = {"atoms": atoms, "positions": atoms, "bonds": bonds}
        return Molecules(**{n: a[: ends.get(n, count)] for n, a in self.arrays().items()}, dropped=self.dropped)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "dropped"}

    @classmethod
    def join(cls, parts: Sequence[Molecules]) -> Molecules:
        """All molecules of all parts, in order."""
        arrays = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()}
        return cls(**arrays, dropped=sum(part.dropped for part in parts))


def write_molecules(path: Path, molecules: Molecules) -> None:
    """Write one cache file, whole or not at all.

    Raises:
        DataError: The disk refuses.
    """
    arrays = molecules.arrays()
    note = {"format": FORMAT, "dropped": molecules.dropped, "sha256": _digest(arrays)}
    buffer = io.BytesIO()
    files: dict[str, Any] = {"note": np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays}
    np.savez(buffer, **files)
    try:
        write_atomic(path, buffer.getvalue())
    except StoreError as error:
        cause = getattr(error.__cause__, "strerror", None) or error
        remedy = "set ACCORD_CACHE to a folder that is yours and has room"
        raise DataError(f"qm9: cannot write the cache file {path}: {cause}; {remedy}") from error


def read_molecules(path: Path) -> Molecules:
    """Read and verify one cache file; nothing in it is executed.

    Raises:
        DataError: The file is truncated, altered or of another format.
    """
    remedy = "delete the file, and it is made anew"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        note = json.loads(arrays.pop("note").tobytes())
        version, dropped, digest = note["format"], note["dropped"], note["sha256"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"qm9: the cache file {path} cannot be read ({error}); {remedy}") from error
    if version != FORMAT:
        raise DataError(f"qm9: the cache file {path} has format {version}, this version reads {FORMAT}; {remedy}")
    if set(arrays) != {f.name for f in fields(Molecules)} - {"dropped"} or _digest(arrays) != digest:
        raise DataError(f"qm9: the cache file {path} was altered: its checksum does not match; {remedy}")
    return Molecules(**arrays, dropped=dropped)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Over the names, types, shapes and bytes of all arrays."""
    state = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        state.update(f"{name} {array.dtype.str} {array.shape};".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
