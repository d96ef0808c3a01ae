"""Models of the zoo that differ in their layers: every kind of operation between losses and shared parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

TASKS, BATCH, WIDTH = 3, 4, 6


@dataclass(frozen=True)
class Problem:
    """A model as an engine sees it.

    Attributes:
        losses: Runs the model anew: K scalars on a graph of their own, the same at every call.
        shared: The shared parameters, as a user gives them.
        heads: All other leaves that a plain backward writes to.
    """

    losses: Callable[[], list[Tensor]]
    shared: nn.Module | list[Tensor]
    heads: list[Tensor]

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable shared parameters, each once, in the order an engine must have them."""
        found = list(self.shared.parameters()) if isinstance(self.shared, nn.Module) else self.shared
        return list({id(p): p for p in found if p.requires_grad}.values())


def drawn(*shape: int, seed: int = 1) -> Tensor:
    """Data of a generator of its own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def headed(
    trunk: nn.Module, x: Tensor, *, tasks: int = TASKS, shared: nn.Module | list[Tensor] | None = None
) -> Problem:
    """A trunk that ends in (BATCH, WIDTH), with one linear head a task; losses of several sizes."""
    trunk.double()
    heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(tasks)).double()
    y = drawn(BATCH, tasks, seed=2)

    def losses() -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)  # the dropout masks of every call
            z = trunk(x).reshape(BATCH, WIDTH)
            return [10.0 ** (k % 3) * (head(z)[:, 0] - y[:, k]).square().mean() for k, head in enumerate(heads)]

    return Problem(losses, trunk if shared is None else shared, list(heads.parameters()))


class Applied(nn.Module):
    """Layers put together by a function of (x, *layers)."""

    def __init__(self, forward: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, *self.layers)


def mlp() -> Problem:
    return headed(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, WIDTH)), drawn(BATCH, 5))


def conv(train: bool) -> Problem:
    trunk = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, WIDTH)
    )
    return headed(trunk.train(train), drawn(BATCH, 2, 6, 6))


def groupnorm() -> Problem:
    return headed(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, WIDTH)),
        drawn(BATCH, 2, 6),
    )


def dropout() -> Problem:
    return headed(nn.Sequential(nn.Linear(5, 20), nn.Dropout(0.5), nn.Linear(20, WIDTH)), drawn(BATCH, 5))


def recurrent(kind: type[nn.RNNBase]) -> Problem:
    trunk = Applied(lambda x, cell: cell(x)[0][:, -1], kind(3, WIDTH, num_layers=2, batch_first=True))
    return headed(trunk, drawn(BATCH, 4, 3))


def attention() -> Problem:
    layer = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    return headed(Applied(lambda x, a: a(x, x, x, need_weights=False)[0].mean(1), layer), drawn(BATCH, 3, WIDTH))


def transformer() -> Problem:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.1, batch_first=True)
    return headed(Applied(lambda x, block: block(x)[:, 0], layer), drawn(BATCH, 3, WIDTH))


def embedding(sparse: bool) -> Problem:
    x = (3 * drawn(BATCH, 4)).round().long() % 9
    trunk = nn.Sequential(nn.Embedding(9, 3, sparse=sparse), nn.Flatten(), nn.Tanh(), nn.Linear(12, WIDTH))
    return headed(trunk, x)


def frozen() -> Problem:
    first = nn.Linear(5, 7).requires_grad_(False)
    return headed(nn.Sequential(first, nn.Tanh(), nn.Linear(7, WIDTH)), drawn(BATCH, 5))


def unused() -> Problem:
    idle = nn.Linear(2, 2)
    return headed(Applied(lambda x, idle, used: used(x), idle, nn.Linear(5, WIDTH)), drawn(BATCH, 5))


class Lora(nn.Module):
    """A frozen linear layer with a trained low-rank one beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def lora() -> Problem:
    trunk = nn.Sequential(Lora(5, 7), nn.GELU(), Lora(7, WIDTH))
    return headed(trunk, drawn(BATCH, 5), shared=[p for p in trunk.parameters() if p.requires_grad])


def inplace() -> Problem:
    def run(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        h = one(x)
        h[:, 0] *= 2.0
        torch.nn.functional.leaky_relu_(h, 0.1)
        return two(h.clone().add_(1.0)).mul_(0.5)

    return headed(Applied(run, nn.Linear(5, 7), nn.Linear(7, WIDTH)), drawn(BATCH, 5))


class Reversal(torch.autograd.Function):
    """The identity, with a backward pass that turns the gradient round."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return -0.5 * g


class Unbatchable(torch.autograd.Function):
    """The identity, with a backward pass that looks at a number, which no vmap can follow."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g if g.sum().item() < 1e300 else -g


def function(kind: type[torch.autograd.Function]) -> Problem:
    def run(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        return two(kind.apply(one(x).tanh()))

    return headed(Applied(run, nn.Linear(5, 7), nn.Linear(7, WIDTH)), drawn(BATCH, 5))


def fourier() -> Problem:
    def run(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        return two(torch.fft.rfft(one(x)).abs())

    return headed(Applied(run, nn.Linear(5, 8), nn.Linear(5, WIDTH)), drawn(BATCH, 5))


def spectral_layers() -> Problem:
    """Complex tensors between real layers: Fourier neural operators, whose real parameters are viewed as complex."""
    filters = [nn.Parameter(drawn(4, 2, seed=seed)) for seed in (3, 4, 5)]

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters, self.first = nn.ParameterList(filters), nn.Linear(5, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft(self.first(x))  # (BATCH, 4), complex
            for f in self.filters:
                spectrum = spectrum * torch.view_as_complex(f)
                spectrum = spectrum * spectrum.abs().tanh()
            return torch.fft.irfft(spectrum, n=WIDTH)

    return headed(Trunk(), drawn(BATCH, 5))


def weight_norm() -> Problem:
    layer = parametrizations.weight_norm(nn.Linear(5, 7))
    return headed(nn.Sequential(layer, nn.Tanh(), nn.Linear(7, WIDTH)), drawn(BATCH, 5))


def indexed() -> Problem:
    """Rows gathered, scattered, sorted and accumulated."""
    index = torch.tensor([0, 2, 2, 1, 0, 3, 3])

    def run(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        h = one(x)[index]  # (7, 7)
        h = torch.zeros(BATCH, 7, dtype=h.dtype).index_add(0, index, h.sort(1).values).cumsum(0)
        return two(h)

    return headed(Applied(run, nn.Linear(5, 7), nn.Linear(7, WIDTH)), drawn(BATCH, 5))


def many_outputs() -> Problem:
    """Operations of several outputs between the layers, of which one is not used."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for layer in layers:
            a, b, _, d = layer(x).chunk(4, 1)
            values, _ = a.sort(1)
            x = values * b.sigmoid() + d.unbind(1)[0][:, None]
        return x

    return headed(Applied(run, *(nn.Linear(WIDTH, 4 * WIDTH) for _ in range(3))), drawn(BATCH, WIDTH))


def changed_dtype() -> Problem:
    """A part of the trunk computes in float32."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for i, layer in enumerate(layers):
            x = layer(x).tanh()
            x = x.float().sin().double() if i == 1 else x
        return x

    return headed(Applied(run, *(nn.Linear(WIDTH, WIDTH) for _ in range(4))), drawn(BATCH, WIDTH))


def sized(tasks: int) -> Problem:
    return headed(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, WIDTH)), drawn(BATCH, 5), tasks=tasks)


def scalar() -> Problem:
    """One shared parameter of shape ()."""
    p = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    heads = [nn.Parameter(torch.tensor(0.1 + k, dtype=torch.float64)) for k in range(TASKS)]
    return Problem(lambda: [(p * h).sin() + h * p**2 for h in heads], [p], list(heads))


def noncontiguous() -> Problem:
    """Parameters that are transposed, strided and channels-last views of their memory."""
    a = nn.Parameter(drawn(WIDTH, 5).T)  # (5, WIDTH)
    b = nn.Parameter(drawn(2 * WIDTH)[::2])  # (WIDTH,)
    c = nn.Parameter(drawn(3, 2, 3, 3).to(memory_format=torch.channels_last))
    x, image = drawn(BATCH, 5), drawn(BATCH, 2, 4, 4)
    head = nn.Linear(WIDTH, 1).double()

    def losses() -> list[Tensor]:
        z = (x @ a + b).tanh()
        seen = torch.nn.functional.conv2d(image, c).tanh()
        return [head(z).square().mean(), (z.mean(1) * seen.mean((1, 2, 3))).sum(), seen.square().sum() * 1e-2]

    return Problem(losses, [a, b, c], list(head.parameters()))
