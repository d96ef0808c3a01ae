"""The small problems the contract is checked on: a network that trains, and gradients that are given outright.

Nothing here draws from a global generator.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from accord.balancers import Balance, Balancer
from accord.testing.contract import TASKS, Row

BATCH, INPUTS, WIDTH = 6, 4, 6
OTHER_BATCH = 1000  # where the batches begin that are given as second=


class Net(nn.Module):
    """A small trunk with one head a task; the losses are positive, of several sizes, and change with the step.

    Args:
        tasks: Names of the tasks.
        seed: Of the initial parameters.
        dtype: Of the parameters and the data.
    """

    def __init__(self, tasks: Sequence[str] = TASKS, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        generator = torch.Generator().manual_seed(seed)
        self.trunk = nn.Sequential(_linear(INPUTS, WIDTH, generator), nn.Tanh(), _linear(WIDTH, WIDTH, generator))
        self.heads = nn.ModuleList(_linear(WIDTH, 1, generator) for _ in self.tasks)
        self.to(dtype)
        self.dtype = dtype

    def forward(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """The losses by task, and the representation (B, WIDTH) that they share."""
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(BATCH, INPUTS, generator=generator, dtype=torch.float64)
        y = torch.randn(BATCH, len(self.tasks), generator=generator, dtype=torch.float64)
        z = self.trunk(x.to(self.dtype))
        columns = y.to(self.dtype).unbind(1)
        losses = {
            name: 3.0 ** (k % 3) * (head(z)[:, 0] - column).square().mean() + 0.1
            for k, (name, head, column) in enumerate(zip(self.tasks, self.heads, columns, strict=True))
        }
        return losses, z

    def losses(self, step: int) -> dict[str, Tensor]:
        """The losses alone."""
        return self(step)[0]


def backward(balancer: Balancer, net: Net, step: int, *, by: str = "shared", engine: str = "sequential") -> Balance:
    """``balancer.backward`` on one batch, with a second one for the methods that take it.

    Args:
        balancer: The balancer.
        net: The network.
        step: Which batch.
        by: ``"shared"`` or ``"features"``.
        engine: The engine.
    """
    losses, z = net(step)
    if by == "features":
        return balancer.backward(losses, features=z, engine=engine)
    if balancer.needs == "cross-gramian":
        return balancer.backward(losses, net.trunk, second=net.losses(step + OTHER_BATCH), engine=engine)
    return balancer.backward(losses, net.trunk, engine=engine)


def optimizer_of(balancer: Balancer, net: Net) -> torch.optim.Optimizer:
    """SGD on the network and on the balancer's own parameters."""
    return torch.optim.SGD([*net.parameters(), *balancer.parameters()], lr=0.05)


def advance(optimizer: torch.optim.Optimizer, net: Net) -> None:
    """One step, with the network's gradient clipped so that no method's weights can make the training diverge."""
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def train(
    balancer: Balancer,
    net: Net,
    steps: Iterable[int],
    *,
    told: bool = True,
    step_of: Callable[..., Balance] = backward,
    **options: Any,
) -> Tensor:
    """A training loop as users write it.

    Args:
        balancer: The balancer.
        net: The network; the gradients of the last step stay on it.
        steps: Which batches.
        told: Whether ``after_step`` is called.
        step_of: What is done in the place of ``backward``.
        **options: For it.

    Returns:
        The weights, shape (steps, K).
    """
    optimizer, seen = optimizer_of(balancer, net), []
    for step in steps:
        optimizer.zero_grad()
        seen.append(step_of(balancer, net, step, **options).weights)
        advance(optimizer, net)
        if told:
            tell(balancer, net, step)
    return torch.stack(seen) if seen else torch.zeros(0, balancer.num_tasks, dtype=torch.float64)


def tell(balancer: Balancer, net: Net, step: int) -> None:
    """``after_step`` with the batch's losses after the optimiser's step."""
    balancer.after_step(lambda: net.losses(step))


def gradients(*modules: nn.Module) -> list[Tensor | None]:
    """Copies of all ``.grad``."""
    return [None if p.grad is None else p.grad.clone() for module in modules for p in module.parameters()]


def task_gradients(losses: Iterable[Tensor], leaves: Iterable[Tensor], *, keep: bool = True) -> Tensor:
    """The rows (K, P) of the Jacobian in float64, by plain autograd, one task after another.

    Args:
        losses: The losses.
        leaves: What they are differentiated with respect to.
        keep: Whether the graph is kept.
    """
    losses, leaves = list(losses), list(leaves)
    rows = []
    for k, loss in enumerate(losses):
        more = keep or k < len(losses) - 1
        found = torch.autograd.grad(loss, leaves, retain_graph=more, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten().double() for g in found]))
    return torch.stack(rows)


def head_factors(net: Net, step: int) -> Tensor:
    """By how much each head's ``.grad`` is its own task's gradient, shape (K,)."""
    losses = net.losses(step).values()
    own = [task_gradients([loss], head.parameters())[0] for loss, head in zip(losses, net.heads, strict=True)]
    found = [flat(head) for head in net.heads]
    return torch.stack([a @ b / (b @ b) for a, b in zip(found, own, strict=True)])


def flat(module: nn.Module) -> Tensor:
    """All ``.grad`` in one float64 vector."""
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).double()


def saved(*modules: nn.Module) -> bytes:
    """All modules' ``state_dict`` as a file."""
    buffer = io.BytesIO()
    torch.save([module.state_dict() for module in modules], buffer)
    return buffer.getvalue()


def load(blob: bytes, *modules: nn.Module) -> None:
    """Load what ``saved`` gave, as data only."""
    for module, state in zip(modules, torch.load(io.BytesIO(blob), weights_only=True), strict=True):
        module.load_state_dict(state)


@dataclass(frozen=True)
class Stream:
    """T steps of K losses whose gradients are given outright.

    Attributes:
        rows: The gradients, shape (T, K, P).
        second: Those of a second batch, shape (T, K, P).
        values: The losses, shape (T, K), positive.
        after: The losses after each step, shape (T, K), positive.
    """

    rows: Tensor
    second: Tensor
    values: Tensor
    after: Tensor

    @property
    def num_tasks(self) -> int:
        """K."""
        return self.rows.shape[1]

    def ordered(self, order: Sequence[int]) -> Stream:
        """The tasks in another order."""
        index = list(order)
        return Stream(self.rows[:, index], self.second[:, index], self.values[:, index], self.after[:, index])

    def scaled(self, factor: float) -> Stream:
        """All gradients times a factor, at the same losses."""
        return replace(self, rows=factor * self.rows, second=factor * self.second)


def stream(kind: str = "random", *, tasks: int = 4, size: int = 12, steps: int = 5, seed: int = 0) -> Stream:
    """A stream of gradients.

    Args:
        kind: ``"random"``; ``"conflicting"``, where the first gradient nearly undoes all the others; ``"spread"``, with
            norms over four orders of magnitude; ``"integer"``, small integers and quarters, exact in any dtype.
        tasks: K.
        size: P.
        steps: T.
        seed: Of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, second = torch.randn(2, steps, tasks, size, generator=generator, dtype=torch.float64)
    quarters = torch.randint(2, 17, (2, steps, tasks), generator=generator, dtype=torch.float64)
    if kind == "conflicting" and tasks > 1:
        rows[:, 0] = 0.3 * rows[:, 0] - rows[:, 1:].sum(1)
        second[:, 0] = 0.3 * second[:, 0] - second[:, 1:].sum(1)
    elif kind == "spread":
        norms = torch.logspace(-2, 2, tasks, dtype=torch.float64)[:, None]
        rows, second = rows * norms, second * norms
    elif kind == "integer":
        rows, second = (2 * rows).round(), (2 * second).round()
    return Stream(rows, second, *(quarters / 4))


@dataclass(frozen=True)
class Played:
    """What a balancer made of a stream.

    Attributes:
        weights: Shape (T, K).
        directions: What it wrote to ``.grad``, shape (T, P).
        outcomes: One a step.
    """

    weights: Tensor
    directions: Tensor
    outcomes: list[str]


def play(balancer: Balancer, given: Stream, *, dtype: torch.dtype = torch.float64) -> Played:
    """Run a balancer over a stream; its own parameters, if it has any, are trained."""
    own = list(balancer.parameters())
    optimizer = torch.optim.SGD(own, lr=0.05) if own else None
    weights, directions, outcomes = [], [], []
    for rows, second, values, after in zip(given.rows, given.second, given.values, given.after, strict=True):
        x = torch.zeros(rows.shape[1], dtype=dtype, requires_grad=True)
        losses = rows.to(dtype) @ x + values.to(dtype)  # (K,)
        other = second.to(dtype) @ x + values.to(dtype) if balancer.needs == "cross-gramian" else None
        if optimizer is not None:
            optimizer.zero_grad()
        balance = balancer.backward(losses, [x], second=other)
        if optimizer is not None:
            optimizer.step()
        balancer.after_step(after)
        weights.append(balance.weights)
        directions.append(torch.zeros_like(x) if x.grad is None else x.grad.clone())
        outcomes.append(balance.outcome)
    return Played(torch.stack(weights), torch.stack(directions), outcomes)


def trained(row: Row, steps: int = 3, **options: Any) -> tuple[Balancer, Net]:
    """A balancer and a network after some steps."""
    balancer, net = row.make(), Net()
    train(balancer, net, range(steps), **options)
    return balancer, net


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
    layer = skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / inputs**0.5)
    return layer
