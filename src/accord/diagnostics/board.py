"""Records as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accord.errors import DependencyError

FEW = 8
"""Up to so many tasks every pair has a curve of its own; of more only the statistics of pairs are shown."""
FLUSH = 20
"""Seconds after which what was written is on the disk at the latest."""


class Board:
    """Writes records to a TensorBoard folder.

    Raises:
        DependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                f"accord.Log(tensorboard={str(folder)!r}): TensorBoard is not installed ({error}); "
                "`pip install 'accord[tensorboard]'`, or give the path of a JSONL file instead"
            ) from error
        self.folder = folder
        self._make: Any = SummaryWriter
        self._writer: Any = None
        self._outcome = ""

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record's numbers; those of this step and later from before, of a run that was resumed, are hidden."""
        step = record["step"]
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=step, flush_secs=FLUSH)
        for tag, value in scalars(record):
            self._writer.add_scalar(tag, value, step, walltime=record["time"])
        outcome = record.get("outcome", "")
        if outcome != self._outcome and record["kind"] == "balance":
            self._outcome = outcome
            text = f"{outcome}: {record['cause']}" if record["cause"] else outcome
            self._writer.add_text("balance/outcome", text, step, walltime=record["time"])

    def close(self) -> None:
        """Put on the disk what is not there yet."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tag and value of all that can be drawn: ``losses/seg``, ``cosines/seg/depth``, ``balance/residual``.

    The tags of a diagnosis begin with ``diagnosis/``.
    """
    kind = record["kind"]
    top = "" if kind == "balance" else "diagnosis/"
    for field in ("losses", "weights", "norms", "conflict"):
        for name, value in (record.get(field) or {}).items():
            yield f"{top}{field}/{name}", value
    if len(record["losses"]) <= FEW:
        for first, others in record.get("cosines", {}).items():
            for second, value in others.items():
                yield f"{top}cosines/{first}/{second}", value
    for field in ("residual", "scale", "interval", "drift", "imbalance", "stationarity"):
        if record.get(field) is not None:
            yield f"{kind}/{field}", record[field]
    for method, one in record.get("methods", {}).items():
        for field in ("worst", "length", "steps"):
            if one[field] is not None:
                yield f"diagnosis/{field}/{method}", one[field]
