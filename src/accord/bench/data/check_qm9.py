"""Checks of a folder with the three CSV files of QM9."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from accord.bench.data.finding import Advance, Finding
from accord.bench.data.qm9_source import FILES

_REMEDY = "copy it anew from the wheel of qm9pack 1.0.3"


def fits(root: Path) -> bool:
    """Whether one of the files is there."""
    return any((root / name).is_file() for name in FILES)


def check(root: Path, advance: Advance) -> Iterator[Finding]:
    """Whether the files are the published ones, byte for byte."""
    for name, (size, rows, digest) in FILES.items():
        path = root / name
        if not path.is_file():
            yield Finding("wrong", name, f"missing in {root}; {_REMEDY}")
        elif path.stat().st_size != size:
            what = "cut off" if path.stat().st_size < size else "not the published file"
            yield Finding("wrong", name, f"{what}: {path.stat().st_size:,} bytes, not {size:,}; {_REMEDY}")
        else:
            with path.open("rb") as file:
                seen = hashlib.file_digest(file, "sha256").hexdigest()
            if seen == digest:
                yield Finding("ok", name, f"{size:,} bytes, {rows:,} molecules, SHA-256 {digest[:16]}…")
            else:
                yield Finding("wrong", name, f"altered: SHA-256 {seen[:16]}…, not {digest[:16]}…; {_REMEDY}")
        advance()
