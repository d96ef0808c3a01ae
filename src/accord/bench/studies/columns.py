"""Columns that several studies have."""

from __future__ import annotations

from collections.abc import Callable

from accord.bench.report import Value
from accord.bench.store import Run
from accord.bench.studies.study import Cell, Column, Line


def time_over_ls(line: Line) -> float | None:
    """Time of a training step over that of LS, from the runs."""
    row, unit = line.row, line.unit
    if row is None or unit is None or row.seconds_per_step is None or not unit.seconds_per_step:
        return None
    return row.seconds_per_step / unit.seconds_per_step


def over_seeds(measure: Callable[[Run], float | None]) -> Callable[[Line], Cell]:
    """A number a run, as mean and standard error over the seeds that have it."""

    def of(line: Line) -> Cell:
        found = [number for number in map(measure, line.runs) if number is not None]
        return Value.of(found) if found else None

    return of


def share(outcome: str) -> Callable[[Run], float | None]:
    """The share of a run's steps with that outcome, in percent; None where no step has a certificate."""

    def of(run: Run) -> float | None:
        if all(record.get("residual") is None for record in run.records()):
            return None
        counts = [record.get("outcomes") or {} for record in run.records()]
        total = sum(sum(each.values()) for each in counts)
        return 100.0 * sum(each.get(outcome, 0) for each in counts) / total if total else None

    return of


def _rank(line: Line) -> Cell:
    return None if line.row is None or line.row.mean_rank is None else Value(line.row.mean_rank)


def _cost(line: Line) -> Cell:
    cost = time_over_ls(line)
    return None if cost is None else Value(cost)


def _worst_residual(line: Line) -> Cell:
    return None if line.row is None or line.row.residual is None else Value(line.row.residual)


def _seeds(line: Line) -> Cell:
    return str(len(line.runs))


def _best_epoch(run: Run) -> float | None:
    """The epoch whose metrics count, as a share of all."""
    result = run.result()
    return 100.0 * result["epoch"] / result["units"] if "epoch" in result else None


def _solves(run: Run) -> float | None:
    """The share of steps at which weights were computed anew, in percent."""
    reused = share("reused")(run)
    return None if reused is None else 100.0 - reused


DELTA = Column("Δm (%) ↓", lambda line: None if line.row is None else line.row.delta_m)
RANK = Column("mean rank ↓", _rank)
COST = Column("time (LS = 1)", _cost)
SOLVES = Column("solves (% of steps)", over_seeds(_solves), ".1f")
RESIDUAL = Column("worst residual", _worst_residual, ".0e")
EPOCH = Column("best epoch (%)", over_seeds(_best_epoch), ".0f")
SEEDS = Column("seeds", _seeds)
