"""The run of a problem with one method: epochs, evaluations, the epoch that counts, and all that a resume needs."""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import accord
from accord.balancers.result import Balance
from accord.bench import checking, generators, rng
from accord.bench.balancing import make_balancer, place_of
from accord.bench.problem import Problem, metrics_of, task_specs
from accord.bench.spec import MethodSpec, derive_seed
from accord.bench.tally import Tally
from accord.errors import NonFiniteError, OptionError, ShapeError, UnknownNameError


class ProblemTrial:
    """One method trained on a problem for its epochs, an epoch at a time.

    All methods of one seed start from the same weights and see the same batches. The method ``stl`` trains on one
    task's loss alone, and is judged, and its epoch chosen, by that task.

    Args:
        problem: What to train; a shallow copy of it is built (``accord.compare`` gives each run a deep one).
        method: ``stl`` with the option ``task``, or a balancer, with the option ``at=features`` to balance at the
            representation.
        seed: Of the initial weights, the batches, the model's own draws and the balancer's.

    Raises:
        OptionError: The problem's settings contradict each other, or the method's options do.
        UnknownNameError: ``stl`` names no task of the problem.
        ShapeError: Losses or metrics are missing, not single numbers, or of unknown tasks.
        NonFiniteError: A loss, or a metric, is not finite: training has diverged.
    """

    def __init__(self, problem: Problem, method: MethodSpec, seed: int) -> None:
        self.problem = problem = copy.copy(problem)
        self.name = name_of(problem)
        checking.check_problem(self.name, problem)
        specs = task_specs(problem.tasks)
        self.all = tuple(spec.name for spec in specs)
        self.every_metric = [name for name, _ in metrics_of(specs)]
        self.tasks = (_stl_task(self.name, method, self.all),) if method.name == "stl" else self.all
        self.metrics = {name: m for name, m in metrics_of(specs) if name.rpartition("/")[0] in self.tasks}
        self.seed, self.length = seed, problem.epochs
        problem.active = self.tasks
        rng.seed(derive_seed(self.name, seed, "build"))
        problem.training = self.training = checking.check_training(self.name, problem.build())
        self.model = self.training.model
        self.generators = generators.find(problem)
        method, self.place = place_of(method)
        stl = method.name == "stl"
        self.balancer = None if stl else make_balancer(method, self.all, derive_seed(self.name, seed, "balancer"))
        if self.place == "features" and self.training.features is None:
            raise OptionError(
                f"{self.name}: method {str(method)!r} with at=features needs to know the shared representation; set "
                "features= of the Training that build() returns to the module whose output it is"
            )
        self.optimizer = self.training.optimizer or torch.optim.Adam(self.model.parameters(), lr=1e-3)
        if self.balancer is not None and (own := list(self.balancer.parameters())):
            self.optimizer.add_param_group({"params": own, "lr": problem.method_lr})
        self.scheduler = self._make_scheduler()
        self.stepped = self.detailed = False  # whether the first step and details() of this process were looked at
        self.epoch, self.steps, self.seconds = 0, 0, 0.0
        self.best: dict[str, Any] | None = None
        self.last: deque[dict[str, float]] = deque(maxlen=problem.average_last)

    def advance(self) -> dict[str, Any]:
        """One epoch over the batches, then an evaluation if it is time for one."""
        tally = Tally(self.tasks)
        rng.seed(derive_seed(self.name, self.seed, "epoch", self.epoch))
        self.model.train()
        for batch in self.training.batches:
            begin = time.perf_counter()
            losses, balance = self._step(batch)
            tally.add(losses, balance, time.perf_counter() - begin)
            if not self.stepped:
                checking.check_strays(self.name, self.problem, self.model)
                self.stepped = True
        if not tally.steps:
            raise ShapeError(
                f"{self.name}: epoch {self.epoch + 1} had no batch: the batches that build() returned are empty, have "
                "fewer samples than one batch of a loader with drop_last=True, or can be gone through only once"
            )
        self.epoch += 1
        record = tally.record()
        self.steps += record["steps"]
        self.seconds += record["seconds"]
        record["lr"] = self.optimizer.param_groups[0]["lr"]
        last = self.length - self.problem.average_last
        score = None
        if self.epoch % self.problem.eval_every == 0 or self.epoch > last:
            score = self._evaluate(record)
        self._schedule(score, "metrics" in record)
        return record

    def result(self) -> dict[str, Any]:
        """Test metrics at the best validation score, or of the last epochs, and what the run cost."""
        if self.best is not None:
            found = dict(self.best)
        else:
            names = list(self.metrics)
            found = {"metrics": {n: sum(m[n] for m in self.last) / len(self.last) for n in names}, "epoch": self.epoch}
        per_step = self.seconds / max(1, self.steps)
        details = checking.check_details(self.name, self.problem.details())
        return {**found, "steps": self.steps, "seconds_per_step": per_step, **details}

    def state_dict(self) -> dict[str, Any]:
        """All that later epochs depend on; data and batches follow from the seed."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "balancer": None if self.balancer is None else self.balancer.state_dict(),
            "problem": self.problem.state_dict(),
            "generators": generators.states(self.generators),
            "progress": {name: getattr(self, name) for name in ("epoch", "steps", "seconds", "best")},
            "last": list(self.last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])
        self.problem.load_state_dict(state["problem"])
        generators.restore(self.generators, state.get("generators", {}))
        for name, value in state["progress"].items():
            setattr(self, name, value)
        self.last.extend(state["last"])

    def _step(self, batch: Any) -> tuple[list[Tensor], Balance | None]:
        """One optimiser step; the losses, and what the balancer did."""
        if self.place == "features":
            assert self.training.features is not None
            watched = accord.watch(self.training.features)  # each time: a copy or a reload loses it, twice is once
            losses = self._losses(batch)
            where: dict[str, Any] = {"features": watched}
        else:
            losses = self._losses(batch)
            where = {"shared": self.training.shared}
        self.optimizer.zero_grad()
        if self.balancer is None:
            (loss,) = losses.values()
            if not bool(loss.isfinite()):
                raise NonFiniteError(f"{self.name}: the loss of {self.tasks[0]} is {loss.item()}: training diverged")
            loss.backward()
            balance = None
        else:
            part = (lambda draw: self._losses(draw(batch))) if self.balancer.uses_part else None
            balance = self.balancer.backward(losses, part=part, **where)
        self.optimizer.step()
        if self.balancer is not None:
            self.balancer.after_step(lambda: self._losses(batch))
        return list(losses.values()), balance

    def _losses(self, batch: Any) -> dict[str, Tensor]:
        found = self.problem.losses(batch)
        checking.check_names(self.name, "losses", found, self.tasks, self.all)
        return {task: checking.check_loss(self.name, task, found[task]) for task in self.tasks}

    @torch.no_grad()
    def _evaluate(self, record: dict[str, Any]) -> float | None:
        """Metrics into the record; the validation score, if there is one."""
        self.model.eval()
        rng.seed(derive_seed(self.name, self.seed, "evaluate"))
        metrics = self._metrics("evaluate", self.problem.evaluate())
        self.last.append(metrics)
        record["metrics"] = metrics
        if not self.detailed:  # rather now than after the last epoch
            checking.check_details(self.name, self.problem.details())
            self.detailed = True
        found = self.problem.validate()
        if found is None:
            return None
        if self.problem.average_last > 1:
            raise OptionError(
                f"{self.name}: validate() chooses the epoch that counts, so average_last={self.problem.average_last} "
                "has no meaning: leave one of them out"
            )
        record["val_metrics"] = self._metrics("validate", found)
        score = checking.number(self.name, "score()", self.problem.score(record["val_metrics"]))
        if not math.isfinite(score):
            raise NonFiniteError(f"{self.name}: score() returned {score}, by which no epoch can be chosen")
        record["score"] = score
        if self.best is None or score < self.best["score"]:
            self.best = {"metrics": metrics, "val_metrics": record["val_metrics"], "score": score, "epoch": self.epoch}
        return score

    def _metrics(self, method: str, found: Mapping[str, float]) -> dict[str, float]:
        """The metrics of this run's tasks, in order, all finite."""
        return checking.metrics(self.name, method, found, list(self.metrics), self.every_metric)

    def _make_scheduler(self) -> Any:
        if self.training.schedule is None:
            return None
        scheduler = self.training.schedule(self.optimizer)
        if not hasattr(scheduler, "step") or not hasattr(scheduler, "state_dict"):
            raise OptionError(
                f"{self.name}: schedule(optimizer) returned a {type(scheduler).__name__}; it must return a "
                "learning-rate scheduler, with step() and state_dict()"
            )
        return scheduler

    def _schedule(self, score: float | None, evaluated: bool) -> None:
        """Step the scheduler after an epoch."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if score is not None:
                self.scheduler.step(score)
            elif evaluated:
                raise OptionError(
                    f"{self.name}: ReduceLROnPlateau follows the validation score, and validate() returned None: write "
                    "validate(), or take another schedule"
                )
        elif self.scheduler is not None:
            self.scheduler.step()


def name_of(problem: Problem) -> str:
    """The problem's name, or that of its class."""
    return problem.name or type(problem).__name__.lower()


@dataclass(frozen=True)
class TrialOf:
    """The ``trial`` of an experiment whose presets are the settings of a problem: ``problem(preset)`` makes it."""

    problem: Callable[[Any], Problem]

    def __call__(self, preset: Any, method: MethodSpec, seed: int) -> ProblemTrial:
        """A fresh run."""
        return ProblemTrial(self.problem(preset), method, seed)


def _stl_task(name: str, method: MethodSpec, tasks: Sequence[str]) -> str:
    task = method.options.get("task")
    if task not in tasks:
        raise UnknownNameError(
            f"{name}: method {str(method)!r} names no task; write stl:task=NAME with one of {list(tasks)}"
        )
    return str(task)
