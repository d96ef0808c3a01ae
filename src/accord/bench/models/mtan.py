"""MTAN (Liu, Johns and Davison, CVPR 2019): one shared SegNet, and for each task attention to its features.

Written from the paper. At each block of the shared SegNet, task i has a mask a_i = h_i(g_i([u; f(â_i')])), where g_i is
a 1 × 1 convolution with batch normalisation and ReLU, h_i the same with a sigmoid, u the block's first features and
â_i' the attended features of the block before. The task goes on with â_i = a_i ⊙ p, where p are the block's last
features. The extractor f, a 3 × 3 convolution with a change of resolution, is one for all tasks. Where the paper leaves
room: u is the output of the first convolution in an encoder block and the unpooled features in a decoder block; f pools
by maxima in the encoder, after its convolution, and upsamples bilinearly in the decoder, before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from accord.bench.models.segnet import WIDTHS, Convolution, Head, Trunk, initialise


class Attention(nn.Sequential):
    """A task's mask for one block: values in (0, 1), of the shape of the block's last features."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            Convolution(channels_in, channels_out, kernel=1),
            nn.Conv2d(channels_out, channels_out, 1),
            nn.BatchNorm2d(channels_out),
            nn.Sigmoid(),
        )


class TaskAttention(nn.Module):
    """All masks of one task, by resolution, the full one first."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        before = (0, *widths[1:])  # channels of the attended features that come in; the first block has none
        after = (widths[0], *widths[:-1])
        self.encoder = nn.ModuleList(Attention(w + more, w) for w, more in zip(widths, before, strict=True))
        self.decoder = nn.ModuleList(Attention(2 * w, out) for w, out in zip(widths, after, strict=True))


class MTAN(nn.Module):
    """The multi-task attention network.

    Args:
        channels: What each task predicts at a pixel: ``{"seg": 13, "depth": 1, "normal": 3}``.
        widths: Channels of each encoder block of the shared SegNet.
    """

    def __init__(self, channels: Mapping[str, int], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.trunk = Trunk(widths)
        below = (*widths[1:], widths[-1])
        self.encoder_extractors = nn.ModuleList(Convolution(a, b) for a, b in zip(widths, below, strict=True))
        self.decoder_extractors = nn.ModuleList(Convolution(w, w) for w in widths)
        self.attention = nn.ModuleDict({task: TaskAttention(widths) for task in channels})
        self.heads = nn.ModuleDict({task: Head(widths[0], count) for task, count in channels.items()})
        initialise(self)

    def shared(self) -> list[nn.Parameter]:
        """The parameters that all tasks share: the SegNet's and the extractors'; masks and heads are the tasks' own."""
        modules = (self.trunk, self.encoder_extractors, self.decoder_extractors)
        return [parameter for module in modules for parameter in module.parameters()]

    def forward(self, image: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Raw predictions (B, channels, H, W) of the tasks named, or all, for images (B, 3, H, W)."""
        encoded, decoded = self.trunk.blocks(image)
        return {
            task: self.heads[task](self._attended(task, encoded, decoded))
            for task in (self.heads if tasks is None else tasks)
        }

    def _attended(
        self, task: str, encoded: Sequence[tuple[Tensor, Tensor]], decoded: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """The task's features after the last decoder block, (B, widths[0], H, W)."""
        masks = self.attention[task]
        assert isinstance(masks, TaskAttention)
        attended = encoded[0][0][:, :0]  # nothing comes into the first block
        for level, (first, last) in enumerate(encoded):
            seen = torch.cat((first, attended), dim=1)
            attended = self.encoder_extractors[level](masks.encoder[level](seen) * last)
            attended = functional.max_pool2d(attended, 2)
        for level in reversed(range(len(decoded))):
            first, last = decoded[level]
            size = first.shape[-2:]
            attended = functional.interpolate(attended, size=size, mode="bilinear", align_corners=True)
            seen = torch.cat((first, self.decoder_extractors[level](attended)), dim=1)
            attended = masks.decoder[level](seen) * last
        return attended
