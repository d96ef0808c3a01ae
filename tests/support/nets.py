"""A small multi-task network in float64, and two of them trained side by side: by a balancer, and by its definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A trunk and K heads; the losses are positive, differ in scale and depend on the step."""

    def __init__(self, tasks: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.num_tasks = tasks
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
            self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(tasks)).double()

    @property
    def shared(self) -> list[Tensor]:
        return list(self.trunk.parameters())

    def features(self, step: int = 0) -> Tensor:
        return self.trunk(self._draw(step)[0])  # (8, 5)

    def losses(self, step: int = 0, features: Tensor | None = None) -> list[Tensor]:
        z = self.features(step) if features is None else features
        y = self._draw(step)[1]
        return [
            (head(z)[:, 0] - y[:, k]).square().mean() * 2.5 ** (k - 1) + 0.01 * (k + 1)
            for k, head in enumerate(self.heads)
        ]

    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        options = {"generator": generator, "dtype": torch.float64}
        return torch.randn(8, 4, **options), torch.randn(8, self.num_tasks, **options)


class Branched(nn.Module):
    """A trunk with two outputs of different shapes; the tasks use one, the other, or both."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.stem, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 4), nn.Conv1d(1, 2, 3)
            self.heads = nn.ModuleList(nn.Linear(n, 1) for n in (4, 8, 12))
        self.double()

    def features(self) -> tuple[Tensor, Tensor]:
        x = torch.randn(7, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        h = self.stem(x).tanh()
        return self.left(h).tanh(), self.right(h[:, None])  # (7, 4), (7, 2, 4)

    def losses(self, one: Tensor, two: Tensor) -> list[Tensor]:
        inputs = (one, two.flatten(1), torch.cat([one, two.flatten(1)], 1))
        return [(head(i) - k).square().mean() for k, (head, i) in enumerate(zip(self.heads, inputs, strict=True))]

    @property
    def shared(self) -> list[Tensor]:
        return [*self.stem.parameters(), *self.left.parameters(), *self.right.parameters()]


Loop = Callable[[Net, int], Any]
"""One step's gradients: takes the network and the step, fills ``.grad``."""


def side_by_side(
    own: Loop,
    reference: Loop,
    *,
    steps: int,
    tasks: int = 3,
    lr: float = 0.05,
    own_parameters: Iterable[Tensor] = (),
    reference_parameters: Iterable[Tensor] = (),
    after: Callable[[Net, int], Any] | None = None,
    reference_after: Callable[[Net, int], Any] | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-11,
) -> tuple[Net, Net]:
    """Train two copies of a network for some steps; all parameters must stay equal."""
    a, b = Net(tasks), Net(tasks)
    mine, theirs = list(own_parameters), list(reference_parameters)
    first = torch.optim.SGD([*a.parameters(), *mine], lr=lr)
    second = torch.optim.SGD([*b.parameters(), *theirs], lr=lr)
    for step in range(steps):
        for net, loop, optimizer, then in ((a, own, first, after), (b, reference, second, reference_after)):
            optimizer.zero_grad()
            loop(net, step)
            optimizer.step()
            if then is not None:
                then(net, step)
        for x, y in zip([*a.parameters(), *mine], [*b.parameters(), *theirs], strict=True):
            torch.testing.assert_close(x, y.to(x), rtol=rtol, atol=atol, msg=lambda m, s=step: f"step {s}: {m}")
    assert not torch.equal(a.trunk[0].weight, Net(tasks).trunk[0].weight)
    return a, b


def rows_of(losses: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """J, shape (K, P): the gradient of each loss, flat, by plain autograd."""
    rows = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def gramian_of(losses: Sequence[Tensor], inputs: Sequence[Tensor]) -> np.ndarray:
    """JJᵀ, shape (K, K)."""
    rows = rows_of(losses, inputs).detach().double().numpy()
    return rows @ rows.T


def write(inputs: Sequence[Tensor], flat: Tensor | np.ndarray) -> None:
    """Put a flat gradient (P,) into the ``.grad`` of its parameters."""
    pieces = torch.as_tensor(flat).split([p.numel() for p in inputs])
    for p, piece in zip(inputs, pieces, strict=True):
        p.grad = piece.reshape(p.shape).to(p.dtype).clone()


def write_heads(net: Net, losses: Sequence[Tensor], weights: Sequence[float] | np.ndarray) -> None:
    """Each head's own gradient times its task's weight."""
    for loss, head, weight in zip(losses, net.heads, weights, strict=True):
        own = list(head.parameters())
        for p, g in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
            p.grad = float(weight) * g


def flat_grad(parameters: Iterable[Tensor]) -> Tensor:
    """The ``.grad`` of parameters as one vector, shape (P,)."""
    return torch.cat([p.grad.flatten() for p in parameters])


def grads(net: nn.Module) -> list[Tensor | None]:
    """A copy of every parameter's ``.grad``."""
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def assert_same_grads(a: nn.Module, b: nn.Module, *, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    """All gradients of two networks are equal."""
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def counted(parameters: Sequence[Tensor]) -> list[int]:
    """How often a gradient arrived at each of the parameters."""
    counts = [0] * len(parameters)

    def hook(i: int) -> Callable[[Tensor], None]:
        def arrived(_: Tensor) -> None:
            counts[i] += 1

        return arrived

    for i, p in enumerate(parameters):
        p.register_hook(hook(i))
    return counts


def through_the_trunk(
    losses: Sequence[Tensor], z: Sequence[Tensor], weights: Sequence[float], shared: Sequence[Tensor]
) -> Tensor:
    """Σ w_k dl_k/dz, back through the trunk by hand: shape (P,)."""
    cotangents = [
        sum(
            float(w) * torch.autograd.grad(loss, f, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
            for w, loss in zip(weights, losses, strict=True)
        )
        for f in z
    ]
    return torch.cat([g.flatten() for g in torch.autograd.grad(z, shared, cotangents, retain_graph=True)])


def project_by_bisection(x: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex: max(x − θ, 0) with θ found by bisection on the sum."""
    low, high = x.min() - 1.0, x.max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(x - middle, 0.0).sum() > 1.0 else (low, middle)
    return np.maximum(x - 0.5 * (low + high), 0.0)
