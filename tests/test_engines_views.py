"""Jacobians made from others: parts, mixtures, scaled ones; and hooks, which run once a task."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import accord
from accord.errors import EngineError
from accord.jacobian import ScaledJacobian, accumulated, batched, sequential
from support.nets import Net, gramian_of, rows_of


class Checkpointed(nn.Module):
    """Two layers, the first inside a reentrant checkpoint where asked for."""

    def __init__(self, *, hidden):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5)).double()
            self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(4)).double()
        self.hidden = hidden

    def losses(self):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        first = checkpoint(self.trunk[0], x, use_reentrant=True) if self.hidden else self.trunk[0](x)
        z = self.trunk[1](first.tanh())
        return [2.0**k * (head(z) - k).square().mean() for k, head in enumerate(self.heads)]


@pytest.mark.parametrize("spec", ["mgda:gramian_part=0", "mgda:gramian_part=1", "nash-mtl:gramian_tasks=2"])
def test_estimates_write_nothing_but_the_step_where_backwards_are_real(spec):
    hidden, plain = Checkpointed(hidden=True), Checkpointed(hidden=False)
    for net in (hidden, plain):
        accord.make(spec, 4).backward(net.losses(), net.trunk)
    for p, q in zip(hidden.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-13)


def test_views_write_to_their_own_parameters_alone():
    net, w = Net(), torch.ones(3, dtype=torch.float64)
    sequential(net.losses(), net.trunk).restricted([0]).accumulate(w, w)
    assert net.shared[0].grad is not None
    assert all(p.grad is None for p in (*net.shared[1:], *net.heads.parameters()))


@pytest.mark.parametrize("engine", ["sequential", "sequential:lean=true", "batched", "batched:lean=true"])
def test_a_part_that_no_loss_reaches_is_an_error_for_all(engine):
    net = Net()
    net.trunk.register_module("aside", nn.Linear(2, 2).double())
    with pytest.raises(EngineError, match="none of the 3 losses reaches"):
        accord.make("mgda:gramian_part=aside", 3).backward(
            [loss + 0 for loss in net.losses(features=nn.Sequential(*list(net.trunk)[:3])(net._draw(0)[0]))],
            net.trunk,
            engine=engine,
        )


@pytest.mark.parametrize("engine", [sequential, batched])
@pytest.mark.parametrize("lean", [False, True])
def test_hooks_that_tell_signs_apart_run_once(engine, lean):
    layers = [nn.Linear(6, 6).double() for _ in range(6)]
    trunk = nn.Sequential(*layers)
    x = torch.randn(8, 6, dtype=torch.float64)

    def losses():
        h = x
        for layer in layers:
            h = layer(h).tanh()
            h.register_hook(lambda g: torch.where(g < 0, 0.5 * g, g))
        return [h[:, k].square().mean() for k in range(3)]

    expected = torch.from_numpy(gramian_of(losses(), list(trunk.parameters())))
    found = engine(losses(), trunk, lean=lean).gramian()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_hook_on_the_representation_runs_once():
    net = Net()
    z = net.features()
    calls = []
    z.register_hook(lambda g: (calls.append(1), 0.5 * g)[1])
    balance = accord.make("mgda", 3).backward(net.losses(features=z), features=z)
    other = Net()
    wanted = 0.5 * balance.weights @ rows_of(other.losses(), other.shared)
    found = torch.cat([p.grad.flatten() for p in net.shared])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert len(calls) == 3  # once a task
    assert len(z._backward_hooks) == 1


def test_scaled_rows_are_accumulated_with_their_factors():
    net, factors = Net(), torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64)
    plain = sequential([f * loss for f, loss in zip(factors, net.losses(), strict=True)], net.trunk)
    sums = accumulated(net.trunk)
    base = sequential(net.losses(), net.trunk)
    sums.include(ScaledJacobian(base, factors, factors * base.values))
    w = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64)
    torch.testing.assert_close(sums.gramian(), plain.gramian(), rtol=1e-12, atol=0)
    plain.rows()
    found = {id(leaf): g for leaf, g in zip(sums.heads, sums.head_gradients(w), strict=True)}
    for leaf, gradient in zip(plain.heads, plain.head_gradients(w), strict=True):
        torch.testing.assert_close(found[id(leaf)], gradient, rtol=1e-12, atol=1e-14)


def test_a_transformed_estimate_is_let_go_after_the_step():
    net = Net()
    kept = []

    def part(draw):
        draw(torch.zeros(8))
        z = net.features()
        kept.append(weakref.ref(z))
        return net.losses(features=z)

    balancer = accord.make("alpha-fair:of='mgda:gramian_batch=0.5'", 3)
    gc.collect()
    gc.disable()
    try:
        losses = net.losses()
        kept += [weakref.ref(loss) for loss in losses]
        balancer.backward(losses, net.trunk, part=part)
        del losses
        assert len(kept) == 4
        assert all(tensor() is None for tensor in kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", [sequential, batched])
def test_rows_of_a_model_that_has_moved_on_are_refused(engine):
    """They are the gradients of another model: a Jacobian made once, before the loop."""
    net = Net()
    jacobian, balancer = engine(net.losses(), net.trunk, retain_graph=True), accord.make("upgrad", 3)
    balancer.apply(jacobian)
    balancer.apply(jacobian)  # as long as nothing has moved
    grads = [p.grad.clone() for p in net.parameters()]
    torch.optim.SGD(net.trunk.parameters(), lr=0.1).step()
    w = torch.ones(3, dtype=torch.float64)
    for call in (lambda: balancer.apply(jacobian), lambda: jacobian.pull(w), lambda: jacobian.add([], [])):
        with pytest.raises(EngineError, match="have changed since these rows were made"):
            call()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))


@pytest.mark.parametrize("method", ["upgrad", "graddrop"])
def test_sums_that_were_applied_take_no_more(method):
    net = Net()
    sums = accumulated(net.trunk)
    sums.include(net.losses())
    accord.make(method, 3).apply(sums)
    with pytest.raises(EngineError, match="applied already"):
        sums.include(net.losses(1))
