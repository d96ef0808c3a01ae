"""MoCo and DB-MTL against their recursions, written out in NumPy on the rows of a real network."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord.errors import NonFiniteError, NumericalWarning, OptionError, ShapeError
from support.nets import (
    Net,
    assert_same_grads,
    flat_grad,
    rows_of,
    side_by_side,
)
from support.twins import SlowDBMTL, SlowMoCo

CASES = [
    ("moco", {}),
    ("moco", {"beta": 0.1, "beta_sigma": 0.0, "gamma": 0.1, "gamma_sigma": 0.0, "rho": 0.1}),
    ("moco", {"beta": 1.0, "gamma": 3.0}),
    ("moco", {"scale_to_loss": True, "gamma": 1.0}),
    ("db-mtl", {}),
    ("db-mtl", {"beta": 0.5, "beta_sigma": 1.0}),
    ("db-mtl", {"beta": 0.0}),
]
TWINS = {"moco": SlowMoCo, "db-mtl": SlowDBMTL}


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_the_recursion_at_the_parameters(name, options, engine):
    balancer, twin = accord.make(name, tasks=3, **options), TWINS[name](**options)
    side_by_side(
        lambda net, step: balancer.backward(net.losses(step), net.trunk, engine=engine), twin, steps=12, rtol=1e-8
    )
    if name == "moco":
        weights = balancer.last_weights()[0]
        np.testing.assert_allclose(weights, twin.weights, rtol=1e-8, atol=1e-12)
        assert np.ptp(weights) > 1e-3


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_recursion_at_the_features(name, options):
    balancer, twin = accord.make(name, tasks=3, **options), TWINS[name](**options)

    def own(net, step):
        z = net.features(step)
        balancer.backward(net.losses(step, z), features=z)

    side_by_side(own, lambda net, step: twin(net, step, features=True), steps=6, rtol=1e-8)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_saved_half_way_it_goes_on_alike(name, options):
    def train(net, balancer, steps):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for step in steps:
            optimizer.zero_grad()
            balancer.backward(net.losses(step), net.trunk)
            optimizer.step()

    net, balancer = Net(), accord.make(name, tasks=3, **options)
    train(net, balancer, range(5))
    buffer = io.BytesIO()
    torch.save(balancer.state_dict(), buffer)
    buffer.seek(0)
    other, fresh = copy.deepcopy(net), accord.make(name, tasks=3, **options)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    train(net, balancer, range(5, 9))
    train(other, fresh, range(5, 9))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert str(fresh.state_dict()) == str(balancer.state_dict())


@pytest.mark.parametrize("name", ["moco", "db-mtl"])
def test_a_state_already_taken_is_not_changed_by_later_steps(name):
    net, balancer = Net(), accord.make(name, tasks=3)
    balancer.backward(net.losses(), net.trunk)
    state = balancer.state_dict()["_extra_state"]
    before = [block.clone() for block in state["rows"]]
    for step in range(3):
        net.zero_grad()
        balancer.backward(net.losses(step), net.trunk)
    assert all(torch.equal(a, b) for a, b in zip(before, state["rows"], strict=True))
    balancer.load_state_dict({"_extra_state": state})
    balancer.backward(net.losses(), net.trunk)
    assert all(torch.equal(a, b) for a, b in zip(before, state["rows"], strict=True))


@pytest.mark.parametrize("name", ["moco", "db-mtl"])
def test_gradients_of_other_shapes_are_refused_and_reset_starts_anew(name):
    net, balancer = Net(), accord.make(name, tasks=3)
    z = net.features()
    balancer.backward(net.losses(features=z), features=z)
    before = str(balancer.state_dict())
    short = net.trunk(torch.ones(4, 4, dtype=torch.float64))  # a smaller last batch
    losses = [head(short).square().mean() for head in net.heads]
    with pytest.raises(ShapeError, match=r"shapes \[\(3, 4, 5\)\].*\[\(3, 8, 5\)\].*reset"):
        balancer.backward(losses, features=short)
    with pytest.raises(ShapeError, match="keep their shapes"):
        balancer.backward(net.losses(), net.trunk)
    assert str(balancer.state_dict()) == before
    balancer.reset()
    balancer.backward(net.losses(), net.trunk)


@pytest.mark.parametrize("name", ["moco", "db-mtl"])
def test_a_parameter_that_some_steps_do_not_reach_counts_with_a_zero_gradient_there(name):
    """A trunk with a branch that is taken at some steps only."""
    own, other = [nn.ParameterList(torch.full((3,), v, dtype=torch.float64) for v in (0.2, -0.1)) for _ in range(2)]
    data = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0]], dtype=torch.float64)

    def losses(p, taken):
        return [(sum(p[i] for i in taken) - row).square().sum() + 1.0 for row in data]

    def reaching_all(p, taken):
        return [loss + 0.0 * (p[0].sum() + p[1].sum()) for loss in losses(p, taken)]

    a, b = accord.make(name, tasks=2), accord.make(name, tasks=2)
    for taken in ((0,), (0, 1), (1,), (0,), (0, 1)):
        own.zero_grad()
        other.zero_grad()
        a.backward(losses(own, taken), own)
        b.backward(reaching_all(other, taken), other)
        for p, q in zip(own, other, strict=True):
            expected = torch.zeros(3, dtype=torch.float64) if p.grad is None else p.grad
            torch.testing.assert_close(expected, q.grad)


def test_db_mtl_without_an_average_is_described_by_weights():
    net, balancer = Net(), accord.DBMTL(3, beta=0.0)
    losses = net.losses()
    rows = rows_of(losses, net.shared)
    values = torch.stack(losses).detach()
    norms = (rows / values[:, None]).norm(dim=1)
    balance = balancer.backward(net.losses(), net.trunk)
    torch.testing.assert_close(balance.weights, norms.max() / norms / values)
    torch.testing.assert_close(flat_grad(net.shared), balance.weights @ rows)
    assert balancer.needs == "gramian"
    assert accord.DBMTL(3).needs == "rows"
    assert balancer.state_dict()["_extra_state"]["rows"] is None
    other = Net()
    accord.DBMTL(3, beta=0.0)(other.losses(), other.trunk).backward()
    torch.testing.assert_close(flat_grad(other.shared), flat_grad(net.shared))


@pytest.mark.parametrize("name", ["moco", "db-mtl"])
def test_with_an_average_no_scalar_has_these_gradients(name):
    net = Net()
    with pytest.raises(OptionError, match="earlier steps"):
        accord.make(name, tasks=3)(net.losses(), net.trunk)


def test_db_mtl_brings_all_averages_to_one_norm_and_leaves_a_dead_task_alone():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses = [1 + x[0], 2 + 8 * x[1], 3 + w + 0 * x.sum()]
    accord.DBMTL(3).backward(losses, x)
    np.testing.assert_allclose(x.grad, [0.4, 0.4, 0.0])  # 0.1 of ∇log l, brought to the longest: 4·0.1
    np.testing.assert_allclose(w.grad, 1 / 4)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_in_eval_and_at_a_skipped_step_heads_keep_their_last_weights(name, options):
    net, balancer = Net(), accord.make(name, tasks=3, **options)
    balance = balancer.backward(net.losses(), net.trunk)
    heads = [p.grad.clone() for p in net.heads.parameters()]
    net.zero_grad()
    balancer.eval()
    frozen = balancer.backward(net.losses(), net.trunk)
    assert frozen.outcome == "frozen"
    for p, g in zip(net.heads.parameters(), heads, strict=True):
        torch.testing.assert_close(p.grad, g)
    torch.testing.assert_close(flat_grad(net.shared), frozen.weights @ rows_of(net.losses(), net.shared))
    if options.get("beta") == 0.0:
        torch.testing.assert_close(frozen.weights, balance.weights)


def test_a_gradient_that_is_not_finite_does_not_enter_the_average():
    for name in ("moco", "db-mtl"):
        balancer = accord.make(name, tasks=["a", "b"])
        x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        balancer.backward([1 + x.sum(), 2 + x[0]], x)
        kept = copy.deepcopy(balancer.state_dict()["_extra_state"]["rows"])
        with pytest.warns(NumericalWarning, match="gradients of b are not finite"):
            balance = balancer.backward([1 + x.sum(), 1 + (x[0] + 0).sqrt()], x)
        assert balance.outcome == "skipped"
        assert all(map(torch.equal, kept, balancer.state_dict()["_extra_state"]["rows"]))
        assert not torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_of_half_precision_gradients_are_kept_in_float32(dtype):
    net = nn.Linear(4, 2).to(dtype)
    for name in ("moco", "db-mtl"):
        balancer = accord.make(name, tasks=2)
        for _ in range(2):
            balancer.backward([(v.mean() - 3).square() for v in net(torch.ones(5, 4, dtype=dtype)).unbind(1)], net)
        assert all(block.dtype == torch.float32 for block in balancer.state_dict()["_extra_state"]["rows"])
        assert net.weight.grad.dtype == dtype


def test_moco_scaled_to_losses_needs_them_positive():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NonFiniteError, match=r"'1' = -2.*scale_to_loss=True"):
        accord.MoCo(2, scale_to_loss=True).backward([1 + x[0], x[1] - 2], x)
    accord.MoCo(2).backward([1 + x[0], x[1] - 2], x)


def test_gradients_accumulate_over_micro_batches():
    for name in ("moco", "db-mtl"):
        net, other = Net(), Net()
        a, b = accord.make(name, tasks=3), accord.make(name, tasks=3)
        a.backward(net.losses(0), net.trunk)
        first = flat_grad(net.shared)
        a.backward(net.losses(1), net.trunk)
        b.backward(other.losses(0), other.trunk)
        other.zero_grad()
        b.backward(other.losses(1), other.trunk)
        torch.testing.assert_close(flat_grad(net.shared), first + flat_grad(other.shared))
        assert_same_grads(*_twice(name))


def _twice(name):
    a, b = Net(), Net()
    accord.make(name, tasks=3).backward(a.losses(), a.trunk)
    accord.make(name, tasks=3).backward(b.losses(), b.trunk, engine="batched")
    return a, b


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("moco:beta=0", "beta = 0"),
        ("moco:beta=1.5", r"beta = 1\.5"),
        ("moco:beta_sigma=-1", "beta_sigma = -1"),
        ("moco:beta_sigma=inf", "beta_sigma = inf"),
        ("moco:gamma=0", "gamma = 0"),
        ("moco:gamma_sigma=x", "gamma_sigma = 'x'"),
        ("moco:rho=-0.1", r"rho = -0\.1"),
        ("moco:rho=inf", "rho = inf"),
        ("moco:scale_to_loss=1", "scale_to_loss = 1"),
        ("db-mtl:beta=1", "beta = 1"),
        ("db-mtl:beta=-0.1", r"beta = -0\.1"),
        ("db-mtl:beta=True", "beta = True"),
        ("db-mtl:beta_sigma=nan", "beta_sigma = nan"),
    ],
)
def test_bad_options_are_named_with_their_values(spec, message):
    with pytest.raises(OptionError, match=message):
        accord.make(spec, tasks=3)
