"""A fully connected trunk with a linear head for each task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from accord.errors import OptionError


class SharedMLP(nn.Module):
    """Hidden layers that all tasks share, and a head of one output a task.

    Args:
        inputs: Features of an example.
        widths: Units of each hidden layer, each followed by ReLU and dropout.
        tasks: How many heads.
        dropout: Share of hidden units dropped in training.

    Raises:
        OptionError: There is no hidden layer, or a number is out of range.
    """

    def __init__(self, inputs: int, widths: Sequence[int], tasks: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise OptionError(f"widths={tuple(widths)!r} must name a hidden layer at least, of one unit at least")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout={dropout!r} must be from 0 to below 1")
        layers: list[nn.Module] = []
        for size, width in zip((inputs, *widths), widths, strict=False):
            layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(widths[-1], 1) for _ in range(tasks))

    def forward(self, x: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """The outputs (B,) of the heads numbered ``tasks``, for examples ``x`` (B, inputs)."""
        z = self.trunk(x)  # (B, D)
        return [self.heads[task](z).squeeze(1) for task in tasks]

    @torch.no_grad()
    def start_at(self, biases: np.ndarray) -> None:
        """Set the heads' biases, one a task."""
        for head, bias in zip(self.heads, biases, strict=True):
            head.get_parameter("bias").fill_(float(bias))
