"""Checks of what a step writes to ``.grad`` and says about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accord import jacobian
from accord.balancers import Balance, Balancer
from accord.errors import OptionError
from accord.testing.contract import TASKS, Row, check
from accord.testing.expect import close, finite, refused, require
from accord.testing.problems import (
    Net,
    advance,
    backward,
    flat,
    gradients,
    head_factors,
    optimizer_of,
    task_gradients,
    tell,
    train,
)

ENGINES = tuple(jacobian.ENGINES)
STEPS = 4


@check
def shapes(row: Row) -> None:
    """The balance holds K weights and losses, detached, and .grad has the parameters' shapes."""
    net, balancer = Net(), row.make()
    losses = net.losses(0)
    balance = backward(balancer, net, 0)
    require(balance.tasks == TASKS, f"the balance's tasks are {balance.tasks}, not {TASKS}")
    for name in ("weights", "losses"):
        value = getattr(balance, name)
        require(value.shape == (len(TASKS),), f"{name} has shape {tuple(value.shape)}, not ({len(TASKS)},)")
        require(value.dtype == torch.float64, f"{name} is {value.dtype}, not float64")
        require(value.device.type == "cpu" and not value.requires_grad, f"{name} is not detached on the CPU")
    close(balance.losses, torch.stack(list(losses.values())).detach(), "the balance's losses")
    require(balance.loss.shape == () and not balance.loss.requires_grad, "loss is not a detached scalar")
    require(balance.scale > 0, f"scale = {balance.scale} is not positive")
    if balance.gramian is not None and balancer.needs != "cross-gramian":
        rows = task_gradients(losses.values(), net.trunk.parameters())
        close(balance.gramian, rows @ rows.T, "the Gramian")
    for name, parameter in net.named_parameters():
        require(parameter.grad is not None, f"{name} has no gradient")
    require(balancer.steps == 1, f"steps = {balancer.steps} after one step")


@check
def weights_describe_gradients(row: Row) -> None:
    """What is written to the shared parameters is scale · Jᵀw, at every step."""
    net, balancer = Net(), row.make()
    optimizer = optimizer_of(balancer, net)
    for step in range(STEPS):
        rows = task_gradients(net.losses(step).values(), net.trunk.parameters())
        optimizer.zero_grad()
        balance = backward(balancer, net, step)
        found = flat(net.trunk)
        if balancer.needs == "rows":  # no weights describe the method
            finite([found], "the gradient")
        else:
            close(found, balance.scale * balance.weights @ rows, f"the shared gradient of step {step}", rtol=1e-5)
        advance(optimizer, net)
        tell(balancer, net, step)


@check
def heads(row: Row) -> None:
    """Each head gets its own task's gradient times one number: the task's weight where heads are weighted."""
    net, balancer = Net(), row.make()
    weighted = balancer.needs == "losses" or getattr(balancer, "heads", "") == "weighted"
    balance = backward(balancer, net, 0)
    factors = balance.weights if weighted else head_factors(net, 0)
    for name, head, loss, factor in zip(TASKS, net.heads, net.losses(0).values(), factors, strict=True):
        own = task_gradients([loss], head.parameters())[0]
        close(flat(head), factor * own, f"the gradient of the head of {name!r}", rtol=1e-5)


@check
def accumulates(row: Row) -> None:
    """Gradients are added to those that are there."""
    net, other = Net(), Net()
    balancer, reference = row.make(), row.make()
    backward(reference, other, 0)
    for parameter in (*net.parameters(), *balancer.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5)
    backward(balancer, net, 0)
    for found, alone in zip(gradients(net, balancer), gradients(other, reference), strict=True):
        if found is not None:
            close(found, 0.5 + (0.0 if alone is None else alone), "a gradient added to 0.5", rtol=1e-5, atol=1e-6)


@check
def engines(row: Row) -> None:
    """All engines give the same numbers, and so does a function in their place."""
    wanted = _weights_and_gradients(row, "sequential")
    for engine in (*ENGINES[1:], "sequential:lean=true", jacobian.sequential):
        found = _weights_and_gradients(row, engine)
        for a, b in zip(found, wanted, strict=True):
            close(a, b, f"a number with engine={engine!r} in the place of 'sequential'", rtol=1e-5, atol=1e-7)


@check
def features(row: Row) -> None:
    """features= balances at the representation, whatever the engine, and goes back through the trunk once."""
    for engine in ENGINES:
        net, balancer = Net(), row.make()
        optimizer, passes = optimizer_of(balancer, net), []
        handle = next(net.trunk.parameters()).register_hook(passes.append)
        for step in range(STEPS):
            optimizer.zero_grad()
            losses, z = net(step)
            at_z = task_gradients(losses.values(), [z])
            passes.clear()
            balance = balancer.backward(losses, features=z, engine=engine)
            require(len(passes) == 1, f"engine={engine!r} went back through the trunk {len(passes)} times, not once")
            if balance.gramian is not None:
                close(balance.gramian, at_z @ at_z.T, "the Gramian at the representation")
            _check_against_weighted_sum(balancer, balance, net, step)
            advance(optimizer, net)
            tell(balancer, net, step)
        handle.remove()


@check
def scalar_entry(row: Row) -> None:
    """balancer(losses, shared) is a scalar with the gradient of backward; heads are weighted in it."""
    options: list[dict[str, Any]] = [{"by": "shared"}, {"by": "features"}]
    if row.make().needs == "rows":
        net = Net()
        refused(lambda: row.make()(net.losses(0), net.trunk), OptionError, "a scalar of a method without weights")
        return
    if row.make().needs == "losses" and getattr(row.make(), "max_norm", None) is None:
        options.append({"by": "losses"})
    for option in options:
        net, other, balancer, reference = Net(), Net(), row.make(), row.make()
        for step in range(STEPS):
            _clear(net, other, balancer, reference)
            losses, z = other(step)
            at = {"features": z} if option["by"] == "features" else {"shared": other.trunk}
            balance = reference.backward(losses, **at)
            losses, z = net(step)
            at = {"features": z} if option["by"] == "features" else {"shared": net.trunk}
            scalar = balancer(losses, **({} if option["by"] == "losses" else at))
            require(scalar.shape == (), f"balancer(losses) has shape {tuple(scalar.shape)}, not ()")
            require(not any(g is not None and g.any() for g in gradients(net)), "balancer(losses) wrote to .grad")
            weighted = [
                balance.scale * w * loss for w, loss in zip(balance.weights, net.losses(step).values(), strict=True)
            ]
            wanted = torch.autograd.grad(sum(weighted, torch.zeros(())), list(net.heads.parameters()))
            scalar.backward()
            what = f"with {option['by']} at step {step}"
            close(flat(net.trunk), flat(other.trunk), f"the scalar's shared gradient {what}", rtol=1e-5)
            close([p.grad for p in net.heads.parameters()], list(wanted), f"a head's gradient {what}", rtol=1e-5)
            close(gradients(balancer), gradients(reference), f"the balancer's own gradients {what}", rtol=1e-5)
            for trained, told in ((net, balancer), (other, reference)):
                tell(told, trained, step)


@check
def own_memory(row: Row) -> None:
    """No two gradients share memory, so that adding to one leaves the others alone."""
    data = torch.tensor([1.0, 2.0, 3.0])
    for engine in ENGINES:
        shared = [nn.Parameter(torch.ones(3)) for _ in range(2)]
        own = [nn.Parameter(torch.ones(3)) for _ in range(2)]
        leaves = [*shared, *own]
        balancer, once = row.make(2), []
        for times in (0, 1, 2):  # a training step, then one step with its weights, then two such
            for parameter in leaves:
                parameter.grad = None
            balancer.train(times == 0)
            for _ in range(max(times, 1)):
                z, head = (shared[0] + shared[1]) * data, own[0] + own[1]  # autograd gives both terms one gradient
                losses = [(z + head).square().mean(), ((z - 1).square() + head.expand(2, 3)).mean()]
                balancer.backward(losses, shared, engine=engine)
            found = [parameter.grad for parameter in leaves if parameter.grad is not None]
            require(len({g.data_ptr() for g in found}) == len(leaves), f"engine={engine!r}: gradients share memory")
            if times == 1:
                once = [g.clone() for g in found]
            elif times == 2:
                close(found, [2 * g for g in once], "gradients of two steps alike", rtol=1e-5, atol=1e-6)


def _check_against_weighted_sum(balancer: Balancer, balance: Balance, net: Net, step: int) -> None:
    """All gradients through the representation are those of the weighted sum of the losses."""
    found = flat(net.trunk)
    if balancer.needs == "rows":
        finite([found], "the trunk's gradient")
        return
    wanted = task_gradients(net.losses(step).values(), net.trunk.parameters())
    close(found, balance.scale * balance.weights @ wanted, f"the trunk's gradient of step {step}", rtol=1e-5)


def _weights_and_gradients(row: Row, engine: Any) -> list[Tensor]:
    net, balancer = Net(), row.make()
    weights = train(balancer, net, range(STEPS), engine=engine)
    return [weights, *(g for g in gradients(net, balancer) if g is not None)]


def _clear(*modules: nn.Module) -> None:
    for module in modules:
        module.zero_grad()
