"""Eleven molecular properties of QM9 from one message-passing network, after the Nash-MTL paper.

The protocol is that of the published code: MSE on normalised targets, Adam, a learning rate that falls when Δm on
the validation set stops falling, and the test errors at the epoch with the best validation Δm. Two things differ:
targets are normalised by the mean and standard deviation of the training set, where the published code takes all
molecules, and molecules whose SMILES and geometry disagree (0.35 %) are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from accord.balancers.result import Balance
from accord.bench.balancing import make_balancer, place_of
from accord.bench.data.graphs import GraphBatch, Graphs
from accord.bench.data.qm9 import load
from accord.bench.data.qm9_source import TARGETS
from accord.bench.methods import METHODS
from accord.bench.models.qm9 import QM9Net
from accord.bench.spec import Experiment, MethodSpec, Metric, TaskSpec, derive_seed
from accord.bench.tally import Tally
from accord.errors import NonFiniteError, OptionError, UnknownNameError
from accord.metrics import delta_m

UNITS = {
    "mu": "D",
    "alpha": "bohr³",
    "homo": "meV",
    "lumo": "meV",
    "r2": "bohr²",
    "zpve": "meV",
    "u0": "meV",
    "u": "meV",
    "h": "meV",
    "g": "meV",
    "cv": "cal/mol/K",
}

PUBLISHED_STL = {
    "mu": 0.0671,
    "alpha": 0.1814,
    "homo": 60.576,
    "lumo": 53.915,
    "r2": 0.5027,
    "zpve": 4.539,
    "u0": 58.838,
    "u": 64.244,
    "h": 63.852,
    "g": 66.223,
    "cv": 0.07212,
}
"""Test MAE of single-task learning in the published code of Nash-MTL (experiments/quantum_chemistry/utils.py).

As there, Δm on the validation set is taken against these, and only to lower the learning rate and to choose the
epoch; tables compare with the single-task runs in the same store.
"""


@dataclass(frozen=True)
class QM9Preset:
    """Settings of a preset.

    Attributes:
        molecules: Size of the subset; None for all 130,378.
        test: Molecules in the test set, drawn first.
        val: Molecules in the validation set; the rest is for training.
        epochs: Passes over the training set.
        batch: Molecules in a step.
        width: Size of the network's representations.
        hidden: Hidden units of its edge network.
        lr: Adam's first learning rate.
        patience: Evaluations without a better validation Δm before the learning rate falls.
        factor: What it is multiplied by then.
        min_lr: It never falls below this.
        method_lr: Learning rate of a balancer's own parameters (UW).
        eval_every: Epochs between evaluations on validation and test set; the last epoch always has one.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
    """

    molecules: int | None
    test: int
    val: int
    epochs: int
    batch: int
    width: int
    hidden: int
    lr: float = 1e-3
    patience: int = 5
    factor: float = 0.7
    min_lr: float = 1e-5
    method_lr: float = 0.025
    eval_every: int = 1
    device: str = "cpu"


_PUBLISHED = partial(QM9Preset, molecules=None, test=10_000, val=10_000, epochs=300, width=64, hidden=128)

PRESETS = {
    "smoke": QM9Preset(molecules=240, test=60, val=60, epochs=4, batch=20, width=8, hidden=8),
    "laptop": QM9Preset(
        molecules=3500, test=500, val=500, epochs=20, batch=50, width=24, hidden=24, lr=3e-3, patience=0
    ),
    "paper": _PUBLISHED(batch=120, device="auto"),
    "rerun": _PUBLISHED(batch=60, patience=10, device="auto"),
}


class QM9Trial:
    """One method trained for ``length`` epochs.

    All methods of one seed share the split, the initial weights and the order of the batches. The method ``stl``
    trains the same network on one task's loss alone and is judged, and its epoch chosen, by that task.

    Args:
        preset: Settings.
        method: ``stl`` with the option ``task``, or a balancer.
        seed: Of the split, the initial weights, the batches and the balancer's own draws.

    Raises:
        OptionError: ``stl`` without its task, or a preset whose test and validation sets leave nothing to train on.
    """

    gives_part = True
    """Whether methods can be given the losses on a part of a batch (``gramian_batch``)."""

    def __init__(self, preset: QM9Preset, method: MethodSpec, seed: int) -> None:
        self.preset, self.seed, self.length = preset, seed, preset.epochs
        self.device = _device(preset.device)
        self.tasks = TARGETS if method.name != "stl" else (_stl_task(method),)
        self._read_data()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("qm9", seed, "init"))
            self.model = QM9Net(len(TARGETS), preset.width, preset.hidden)
        self.model.to(self.device)
        method, self.place = place_of(method)
        self.balancer = (
            None if method.name == "stl" else make_balancer(method, TARGETS, derive_seed("qm9", seed, "balancer"))
        )
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "lr": preset.lr}]
        if self.balancer is not None and (own := list(self.balancer.parameters())):
            groups.append({"params": own, "lr": preset.method_lr})
        self.optimizer = torch.optim.Adam(groups, lr=preset.lr, fused=True)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=preset.factor, patience=preset.patience, min_lr=preset.min_lr
        )
        self.epoch, self.steps, self.seconds = 0, 0, 0.0
        self.best: dict[str, Any] | None = None
        self.worst_residual: float | None = None

    def advance(self) -> dict[str, Any]:
        """One epoch over the training set, then an evaluation if it is time for one."""
        tally = Tally(self.tasks)
        generator = torch.Generator().manual_seed(derive_seed("qm9", self.seed, "order", self.epoch))
        order = self.train[torch.randperm(len(self.train), generator=generator)]
        for batch in self.graphs.batches(order, self.preset.batch):
            begin = time.perf_counter()
            losses, balance = self._step(batch)
            tally.add(losses, balance, time.perf_counter() - begin)
        self.epoch += 1
        record = tally.record()
        self.steps += record["steps"]
        self.seconds += record["seconds"]
        if record["residual"] is not None:
            self.worst_residual = max(record["residual"], self.worst_residual or 0.0)
        record["lr"] = self.optimizer.param_groups[0]["lr"]
        if self.epoch % self.preset.eval_every == 0 or self.epoch == self.length:
            record |= self._evaluate()
        return record

    def result(self) -> dict[str, Any]:
        """Test errors at the best validation, and what the run cost."""
        return {
            **(self.best or {}),
            "steps": self.steps,
            "seconds_per_step": self.seconds / max(1, self.steps),
            "residual": self.worst_residual,
            "molecules": {"train": len(self.train), "val": self.preset.val, "test": self.preset.test},
        }

    def state_dict(self) -> dict[str, Any]:
        """All that later epochs depend on; data and batches follow from the seed."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "balancer": None if self.balancer is None else self.balancer.state_dict(),
            "progress": {name: getattr(self, name) for name in ("epoch", "steps", "seconds", "best", "worst_residual")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])
        for name, value in state["progress"].items():
            setattr(self, name, value)

    def _read_data(self) -> None:
        preset = self.preset
        molecules = load(preset.molecules)
        if preset.test + preset.val >= len(molecules):
            raise OptionError(
                f"qm9: {len(molecules):,} molecules, of which {preset.test:,} are for test and {preset.val:,} for "
                "validation, leave none to train on"
            )
        generator = torch.Generator().manual_seed(derive_seed("qm9", self.seed, "split"))
        order = torch.randperm(len(molecules), generator=generator)
        test, val, self.train = order.tensor_split([preset.test, preset.test + preset.val])
        targets = torch.from_numpy(molecules.targets)  # (M, 11) float64
        mean, std = targets[self.train].mean(0), targets[self.train].std(0)
        thousands = torch.tensor([1000.0 if UNITS[task] == "meV" else 1.0 for task in TARGETS], dtype=torch.float64)
        self.unit = std * thousands  # (11,) from normalised errors to published units
        self.graphs = Graphs(molecules, (targets - mean) / std, device=self.device)
        self._held_out = {"val": self._in_order_of_size(val), "metrics": self._in_order_of_size(test)}

    def _in_order_of_size(self, chosen: Tensor) -> list[GraphBatch]:
        """Batches for evaluation, made once."""
        return list(self.graphs.batches(chosen[self.graphs.sizes[chosen].argsort(stable=True)], size=256, group=16))

    def _losses(self, batch: GraphBatch) -> dict[str, Tensor]:
        """The mean squared error of each task; the representation they were computed from is kept beside."""
        self.features = shared = self.model.trunk(batch)  # (B, D)
        losses = {}
        for task in self.tasks:
            column = TARGETS.index(task)
            error = self.model.heads[column](shared)[:, 0] - batch.targets[:, column]
            losses[task] = error.square().mean()
        return losses

    def _step(self, batch: GraphBatch) -> tuple[list[Tensor], Balance | None]:
        """One optimiser step; the losses, and what the balancer did."""
        losses = self._losses(batch)
        self.optimizer.zero_grad()
        if self.balancer is None:
            (loss,) = losses.values()
            loss.backward()
            balance = None
        else:
            at = {"features": self.features} if self.place == "features" else {"shared": self.model.trunk}
            some = (
                (lambda draw: self._losses(self.graphs.batch(draw(batch.chosen)))) if self.balancer.uses_part else None
            )
            balance = self.balancer.backward(losses, part=some, **at)
        self.optimizer.step()
        if self.balancer is not None:
            self.balancer.after_step(lambda: self._losses(batch))
        return list(losses.values()), balance

    def _evaluate(self) -> dict[str, Any]:
        """Errors on both held-out sets; lowers the learning rate and keeps the best epoch."""
        errors = {name: self._errors(batches) for name, batches in self._held_out.items()}
        base = {f"{task}/mae": PUBLISHED_STL[task] for task in self.tasks}
        delta = delta_m(errors["val"], base, dict.fromkeys(base, False))
        score = delta if self.balancer is not None else errors["val"][f"{self.tasks[0]}/mae"]
        self.scheduler.step(score)
        found = {"metrics": errors["metrics"], "val_metrics": errors["val"], "val_delta_m": delta}
        if self.best is None or score < self.best["score"]:
            self.best = {**found, "epoch": self.epoch, "score": score}
        return found

    @torch.no_grad()
    def _errors(self, batches: list[GraphBatch]) -> dict[str, float]:
        """Mean absolute errors in published units."""
        columns = torch.tensor([TARGETS.index(task) for task in self.tasks])
        total = torch.zeros(len(columns), dtype=torch.float64)
        for batch in batches:
            shared = self.model.trunk(batch)
            predicted = torch.cat([self.model.heads[column](shared) for column in columns.tolist()], 1)
            total += (predicted - batch.targets[:, columns]).abs().sum(0, dtype=torch.float64).cpu()
        errors = total / sum(len(batch) for batch in batches) * self.unit[columns]
        if not bool(errors.isfinite().all()):
            raise NonFiniteError(
                f"qm9: the network's predictions are not finite after epoch {self.epoch}: training diverged; "
                "a lower learning rate may help"
            )
        return {f"{task}/mae": error for task, error in zip(self.tasks, errors.tolist(), strict=True)}


def _stl_task(method: MethodSpec) -> str:
    task = method.options.get("task")
    if task not in TARGETS:
        raise UnknownNameError(f"qm9: method {str(method)!r} names no task; write stl:task=NAME with one of {TARGETS}")
    return task


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _prepare(preset: QM9Preset) -> None:
    load(preset.molecules, show=True)


EXPERIMENT = Experiment(
    name="qm9",
    version=1,
    summary="Eleven properties of QM9 molecules from one message-passing network (Nash-MTL, tables 1 and 6)",
    tasks=tuple(TaskSpec(task, (Metric("mae", unit=UNITS[task]),)) for task in TARGETS),
    presets=PRESETS,
    methods=METHODS,
    trial=QM9Trial,
    prepare=_prepare,
    at_features=True,
)
