"""What do the integrations add to a training step?

    python -m benchmarks.integrations [--rounds N]

In one run, on the same network and batches, CPU time with one thread, from the beginning of a step to that of the next:

* raw: a loop with ``balancer.backward``;
* each framework with the balancer called by hand in it, as one would without accord's integration, logging nothing;
* each framework with accord's integration, logging weights and conflicts as often as the framework logs.

Two networks: one whose step takes tens of milliseconds, and a tiny one. What a framework or an integration adds is
milliseconds that do not depend on the network, because neither touches more of it than K losses; on the large network
they are smaller than the noise of a shared machine, on the tiny one they are not. So what is added is taken from the
tiny network, as the difference of lower quartiles over all steps, and put in relation to the large one's step; the
ratios that the large network itself shows are printed beside it.

What it must reach: what each integration adds to its framework with the balancer by hand is at most 2 % of a step of
the raw loop on the large network.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accelerate
import pytorch_lightning as pl
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import accord
from accord.integrations.accelerate import backward
from accord.integrations.lightning import MultiTaskModule
from accord.integrations.transformers import MultiTaskTrainer
from benchmarks.timing import heading

TASKS = ["a", "b", "c"]
LIMIT = 0.02


@dataclass(frozen=True)
class Size:
    """Of the network and its batches."""

    batch: int
    width: int
    layers: int
    steps: int


LARGE = Size(batch=128, width=512, layers=4, steps=24)
TINY = Size(batch=8, width=16, layers=2, steps=60)
WARMUP = 4
LOGGED_EVERY = 50
"""What Lightning's and the Trainer's logs take as a default, or more often."""


class Net(nn.Module):
    """An MLP with three heads, whose losses tell when a step begins."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [module for _ in range(size.layers) for module in (nn.Linear(size.width, size.width), nn.ReLU())]
        self.trunk, self.heads = nn.Sequential(*layers), nn.ModuleList(nn.Linear(size.width, 1) for _ in TASKS)
        self.ticks: list[float] = []

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Losses by task."""
        self.ticks.append(time.process_time())
        z = self.trunk(x)
        return {task: (self.heads[k](z)[:, 0] - y[:, k]).square().mean() for k, task in enumerate(TASKS)}


class Samples:
    """The same numbers for all; a batch is cut out of them whole."""

    def __init__(self, size: Size) -> None:
        generator, self.size = torch.Generator().manual_seed(1), size
        self.indices = list(range(size.batch * size.steps))
        self.x = torch.randn(len(self.indices), size.width, generator=generator)
        self.y = torch.randn(len(self.indices), len(TASKS), generator=generator)

    def collate(self, chosen: list[int]) -> dict[str, Tensor]:
        """The batch of these samples."""
        return {"x": self.x[chosen], "y": self.y[chosen]}

    def loader(self) -> DataLoader:
        """The batches in order."""
        return DataLoader(self.indices, batch_size=self.size.batch, collate_fn=self.collate)  # type: ignore[arg-type]


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01)


def raw(samples: Samples) -> list[float]:
    net, balancer = Net(samples.size), accord.NashMTL(tasks=TASKS)
    optimizer = optimizer_of(net)
    for batch in samples.loader():
        optimizer.zero_grad()
        balancer.backward(net(**batch), net.trunk)
        optimizer.step()
    return net.ticks


# ---------------------------------------------------------------------- Lightning


class ByHand(pl.LightningModule):
    """The balancer in Lightning's own hooks."""

    def __init__(self, size: Size, *, manual: bool) -> None:
        super().__init__()
        self.net, self.balancer, self.automatic_optimization = Net(size), accord.NashMTL(tasks=TASKS), not manual

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """One step."""
        self.losses = self.net(**batch)
        total = sum(loss.detach() for loss in self.losses.values())
        if self.automatic_optimization:
            return total.requires_grad_()
        self.optimizers().zero_grad()
        self.balancer.backward(self.losses, self.net.trunk)
        self.optimizers().step()
        return None

    def backward(self, loss: Tensor) -> None:
        """What Lightning calls."""
        self.balancer.backward(self.losses, self.net.trunk)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in the raw loop."""
        return optimizer_of(self.net)


class Integrated(MultiTaskModule, pl.LightningModule):
    """The same with the mixin."""

    def __init__(self, size: Size, *, manual: bool) -> None:
        super().__init__()
        self.net, self.balancer, self.automatic_optimization = Net(size), accord.NashMTL(tasks=TASKS), not manual

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """One step."""
        loss = self.balance(self.net(**batch), shared=self.net.trunk)
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in the raw loop."""
        return optimizer_of(self.net)


def lightning(samples: Samples, kind: type, *, manual: bool, every: int = 10**6) -> list[float]:
    module = kind(samples.size, manual=manual)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=every,
    )
    trainer.fit(module, samples.loader())
    return module.net.ticks


# ---------------------------------------------------------------------- Accelerate


def accelerated(samples: Samples, *, integrated: bool) -> list[float]:
    accelerator, net, balancer = Accelerator(cpu=True), Net(samples.size), accord.NashMTL(tasks=TASKS)
    model, optimizer, loader = accelerator.prepare(net, optimizer_of(net), samples.loader())
    for batch in loader:
        with accelerator.accumulate(model):
            optimizer.zero_grad()
            if integrated:
                backward(accelerator, balancer, model(**batch), shared=net.trunk)
            else:
                balancer.backward(model(**batch), net.trunk)
            optimizer.step()
    return net.ticks


# ---------------------------------------------------------------------- transformers


class Output(nn.Module):
    """The network with the output that the Trainer takes."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.net = Net(size)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, dict[str, Tensor]]:
        """Losses by task in a field of their own."""
        return {"losses": self.net(x, y)}


class TrainerByHand(transformers.Trainer):
    """The balancer in the Trainer's own hooks."""

    balancer: accord.Balancer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **options: object) -> Tensor:
        """A scalar whose backward does nothing."""
        self.losses = model(**inputs)["losses"]
        return sum(loss.detach() for loss in self.losses.values()).requires_grad_()

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """One step."""
        loss = super().training_step(*args, **options)
        self.balancer.backward(self.losses, self.model.net.trunk)
        return loss


class TrainerIntegrated(MultiTaskTrainer, transformers.Trainer):
    """The same with the mixin."""


def trained(samples: Samples, folder: str, *, integrated: bool) -> list[float]:
    model, balancer = Output(samples.size), accord.NashMTL(tasks=TASKS)
    args = transformers.TrainingArguments(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=samples.size.batch,
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=LOGGED_EVERY,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    options = {"train_dataset": samples.indices, "data_collator": samples.collate}
    if integrated:
        trainer = TrainerIntegrated(model, args, balancer=balancer, shared="net.trunk", **options)
    else:
        trainer = TrainerByHand(model, args, **options)
        trainer.balancer = balancer
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    return model.net.ticks


# ---------------------------------------------------------------------- the table


Timed = dict[str, list[float]]


def variants(size: Size, folder: str) -> dict[str, Callable[[], list[float]]]:
    """What is timed; all but the raw loop in pairs, by hand and integrated."""
    samples = Samples(size)
    return {
        "raw": lambda: raw(samples),
        "lightning, automatic, by hand": lambda: lightning(samples, ByHand, manual=False),
        "lightning, automatic": lambda: lightning(samples, Integrated, manual=False),
        "lightning, manual, by hand": lambda: lightning(samples, ByHand, manual=True),
        "lightning, manual": lambda: lightning(samples, Integrated, manual=True),
        "accelerate, by hand": lambda: accelerated(samples, integrated=False),
        "accelerate": lambda: accelerated(samples, integrated=True),
        "trainer, by hand": lambda: trained(samples, folder, integrated=False),
        "trainer": lambda: trained(samples, folder, integrated=True),
        LOGGING: lambda: lightning(samples, Integrated, manual=False, every=1),
    }


LOGGING = "lightning, automatic, logged"


def timed(size: Size, folder: str, rounds: int) -> Timed:
    """Milliseconds from the beginning of a step to that of the next, all variants taking turns, also in being first."""
    calls = variants(size, folder)
    found: Timed = {name: [] for name in calls}
    names = list(calls)
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            ticks = calls[name]()[WARMUP:]
            if turn >= 0:
                found[name] += [1e3 * (after - before) for before, after in itertools.pairwise(ticks)]
    return found


def quick(milliseconds: list[float]) -> float:
    """The lower quartile, which other work on the machine moves less than the median."""
    return statistics.quantiles(milliseconds, n=4)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        tiny, large = (timed(size, folder, rounds) for size in (TINY, LARGE))
    step = quick(large["raw"])
    versions = (f"{module.__name__} {module.__version__}" for module in (pl, accelerate, transformers))
    print(f"integrations: {heading()}")
    print(f"{', '.join(versions)}; K = {len(TASKS)} tasks, {rounds} rounds, all taking turns")
    print(f"large: {LARGE}; tiny: {TINY}\n")
    print(f"{'a step':<32}{'tiny, ms':>10}{'large, ms':>11}{'over raw':>10}{'adds, ms':>10}{'of a large step':>17}")
    reached = []
    for name in tiny:
        row = f"{name:<32}{quick(tiny[name]):>10.2f}{quick(large[name]):>11.1f}"
        row += f"{quick(large[name]) / step:>10.3f}"
        baseline = "lightning, automatic" if name == LOGGING else f"{name}, by hand"
        if baseline in tiny:
            added = quick(tiny[name]) - quick(tiny[baseline])
            row += f"{added:>10.2f}{added / step:>17.2%}"
            if name != LOGGING:
                if name.startswith("lightning"):
                    added += (quick(tiny[LOGGING]) - quick(tiny["lightning, automatic"])) / LOGGED_EVERY
                answer = "yes" if added / step <= LIMIT else "NO"
                reached.append(f"must reach: {name}, with its logs: {added / step:.2%} ≤ {LIMIT:.0%}: {answer}")
        print(row)
    print(f"\nwhat is logged is logged every {LOGGED_EVERY} steps, as is Lightning's default")
    print("\n".join(reached))


if __name__ == "__main__":
    main()
