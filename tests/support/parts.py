"""A network of several tasks on batches of which a part can be drawn, and every estimate of its Gramian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accord.balancers import Balance, Balancer
from support.nets import Net


class Data:
    """A network of five tasks on batches of 24 samples; the losses of a step on all of them or on some."""

    def __init__(self, seed: int = 0, tasks: int = 5) -> None:
        self.net = Net(tasks, seed)
        self.tasks = tasks

    def batch(self, step: int = 0) -> dict[str, Tensor]:
        options = {"generator": torch.Generator().manual_seed(100 + step), "dtype": torch.float64}
        return {"x": torch.randn(24, 4, **options), "y": torch.randn(24, self.tasks, **options)}

    def losses(self, batch: dict[str, Tensor]) -> list[Tensor]:
        z = self.net.trunk(batch["x"])
        return [
            (head(z)[:, 0] - batch["y"][:, k]).square().mean() * 1.5**k + 0.01 for k, head in enumerate(self.net.heads)
        ]

    def step(self, balancer: Balancer, step: int = 0, **options: Any) -> Balance:
        """One balanced step, with the part where the balancer wants one."""
        batch = self.batch(step)
        if balancer.uses_part:
            options["part"] = lambda draw: self.losses(draw(batch))
        self.net.zero_grad()
        return balancer.backward(self.losses(batch), options.pop("shared", self.net.trunk), **options)

    def follow(self, balancer: Balancer, steps: int, first: int = 0, **options: Any) -> Sequence[Balance]:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.02)
        found = []
        for step in range(first, first + steps):
            found.append(self.step(balancer, step, **options))
            optimizer.step()
        return found


ESTIMATES: dict[str, dict[str, Any]] = {
    "batch": {"gramian_batch": 0.25},
    "ema": {"gramian_ema": 0.8},
    "part": {"gramian_part": "2"},
    "tasks": {"gramian_tasks": 2},
    "all": {"gramian_batch": 0.5, "gramian_ema": 0.5, "gramian_part": "2", "gramian_tasks": 2},
}
