"""Studies: questions about the methods, each answered by one command on any experiment.

``accord study`` lists them; ``accord study NAME`` runs what the store has not, prints the table and draws the figures.
"""

from __future__ import annotations

import importlib

from accord.bench.studies.drawing import draw_study
from accord.bench.studies.running import run_study
from accord.bench.studies.study import Column, Context, Line, Setting, Study, StudyReport, Table
from accord.errors import UnknownNameError

_MODULES = {
    "update-every": "intervals",
    "ccp": "ccp",
    "feature-level": "places",
    "task-weights": "task_weights",
    "singular-value": "singular",
    "fairgrad-alpha": "fairness",
    "cagrad-c": "radius",
    "alpha-fair": "transform",
    "cheaper-gramians": "cheaper",
    "static-weights": "static",
}

__all__ = [
    "Column",
    "Context",
    "Line",
    "Setting",
    "Study",
    "StudyReport",
    "Table",
    "draw_study",
    "load",
    "names",
    "run_study",
]


def names() -> tuple[str, ...]:
    """Every study's name."""
    return tuple(_MODULES)


def load(name: str) -> Study:
    """The study of that name.

    Raises:
        UnknownNameError: There is none; the nearest is suggested.
    """
    if name not in _MODULES:
        from accord.balancers.registry import suggest

        raise UnknownNameError(f"unknown study {name!r}{suggest(name, names())} (`accord study` lists them)")
    return importlib.import_module(f"accord.bench.studies.{_MODULES[name]}").STUDY
