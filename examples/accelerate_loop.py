"""Two tasks on one network in a loop with Accelerate: gradient accumulation, mixed precision, and a checkpoint.

python examples/accelerate_loop.py                    # needs accord[accelerate]
python examples/accelerate_loop.py --precision bf16
python examples/accelerate_loop.py --whole            # balance the whole batch, not each micro-batch
accelerate launch examples/accelerate_loop.py         # on whatever machines it was configured for
"""

import argparse
import shutil
import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import accord
from accord.integrations.accelerate import backward

TASKS = ["amplitude", "sign"]
MICRO_BATCHES = 2


class Net(nn.Module):
    """A shared trunk and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleDict({task: nn.Linear(64, 1) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 8) to a prediction of shape (B,) for each task."""
        z = self.trunk(x)
        return {task: head(z).squeeze(1) for task, head in self.heads.items()}


def losses_of(found: dict[str, Tensor], wave: Tensor) -> dict[str, Tensor]:
    """The loss of each task."""
    sign = nn.functional.binary_cross_entropy_with_logits(found["sign"], (wave > 0).float())
    return {"amplitude": (found["amplitude"] - wave.abs()).square().mean(), "sign": sign}


def waves(samples: int) -> TensorDataset:
    """Samples (N, 8) and a noisy wave on them (N,), to be fitted by size and by sign."""
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(samples, 8, generator=generator), torch.randn(samples, generator=generator)
    return TensorDataset(x, 5 * (x[:, 0] + x[:, 1] * x[:, 2]).sin() + 0.1 * noise)


def main(epochs: int, precision: str, *, whole: bool) -> None:
    """Train, save, load, and show that the state of both came back."""
    torch.manual_seed(0)
    cpu = not torch.cuda.is_available()  # or processes without GPUs would each train alone
    accelerator = Accelerator(cpu=cpu, gradient_accumulation_steps=MICRO_BATCHES, mixed_precision=precision)
    net, balancer = Net(), accord.NashMTL(tasks=TASKS)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    model, optimizer, loader = accelerator.prepare(net, optimizer, DataLoader(waves(2048), batch_size=32))
    accelerator.register_for_checkpointing(balancer)  # its state is saved and loaded with the rest
    trunk = accelerator.unwrap_model(model).trunk
    sums = accord.jacobian.accumulated(trunk)
    for epoch in range(epochs):
        for x, wave in loader:
            with accelerator.accumulate(model):
                losses = losses_of(model(x), wave)
                if not whole:
                    balance = backward(accelerator, balancer, losses, shared=trunk)  # for accelerator.backward(loss)
                else:
                    mean = {task: loss / MICRO_BATCHES for task, loss in losses.items()}
                    sums.include(mean, scaler=accelerator.scaler)
                    if accelerator.sync_gradients:
                        balance = balancer.apply(sums)
                        sums = accord.jacobian.accumulated(trunk)
                optimizer.step()
                optimizer.zero_grad()
        told = zip(balance.tasks, balance.losses.tolist(), balance.weights.tolist(), strict=True)
        accelerator.print(
            f"epoch {epoch:2d}  " + "  ".join(f"{t}: loss {loss:.4f} weight {w:.4f}" for t, loss, w in told)
        )
    steps = balancer.steps
    folder = broadcast_object_list([tempfile.mkdtemp() if accelerator.is_main_process else None])[0]
    accelerator.save_state(folder)
    accelerator.wait_for_everyone()
    balancer.reset()
    accelerator.load_state(folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(folder)
    assert balancer.steps == steps
    accelerator.print(f"{steps} steps balanced, the last {balance.outcome}; saved and loaded")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    main(given.epochs, given.precision, whole=given.whole)
