"""Two tasks on one network in Lightning: Nash-MTL in automatic optimisation, with weights and conflicts in the log.

python examples/lightning_module.py                          # needs accord[lightning]
python examples/lightning_module.py --manual                 # the same in manual optimisation
python examples/lightning_module.py --method cagrad:c=0.4    # any other method
"""

import argparse
import logging

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import accord
from accord.integrations.lightning import MultiTaskModule


class Net(MultiTaskModule, pl.LightningModule):
    """A shared trunk and a head for each task; the losses are named, and Lightning does the rest."""

    def __init__(self, method: str, *, manual: bool = False) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleDict({"amplitude": nn.Linear(64, 1), "sign": nn.Linear(64, 1)})
        self.balancer = accord.make(method, tasks=["amplitude", "sign"])
        self.automatic_optimization = not manual

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The loss of each task on (B, 8) samples with (B,) targets."""
        x, wave = batch
        z = self.trunk(x)
        size, sign = (head(z).squeeze(1) for head in self.heads.values())
        return {
            "amplitude": (size - wave.abs()).square().mean(),
            "sign": nn.functional.binary_cross_entropy_with_logits(sign, (wave > 0).float()),
        }

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """One line in both kinds of optimisation: ``self.balance`` in the place of the summed loss."""
        loss = self.balance(self.losses(batch), shared=self.trunk)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def on_train_batch_end(self, outputs: object, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """For methods that look back at the batch (FAMO); all others ignore it."""
        self.after_step(lambda: self.losses(batch))

    def on_train_epoch_end(self) -> None:
        """Print what was logged last, every ``log_every_n_steps``."""
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        told = (f"{t}: loss {logged[f'loss/{t}']:.4f} weight {logged[f'weight/{t}']:.4f}" for t in self.balancer.tasks)
        print(f"epoch {self.current_epoch:2d}  " + "  ".join(told))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Losses on samples that were not trained on."""
        self.log_dict({f"validation/{task}": loss for task, loss in self.losses(batch).items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """All parameters, those of balancers that learn (UW) included."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def waves(samples: int, seed: int) -> TensorDataset:
    """Samples (N, 8) and a noisy wave on them (N,), to be fitted by size and by sign."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(samples, 8, generator=generator), torch.randn(samples, generator=generator)
    return TensorDataset(x, 5 * (x[:, 0] + x[:, 1] * x[:, 2]).sin() + 0.1 * noise)


def main(method: str, epochs: int, *, manual: bool) -> None:
    """Train, validate, and show the certificate of the last step."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(0)
    net = Net(method, manual=manual)
    trainer = pl.Trainer(
        max_epochs=epochs,
        log_every_n_steps=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train, held_out = (DataLoader(waves(n, seed), batch_size=64) for n, seed in ((2048, 1), (512, 2)))
    trainer.fit(net, train, held_out)
    validation = (f"{task} {trainer.callback_metrics[f'validation/{task}']:.4f}" for task in net.balancer.tasks)
    print(f"validation {' '.join(validation)}; {net.balancer.steps} steps, the last {net.last_balance.outcome}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="nash-mtl")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--manual", action="store_true")
    given = parser.parse_args()
    main(given.method, given.epochs, manual=given.manual)
