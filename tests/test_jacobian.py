"""The engines agree with a Jacobian made row by row, on networks of every common kind."""

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from accord.errors import EngineError, NonFiniteError, OptionError, ShapeError
from accord.jacobian import batched, sequential

K, N = 3, 6


class Net(nn.Module):
    """A trunk and K heads over one of several kinds of trunk."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.trunk = TRUNKS[kind]()
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(K))

    def losses(self):
        x = torch.randn(N, *INPUTS.get(self.kind, (5,)), generator=torch.Generator().manual_seed(1))
        if self.kind == "embedding":
            x = (x * 3).round().long() % 7
        z = self.trunk(x).reshape(N, -1)[:, :8]
        outputs = [head(z).square().mean() * 10.0**k for k, head in enumerate(self.heads)]
        if self.kind == "unreached":
            outputs[1] = self.heads[1](z.detach()).square().mean()
        return outputs


class Tied(nn.Module):
    """The same weight twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.last = nn.Linear(5, 8)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Idle(nn.Module):
    """A frozen layer, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.frozen, self.used, self.unused = nn.Linear(5, 5).requires_grad_(False), nn.Linear(5, 8), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(torch.tanh(self.frozen(x)))


class Recurrent(nn.Module):
    """The last state of an LSTM."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


class Attention(nn.Module):
    """One layer of self-attention, averaged over the sequence."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


TRUNKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 8)),
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 8)),
    "dropout": lambda: nn.Sequential(nn.Linear(5, 30), nn.Dropout(0.5), nn.Linear(30, 8)),
    "lstm": Recurrent,
    "attention": Attention,
    "embedding": lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 8)),
    "tied": Tied,
    "idle": Idle,
    "unreached": lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh()),
}
INPUTS = {"conv": (1, 5, 5), "lstm": (4, 4), "attention": (3, 8)}


def by_rows(net):
    """The reference: one plain backward a task, everything read from .grad; (K, P) and the heads'."""
    shared = [p for p in net.trunk.parameters() if p.requires_grad]
    rows, heads = [], []
    for k in range(K):
        net.zero_grad()
        torch.manual_seed(0)
        net.losses()[k].backward()
        rows.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in shared]))
        heads.append([torch.zeros_like(p) if p.grad is None else p.grad for p in net.heads.parameters()])
    net.zero_grad()
    return torch.stack(rows).double(), heads


def made(net, engine):
    torch.manual_seed(0)
    return engine(net.losses(), net.trunk)


def flat(blocks, parameters, lead=()):
    parts = [torch.zeros(*lead, p.numel()) if b is None else b.reshape(*lead, -1) for b, p in zip(blocks, parameters)]  # noqa: B905
    return torch.cat(parts, -1).double()


@pytest.mark.parametrize("engine", [sequential, batched])
@pytest.mark.parametrize("kind", TRUNKS)
def test_every_engine_is_the_jacobian(kind, engine):
    torch.manual_seed(3)
    net = Net(kind)
    rows, heads = by_rows(net)
    w = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    jacobian = made(net, engine)
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * float(rows.abs().max())}
    lazily = flat(jacobian.pull(w), jacobian.parameters)  # one weighted backward, before there are rows
    torch.testing.assert_close(lazily, w @ rows, **tolerance)
    torch.testing.assert_close(flat(jacobian.rows(), jacobian.parameters, (K,)), rows, **tolerance)
    torch.testing.assert_close(flat(jacobian.pull(w), jacobian.parameters), w @ rows, **tolerance)
    gramian = jacobian.gramian()
    assert gramian.dtype == torch.float64
    torch.testing.assert_close(gramian, rows @ rows.T, rtol=1e-4, atol=1e-5 * float((rows @ rows.T).max()))
    expected = [sum(w[k] * heads[k][i].double() for k in range(K)) for i in range(len(heads[0]))]
    found = {id(p): g for p, g in zip(jacobian.heads, jacobian.head_gradients(w), strict=True)}
    for parameter, gradient in zip(net.heads.parameters(), expected, strict=True):
        torch.testing.assert_close(found[id(parameter)].double(), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", [sequential, batched])
def test_accumulate_adds_and_leaves_unused_parameters_alone(engine):
    net = Net("idle")
    rows, _ = by_rows(net)
    w, ones = torch.tensor([1.0, 0.5, 2.0]).double(), torch.ones(3).double()
    for weights in (w, ones):  # unequal and equal to the heads' weights: two paths
        for with_rows in (True, False):
            net.zero_grad()
            for _ in range(2):
                jacobian = made(net, engine)
                if with_rows:
                    jacobian.rows()
                jacobian.accumulate(weights, ones)
            grads = [torch.zeros(0) if p.grad is None else p.grad.flatten() for p in net.trunk.used.parameters()]
            expected = (2 * weights @ rows)[: grads[0].numel() + grads[1].numel()]
            torch.testing.assert_close(torch.cat(grads).double(), expected, rtol=1e-4, atol=1e-4)
            assert net.trunk.unused.weight.grad is None
            assert net.trunk.frozen.weight.grad is None


def test_batched_in_chunks_is_the_same():
    net = Net("mlp")
    whole = flat(made(net, batched).rows(), list(net.trunk.parameters()), (K,))
    for chunk in (1, 2, 3, 5):
        part = made(net, lambda *a, chunk=chunk: batched(*a, chunk_size=chunk))
        torch.testing.assert_close(flat(part.rows(), list(net.trunk.parameters()), (K,)), whole)
    with pytest.raises(OptionError, match="chunk_size"):
        batched(net.losses(), net.trunk, chunk_size=0)


def test_rows_are_made_once_and_lazily():
    net, calls = Net("mlp"), []
    net.trunk[0].weight.register_hook(lambda g: calls.append(1))
    jacobian = made(net, sequential)
    assert not calls
    jacobian.gramian()
    jacobian.gramian()
    jacobian.pull(torch.ones(K))
    assert len(calls) == K


def test_losses_and_shared_in_every_form():
    net = Net("mlp")
    reference = flat(made(net, sequential).rows(), list(net.trunk.parameters()), (K,))
    losses = [
        lambda: net.losses(),
        lambda: tuple(net.losses()),
        lambda: dict(zip("abc", net.losses(), strict=True)),
        lambda: torch.stack(net.losses()),
    ]
    shared = [
        lambda: net.trunk,
        lambda: list(net.trunk.parameters()),
        lambda: net.trunk.parameters(),
        lambda: net.trunk.named_parameters(),
        lambda: dict(net.trunk.named_parameters()),
    ]
    for make_losses in losses:
        for make_shared in shared:
            for engine in (sequential, batched):
                jacobian = engine(make_losses(), make_shared())
                found = flat(jacobian.rows(), jacobian.parameters, (K,))
                torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5)  # float32, summed in another order
    assert sequential(losses[2](), net.trunk).names == ("a", "b", "c")


def test_gramian_keeps_what_float32_would_lose():
    """Nearly parallel gradients: the difference lives in the last digits."""
    base = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(4000, requires_grad=True)
    rows = torch.cat([base, base + 1e-4 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))])
    g = sequential([row @ x for row in rows], x).gramian()
    exact = rows.double() @ rows.double().T
    smallest, expected = np.linalg.eigvalsh(g.numpy())[0], np.linalg.eigvalsh(exact.numpy())[0]
    assert smallest == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("engine", [sequential, batched])
def test_bad_losses_are_refused(engine):
    net = Net("mlp")
    good = net.losses()
    with pytest.raises(ShapeError, match=r"shape \(6,\)"):
        engine([good[0], net.trunk(torch.randn(6, 5))[:, 0]], net.trunk)
    with pytest.raises(ShapeError, match=r"shape \(\)"):
        engine(good[0], net.trunk)
    with pytest.raises(ShapeError, match="no losses"):
        engine([], net.trunk)
    with pytest.raises(ShapeError, match="float"):
        engine([good[0], 1.0], net.trunk)
    with pytest.raises(NonFiniteError, match="'1' = nan"):
        engine([good[0], good[1] * float("nan")], net.trunk)
    with pytest.raises(NonFiniteError, match="'depth' = inf"):
        engine({"seg": good[0], "depth": good[1] * float("inf")}, net.trunk)
    with pytest.raises(EngineError, match="does not require grad"):
        engine([good[0], good[1].detach()], net.trunk)
    with pytest.raises(EngineError, match="several devices"):
        engine([good[0], torch.zeros((), device="meta", requires_grad=True)], net.trunk)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("engine", [sequential, batched])
def test_bad_shared_parameters_are_refused(engine):
    net = Net("mlp")
    with pytest.raises(EngineError, match="none of the 3 losses reaches"):
        engine(net.losses(), nn.Linear(3, 3)).rows()
    with pytest.raises(EngineError, match="none of the 3 losses reaches"):
        engine(net.losses(), nn.Linear(3, 3)).accumulate(torch.ones(3), torch.ones(3))
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(EngineError, match="no parameter"):
        engine(net.losses(), [])
    with pytest.raises(EngineError, match="str"):
        engine(net.losses(), ["weight"])
    with pytest.raises(EngineError, match="computed"):
        engine(net.losses(), [net.trunk(torch.randn(2, 5))])
    with pytest.raises(EngineError, match="complex"):
        engine(net.losses(), [torch.zeros(2, dtype=torch.complex64, requires_grad=True)])
    losses = net.losses()
    net.trunk.requires_grad_(False)
    with pytest.raises(EngineError, match="frozen"):
        engine(losses, net.trunk)


def test_autograd_errors_name_the_remedy():
    net = Net("mlp")
    losses = net.losses()
    sequential(losses, net.trunk).rows()
    with pytest.raises(EngineError, match="compute the losses anew"):
        sequential(losses, net.trunk).rows()

    inner, head = nn.Linear(5, 8), nn.Linear(8, 1)
    x = torch.randn(4, 5, requires_grad=True)

    def losses(*, use_reentrant):
        z = torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=use_reentrant)
        return [head(z).mean(), head(z).square().mean()]

    for engine, options in ((batched, {}), (sequential, {"lean": True}), (batched, {"lean": True})):
        with pytest.raises(EngineError, match="checkpoint"):
            engine(losses(use_reentrant=True), inner, **options).gramian()
    hidden = sequential(losses(use_reentrant=True), inner).gramian()  # by real backwards
    assert inner.weight.grad is None
    torch.testing.assert_close(hidden, sequential(losses(use_reentrant=False), inner).gramian(), rtol=1e-6, atol=0)


class Unbatchable(torch.autograd.Function):
    """An operation whose backward calls .item(), which no vmap can follow."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * (2.0 if g.sum().item() < 1e30 else 1.0)


def test_batched_names_what_it_cannot_do():
    x = torch.ones(3, requires_grad=True)
    losses = [Unbatchable.apply(x).sum(), Unbatchable.apply(x).square().sum()]
    with pytest.raises(EngineError, match="engine='sequential'"):
        batched(losses, x).rows()
    assert sequential([Unbatchable.apply(x).sum()], x).gramian()[0, 0] == pytest.approx(12.0)


def test_weights_must_fit():
    net = Net("mlp")
    with pytest.raises(ShapeError, match=r"\(2,\) for 3 tasks"):
        sequential(net.losses(), net.trunk).pull([1.0, 2.0])
