"""``accord.read_log``: a JSONL log, whatever happened to the run that wrote it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accord.balancers.registry import suggest
from accord.diagnostics.records import loads
from accord.errors import DataError, NumericalWarning, UnknownNameError

CALLER = "accord.read_log"


@dataclass(frozen=True, eq=False)
class Logged:
    """A log that was read.

    Attributes:
        path: The file.
        records: One dict a step and kind, as ``accord.Log`` wrote it; NaN and infinity are numbers again.
        damage: What could not be read, a sentence a line.
        replaced: How many records are not among these, because a resumed run went back and made their steps again.
    """

    path: Path
    records: tuple[dict[str, Any], ...]
    damage: tuple[str, ...]
    replaced: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, in the order in which they were met."""
        return tuple(dict.fromkeys(task for record in self.records for task in record["losses"]))

    def series(self, field: str, *names: str, kind: str = "balance") -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one quantity over time.

        Args:
            field: ``"losses"``, ``"weights"``, ``"norms"`` with a task; ``"cosines"`` with two; ``"conflict"`` with
                ``"share"``, ``"mean_cosine"`` or ``"min_cosine"``; ``"residual"``, ``"stationarity"`` and all others
                that a record has.
            names: The task, or two.
            kind: ``"balance"`` or ``"diagnosis"``.

        Returns:
            Two arrays as long as there are records that have it; a null is NaN, text is text.

        Raises:
            UnknownNameError: No record has that field, or the log no such task; the nearest are suggested.
        """
        records = [record for record in self.records if record["kind"] == kind]
        if not records:
            kinds = sorted({record["kind"] for record in self.records})
            raise UnknownNameError(f"{self.path}: no record of kind {kind!r}{suggest(kind, kinds)}")
        known = dict.fromkeys(key for record in records for key in record)
        if field not in known:
            raise UnknownNameError(f"{self.path}: no record has a field {field!r}{suggest(field, known)}")
        steps, values = [], []
        for record in records:
            value = _inside(record.get(field), names)
            if value is not None or (field in record and record[field] is None):
                steps.append(record["step"])
                values.append(np.nan if value is None else value)
        if not steps:
            raise UnknownNameError(f"{self.path}: {field!r} {self._nothing(field, names, records)}")
        if isinstance(values[0], Mapping):
            raise UnknownNameError(
                f"{self.path}: {field!r} has several values a step; name one of {', '.join(map(repr, values[0]))}"
            )
        return np.array(steps), np.array(values)

    def _nothing(self, field: str, names: tuple[str, ...], records: list[dict[str, Any]]) -> str:
        of_tasks = field in ("losses", "weights", "norms", "cosines")
        inner = next((record[field] for record in records if isinstance(record.get(field), Mapping)), {})
        known = self.tasks if of_tasks else tuple(inner)
        for name in names:
            if name not in known:
                what = "task" if of_tasks else "part"
                return f"has no {what} {name!r}{suggest(name, known)}"
        return f"has no value of {', '.join(map(repr, names)) or 'that kind'}: it was never computed"

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __repr__(self) -> str:
        parts = [f"{len(self.records)} records", f"tasks {', '.join(self.tasks) or 'none'}"]
        parts += [f"{self.replaced} replaced"] if self.replaced else []
        parts += [f"{len(self.damage)} damaged lines"] if self.damage else []
        return f"Logged({str(self.path)!r}: {'; '.join(parts)})"


def read_log(path: str | os.PathLike[str]) -> Logged:
    """Read what ``accord.Log`` wrote, in the order of steps within each opening of the file.

    A line that is cut off or altered is left out and named, in ``damage`` and in a warning. Where a run was resumed and
    the file appended to, its first balanced step and all that follow replace what was written before of those steps: it
    was of a run that stopped after its checkpoint. A diagnosis replaces diagnoses alone. Within one opening the last
    record of a step wins.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{CALLER}: cannot read {path}: {error.strerror}; give the path that accord.Log had") from error
    kept: dict[tuple[int, str], dict[str, Any]] = {}
    damage: list[str] = []
    opened: set[tuple[Any, str]] = set()
    whole = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = loads(line)
        except ValueError as error:  # of JSON, or of UTF-8
            last = " the last, cut off by what ended the run" if number == len(lines) else ""
            damage.append(f"line {number} ({len(line)} bytes):{last} no record: {error}")
            continue
        whole += 1
        opening, kind = record.get("started"), record["kind"]
        if (opening, kind) not in opened:
            opened.add((opening, kind))
            kept = {
                key: old
                for key, old in kept.items()
                if key[0] < record["step"] or old.get("started") == opening or kind not in ("balance", key[1])
            }
        key = (record["step"], kind)
        kept.pop(key, None)
        kept[key] = record
    if damage:
        shown = "; ".join(damage[:3]) + (f"; and {len(damage) - 3} more" if len(damage) > 3 else "")
        warnings.warn(f"{CALLER}: {path}: left out {shown}", NumericalWarning, stacklevel=2)
    return Logged(path, tuple(kept.values()), tuple(damage), whole - len(kept))


def _inside(value: Any, names: tuple[str, ...]) -> Any:
    """The value at the end of nested names; of two tasks in whichever order."""
    for order in (names, names[::-1]):
        found = value
        for name in order:
            found = found.get(name) if isinstance(found, Mapping) else None
        if found is not None:
            return found
    return None
