"""Imitation of scripted experts on K robot tasks: supervised learning, not reinforcement learning.

One network is told the state and the task, and learns each task's demonstrated actions; the K losses are the tasks'
mean squared errors, each on samples of its own. What counts is whether the network then solves the tasks, on goals that
were in no demonstration. No paper has this protocol: it is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from accord.bench.problem import Problem, Training
from accord.bench.rl.demonstrations import Demonstrations, Recipe, load, simulator
from accord.bench.rl.encoders import perceptron
from accord.bench.rl.tasks import ACTION, MT10, STATE, Goals, parse_tasks
from accord.bench.spec import Metric, TaskSpec
from accord.errors import OptionError

DATA = "imitation of Meta-World's scripted experts, not reinforcement learning"
"""What every run and every table says."""

CONSTANT = 1e-3
"""Numbers of a state that vary by less (metres, mostly) count as constant, and are centred but not scaled."""

METRICS = (Metric("success", higher_is_better=True), Metric("mse"))


@dataclass(frozen=True)
class ImitationPreset:
    """Every setting.

    Attributes:
        tasks: Full names.
        widths: Units of the network's hidden layers.
        steps: Optimiser steps in all, each on a batch of every task.
        unit: Steps between two records, a divisor of ``steps``.
        batch: Samples a task and step.
        lr: Of Adam.
        method_lr: Learning rate of a balancer's own parameters (UW).
        spread: The largest of the tasks' loss scales over the smallest; 1 for equal scales.
        demonstrations: Episodes a task, those held out included.
        held_out: The last of them, on which ``mse`` is measured.
        demonstration_steps: Steps of each.
        noise: Of the experts; see ``accord.bench.rl.demonstrations``.
        episodes: Evaluation episodes a task.
        horizon: Their longest.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
    """

    tasks: tuple[str, ...] = MT10
    widths: tuple[int, ...] = (32, 32)
    steps: int = 3_000
    unit: int = 250
    batch: int = 32
    lr: float = 1e-3
    method_lr: float = 0.025
    spread: float = 1.0
    demonstrations: int = 20
    held_out: int = 4
    demonstration_steps: int = 150
    noise: float = 0.3
    episodes: int = 20
    horizon: int = 150
    device: str = "cpu"

    def recipe(self) -> Recipe:
        """How the demonstrations are made: the same for all seeds."""
        return Recipe(self.demonstrations, self.demonstration_steps, self.noise)


class Imitation(Problem):
    """K tasks learnt from demonstrations.

    The seed draws which task has which loss scale, the goals of the evaluation, the weights and the batches: several
    seeds are several assignments. Presets that differ in ``spread`` alone share all the rest.

    Args:
        settings: See ``ImitationPreset``.

    Raises:
        OptionError: A setting is out of range.
        UnknownNameError: Meta-World has no such task.
        DataError: A cache file of demonstrations is damaged or cannot be written.
        DependencyError: Meta-World is not installed.
    """

    name = "mt10-imitation"

    def __init__(self, settings: ImitationPreset) -> None:
        _check(settings)
        self.settings = settings
        self.tasks = [TaskSpec(task, METRICS) for task in settings.tasks]
        self.epochs = self.eval_every = settings.steps // settings.unit  # evaluated once, at the end
        self.method_lr = settings.method_lr

    def build(self) -> Training:
        """Read the demonstrations, or make them; draw scales, goals and weights."""
        settings = self.settings
        found = [load(task, settings.recipe()) for task in settings.tasks]
        self._solved = {task: float(each.solved.mean()) for task, each in zip(settings.tasks, found, strict=True)}
        self._scales = loss_scales(len(settings.tasks), settings.spread)[torch.randperm(len(settings.tasks))]
        self._goals = Goals(int(torch.randint(2**62, ()).item()), settings.episodes)
        self._columns = [settings.tasks.index(task) for task in self.active]
        device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
        )
        self._sets = Sets(found, settings.held_out, device)
        self._network = perceptron(STATE + len(settings.tasks), *settings.widths, ACTION).to(device)
        self._factors = self._scales[self._columns].to(device)  # (A,)
        return Training(
            model=self._network,
            batches=_Batches(self._sets, self._columns, settings.unit, settings.batch),
            shared=self._network,
            optimizer=torch.optim.Adam(self._network.parameters(), lr=settings.lr),
        )

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The tasks' mean squared errors, times their scales."""
        x, y = batch  # (A, B, 39 + K), (A, B, 4)
        errors = (self._network(x) - y).square().mean((1, 2)) * self._factors  # (A,)
        return dict(zip(self.active, errors.unbind(), strict=True))

    def evaluate(self) -> dict[str, float]:
        """Success on goals that no demonstration had, and the unscaled error on held-out demonstrations."""
        found = {}
        for task, column in zip(self.active, self._columns, strict=True):
            x, y = self._sets.held_out
            found[f"{task}/success"] = self._success(task, column)
            found[f"{task}/mse"] = float((self._network(x[column]) - y[column]).square().mean())
        return found

    def details(self) -> dict[str, Any]:
        """What this is, each task's loss scale, the share of demonstrations that solved the task, and the goals."""
        return {
            "data": DATA,
            "loss_scales": dict(zip(self.settings.tasks, self._scales.tolist(), strict=True)),
            "demonstrations_solved": self._solved,
            "evaluation_goals": {"seed": self._goals.seed, "count": self._goals.count},
        }

    def policy(self, task: str) -> Policy:
        """What the network does in a task, as it is now."""
        return Policy(self._network, self._sets, self.settings.tasks.index(task))

    def _success(self, task: str, column: int) -> float:
        """The share of episodes that are solved at any step; an episode ends there."""
        make, _ = simulator()
        environment = make(task, {"evaluate": self._goals}, self.settings.horizon)
        policy = Policy(self._network, self._sets, column)
        solved = 0
        for episode in range(self.settings.episodes):
            state, _ = environment.reset(options={"purpose": "evaluate", "episode": episode})
            ended = False
            while not ended:
                state, _, _, ended, info = environment.step(policy(state))
                if info["success"]:
                    solved += 1
                    break
        environment.close()
        return solved / self.settings.episodes


class Sets:
    """Demonstrations as the network's inputs and targets, on a device.

    States are standardised, each number by its mean and deviation over the training demonstrations of all tasks, and
    the task follows as a one-hot vector.

    Args:
        found: One entry a task, all of one size.
        held_out: How many of the last episodes are not for training.
        device: Where the tensors go.

    Attributes:
        train: Inputs (K, N, 39 + K) and targets (K, N, 4).
        held_out: The same of the episodes held out.
        mean: (39,) float64.
        deviation: (39,) float64; 1 where a number is constant.
    """

    def __init__(self, found: list[Demonstrations], held_out: int, device: torch.device) -> None:
        states = np.stack([each.states for each in found]).astype(np.float64)  # (K, E, T, 39)
        actions = np.stack([each.actions for each in found])
        split = states.shape[1] - held_out
        seen = states[:, :split].reshape(-1, STATE)
        self.mean, deviation = seen.mean(0), seen.std(0)
        self.deviation = np.where(deviation < CONSTANT, 1.0, deviation)
        standardised = ((states - self.mean) / self.deviation).astype(np.float32)
        count = len(found)

        def part(episodes: slice) -> tuple[Tensor, Tensor]:
            x = torch.from_numpy(standardised[:, episodes].reshape(count, -1, STATE))
            y = torch.from_numpy(actions[:, episodes].reshape(count, -1, ACTION))
            tasks = torch.eye(count)[:, None].expand(-1, x.shape[1], -1)
            return torch.cat([x, tasks], dim=2).to(device), y.to(device)

        self.train, self.held_out = part(slice(split)), part(slice(split, None))


class Policy:
    """A network's actions in one task, a state at a time: in NumPy, whose calls cost less than torch's.

    Standardisation and the task's one-hot number are folded into the first layer.

    Args:
        network: Linear layers with ReLU between them.
        sets: Of the mean and the deviation.
        column: The task's place.
    """

    def __init__(self, network: nn.Sequential, sets: Sets, column: int) -> None:
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        layers = [[p.detach().double().cpu().numpy().copy() for p in (x.weight, x.bias)] for x in linear]
        first, bias = layers[0]
        weight = first[:, :STATE] / sets.deviation
        layers[0] = [weight, bias + first[:, STATE + column] - weight @ sets.mean]
        self.layers = layers

    def __call__(self, state: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The action (4,) in a state (39,), clipped to [-1, 1]."""
        *hidden, (weight, bias) = self.layers
        x = state.astype(np.float64)
        for inner, offset in hidden:
            x = np.maximum(inner @ x + offset, 0.0)
        return np.clip(weight @ x + bias, -1.0, 1.0).astype(np.float32)


class _Batches:
    """``count`` batches, drawn with replacement when the pass begins; all tasks' are drawn, also for one alone."""

    def __init__(self, sets: Sets, columns: list[int], count: int, size: int) -> None:
        self.sets, self.columns, self.count, self.size = sets, columns, count, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.sets.train
        tasks, samples = x.shape[:2]
        rows = torch.randint(samples, (self.count, tasks, self.size))[:, self.columns].to(x.device)
        which = torch.tensor(self.columns, device=x.device)[:, None]  # (A, 1)
        for drawn in rows:
            yield x[which, drawn], y[which, drawn]


def loss_scales(count: int, spread: float) -> Tensor:
    """``count`` numbers in equal ratios from 1/√spread to √spread, (K,) float32; their product is 1."""
    half = float(np.log10(spread)) / 2
    return torch.logspace(-half, half, count) if count > 1 else torch.ones(count)


def _check(settings: ImitationPreset) -> None:
    """Raise unless the settings make sense."""
    if parse_tasks(settings.tasks) != settings.tasks:
        raise OptionError(f"mt10-imitation: tasks={settings.tasks!r} must be full names, such as 'reach-v3'")
    if not np.isfinite(settings.spread) or settings.spread < 1:
        raise OptionError(
            f"mt10-imitation: spread={settings.spread!r} is the largest loss scale over the smallest, 1 or more"
        )
    if not 1 <= settings.held_out < settings.demonstrations:
        raise OptionError(
            f"mt10-imitation: held_out={settings.held_out!r} must be 1 or more, and fewer than "
            f"demonstrations={settings.demonstrations!r}, or there is nothing to learn from"
        )
    if settings.unit < 1 or settings.steps < 1 or settings.steps % settings.unit:
        raise OptionError(
            f"mt10-imitation: steps={settings.steps!r} must be a multiple of unit={settings.unit!r}, both 1 or more"
        )
    for name in ("batch", "episodes", "horizon", "lr"):
        if not getattr(settings, name) > 0:
            raise OptionError(f"mt10-imitation: {name}={getattr(settings, name)!r} must be positive")
    if not settings.widths or min(settings.widths) < 1:
        raise OptionError(f"mt10-imitation: widths={settings.widths!r} must name a hidden layer at least, of one unit")
