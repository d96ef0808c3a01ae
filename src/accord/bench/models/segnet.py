"""SegNet (Badrinarayanan, Kendall and Cipolla, IEEE PAMI 2017): an encoder, and a decoder that unpools where it pooled.

Written from the paper. The encoder has the 13 convolutions of VGG-16 (2, 2, 3, 3, 3 in its five blocks), each with
batch normalisation and ReLU; a 2 × 2 max-pooling after each block remembers where its maxima were, and the decoder's
mirror image of that block puts them back there. The widths of the multi-task papers are 64, 128, 256, 512, 512.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from accord.errors import OptionError, ShapeError

WIDTHS = (64, 128, 256, 512, 512)
"""The published channels of the five blocks."""


class Convolution(nn.Sequential):
    """A convolution that keeps height and width, batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Head(nn.Sequential):
    """The prediction of one task at each pixel: a 3 × 3 and a 1 × 1 convolution, linear."""

    def __init__(self, width: int, channels_out: int) -> None:
        super().__init__(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, channels_out, 1))


class Block(nn.Module):
    """Some convolutions at one resolution.

    Args:
        channels: From the input's to the output's; one convolution between each two.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Convolution(a, b) for a, b in itertools.pairwise(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the first and the last convolution give."""
        first = x = self.convolutions[0](x)
        for convolution in self.convolutions[1:]:
            x = convolution(x)
        return first, x


class Trunk(nn.Module):
    """SegNet without its last, predicting layer.

    Args:
        widths: Channels of each encoder block.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise OptionError(f"SegNet: widths={tuple(widths)}: give the channels of each block, such as {WIDTHS}")
        self.widths = tuple(widths)
        before = (3, *self.widths[:-1])
        counts = [2 if level < 2 else 3 for level in range(len(self.widths))]
        self.encoder = nn.ModuleList(
            Block([a, *[b] * count]) for a, b, count in zip(before, self.widths, counts, strict=True)
        )
        after = (self.widths[0], *self.widths[:-1])  # the decoder's first block by resolution keeps its width
        self.decoder = nn.ModuleList(
            Block([*[b] * count, a]) for a, b, count in zip(after, self.widths, counts, strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """The last decoder block's output, shape (B, widths[0], H, W), for images of shape (B, 3, H, W)."""
        return self.blocks(image)[1][0][1]

    def blocks(self, image: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """What every block makes, by resolution, the full one first.

        Returns:
            Of each encoder block the outputs of its first and its last convolution (before pooling), and of each
            decoder block what it gets from unpooling and what it gives.

        Raises:
            ShapeError: The images are too small to be halved once a block.
        """
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 2 ** len(self.widths):
            raise ShapeError(
                f"SegNet: images of shape {tuple(image.shape)}: {len(self.widths)} blocks halve (B, 3, H, W) as often, "
                f"so height and width must be {2 ** len(self.widths)} at the least; use fewer widths or larger images"
            )
        encoded: list[tuple[Tensor, Tensor]] = []
        places: list[Tensor] = []
        x = image
        for block in self.encoder:
            encoded.append(block(x))
            x, place = functional.max_pool2d(encoded[-1][1], 2, return_indices=True)
            places.append(place)
        decoded: list[tuple[Tensor, Tensor]] = []
        for level in reversed(range(len(self.widths))):
            unpooled = functional.max_unpool2d(x, places[level], (2, 2), output_size=encoded[level][1].shape[-2:])
            x = self.decoder[level](unpooled)[1]
            decoded.append((unpooled, x))
        return encoded, decoded[::-1]


class SegNet(nn.Module):
    """One SegNet for all tasks, which part at its last layer.

    Args:
        channels: What each task predicts at a pixel: ``{"seg": 13, "depth": 1, "normal": 3}``.
        widths: Channels of each encoder block.
    """

    def __init__(self, channels: Mapping[str, int], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.trunk = Trunk(widths)
        self.heads = nn.ModuleDict({task: Head(widths[0], count) for task, count in channels.items()})
        initialise(self)

    def shared(self) -> list[nn.Parameter]:
        """The parameters that all tasks share: the trunk's."""
        return list(self.trunk.parameters())

    def forward(self, image: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Raw predictions (B, channels, H, W) of the tasks named, or all, for images (B, 3, H, W)."""
        features = self.trunk(image)
        return {task: self.heads[task](features) for task in (self.heads if tasks is None else tasks)}


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Xavier-normal weights and zero biases for convolutions; batch normalisation starts as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
