"""``accord list``: what can be run, and with what."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from accord.balancers import registry
from accord.bench import experiments
from accord.errors import DependencyError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_experiments(console: Console) -> None:
    """One line an experiment: name, presets, number of tasks, summary."""
    table = _table("experiment", "presets", "tasks", "")
    for name in experiments.names():
        try:
            experiment = experiments.load(name)
        except DependencyError as error:
            table.add_row(name, "", "", str(error))
            continue
        table.add_row(name, " ".join(experiment.presets), str(len(experiment.tasks)), experiment.summary)
    console.print(table)


def print_methods(console: Console) -> None:
    """One line a method: name, its options with their defaults, and what it does."""
    table = _table("method", "", "options")
    table.add_row("stl", "Single-task learning: one network a task, the baseline of Δm.", "task")
    for name in registry.available():
        cls = registry.balancer_class(name)
        options = [p for p in inspect.signature(cls).parameters.values() if p.name != "tasks"]
        shown = " ".join(f"{p.name}={p.default}" if p.default is not p.empty else p.name for p in options)
        table.add_row(name, _first_line(cls), shown)
    console.print(table)


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").strip().split("\n")[0]


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, no_wrap=i == 0)
    return table
