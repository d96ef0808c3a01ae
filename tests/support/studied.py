"""A problem small enough for every study: three regressions on one trunk, with a validation set.

The command line and worker processes import it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accord.bench.problem import Problem, Training
from accord.bench.spec import Experiment, Metric, TaskSpec
from accord.bench.trial import TrialOf

TASKS = ("a", "b", "c")


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    batches: int = 2
    samples: int = 24  # a batch


class Three(Problem):
    """Noisy linear maps of the inputs; the noise of validation and test differs, and so may their winners."""

    name = "three"
    tasks = tuple(TaskSpec(task, (Metric("error"),)) for task in TASKS)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.epochs = settings.epochs

    def build(self) -> Training:
        truth = torch.randn(6, 3)
        count = self.settings.batches

        def drawn() -> tuple[Tensor, Tensor]:
            x = torch.randn(self.settings.samples, 6)
            return x, (x @ truth).sin() * torch.tensor([1.0, 2.0, 0.5]) + 0.5 * torch.randn(len(x), 3)

        batches, self.val, self.test = [drawn() for _ in range(count)], drawn(), drawn()
        trunk = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh())
        heads = nn.ModuleList(nn.Linear(8, 1) for _ in TASKS)
        self.model = nn.ModuleDict({"trunk": trunk, "heads": heads})
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        return Training(self.model, batches, trunk, optimizer, features=trunk)

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        shared = self.model["trunk"](x)
        heads = [self.model["heads"][TASKS.index(task)](shared)[:, 0] for task in self.active]  # pyrefly: ignore
        columns = [TASKS.index(task) for task in self.active]
        return {t: (h - y[:, k]).square().mean() for t, h, k in zip(self.active, heads, columns, strict=True)}

    def _errors(self, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        return {f"{task}/error": loss.item() for task, loss in self.losses(batch).items()}

    def evaluate(self) -> Mapping[str, float]:
        return self._errors(self.test)

    def validate(self) -> Mapping[str, float] | None:
        return self._errors(self.val)


class Unvalidated(Three):
    """The same without a validation set."""

    name = "unvalidated"
    validate = Problem.validate


class Forgetful(Three):
    """It seems to have a validation set, and has none."""

    name = "forgetful"

    def validate(self) -> None:
        return None


def experiment_of(problem: type[Three], **settings: int) -> Experiment:
    return Experiment(
        name=problem.name,
        version=1,
        summary="three small regressions",
        tasks=problem.tasks,
        presets={"smoke": Settings(**settings)},
        methods=("stl", "ls", "mgda", "cagrad", "nash-mtl", "fairgrad", "famo"),
        trial=TrialOf(problem),
        at_features=True,
    )


EXPERIMENT = experiment_of(Three)
