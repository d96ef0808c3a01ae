"""What a check of a folder finds, and how faults of many files become few lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Advance = Callable[[], None]


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        status: ``"ok"``, ``"note"`` (worth knowing) or ``"wrong"`` (training would fail, or mean something else).
        where: The split and the folder or file.
        text: What was found, and the remedy if it is wrong.
    """

    status: Literal["ok", "note", "wrong"]
    where: str
    text: str


def named(names: Sequence[object], most: int = 4) -> str:
    """The first few of many names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


class Faults:
    """Causes, each with the files it was seen in."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}

    def add(self, cause: str, file: str) -> None:
        """Remember one."""
        self.files.setdefault(cause, []).append(file)

    def findings(self, where: str, most: int = 6) -> Iterator[Finding]:
        """A line for each of the causes seen most often, and one for the rest."""
        causes = sorted(self.files.items(), key=lambda item: -len(item[1]))
        for cause, files in causes[:most]:
            yield Finding("wrong", where, f"{count_of(files, 'file')}: {cause}: {named(files)}")
        rest = [file for _, files in causes[most:] for file in files]
        if rest:
            yield Finding("wrong", where, f"{count_of(rest, 'file')} with other faults of this kind: {named(rest)}")


def count_of(things: Sequence[object], word: str) -> str:
    """``"1 file"``, ``"3 files"``."""
    return f"{len(things):,} {word}{'' if len(things) == 1 else 's'}"
