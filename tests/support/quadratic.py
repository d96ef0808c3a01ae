"""A small real experiment: two noisy quadratics pull one point to two places.

It draws from a generator of its own and from the global ones, so that a resume which forgets either shows.
Spawned worker processes import it by name, which is why it is a module and not part of a test.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import accord
from accord.bench.spec import Experiment, Metric, TaskSpec, derive_seed
from accord.errors import DataError

TASKS = ("left", "right")
TARGETS = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])  # (K, 2)


@dataclass(frozen=True)
class Settings:
    units: int = 6
    steps: int = 5
    lr: float = 0.05
    pause: float = 0.0  # seconds a unit, so that a test can kill a run half way
    fail_at: int = 0  # the unit that raises
    fail_method: str = ""
    kill_at: int = 0  # the unit in which the process kills itself
    kill_method: str = ""


class Trial:
    def __init__(self, settings: Settings, method: accord.bench.spec.MethodSpec, seed: int) -> None:
        self.settings, self.method, self.seed = settings, method, seed
        if settings.kill_at < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.length = settings.units
        self.unit = 0
        self.generator = torch.Generator().manual_seed(derive_seed("quadratic", seed, "data"))
        self.x = torch.zeros(2, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.x], lr=settings.lr, momentum=0.9)
        self.balancer = None if method.name == "stl" else accord.make(str(method), tasks=TASKS)

    def losses(self) -> torch.Tensor:
        noise = torch.randn(2, generator=self.generator) + torch.rand(2)
        noise = noise + random.random() + float(np.random.rand())  # noqa: NPY002
        return ((self.x - TARGETS + 0.1 * noise) ** 2).sum(1)  # (K,)

    def advance(self) -> dict[str, Any]:
        self.unit += 1
        name = str(self.method)
        if self.unit == self.settings.fail_at and name.startswith(self.settings.fail_method):
            raise DataError(f"unit {self.unit} was told to fail")
        if self.unit == self.settings.kill_at and name.startswith(self.settings.kill_method):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.settings.pause)
        start = time.perf_counter()
        for _ in range(self.settings.steps):
            losses = self.losses()
            self.optimizer.zero_grad()
            if self.balancer is None:
                losses[TASKS.index(self.method.options["task"])].backward()
            else:
                self.balancer.backward(list(losses), shared=[self.x])
            self.optimizer.step()
        return {
            "steps": self.settings.steps,
            "seconds": time.perf_counter() - start,
            "weights": [0.5, 0.5],
            "conflict": 1.0,
            "residual": 1e-12 * self.unit,
            "metrics": self.metrics(),
        }

    def metrics(self) -> dict[str, float]:
        distances = ((self.x.detach() - TARGETS) ** 2).sum(1).sqrt().tolist()
        metrics = {f"{task}/distance": d for task, d in zip(TASKS, distances, strict=True)}
        if self.method.name == "stl":
            only = f"{self.method.options['task']}/distance"
            return {only: metrics[only]}
        return metrics

    def result(self) -> dict[str, Any]:
        return {"metrics": self.metrics()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "x": self.x.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
            "balancer": None if self.balancer is None else self.balancer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.unit = state["unit"]
        with torch.no_grad():
            self.x.copy_(state["x"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])
        self.generator.set_state(state["generator"])


EXPERIMENT = Experiment(
    name="quadratic",
    version=1,
    summary="Two noisy quadratics.",
    tasks=tuple(TaskSpec(name, (Metric("distance", unit="m"),)) for name in TASKS),
    presets={
        "smoke": Settings(),
        "slow": Settings(units=8, pause=0.2),
        "slower": Settings(units=200, pause=0.2),  # to be interrupted: no machine is so busy that it ends before
        "broken": Settings(fail_at=3, fail_method="stl:task=left"),
        "stillborn": Settings(kill_at=-1),
        "deadly": Settings(kill_at=3, kill_method="stl:task=left"),
    },
    methods=("stl", "ls", "mgda", "nash-mtl"),
    trial=Trial,
)
