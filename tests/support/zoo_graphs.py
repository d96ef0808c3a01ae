"""Models of the zoo that differ in their graphs: what is tied, skipped, hooked, hidden, or reached by some tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.zoo_layers import BATCH, TASKS, WIDTH, Applied, Problem, drawn, headed, mlp


def tied_trunk() -> Problem:
    one, two, last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, WIDTH)
    two.weight = one.weight
    return headed(nn.Sequential(one, nn.Tanh(), two, nn.Tanh(), last), drawn(BATCH, 5))


def tied_head() -> Problem:
    """A trunk's weight is used by the head of task 0 as well: it is shared, and its row holds both parts."""
    trunk, head = nn.Linear(5, WIDTH).double(), nn.Linear(WIDTH, 1).double()
    x = drawn(BATCH, 5)

    def losses() -> list[Tensor]:
        z = trunk(x).tanh()
        return [(z @ trunk.weight).square().mean(), 3 * (head(z) - 1).square().mean()]

    return Problem(losses, trunk, list(head.parameters()))


def unreached_task() -> Problem:
    whole = mlp()
    alone = nn.Linear(3, 1).double()
    x = drawn(BATCH, 3)
    return Problem(lambda: [*whole.losses(), alone(x).exp().mean()], whole.shared, [*whole.heads, *alone.parameters()])


def two_trunks() -> Problem:
    left, right = (nn.Linear(5, WIDTH).double() for _ in range(2))
    heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(TASKS)).double()
    x = drawn(BATCH, 5)

    def losses() -> list[Tensor]:
        a, b = left(x).tanh(), right(x).sin()
        return [head(z).square().mean() for head, z in zip(heads, (a, b, a * b), strict=True)]

    return Problem(losses, nn.ModuleList([left, right]), list(heads.parameters()))


def residual() -> Problem:
    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for layer in layers:
            x = x + layer(x).relu()
        return x

    return headed(Applied(run, *(nn.Linear(WIDTH, WIDTH) for _ in range(4))), drawn(BATCH, WIDTH))


def checkpointed(reentrant: bool, *, p: float = 0.0) -> Problem:
    """The middle of the trunk is computed again in the backward pass; so is its dropout, where there is any."""
    block = nn.Sequential(nn.Linear(7, 7), nn.Tanh(), *([nn.Dropout(p)] if p else []), nn.Linear(7, 7))

    def run(x: Tensor, first: nn.Module, block: nn.Module, last: nn.Module) -> Tensor:
        return last(checkpoint(block, first(x).tanh(), use_reentrant=reentrant))

    return headed(Applied(run, nn.Linear(5, 7), block, nn.Linear(7, WIDTH)), drawn(BATCH, 5))


def reused() -> Problem:
    def run(x: Tensor, layer: nn.Module, last: nn.Module) -> Tensor:
        for _ in range(3):
            x = layer(x).tanh()
        return last(x)

    return headed(Applied(run, nn.Linear(5, 5), nn.Linear(5, WIDTH)), drawn(BATCH, 5))


def direct() -> Problem:
    """Shared parameters stand in the losses themselves; the first loss is one of them."""
    p = nn.Parameter(drawn(1, seed=3).squeeze())  # ()
    q, r = nn.Parameter(drawn(4, seed=4)), nn.Parameter(drawn(2, 3, seed=5))
    return Problem(lambda: [p, q.square().sum() - p, (p * q).cos().sum() + r.sum()], [p, q, r], [])


def hooks() -> Problem:
    """Hooks on a representation, on a parameter and on a module, each of which scales the gradient."""

    def run(x: Tensor, one: nn.Module, two: nn.Module, three: nn.Module) -> Tensor:
        h = one(x).tanh()
        h.register_hook(lambda g: 2 * g)
        return three(two(h).tanh())

    one, two, three = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, WIDTH)
    whole = headed(Applied(run, one, two, three), drawn(BATCH, 5))
    three.weight.register_hook(lambda g: 3 * g)
    two.register_full_backward_hook(lambda module, inner, outer: (0.5 * inner[0],))
    return whole


def heads_shared() -> Problem:
    """Task 1 works on the output of task 0's head, and two entries of the list are one loss; an input has a grad."""
    trunk, one, two = nn.Linear(5, WIDTH).double(), nn.Linear(WIDTH, 2).double(), nn.Linear(2, 1).double()
    x = drawn(BATCH, 5).requires_grad_()

    def losses() -> list[Tensor]:
        y = one(trunk(x).tanh())
        first = y.square().mean()
        return [first, two(y.tanh()).exp().mean(), first]

    return Problem(losses, trunk, [x, *one.parameters(), *two.parameters()])


def two_dtypes() -> Problem:
    """A float32 head on a float64 trunk: one loss of three is float32."""
    whole = mlp()
    trunk, head = whole.shared, nn.Linear(WIDTH, 1)
    x = drawn(BATCH, 5)
    return Problem(
        lambda: [*whole.losses()[:2], head(trunk(x).float()).square().mean()],
        whole.shared,
        [*whole.heads[:4], *head.parameters()],
    )


def forces() -> Problem:
    """The second loss holds a derivative with respect to the input, as forces are of an energy."""
    trunk, head = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, WIDTH)).double(), nn.Linear(WIDTH, 1).double()
    x = drawn(BATCH, 5).requires_grad_()

    def losses() -> list[Tensor]:
        energy = head(trunk(x).tanh())
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return [energy.square().mean(), (force - 1).square().mean()]

    return Problem(losses, trunk, [x, *head.parameters()])


def deep(hooked: bool) -> Problem:
    """Eight narrow layers, with a hook that scales the gradient behind every second one, and one that only looks."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for i, layer in enumerate(layers):
            x = layer(x).tanh()
            if hooked and i % 2:
                x.register_hook(lambda g, i=i: (1.5 + i) * g)
            elif hooked:
                x.register_hook(lambda g: None)
        return x

    return headed(Applied(run, *(nn.Linear(WIDTH, WIDTH) for _ in range(8))), drawn(BATCH, WIDTH))


def tied_far() -> Problem:
    """The second layer of eight is the sixth as well, and the last one's bias is that of the first."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for layer in layers:
            x = layer(x).tanh()
        return x

    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(8)]
    layers[5] = layers[1]
    layers[7].bias = layers[0].bias
    return headed(Applied(run, *layers), drawn(BATCH, WIDTH))


def node_hooks() -> Problem:
    """Hooks on the nodes of the graph, before and after them, and on modules: the output's gradient and the input's."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for i, layer in enumerate(layers):
            x = layer(x).tanh()
            if i == 1:
                x.grad_fn.register_prehook(lambda outer: tuple(3 * g for g in outer))
            elif i == 2:
                x.grad_fn.register_hook(lambda inner, outer: tuple(2 * g for g in inner))
        return x

    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(7)]
    layers[4].register_full_backward_hook(lambda module, inner, outer: (0.5 * inner[0],))
    layers[6].register_full_backward_pre_hook(lambda module, outer: (-2 * outer[0],))
    return headed(Applied(run, *layers), drawn(BATCH, WIDTH))


def unet() -> Problem:
    """Skip connections that span the network, from the first layer to the last, and a bottleneck of one number."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        kept = []
        for layer in layers[:2]:
            x = layer(x).tanh()
            kept.append(x)
        x = layers[2](x).sin().expand(-1, WIDTH)
        for layer in layers[3:]:
            x = layer(torch.cat([x, kept.pop()], 1)).tanh()
        return x

    wide = [nn.Linear(2 * WIDTH, WIDTH) for _ in range(2)]
    return headed(Applied(run, *(nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, 1)), *wide), drawn(BATCH, WIDTH))


def dense() -> Problem:
    """Every layer sees all before it."""

    def run(x: Tensor, *layers: nn.Module) -> Tensor:
        for layer in layers:
            x = torch.cat([x, layer(x).tanh()], 1)
        return x[:, -WIDTH:]

    return headed(Applied(run, *(nn.Linear(3 + 3 * i, 3) for i in range(5))), drawn(BATCH, 3))


def early_exits() -> Problem:
    """Task k leaves the trunk after layer k, so that deeper layers have fewer rows."""
    trunk = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4)).double()
    heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(4)).double()
    x = drawn(BATCH, WIDTH)

    def losses() -> list[Tensor]:
        z, found = x, []
        for layer, head in zip(trunk, heads, strict=True):
            z = layer(z).tanh()
            found.append((head(z) - 1).square().mean())
        return found

    return Problem(losses, trunk, list(heads.parameters()))
