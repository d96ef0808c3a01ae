"""What goes wrong on one process goes wrong on all of them, soon, and the next batch can still be trained on."""

import os
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import accord
from accord.errors import AccordError, EngineError, NumericalWarning
from accord.jacobian import MeanRows
from support.processes import Failure, Processes

K, PATIENCE = 3, 15.0
SOON = 6.0  # well before the group's timeout


@pytest.fixture(scope="module")
def pair():
    group = Processes(2, timeout=PATIENCE)
    yield group
    group.close()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk, self.heads = nn.Linear(5, 6), nn.ModuleList(nn.Linear(6, 1) for _ in range(K))
        self.double()

    def forward(self, x):
        z = self.trunk(x).tanh()
        return [head(z)[:, 0] for head in self.heads]


class Spoilt(torch.autograd.Function):
    """Nothing, with a gradient that is not a number, or with none at all."""

    @staticmethod
    def forward(ctx, x, how):
        ctx.how = how
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        if ctx.how == "raises":
            raise RuntimeError("out of something")
        return torch.full_like(gradient, float("nan") if ctx.how == "nan gradient" else 0.0), None


def losses_of(model, step=0):
    generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return [(o - k).square().mean() for k, o in enumerate(model(x))]


def spoil(losses, net, how):
    """One process's losses, as ``how`` says; the other's are as they should be."""
    if how == "nan loss":
        losses[1] = losses[1] * float("nan")
    elif how == "infinite loss":
        losses[1] = losses[1] + float("inf")
    elif how in ("nan gradient", "no gradient", "raises"):
        losses[1] = losses[1] + Spoilt.apply(net.trunk.weight, how).sum()
    elif how == "another K":
        del losses[1]
    elif how == "a vector":
        losses[1] = losses[1].expand(2)
    elif how == "detached":
        losses[1] = losses[1].detach()
    elif how == "not through the trunk":
        losses[:] = [head.weight.square().sum() for head in net.heads]
    return losses


def step_with(how, method="nash-mtl", engine="sequential"):
    """The exception that a step raises, and whether it left ``.grad`` alone; then an ordinary step."""
    net, balancer = Net(), accord.make(method, K)
    model = DistributedDataParallel(net)
    losses = losses_of(model)
    if dist.get_rank() == 1:
        spoil(losses, net, how)
    elif how == "nan gradient":
        spoil(losses, net, "no gradient")  # lean mode needs graphs that are alike
    before = repr(balancer.state_dict())
    try:
        balance = balancer.backward(losses, net.trunk, engine=engine)
        said = (type(balance).__name__, balance.outcome)
    except AccordError as error:
        said = tuple(cls.__name__ for cls in type(error).__mro__), str(error)
    written = [n for n, p in net.named_parameters() if p.grad is not None]
    unchanged = repr(balancer.state_dict()) == before
    net.zero_grad()
    balancer.backward(losses_of(model, 1), net.trunk, engine=engine)
    fresh = Net()
    accord.make(method, K).backward(losses_of(DistributedDataParallel(fresh), 1), fresh.trunk, engine=engine)
    same = all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), fresh.parameters(), strict=True))
    return said, written, unchanged, same


BAD = {
    "nan loss": ("NonFiniteError", "NonFiniteError", "the loss of"),
    "infinite loss": ("NonFiniteError", "NonFiniteError", "the loss of"),
    "another K": ("EngineError", "EngineError", "tasks: 3, 2"),
    "a vector": ("EngineError", "ShapeError", "a scalar is needed"),
    "detached": ("EngineError", "EngineError", "does not require grad"),
    "not through the trunk": ("EngineError", "EngineError", "none of the 3 losses reaches"),
}


@pytest.mark.parametrize("method", ["nash-mtl", "ls", "graddrop"])
@pytest.mark.parametrize("how", BAD)
def test_bad_losses_of_one_process_are_an_error_of_both_and_the_next_batch_trains(pair, how, method):
    found = pair.run(step_with, how, method)
    for (said, written, unchanged, same), kind in zip(found, BAD[how], strict=False):
        assert kind in said[0], said
        assert BAD[how][2] in said[1]
        assert written == []
        assert unchanged
        assert same
    if BAD[how][0] != BAD[how][1]:
        assert "rank 1 of 2 raised an error" in found[0][0][1]


@pytest.mark.parametrize("engine", ["sequential", "sequential:lean=true"])
@pytest.mark.parametrize("method", ["nash-mtl", "mgda", "moco", "graddrop", "sdmgrad"])
def test_a_gradient_that_is_not_a_number_skips_the_step_of_both(pair, method, engine):
    for said, _, unchanged, same in pair.run(quietly, "nan gradient", method, engine):
        assert said == ("Balance", "skipped")
        assert unchanged
        assert same


def quietly(*arguments):
    """The warning that a step was skipped is expected here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        return step_with(*arguments)


def with_balancers(case):
    """One step with balancers that differ from process to process; seconds and text of the error."""
    rank = dist.get_rank()
    net, spec = Net(), "nash-mtl"
    if case == "method":
        spec = ["nash-mtl", "fairgrad"][rank]
    elif case == "seed":
        spec = ["rlw:seed=0", "rlw:seed=1"][rank]
    elif case == "options":
        spec = ["nash-mtl", "nash-mtl:update_every=2"][rank]
    balancer = accord.make(spec, K)
    if case == "steps" and rank == 1:
        balancer.steps = 7
    balancer.backward(losses_of(net), net.trunk)


@pytest.mark.parametrize("case", ["method", "seed", "options", "steps"])
def test_other_balancers_on_other_processes_are_refused(pair, case):
    for failure in pair.outcomes(with_balancers, case, together=True):
        assert isinstance(failure, Failure)
        assert "EngineError" in failure.kind
        assert "do not do the same work" in failure.text
        assert ("steps: 0, 7" in failure.text) == (case == "steps")
        assert failure.seconds < SOON


def dies(where):
    """The last process goes without a word; the others' error."""
    net, balancer = Net(), accord.make("nash-mtl", K)
    for step in range(3):
        losses = losses_of(net, step)
        if dist.get_rank() == dist.get_world_size() - 1 and step == 1:
            if where == "forward":
                os._exit(3)
            losses[1] = losses[1] + Exit.apply(net.trunk.weight).sum()
        balancer.backward(losses, net.trunk)


class Exit(torch.autograd.Function):
    """Ends the process in its backward."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        os._exit(3)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_process_that_dies_is_an_error_of_the_others(size, where):
    group = Processes(size, timeout=SOON)
    *alive, gone = group.outcomes(dies, where)
    group.close()
    assert gone.kind == ("Died",)
    for failure in alive:
        assert "EngineError" in failure.kind, failure
        assert "another process died" in failure.text
        assert failure.seconds < 3 * SOON


def raises_in_backward():
    net = Net()
    losses = losses_of(net)
    if dist.get_rank() == 1:
        spoil(losses, net, "raises")
    accord.make("nash-mtl", K).backward(losses, net.trunk)


def test_an_error_in_one_backward_ends_both_within_the_groups_timeout():
    group = Processes(2, timeout=SOON)
    waiting, failed = group.outcomes(raises_in_backward)
    group.close()
    assert "EngineError" in failed.kind
    assert "out of something" in failed.text
    assert "EngineError" in waiting.kind
    assert waiting.seconds < 3 * SOON


def test_a_reduction_without_a_process_group_is_refused():
    with pytest.raises(EngineError, match="init_process_group"):
        MeanRows()
