"""``accord list``: what can be run, and with what."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from accord.balancers import registry
from accord.balancers.gramian import GramianOptions
from accord.bench import experiments
from accord.errors import DependencyError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


COMMON = (*GramianOptions.__annotations__, "heads")


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
    """One line a method: name, what it looks at, cost a step, reference, and its options with their defaults."""
    table = _table("method", "needs", "cost a step", "reference", "options")
    table.add_row("stl", "one task", "a network a task", "the baseline of Δm", "task")
    for name in registry.available():
        cls = registry.balancer_class(name)
        options = {p.name: p.default for p in inspect.signature(cls).parameters.values() if p.name != "tasks"}
        hidden = COMMON if options.keys() >= set(COMMON) else ()
        required = inspect.Parameter.empty
        shown = " ".join(f"{k}={v}" if v is not required else k for k, v in options.items() if k not in hidden)
        needs, cost = ("", "") if required in options.values() else (cls(2).needs, cls(2).cost)
        table.add_row(name, needs, cost, cls.reference, shown)
    console.print(table)
    console.print(f"Methods that weigh gradients by their Gramian also have {', '.join(COMMON)}:")
    console.print("see accord.balancers.GramianBalancer.")


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, no_wrap=i == 0)
    return table
