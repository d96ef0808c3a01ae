"""Two tasks on one network under DistributedDataParallel: Nash-MTL with the gradients of the joint batch.

torchrun --nproc-per-node 2 examples/ddp.py        # gloo on CPUs, NCCL where there are GPUs
"""

import argparse
import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group: its default arguments would keep one alive to the end
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import accord


class Net(nn.Module):
    """A shared trunk and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleDict({"amplitude": nn.Linear(64, 1), "sign": nn.Linear(64, 1)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 8) to a prediction of shape (B,) for each task."""
        z = self.trunk(x)
        return {task: head(z).squeeze(1) for task, head in self.heads.items()}


def batch(step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's 64 samples of a step, and a noisy wave on them, to be fitted by size and by sign."""
    generator = torch.Generator().manual_seed(1000 * step + dist.get_rank())
    x = torch.randn(64, 8, generator=generator)
    return x.to(device), (5 * (x[:, 0] + x[:, 1] * x[:, 2]).sin() + torch.randn(64, generator=generator)).to(device)


def main(steps: int) -> None:
    """Train, and show that the replicas stay equal."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    net = Net().to(device)
    model = DistributedDataParallel(net, device_ids=None if device.type == "cpu" else [device])
    balancer = accord.NashMTL(tasks=["amplitude", "sign"])
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        x, wave = batch(step, device)
        found = model(x)
        size = (found["amplitude"] - wave.abs()).square().mean()
        sign = nn.functional.binary_cross_entropy_with_logits(found["sign"], (wave > 0).float())
        optimizer.zero_grad()
        balance = balancer.backward({"amplitude": size, "sign": sign}, shared=net.trunk, heads=net.heads)
        optimizer.step()
        if dist.get_rank() == 0:
            told = zip(balance.tasks, balance.losses.tolist(), balance.weights.tolist(), strict=True)
            print(f"step {step:3d}  " + "  ".join(f"{t}: loss {loss:.4f} weight {w:.4f}" for t, loss, w in told))
    mine = torch.cat([p.detach().flatten() for p in net.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(theirs, mine)
    assert all(torch.equal(mine, other) for other in theirs)
    if dist.get_rank() == 0:
        print(f"{len(theirs)} replicas with {len(mine)} equal parameters")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    main(parser.parse_args().steps)
    sys.stdout.flush()
    os._exit(
        0
    )  # all is done: gloo's threads can outlive the group, and would abort an interpreter that ends under them
