"""Three tasks on one network sharded by fully_shard (FSDP2): Nash-MTL with the gradients of the joint batch.

torchrun --nproc-per-node 2 examples/fsdp2.py        # gloo on CPUs, NCCL where there are GPUs
"""

import argparse
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import accord


class Net(nn.Module):
    """A shared trunk and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 8) to a prediction of shape (B, 1) for each task."""
        z = self.trunk(x)
        return [head(z) for head in self.heads]


def batch(step: int, device: torch.device) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """This process's 64 samples of a step, and three waves on them, of different sizes."""
    generator = torch.Generator().manual_seed(1000 * step + dist.get_rank())
    x = torch.randn(64, 8, generator=generator)
    inner = x[:, :1] + x[:, 1:2] * x[:, 2:3]
    return x.to(device), [y.to(device) for y in (inner.sin(), 5 * inner.cos(), 0.2 * (2 * inner).sin())]


def main(steps: int) -> None:
    """Train, and show that all processes used the same weights."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    net = Net().to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (net.trunk, net):
        fully_shard(module, mesh=mesh)
    shared, heads = list(net.trunk.parameters()), list(net.heads.parameters())  # now, before any forward
    balancer = accord.NashMTL(tasks=3)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        x, targets = batch(step, device)
        losses = [(found - y).square().mean() for found, y in zip(net(x), targets, strict=True)]
        optimizer.zero_grad()
        balance = balancer.backward(losses, shared=shared, heads=heads)
        optimizer.step()
        if dist.get_rank() == 0:
            told = zip(balance.losses.tolist(), balance.weights.tolist(), strict=True)
            print(f"step {step:3d}  " + "  ".join(f"loss {loss:.4f} weight {w:.4f}" for loss, w in told))
    theirs = [torch.empty_like(balance.weights, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(theirs, balance.weights.to(device))
    assert all(torch.equal(theirs[0], other) for other in theirs)
    if dist.get_rank() == 0:
        held, whole = (sum(p.numel() for p in some) for some in ([p.to_local() for p in shared], shared))
        print(f"{len(theirs)} processes with equal weights; this one holds {held} of the {whole} shared parameters")
    dist.barrier()  # its group outlives this function in a cache of PyTorch's: leave no work to its threads
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    main(parser.parse_args().steps)
    sys.stdout.flush()
    os._exit(
        0
    )  # all is done: gloo's threads can outlive the group, and would abort an interpreter that ends under them
