"""State of the estimates, all methods, wrappers and engines with them, and what is refused."""

import io

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord.balancers import GramianBalancer
from accord.balancers.registry import balancer_class
from accord.errors import NumericalWarning, OptionError, OptionWarning, ShapeError
from accord.jacobian import BatchedJacobian, SequentialJacobian
from accord.testing import CHECKS, Row
from support.nets import assert_same_grads, flat_grad, rows_of
from support.parts import ESTIMATES, Data

METHODS = [name for name in accord.available() if issubclass(balancer_class(name), GramianBalancer)]


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("spec", ["nash-mtl", "pcgrad:seed=3", "nash-mtl:update_every=2", "nash-mtl:update_every=auto"])
def test_resume_is_the_uninterrupted_run_bit_for_bit(spec, name):
    make = lambda: accord.make(spec, 5, **ESTIMATES[name])  # noqa: E731
    a, b, whole, half, fresh = Data(), Data(), make(), make(), make()
    expected = a.follow(whole, 24)
    b.follow(half, 11)
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    found = b.follow(fresh, 13, first=11)
    for x, y in zip(found, expected[11:], strict=True):
        assert torch.equal(x.weights, y.weights)
        assert (x.outcome, x.cause, x.residual) == (y.outcome, y.cause, y.residual)
    assert_same_grads(a.net, b.net, rtol=0, atol=0)
    whole.reset()
    for x, y in zip(Data().follow(whole, 5), expected, strict=False):
        assert torch.equal(x.weights, y.weights)


def test_the_generators_are_private_and_processes_with_batches_of_other_sizes_keep_the_same():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    states = []
    for size in (24, 7):
        data, balancer = Data(), accord.CAGrad(5, gramian_batch=0.5, gramian_tasks=2)
        for step in range(3):
            batch = {key: value[:size] for key, value in data.batch(step).items()}
            balancer.backward(data.losses(batch), data.net.trunk, part=lambda draw, b=batch, d=data: d.losses(draw(b)))
        states.append(balancer.state_dict()["_extra_state"]["estimate"]["generator"])
    assert torch.equal(*states)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_fails_or_has_no_finite_gradient_leaves_average_and_generator_alone():
    data, balancer = Data(), accord.NashMTL(5, **ESTIMATES["all"])
    data.follow(balancer, 3)

    def state():
        found = balancer.state_dict()["_extra_state"]
        return found["estimate"]["generator"], found["estimate"]["mean"], found["estimate"]["count"]

    before = state()
    with pytest.raises(RuntimeError, match="no data"):
        balancer.backward(data.losses(data.batch()), data.net.trunk, part=lambda draw: fail(draw(data.batch())))

    def steep(draw):
        return [(loss - loss.detach()).abs().sqrt() + 1.0 for loss in data.losses(draw(data.batch()))]

    with pytest.warns(NumericalWarning, match="not finite"):
        assert balancer.backward(data.losses(data.batch()), data.net.trunk, part=steep).outcome == "skipped"
    for x, y in zip(before, state(), strict=True):
        assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))


def fail(batch):
    raise RuntimeError("no data")


def test_an_estimate_can_be_switched_on_and_off_between_checkpoints():
    plain, estimated = accord.NashMTL(5, update_every=2), accord.NashMTL(5, update_every=2, gramian_ema=0.5)
    Data().follow(plain, 3)
    estimated.load_state_dict(plain.state_dict())
    Data().follow(estimated, 3)
    plain.load_state_dict(estimated.state_dict())
    assert plain.steps == 6


# ---------------------------------------------------------------- all methods, wrappers, engines


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ESTIMATES)
def test_every_gramian_method_takes_every_estimate(name, kind):
    if name == "gradvac" and "gramian_tasks" in ESTIMATES[kind]:
        with pytest.raises(OptionError, match="GradVac: gramian_tasks = 2 gives the tasks not drawn one common row"):
            accord.make(name, 5, **ESTIMATES[kind])
        return
    data = Data()
    balancer, exact = accord.make(name, 5, **ESTIMATES[kind]), accord.make(name, 5)
    for balance in data.follow(balancer, 3):
        assert balance.outcome == "approximate"
        assert bool(torch.isfinite(balance.weights).all())
        assert float(balance.weights.abs().max()) > 0
    assert bool(torch.isfinite(flat_grad(data.net.shared)).all())
    assert exact.gramian_batch is exact.gramian_ema is exact.gramian_part is exact.gramian_tasks is None


@pytest.mark.parametrize("kind", ["batch", "ema", "part"])
def test_the_loss_transform_leaves_nash_s_direction_alone_with_an_estimate_too(kind):
    inner = ",".join(f"{key}={value!r}" for key, value in ESTIMATES[kind].items())
    a, b = Data(), Data()
    found = a.step(accord.make("alpha-fair", 5, of=f"nash-mtl:{inner}", alpha=0.7))
    expected = b.step(accord.make(f"nash-mtl:{inner}", 5))
    torch.testing.assert_close(flat_grad(a.net.shared), flat_grad(b.net.shared), rtol=1e-7, atol=1e-11)
    torch.testing.assert_close(found.gramian, expected.gramian)
    assert found.outcome == "approximate"


def test_the_loss_transform_with_drawn_tasks_averages_the_transformed_losses():
    data = Data()
    balance = data.step(accord.make("alpha-fair:of='mgda:gramian_tasks=2',alpha=0.5", 5))
    losses = data.losses(data.batch())
    rows = rows_of([loss**0.5 / 0.5 for loss in losses], data.net.shared).numpy()
    factors = torch.stack(losses).detach().numpy() ** -0.5
    found = balance.gramian.numpy() * factors * factors[:, None]
    chosen = [i for i in range(5) if np.isclose(found[i, i], rows[i] @ rows[i], rtol=1e-8)]
    rest = [i for i in range(5) if i not in chosen]
    rows[rest] = rows[rest].mean(0)
    np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("kind", ESTIMATES)
def test_engines_agree(kind):
    found = []
    for engine in (SequentialJacobian, BatchedJacobian):
        data = Data()
        data.follow(accord.NashMTL(5, **ESTIMATES[kind]), 3, engine=engine)
        found.append(data)
    assert_same_grads(found[0].net, found[1].net, rtol=1e-7, atol=1e-10)


EXACT = {"features"}  # compares the Gramian with this step's own
ROWS = [Row("nash-mtl", gramian_ema=0.5), Row("upgrad", gramian_ema=0.9, update_every="auto")]


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in EXACT])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_estimates_keep_the_contract(row, name):
    CHECKS[name](row)


def test_nothing_is_promised_of_gradients_that_were_not_looked_at():
    for name in METHODS:
        assert not accord.make(name, 5, gramian_ema=0.5).descent
        if name != "gradvac":
            assert not accord.make(name, 5, gramian_tasks=2).equivariant
        assert accord.make(name, 5, gramian_batch=0.5).equivariant == accord.make(name, 5).equivariant


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gramian_batch": 0.0}, r"gramian_batch = 0\.0: the share of the samples.*above 0 and below 1"),
        ({"gramian_batch": 1}, "gramian_batch = 1:"),
        ({"gramian_batch": "half"}, "gramian_batch = 'half'"),
        ({"gramian_batch": True}, "gramian_batch = True"),
        ({"gramian_batch": float("nan")}, "gramian_batch = nan"),
        ({"gramian_ema": 1.0}, r"gramian_ema = 1\.0: the decay"),
        ({"gramian_ema": -0.1}, r"gramian_ema = -0\.1"),
        ({"gramian_part": ""}, "gramian_part = '' is not the name"),
        ({"gramian_part": "."}, r"gramian_part = '\.' is not the name"),
        ({"gramian_part": 1.5}, r"gramian_part = 1\.5 is not the name.*written in quotes"),
        ({"gramian_part": True}, "gramian_part = True is not the name"),
        ({"gramian_tasks": 0}, "gramian_tasks = 0 is not a positive integer"),
        ({"gramian_tasks": 1.5}, r"gramian_tasks = 1\.5 is not a positive integer"),
        ({"gramian_tasks": 4}, r"gramian_tasks = 4 needs 4 \+ 1 rows, no fewer than the 5.*give at most 3"),
        ({"gramian_tasks": 2, "gramian_seed": -1}, "gramian_seed = -1"),
        ({"gramian_tasks": 2, "gramian_seed": 1.0}, r"gramian_seed = 1\.0"),
    ],
)
def test_bad_estimates_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=f"UPGrad: {message}"):
        accord.UPGrad(5, **options)


def test_too_few_tasks_to_draw_from():
    with pytest.raises(OptionError, match="leave it out with so few tasks"):
        accord.UPGrad(2, gramian_tasks=1)


def test_a_seed_that_draws_nothing_warns():
    with pytest.warns(OptionWarning, match="gramian_seed has no effect without gramian_batch or gramian_tasks"):
        accord.NashMTL(5, gramian_ema=0.5, gramian_seed=3)


def test_a_batch_estimate_without_part_says_how_to_give_it_and_part_without_one_warns():
    data = Data()
    losses = data.losses(data.batch())
    with pytest.raises(OptionError, match=r"NashMTL: gramian_batch = 0\.25.*part=lambda draw: "):
        accord.NashMTL(5, gramian_batch=0.25).backward(losses, data.net.trunk)
    assert data.net.trunk[0].weight.grad is None
    for name in ("nash-mtl", "ls"):
        with pytest.warns(OptionWarning, match="part= has no effect without gramian_batch"):
            accord.make(name, 5).backward(data.losses(data.batch()), data.net.trunk, part=lambda draw: losses)


def test_a_part_with_other_losses_is_refused():
    data = Data()
    with pytest.raises(ShapeError, match="NashMTL: part= returned 2 losses for 5 tasks"):
        accord.NashMTL(5, gramian_batch=0.25).backward(
            data.losses(data.batch()), data.net.trunk, part=lambda draw: data.losses(draw(data.batch()))[:2]
        )
    assert data.net.trunk[0].weight.grad is None


def test_a_part_of_the_trunk_that_is_not_there_is_refused_with_the_nearest_name():
    data = Data()
    trunk = nn.ModuleDict({"stem": nn.Linear(4, 3), "layer4": nn.Sequential(nn.Linear(3, 3))}).double()
    z = trunk["layer4"](trunk["stem"](data.batch()["x"]))
    losses = lambda: [z[:, 0].square().mean(), z[:, 1].square().mean()]  # noqa: E731
    with pytest.raises(OptionError, match=r"gramian_part = 'layer3' is the name of none of the 4.*mean 'layer4'"):
        accord.MGDA(2, gramian_part="layer3").backward(losses(), trunk)
    with pytest.raises(OptionError, match=r"gramian_part = 'xyz'.*known: stem, layer4"):
        accord.MGDA(2, gramian_part="xyz").backward(losses(), trunk)
    with pytest.raises(OptionError, match="needs the parameters' names; give shared= as a module"):
        accord.MGDA(2, gramian_part="layer4").backward(losses(), list(trunk.parameters()))
    assert trunk["stem"].weight.grad is None
