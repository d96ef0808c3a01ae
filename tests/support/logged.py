"""Balances and diagnoses to log."""

import torch

import accord
from accord.diagnostics import Log, diagnose
from support.nets import Net

NAMES = ["seg", "depth", "normal"]


def steps(method="nash-mtl", count=3, **options):
    """The balances of some steps of training."""
    net, balancer = Net(), accord.make(method, tasks=NAMES, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for step in range(count):
        optimizer.zero_grad()
        losses = net.losses(step)
        yield balancer.backward(dict(zip(NAMES, losses, strict=True)), net.trunk)
        optimizer.step()


def diagnosis(step=0):
    net = Net()
    return diagnose(net, dict(zip(NAMES, net.losses(step), strict=True)), methods=["ls", "nash-mtl", "graddrop"])


def write(path, wanted, **options):
    """A log of the given steps, with one balance for all of them."""
    balance = next(iter(steps(count=1)))
    with Log(path, **options) as log:
        for step in wanted:
            log(balance, step)
