"""The two-task toy of Nash-MTL's figure 1: five starting points, and who reaches the Pareto front from them.

The preset ``paper`` is the protocol of the published code: Adam at a learning rate of 0.001, 35,000 iterations.
``laptop`` takes steps five times as long and fewer of them; the end points move along the front, and PCGrad
arrives from start C, which it does not under ``paper``. Each starting point has its own optimiser and its own
balancer. SI, UW and DWA do not apply to negative losses.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accord.bench.balancing import make_balancer
from accord.bench.experiments.toy_figures import figures
from accord.bench.experiments.toy_problem import STARTS, gap, losses
from accord.bench.spec import Experiment, MethodSpec, Metric, TaskSpec, derive_seed

TASKS = ("L1", "L2")


@dataclass(frozen=True)
class Toy:
    """Settings of a preset.

    Attributes:
        iterations: Steps from each starting point, a multiple of ``block``.
        lr: Adam's learning rate.
        block: Iterations a unit, a multiple of ``every``.
        every: Iterations between two points of the recorded trajectory.
        method_lr: Adam's learning rate for a balancer's own parameters.
    """

    iterations: int
    lr: float
    block: int
    every: int
    method_lr: float = 0.025


class ToyTrial:
    """All five descents of one method, a block of iterations at a time.

    Args:
        preset: Settings.
        method: ``stl`` with the option ``task``, or a balancer.
        seed: Of the balancers' own draws; the problem has none.
    """

    def __init__(self, preset: Toy, method: MethodSpec, seed: int) -> None:
        self.preset, self.method = preset, method
        self.length = preset.iterations // preset.block
        self.descents = [_Descent(preset, method, derive_seed("toy", seed, start), start) for start in STARTS]

    def advance(self) -> dict[str, Any]:
        """One block from every start."""
        opposed: list[bool] = []
        trajectory = []
        for descent in self.descents:
            trail = []
            for i in range(self.preset.block):
                if i % self.preset.every == 0:
                    point, conflict = descent.probe()
                    trail.append(point)
                    opposed.append(conflict)
                descent.step()
            trajectory.append(trail)  # of (x1, x2, L1, L2)
        notes = [descent.take_notes() for descent in self.descents]
        residuals = [note.residual for note in notes if note.residual is not None]
        weights = torch.stack([note.weights for note in notes]).mean(0)  # (K,)
        return {
            "steps": self.preset.block,  # of one start, and so are the seconds
            "seconds": sum(note.seconds for note in notes) / len(notes),
            "weights": weights.tolist() if bool(weights.isfinite().all()) else None,
            "conflict": sum(opposed) / len(opposed),
            "residual": max(residuals, default=None),
            "outcomes": dict(sum((note.outcomes for note in notes), Counter())),
            "trajectory": trajectory,
            "metrics": self._metrics(),
        }

    def result(self) -> dict[str, Any]:
        """Where the five descents end, and how far from the Pareto front."""
        ends = [descent.probe()[0] for descent in self.descents]
        gaps = gap(torch.tensor(ends, dtype=torch.float64)[:, 2:]).tolist()
        return {"metrics": self._metrics(), "ends": ends, "gaps": gaps}

    def state_dict(self) -> dict[str, Any]:
        """The state of every descent."""
        return {"descents": [descent.state_dict() for descent in self.descents]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put every descent where it was."""
        for descent, saved in zip(self.descents, state["descents"], strict=True):
            descent.load_state_dict(saved)

    def _metrics(self) -> dict[str, float]:
        only = self.method.options.get("task")  # of STL
        ends = [descent.probe()[0][2:] for descent in self.descents]
        return {
            f"{task}/{start}": end[k]
            for k, task in enumerate(TASKS)
            if only in (None, task)
            for start, end in zip(STARTS, ends, strict=True)
        }


@dataclass
class _Notes:
    """What happened since notes were last taken."""

    weights: Tensor
    outcomes: Counter[str]
    seconds: float = 0.0
    residual: float | None = None


class _Descent:
    """One point, its optimiser and its balancer."""

    def __init__(self, preset: Toy, method: MethodSpec, seed: int, start: str) -> None:
        self.x = torch.tensor(STARTS[start], dtype=torch.float64, requires_grad=True)  # (2,)
        self.optimizer = torch.optim.Adam([self.x], lr=preset.lr)
        self.task = TASKS.index(method.options["task"]) if method.name == "stl" else 0
        self.balancer = None if method.name == "stl" else make_balancer(method, TASKS, seed)
        if self.balancer is not None and (own := list(self.balancer.parameters())):
            self.optimizer.add_param_group({"params": own, "lr": preset.method_lr})
        self._sum, self._steps = torch.zeros(2, dtype=torch.float64), 0
        self._notes = _Notes(self._sum, Counter())

    def step(self) -> None:
        """One iteration."""
        begin = time.perf_counter()
        pair = losses(self.x)
        self.optimizer.zero_grad()
        if self.balancer is None:
            pair[self.task].backward()
            balance = None
        else:
            balance = self.balancer.backward(pair, shared=[self.x])
        self.optimizer.step()
        if self.balancer is not None:
            self.balancer.after_step(lambda: losses(self.x))
        self._notes.seconds += time.perf_counter() - begin
        if balance is not None:
            self._steps += 1
            self._sum += balance.weights
            self._notes.outcomes[balance.outcome] += 1
            if balance.residual is not None and not balance.stationary:  # there the definition has no solution
                self._notes.residual = max(balance.residual, self._notes.residual or 0.0)

    def probe(self) -> tuple[list[float], bool]:
        """``[x1, x2, L1, L2]``, and whether the two gradients are opposed; changes nothing."""
        l1, l2 = losses(self.x)
        (g1,) = torch.autograd.grad(l1, self.x, retain_graph=True)  # (2,)
        (g2,) = torch.autograd.grad(l2, self.x)
        return [*self.x.tolist(), l1.item(), l2.item()], bool(g1 @ g2 < 0)

    def take_notes(self) -> _Notes:
        """The notes, with the mean weights (NaN where there are none); new ones are begun."""
        notes = self._notes
        notes.weights = self._sum / self._steps if self._steps else self._sum * torch.nan
        self._sum, self._steps = torch.zeros(2, dtype=torch.float64), 0
        self._notes = _Notes(self._sum, Counter())
        return notes

    def state_dict(self) -> dict[str, Any]:
        """Everything but the starting point; notes are empty between blocks."""
        return {
            "x": self.x.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
            "balancer": None if self.balancer is None else self.balancer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        with torch.no_grad():
            self.x.copy_(state["x"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])


_STARTS_AS_METRICS = tuple(Metric(start) for start in STARTS)

EXPERIMENT = Experiment(
    name="toy",
    version=1,
    summary="Two losses in the plane, descended from five starts A to E (Nash-MTL, figure 1)",
    tasks=tuple(TaskSpec(task, _STARTS_AS_METRICS) for task in TASKS),
    presets={
        "smoke": Toy(iterations=200, lr=5e-2, block=50, every=10),
        "laptop": Toy(iterations=10_000, lr=5e-3, block=250, every=50),
        "paper": Toy(iterations=35_000, lr=1e-3, block=500, every=100),
    },
    methods=(
        "ls",
        "rlw",
        "mgda",
        "pcgrad",
        "graddrop",
        "cagrad",
        "imtl-g",
        "fairgrad:max_norm=1.0",
        "nash-mtl",  # its length is √2 at every step, so that clipping it would change nothing under Adam
    ),
    trial=ToyTrial,
    figures=figures,
    baseline=False,
)
