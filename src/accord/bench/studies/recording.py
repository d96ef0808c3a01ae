"""Runs that keep the Gramians of some of their steps, so that solvers can be judged on those of real training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from accord.balancers.gramian import GramianBalancer
from accord.bench.spec import Experiment, MethodSpec, Trial
from accord.errors import OptionError


def recording(experiment: Experiment, most: int) -> Experiment:
    """The same experiment under another name; each record has ``gramians``, those of the unit's first solves.

    Args:
        experiment: Its trials must have a ``balancer``, as those of problems and of qm9 have.
        most: Gramians kept a unit.
    """
    return replace(experiment, name=f"{experiment.name}-gramians", trial=Recorded(experiment.trial, most), figures=None)


@dataclass(frozen=True)
class Recorded:
    """The ``trial`` of an experiment that records."""

    trial: Callable[[Any, MethodSpec, int], Trial]
    most: int

    def __call__(self, preset: Any, method: MethodSpec, seed: int) -> RecordingTrial:
        """A fresh run."""
        return RecordingTrial(self.trial(preset, method, seed), self.most)


class RecordingTrial:
    """A trial with its Gramians, the training itself unchanged.

    Raises:
        OptionError: The trial has no balancer that solves for weights from a Gramian.
    """

    def __init__(self, trial: Trial, most: int) -> None:
        balancer = getattr(trial, "balancer", None)
        if not isinstance(balancer, GramianBalancer):
            raise OptionError(
                f"recording Gramians: the trial {type(trial).__name__} has no balancer of a Gramian as its attribute "
                "`balancer`; a trial of accord.bench.problem.Problem has, under a method such as nash-mtl"
            )
        self.trial, self.length = trial, trial.length
        self._kept: list[Any] = []
        solve = balancer.solve

        def recorded(gramian: np.ndarray) -> Any:
            if len(self._kept) < most:
                self._kept.append(gramian.tolist())
            return solve(gramian)

        balancer.solve = recorded  # pyrefly: ignore[bad-assignment]

    def advance(self) -> dict[str, Any]:
        """One unit."""
        self._kept.clear()
        record = self.trial.advance()
        return record | {"gramians": list(self._kept)}

    def result(self) -> dict[str, Any]:
        """That of the trial."""
        return self.trial.result()

    def state_dict(self) -> dict[str, Any]:
        """That of the trial."""
        return self.trial.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.trial.load_state_dict(state)
