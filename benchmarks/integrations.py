"""What do the integrations add to a training step?

    python -m benchmarks.integrations [--rounds N]

In one run, on the same network and batches, CPU time with one thread, from the beginning of a step to that of the next:

* raw: a loop with ``balancer.backward``;
* each framework with the balancer called by hand in it, as one would without accord's integration, logging nothing;
* each framework with accord's integration, logging weights and conflicts as often as the framework logs.

Two ratios: over the raw loop, which has the framework's own work in it (its closures, hooks, data loader and progress),
and over the framework with the balancer by hand, which is what the integration adds.

What it must reach: each integration at most 1.02 times its framework with the balancer by hand.
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
from benchmarks.timing import heading, ratio

TASKS = ["a", "b", "c"]
BATCH, WIDTH, DEPTH = 128, 512, 4
STEPS, WARMUP = 24, 4
LIMIT = 1.02


class Net(nn.Module):
    """An MLP with three heads, whose losses tell when a step begins."""

    def __init__(self, ticks: list[float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [module for _ in range(DEPTH) for module in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.trunk, self.heads = nn.Sequential(*layers), nn.ModuleList(nn.Linear(WIDTH, 1) for _ in TASKS)
        self.ticks = ticks

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Losses by task."""
        self.ticks.append(time.process_time())
        z = self.trunk(x)
        return {task: (self.heads[k](z)[:, 0] - y[:, k]).square().mean() for k, task in enumerate(TASKS)}


class Samples:
    """The same numbers for all; a batch is cut out of them whole."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(BATCH * STEPS, WIDTH, generator=generator)
        self.y = torch.randn(BATCH * STEPS, len(TASKS), generator=generator)

    def collate(self, chosen: list[int]) -> dict[str, Tensor]:
        """The batch of these samples."""
        return {"x": self.x[chosen], "y": self.y[chosen]}

    def loader(self) -> DataLoader:
        """The batches in order."""
        return DataLoader(range(BATCH * STEPS), batch_size=BATCH, collate_fn=self.collate)  # type: ignore[arg-type]


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01)


def raw(samples: Samples) -> list[float]:
    net, balancer = Net([]), accord.NashMTL(tasks=TASKS)
    optimizer = optimizer_of(net)
    for batch in samples.loader():
        optimizer.zero_grad()
        balancer.backward(net(**batch), net.trunk)
        optimizer.step()
    return net.ticks


# ---------------------------------------------------------------------- Lightning


class ByHand(pl.LightningModule):
    """The balancer in Lightning's own hooks."""

    def __init__(self, *, manual: bool) -> None:
        super().__init__()
        self.net, self.balancer, self.automatic_optimization = Net([]), accord.NashMTL(tasks=TASKS), not manual

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

    def __init__(self, *, manual: bool) -> None:
        super().__init__()
        self.net, self.balancer, self.automatic_optimization = Net([]), accord.NashMTL(tasks=TASKS), not manual

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


def lightning(samples: Samples, module: pl.LightningModule) -> list[float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=STEPS,  # once a fit, which makes it twice as often as the 50 steps of the default
    )
    trainer.fit(module, samples.loader())
    return module.net.ticks


# ---------------------------------------------------------------------- Accelerate


def accelerated(samples: Samples, *, integrated: bool) -> list[float]:
    accelerator, net, balancer = Accelerator(cpu=True), Net([]), accord.NashMTL(tasks=TASKS)
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

    def __init__(self) -> None:
        super().__init__()
        self.net = Net([])

    def forward(self, x: Tensor, y: Tensor) -> dict[str, dict[str, Tensor]]:
        """Losses by task in a field of their own."""
        return {"losses": self.net(x, y)}


class TrainerByHand(transformers.Trainer):
    """The balancer in the Trainer's own hook."""

    balancer: accord.Balancer

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: object = None) -> Tensor:
        """One step."""
        model.train()
        with self.compute_loss_context_manager():
            losses = model(**self._prepare_inputs(inputs))["losses"]
        self.balancer.backward(losses, self.model.net.trunk)
        return sum(loss.detach() for loss in losses.values())


class TrainerIntegrated(MultiTaskTrainer, transformers.Trainer):
    """The same with the mixin."""


def trained(samples: Samples, folder: str, *, integrated: bool) -> list[float]:
    model, balancer = Output(), accord.NashMTL(tasks=TASKS)
    args = transformers.TrainingArguments(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    options = {"train_dataset": list(range(BATCH * STEPS)), "data_collator": samples.collate}
    if integrated:
        trainer = TrainerIntegrated(model, args, balancer=balancer, shared="net.trunk", **options)
    else:
        trainer = TrainerByHand(model, args, **options)
        trainer.balancer = balancer
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    return model.net.ticks


# ---------------------------------------------------------------------- the table


def variants(samples: Samples, folder: str) -> dict[str, tuple[Callable[[], list[float]], str | None]]:
    """What is timed, and what of it is the framework with the balancer by hand."""
    automatic, manual = "lightning, automatic", "lightning, manual"
    return {
        "raw": (lambda: raw(samples), None),
        f"{automatic}, by hand": (lambda: lightning(samples, ByHand(manual=False)), None),
        automatic: (lambda: lightning(samples, Integrated(manual=False)), f"{automatic}, by hand"),
        f"{manual}, by hand": (lambda: lightning(samples, ByHand(manual=True)), None),
        manual: (lambda: lightning(samples, Integrated(manual=True)), f"{manual}, by hand"),
        "accelerate, by hand": (lambda: accelerated(samples, integrated=False), None),
        "accelerate": (lambda: accelerated(samples, integrated=True), "accelerate, by hand"),
        "trainer, by hand": (lambda: trained(samples, folder, integrated=False), None),
        "trainer": (lambda: trained(samples, folder, integrated=True), "trainer, by hand"),
    }


def per_step(ticks: list[float]) -> float:
    """The median seconds from the beginning of a step to that of the next."""
    return statistics.median(after - before for before, after in itertools.pairwise(ticks[WARMUP:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        timed = variants(Samples(), folder)
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for call, _ in timed.values():
            call()
        for _ in range(rounds):
            for name, (call, _) in timed.items():
                seconds[name].append(per_step(call()))
    print(f"integrations: {heading()}")
    print(
        f"pytorch-lightning {pl.__version__}, transformers {transformers.__version__}, K = {len(TASKS)} tasks, ", end=""
    )
    print(f"batch {BATCH}, {DEPTH} layers of {WIDTH}; medians of {rounds} rounds of {STEPS - WARMUP} steps, in turns\n")
    print(f"{'step':<32}{'ms':>8}{'over raw':>10}{'over the framework, by hand':>30}")
    reached = []
    for name, (_, baseline) in timed.items():
        over = "" if baseline is None else f"{ratio(seconds[name], seconds[baseline]):.3f}"
        took, beside = 1e3 * statistics.median(seconds[name]), ratio(seconds[name], seconds["raw"])
        print(f"{name:<32}{took:>8.1f}{beside:>10.3f}{over:>30}")
        if baseline is not None:
            answer = "yes" if float(over) <= LIMIT else "NO"
            reached.append(f"must reach: {name} over {baseline}: {over} ≤ {LIMIT}: {answer}")
    print("\n" + "\n".join(reached))


if __name__ == "__main__":
    main()
