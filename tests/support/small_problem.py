"""A small problem that uses all a problem may: two trunks, a schedule, validation, draws of its own, state of its own.

Forked and spawned processes import it by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import accord
from accord.bench.spec import Experiment
from accord.bench.trial import TrialOf

TASKS = {"up": {"abs_err": "min"}, "down": {"abs_err": "min", "hits": "max"}}


@dataclass(frozen=True)
class Settings:
    epochs: int = 8
    samples: int = 24
    batch: int = 8
    plateau: bool = True
    average_last: int = 1
    eval_every: int = 1
    validated: bool = True
    width: int = 6


class Noisy(Dataset):
    """Points and targets, with noise from a NumPy generator of its own at each look."""

    def __init__(self, samples: int) -> None:
        self.x, self.y = torch.randn(samples, 3), torch.randn(samples, 2)
        self.noise = np.random.default_rng(5)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.01 * float(self.noise.normal()), self.y[i]


class Net(nn.Module):
    """Two shared trunks, and a head a task."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, width), nn.Linear(3, width)
        self.mix = nn.Sequential(nn.BatchNorm1d(2 * width), nn.Dropout(0.2))
        self.heads = nn.ModuleList(nn.Linear(2 * width, 1) for _ in TASKS)

    def forward(self, x: Tensor) -> list[Tensor]:
        both = self.mix(torch.cat([self.left(x), self.right(x)], dim=1).tanh())  # (B, 2 width)
        return [head(both)[:, 0] for head in self.heads]


class Small(accord.Problem):
    name, tasks = "small", TASKS

    def __init__(self, settings: Settings = Settings()) -> None:
        self.settings = settings
        self.epochs, self.eval_every, self.average_last = settings.epochs, settings.eval_every, settings.average_last
        self.seen = 0  # batches so far; scales a loss, so that a resume which forgets it shows

    def build(self) -> accord.Training:
        self.net = Net(self.settings.width)
        data = Noisy(self.settings.samples)
        own = torch.Generator().manual_seed(int(torch.randint(2**31, ()).item()))
        self.judged = torch.randn(2, 40, 3), torch.randn(2, 40, 2)  # validation, test
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        return accord.Training(
            model=self.net,
            batches=DataLoader(data, self.settings.batch, shuffle=True, generator=own),
            shared=[*self.net.left.parameters(), *self.net.right.parameters()],
            optimizer=torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9),
            schedule=(lambda optimizer: plateau(optimizer, patience=0)) if self.settings.plateau else None,
            features=self.net.mix,
        )

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        self.seen += self.net.training
        up, down = self.net(x)
        return {"up": ((up - y[:, 0]) ** 2).mean(), "down": (down - y[:, 1]).abs().mean() * (1 + 0.01 * self.seen)}

    def evaluate(self) -> dict[str, float | Tensor]:
        return self._metrics(1)

    def validate(self) -> dict[str, float | Tensor] | None:
        return self._metrics(0) if self.settings.validated else None

    def score(self, metrics: Mapping[str, float]) -> float:
        return sum(value for name, value in metrics.items() if name.endswith("abs_err"))

    def details(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]

    def _metrics(self, which: int) -> dict[str, float | Tensor]:
        x, y = (part[which] for part in self.judged)
        up, down = self.net(x)
        return {
            "up/abs_err": (up - y[:, 0]).abs().mean(),
            "down/abs_err": float((down - y[:, 1]).abs().mean()),
            "down/hits": np.float32(((down - y[:, 1]).abs() < 1).float().mean().item()),
        }


class Once:
    """Batches that end after the first epoch."""

    def __init__(self) -> None:
        self.rows = iter([(torch.randn(4, 3), torch.randn(4, 2))])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.rows


EXPERIMENT = Experiment(
    name="small",
    version=1,
    summary="A small problem.",
    tasks=accord.bench.problem.task_specs(TASKS),
    presets={"smoke": Settings(), "short": Settings(epochs=2), "long": Settings(epochs=20, samples=40)},
    methods=("stl", "uw"),
    trial=TrialOf(Small),
    at_features=True,
)
