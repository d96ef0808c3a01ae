"""The networks on which whole steps are measured: each a shared trunk, heads, one fixed batch.

`mlp` is the network of the peers' published comparison (4 × 1024, 10 heads, batch 256); `conv` a residual network
with three dense heads; `gnn` the QM9 network of the laptop preset, 11 tasks; `transformer` an encoder with 8
classification heads. No normalisation over the batch and no dropout, so that every library can take all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows


@dataclass(frozen=True)
class Workload:
    """A network, a batch, and the two halves of its forward pass.

    Attributes:
        name: Of the model.
        shape: In words, for the title of a table.
        trunk: All shared parameters.
        heads: One module a task.
        represent: The shared representation of the batch, with a graph.
        compare: K losses of a representation.
    """

    name: str
    shape: str
    trunk: nn.Module
    heads: nn.ModuleList
    represent: Callable[[], Tensor]
    compare: Callable[[Tensor], list[Tensor]]

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.heads)

    @property
    def shared(self) -> list[nn.Parameter]:
        """The shared parameters."""
        return list(self.trunk.parameters())

    @property
    def gradient_bytes(self) -> int:
        """Bytes of one gradient of the shared parameters."""
        return sum(p.numel() * p.element_size() for p in self.trunk.parameters())

    def losses(self) -> list[Tensor]:
        """K losses with a fresh graph, every ``.grad`` cleared before."""
        self.clear()
        return self.compare(self.represent())

    def clear(self) -> None:
        """Let all gradients go."""
        for parameter in (*self.trunk.parameters(), *self.heads.parameters()):
            parameter.grad = None


def mlp(device: str, tasks: int = 10, width: int = 1024, layers: int = 4, batch: int = 256) -> Workload:
    """Linear layers and ReLU, one regression a task."""
    blocks = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    trunk = nn.Sequential(*blocks).to(device)
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks)).to(device)
    x = torch.randn(batch, width, device=device)
    targets = torch.randn(tasks, batch, device=device)

    def compare(z: Tensor) -> list[Tensor]:
        return [F.mse_loss(head(z).squeeze(1), y) for head, y in zip(heads, targets, strict=True)]

    return Workload("mlp", f"{layers} × {width}, batch {batch}", trunk, heads, lambda: trunk(x), compare)


class Residual(nn.Module):
    """Two 3×3 convolutions with group normalisation, and a way past them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.GroupNorm(8, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.GroupNorm(8, after),
        )
        self.past = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H/stride, W/stride)."""
        return torch.relu(self.inner(x) + self.past(x))


def conv(device: str, batch: int = 4, size: int = 32) -> Workload:
    """A residual trunk; segmentation into 13 classes, depth and normals at every pixel."""
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.GroupNorm(8, 32), nn.ReLU())
    trunk = nn.Sequential(stem, Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2), Residual(128, 128, 1))
    trunk.to(device)
    heads = nn.ModuleList(
        nn.Sequential(nn.Conv2d(128, outputs, 1), nn.Upsample(scale_factor=4, mode="bilinear"))
        for outputs in (13, 1, 3)
    ).to(device)
    x = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(13, (batch, size, size), device=device)
    depth, normals = (torch.randn(batch, n, size, size, device=device) for n in (1, 3))

    def compare(z: Tensor) -> list[Tensor]:
        classes, far, normal = (head(z) for head in heads)
        angle = 1 - F.cosine_similarity(normal, normals, dim=1).mean()
        return [F.cross_entropy(classes, labels), F.l1_loss(far, depth), angle]

    shape = f"9 convolutions of 32 to 128 channels, {batch} images of {size}²"
    return Workload("conv", shape, trunk, heads, lambda: trunk(x), compare)


def gnn(device: str) -> Workload:
    """The message-passing network of the QM9 experiment's laptop preset, on one batch of its molecules."""
    from accord.bench.data.graphs import Graphs
    from accord.bench.data.qm9 import load
    from accord.bench.experiments.qm9 import EXPERIMENT
    from accord.bench.models.qm9 import QM9Net

    preset = EXPERIMENT.presets["laptop"]
    graphs = Graphs(load(1000), device=device)
    batch = graphs.batch(torch.randperm(len(graphs))[: preset.batch])
    targets = (batch.targets - batch.targets.mean(0)) / batch.targets.std(0)
    net = QM9Net(batch.targets.shape[1], preset.width, preset.hidden).to(device)

    def compare(z: Tensor) -> list[Tensor]:
        return [F.mse_loss(head(z).squeeze(1), y) for head, y in zip(net.heads, targets.t(), strict=True)]

    shape = f"QM9 network, width {preset.width}, hidden {preset.hidden}, {preset.batch} molecules"
    return Workload("gnn", shape, net.trunk, net.heads, lambda: net.trunk(batch), compare)


def transformer(device: str, tasks: int = 8, width: int = 128, batch: int = 16, length: int = 32) -> Workload:
    """Two encoder layers, mean pooling, one classification into 10 classes a task."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    trunk = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to(device)
    heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(tasks)).to(device)
    x = torch.randn(batch, length, width, device=device)
    labels = torch.randint(10, (tasks, batch), device=device)

    def compare(z: Tensor) -> list[Tensor]:
        pooled = z.mean(1)
        return [F.cross_entropy(head(pooled), y) for head, y in zip(heads, labels, strict=True)]

    shape = f"2 layers of width {width}, {batch} sequences of {length}"
    return Workload("transformer", shape, trunk, heads, lambda: trunk(x), compare)


MODELS: dict[str, Callable[[str], Workload]] = {"mlp": mlp, "conv": conv, "gnn": gnn, "transformer": transformer}
"""Builder by name; each takes the device."""


def build(name: str, device: str) -> Workload:
    """The named workload; weights and batch are the same in every process."""
    torch.manual_seed(0)
    return MODELS[name](device)
