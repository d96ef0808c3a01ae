"""LS with weights, GLS and STCH against their formulas, differentiated by autograd, over several steps."""

import math

import numpy as np
import pytest
import torch

import accord
from accord.errors import NonFiniteError, OptionError, OptionWarning
from support.nets import Net, assert_same_grads, side_by_side
from support.twins import SlowSTCH

NAMES = ["a", "b", "c"]


def leaf_losses(values):
    """Losses with given values whose gradients on one parameter are all 1."""
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    return [x + v for v in values], [x]


def weights_of(balancer, values):
    return balancer.backward(*leaf_losses(values)).weights.numpy()


def backprop(formula):
    """A training step on a scalar formula of the losses."""
    return lambda net, step: formula(net.losses(step)).backward()


def balanced(balancer):
    return lambda net, step: balancer.backward(net.losses(step), net.trunk)


@pytest.mark.parametrize("weights", [[0.2, 3.0, 1.0], [0.0, 1.0, 0.0], [1, 2, 3]])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_ls_descends_the_weighted_sum(weights, reduction):
    balancer = accord.LS(3, weights=weights, reduction=reduction)
    over = 3 if reduction == "mean" else 1
    formula = lambda losses: sum(w * loss for w, loss in zip(weights, losses, strict=True)) / over  # noqa: E731
    side_by_side(balanced(balancer), backprop(formula), steps=5)


def test_ls_weights_of_tasks_by_name_keep_their_place():
    net = Net()
    losses = dict(zip(NAMES, net.losses(), strict=True))
    balancer = accord.LS(NAMES, weights=[1.0, 2.0, 4.0])
    assert balancer.backward(dict(reversed(losses.items())), net.trunk).weights.tolist() == [1.0, 2.0, 4.0]
    assert not balancer.equivariant
    assert accord.LS(NAMES).equivariant


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_gls_descends_the_geometric_mean(tasks):
    formula = lambda losses: math.prod(losses) ** (1 / len(losses))  # noqa: E731
    side_by_side(balanced(accord.GLS(tasks)), backprop(formula), steps=6, tasks=tasks)


@pytest.mark.parametrize("exponent", [300, -300])
def test_gls_of_losses_whose_product_leaves_float64(exponent):
    values = np.array([1.0, 2.0, 4.0, 8.0]) * 10.0**exponent
    expected = np.exp(np.log(values).mean() - np.log(values)) / 4
    found = weights_of(accord.GLS(4), values)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.prod(found * 4) == pytest.approx(1.0)  # of degree 0: only the ratios of the losses count


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_stch_is_the_published_training(mu, warmup):
    twin = SlowSTCH(3, mu, warmup)
    side_by_side(balanced(accord.STCH(3, mu=mu, warmup=warmup)), backprop(twin), steps=warmup + 4)
    assert len(twin.seen) == warmup


def test_stch_with_a_given_nadir_has_no_warm_up():
    nadir = [0.5, 2.0, 1.0]
    balancer = accord.STCH(3, mu=0.3, nadir=nadir)
    side_by_side(balanced(balancer), backprop(SlowSTCH(3, 0.3, 0, nadir)), steps=4)
    assert not balancer.equivariant
    with pytest.warns(OptionWarning, match="warmup has no effect"):
        accord.STCH(3, warmup=5, nadir=nadir)


def test_stch_saved_in_the_middle_of_its_warm_up_takes_the_nadir_of_all_of_it():
    whole, first = accord.STCH(2, warmup=4), accord.STCH(2, warmup=4)
    values = [(1.0, 9.0), (2.0, 7.0), (3.0, 5.0), (4.0, 4.0), (2.0, 2.0), (1.0, 6.0)]
    for pair in values[:2]:
        weights_of(whole, pair)
        weights_of(first, pair)
    fresh = accord.STCH(2, warmup=4)
    fresh.load_state_dict(first.state_dict())
    for pair in values[2:]:
        np.testing.assert_array_equal(weights_of(fresh, pair), weights_of(whole, pair))
    share = np.array([1.0 / 2.5, 6.0 / 6.25])  # of the nadir (2.5, 6.25)
    np.testing.assert_allclose(weights_of(whole, values[-1]), 2 * share / share.sum() / values[-1])


def test_stch_between_the_worst_task_and_log_losses():
    values, nadir = np.array([1.0, 3.0, 2.0]), [1.0, 2.0, 4.0]  # relative losses 1, 1.5, 0.5
    sharp = weights_of(accord.STCH(3, mu=1e-3, nadir=nadir), values)
    np.testing.assert_allclose(sharp, [0.0, 3 / 3.0, 0.0], atol=1e-100)
    flat = weights_of(accord.STCH(3, mu=1e9, nadir=nadir), values)
    np.testing.assert_allclose(flat, 1 / values, rtol=1e-8)
    one = weights_of(accord.STCH(3, nadir=nadir), values)
    np.testing.assert_allclose(one, 3 * (1 / np.array(nadir)) / (values / nadir).sum())


@pytest.mark.parametrize(
    ("balancer", "formula"),
    [
        (lambda: accord.LS(3, weights=[0.5, 2.0, 1.0]), lambda v: 0.5 * v[0] + 2 * v[1] + v[2]),
        (lambda: accord.SI(3), lambda v: v.log().sum()),
        (lambda: accord.STCH(3, mu=0.4, warmup=2), lambda v: v.log().sum()),
        (lambda: accord.STCH(3, mu=0.4, nadir=[1, 2, 3]), lambda v: SlowSTCH(3, 0.4, 0, [1, 2, 3])(v)),
    ],
)
def test_the_scalar_entry_is_the_scalarization_and_has_its_gradients(balancer, formula):
    net, other = Net(), Net()
    total = balancer()(net.losses())
    assert float(total.detach()) == pytest.approx(float(formula(torch.stack(net.losses()).detach())), rel=1e-12)
    total.backward()
    balancer().backward(other.losses(), other.trunk)
    assert_same_grads(net, other)


def test_the_scalar_of_stch_is_relative_to_the_mean_of_its_warm_up():
    balancer, twin = accord.STCH(3, mu=0.4, warmup=2), SlowSTCH(3, 0.4, 2)
    for step in range(4):
        losses = Net().losses(step)
        assert float(balancer(losses).detach()) == pytest.approx(float(twin(losses).detach()), rel=1e-12)


def test_the_scalar_entry_of_gls_has_the_same_gradients():
    net, other = Net(), Net()
    accord.GLS(3)(net.losses()).backward()
    accord.GLS(3).backward(other.losses(), other.trunk)
    assert_same_grads(net, other)


@pytest.mark.parametrize("name", ["gls", "stch", "si", "famo", "db-mtl", "gradnorm"])
@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_losses_that_are_not_positive_are_named_and_nothing_is_written(name, bad):
    losses, shared = leaf_losses([1.0, bad, 2.0])
    balancer = accord.make(name, tasks=NAMES)
    before = str(balancer.state_dict())
    if name == "famo" and bad == 0:  # the published code adds 1e-8: log(1e-8) is what it takes
        balancer.backward(dict(zip(NAMES, losses, strict=True)), shared)
        return
    with pytest.raises(NonFiniteError, match=rf"'b' = {bad:.6g}.*above zero"):
        balancer.backward(dict(zip(NAMES, losses, strict=True)), shared)
    assert shared[0].grad is None
    assert str(balancer.state_dict()) == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ls:weights=[1, 2]", r"weights = \[1, 2\] has 2 numbers for 3 tasks"),
        ("ls:weights=[1, 2, -3]", "-3 is not a finite number of at least 0"),
        ("ls:weights=[1, 2, nan]", "weights = "),
        ("ls:weights=abc", "weights = 'abc' is not a list"),
        ("ls:weights=3", "weights = 3 is not a list"),
        ("stch:mu=0", "mu = 0"),
        ("stch:mu=inf", "mu = inf"),
        ("stch:mu=x", "mu = 'x'"),
        ("stch:warmup=-1", "warmup = -1"),
        ("stch:warmup=2.5", r"warmup = 2\.5"),
        ("stch:warmup=inf", "warmup = inf"),
        ("stch:nadir=[1, 0, 1]", r"nadir = \[1, 0, 1\]"),
        ("stch:nadir=[1]", r"nadir = \[1\]"),
    ],
)
def test_bad_options_are_named_with_their_values(spec, message):
    with pytest.raises(OptionError, match=message):
        accord.make(spec, tasks=3)
