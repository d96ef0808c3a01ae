"""Models, batches and plain backwards for tasks with samples of their own."""

import torch
from torch import nn

K, N = 4, 6
D = torch.float64


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def mse(model, batch):
    x, y = batch
    out = model(x)
    return (out.reshape(len(x), -1).mean(1) - y).square().mean() + 0.1 * out.square().mean()


def batches_for(shape, integer=False):
    x = draw(K, N, *shape)
    return ((x * 3).round().long() % 7 if integer else x), draw(K, N, seed=2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Idle(nn.Module):
    """A frozen layer, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.frozen, self.used, self.unused = nn.Linear(5, 5).requires_grad_(False), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(torch.tanh(self.frozen(x)))


class Recurrent(nn.Module):
    """With ``start`` the first state is made of the task's data, so that tasks can be mapped."""

    def __init__(self, kind, start=True):
        super().__init__()
        self.rnn, self.start = kind(4, 5, batch_first=True), start

    def forward(self, x):
        h = torch.zeros_like(x[:, 0, :1]).repeat(1, 5)[None]
        state = (h, h) if isinstance(self.rnn, nn.LSTM) else h
        return self.rnn(x, state if self.start else None)[0][:, -1]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Repeated(nn.Module):
    """One cell used again and again."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(5, 5)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return x


class Twice(nn.Module):
    """One module under two names, in two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.again = self.first

    def forward(self, x):
        return self.again(torch.tanh(self.first(x)))


def statistics_in_place(module):
    with torch.no_grad():
        for index, buffer in enumerate(b for b in module.buffers() if b.is_floating_point()):
            buffer.add_(0.1 * (index + 1))
    return module


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), (5,)),
    "conv": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), (2, 6, 6)),
    "group norm": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()), (2, 7)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)), (5,)),
    "batch norm, eval": (
        lambda: statistics_in_place(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh())).eval(),
        (5,),
    ),
    "batch norm, no statistics": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False)),
        (5,),
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 5), nn.Tanh(), nn.Linear(5, 3)), (3,)),
    "lstm": (lambda: Recurrent(nn.LSTM), (3, 4)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 4)),
    "attention": (Attention, (5, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), (5, 8)),
    "tied": (Tied, (5,)),
    "frozen and unused": (Idle, (5,)),
    "repeated": (Repeated, (5,)),
    "twice": (Twice, (5,)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)), (5,)),
}


def plain(model, loss_fn, batches, inputs, extra=()):
    """Losses, and rows by K ordinary backwards."""
    losses, rows = [], []
    for k, batch in enumerate(batches):
        loss = loss_fn(model, batch, *(item[k] for item in extra))
        losses.append(loss.detach())
        found = torch.autograd.grad(loss, inputs, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(inputs, found, strict=True)])
    return torch.stack(losses), [torch.stack(column) for column in zip(*rows, strict=True)]


def close(a, b, tol=1e-12):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)
