"""The 9-layer convolutional network of the CelebA experiments in FAMO and FairGrad, written from its description."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from accord.errors import OptionError

WIDTHS = (64, 128, 256, 512)
HIDDEN = 512


class CelebANet(nn.Module):
    """Seven 3×3 convolutions and two fully connected layers that all tasks share, and a linear head a task.

    The first stage has one convolution, the others two; each layer is followed by batch normalisation and ReLU, each
    stage by max pooling but the last, which is averaged over the image.

    Args:
        tasks: How many heads.
        widths: Channels of the four stages.
        hidden: Units of the fully connected layers.

    Raises:
        OptionError: A number is out of range.
    """

    def __init__(self, tasks: int, widths: Sequence[int] = WIDTHS, hidden: int = HIDDEN) -> None:
        super().__init__()
        if len(widths) != len(WIDTHS) or min(widths) < 1 or hidden < 1:
            raise OptionError(
                f"celeba: widths={tuple(widths)!r} must be four positive numbers, and hidden={hidden!r} one"
            )
        layers: list[nn.Module] = []
        channels = 3
        for stage, width in enumerate(widths):
            for _ in range(1 if stage == 0 else 2):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2) if stage < len(widths) - 1 else nn.AdaptiveAvgPool2d(1))
        layers.append(nn.Flatten())
        for size in (channels, hidden):
            layers += [nn.Linear(size, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(tasks))

    def forward(self, x: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """The outputs (B,), before the sigmoid, of the heads numbered ``tasks``, for images ``x`` (B, 3, H, W)."""
        z = self.trunk(x)  # (B, hidden)
        return [self.heads[task](z).squeeze(1) for task in tasks]
