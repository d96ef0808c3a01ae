"""Two small convolutional networks for pairs of images, a trunk and a head for each task.

``"lenet"`` is that of Sener and Koltun's code (NeurIPS 2018, their figure 5), ``"shrunk"`` that of CAGrad's experiment
on Multi-Fashion+MNIST (Liu et al., NeurIPS 2021, appendix B.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from accord.errors import OptionError, ShapeError

CLASSES = 10
REPRESENTATION = 50
"""Numbers in the shared representation."""


class BatchMask(nn.Module):
    """Dropout as in the code of Sener and Koltun: a mask of zeros and ones, half of each, that is not rescaled.

    What passes has the size it has without dropout, so that activations are twice as large on average in evaluation.

    Args:
        channels: Drop whole channels (n, C, H, W), the same in all examples of the batch; else single units, each
            example its own.
    """

    def __init__(self, channels: bool) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; unchanged in evaluation mode."""
        if not self.training:
            return x
        shape = (1, x.shape[1], *[1] * (x.ndim - 2)) if self.channels else x.shape
        return x * (torch.rand(shape, device=x.device) < 0.5)


class LeNetTrunk(nn.Module):
    """Images (n, 1, S, S) to representations (n, 50): two convolutions and a linear layer.

    Args:
        size: S, height and width of the images.
        batch_dropout: Drop channels as ``BatchMask`` does, for the whole batch at once and without rescaling; else as
            ``Dropout2d`` does.
    """

    def __init__(self, size: int = 28, batch_dropout: bool = True) -> None:
        super().__init__()
        self.size = size
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.dropout = BatchMask(channels=True) if batch_dropout else nn.Dropout2d()
        side = _halved(_halved(size, 5), 5)
        self.linear = nn.Linear(20 * side * side, REPRESENTATION)  # 320 inputs for 28 × 28

    def forward(self, x: Tensor) -> Tensor:
        """The representation, (n, 50)."""
        _check(x, self.size)
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.dropout(self.conv2(x)), 2))
        return functional.relu(self.linear(x.flatten(1)))


class LeNetHead(nn.Sequential):
    """The logits of one task, (n, 50) to (n, 10): two linear layers with dropout before the last.

    Args:
        batch_dropout: As in the trunk. The published head's mask differs from example to example, but is not rescaled.
    """

    def __init__(self, batch_dropout: bool = True) -> None:
        super().__init__(
            nn.Linear(REPRESENTATION, REPRESENTATION),
            nn.ReLU(),
            BatchMask(channels=False) if batch_dropout else nn.Dropout(),
            nn.Linear(REPRESENTATION, CLASSES),
        )


class ShrunkTrunk(nn.Module):
    """Images (n, 1, S, S) to representations (n, 50): narrower convolutions, batch normalisation, no dropout.

    The published description has no activation after the linear layer, so that it and a head are one linear map.

    Args:
        size: S, height and width of the images; 36 as published.
    """

    def __init__(self, size: int = 36) -> None:
        super().__init__()
        self.size = size
        side = _halved(_halved(size, 9), 5)
        inputs = 10 * side * side  # 250 for 36 × 36
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 5, 9), nn.MaxPool2d(2), nn.ReLU(), nn.BatchNorm2d(5)),
            *(nn.Conv2d(5, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(inputs)),
            nn.Linear(inputs, REPRESENTATION),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The representation, (n, 50)."""
        _check(x, self.size)
        return self.layers(x)


class PairNet(nn.Module):
    """One of the networks with a head for each task.

    Args:
        tasks: Names of the heads.
        network: ``"lenet"`` or ``"shrunk"``.
        size: Height and width of the images.
        batch_dropout: See ``LeNetTrunk``; the network ``"shrunk"`` has no dropout.
    """

    def __init__(
        self, tasks: Sequence[str], network: str = "lenet", size: int = 28, batch_dropout: bool = True
    ) -> None:
        super().__init__()
        if network == "lenet":
            self.trunk: nn.Module = LeNetTrunk(size, batch_dropout)
            heads = [LeNetHead(batch_dropout) for _ in tasks]
        elif network == "shrunk":
            self.trunk = ShrunkTrunk(size)
            heads = [nn.Linear(REPRESENTATION, CLASSES) for _ in tasks]
        else:
            raise OptionError(f"network={network!r} must be 'lenet' or 'shrunk'")
        self.heads = nn.ModuleDict(dict(zip(tasks, heads, strict=True)))

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """The logits (n, 10) of the named tasks."""
        shared = self.trunk(x)
        return {task: self.heads[task](shared) for task in tasks}


def _halved(side: int, kernel: int) -> int:
    """Height or width after a convolution without padding and a 2 × 2 pooling."""
    return (side - kernel + 1) // 2


def _check(x: Tensor, size: int) -> None:
    if x.shape[1:] != (1, size, size):
        raise ShapeError(f"images of shape {tuple(x.shape)}, where the network takes (n, 1, {size}, {size})")
