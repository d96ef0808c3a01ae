"""CR-MOGM, and what both wrappers do with the method inside."""

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord.errors import OptionError, OptionWarning, UnknownNameError
from support.nets import Net, rows_of, side_by_side, write, write_heads

AVERAGED = ["mgda", "nash-mtl:update_every=2", "cagrad:heads=weighted", "pcgrad", "rlw", "imtl-g", "upgrad", "modo"]


@pytest.mark.parametrize("of", AVERAGED)
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_cr_mogm_averages_the_weights(of, beta):
    balancer, inner = accord.CRMOGM(3, of=of, beta=beta), accord.make(of, tasks=3)
    average = []

    def reference(net, step):
        found = inner.backward(net.losses(step), net.trunk).weights.numpy()
        average.append(found if not average else beta * average[-1] + (1 - beta) * found)
        losses = net.losses(step)
        write(net.shared, torch.from_numpy(average[-1]) @ rows_of(losses, net.shared))
        plain = getattr(inner, "heads", "weighted") == "plain"
        write_heads(net, losses, np.ones(3) if plain else average[-1])

    side_by_side(lambda net, step: balancer.backward(net.losses(step), net.trunk), reference, steps=7, rtol=1e-7)
    np.testing.assert_allclose(balancer.last_weights()[0], average[-1], rtol=1e-7)


def test_cr_mogm_refuses_methods_without_weights():
    for of in ("graddrop", "moco", "db-mtl", "alpha-fair:of=graddrop"):
        with pytest.raises(OptionError, match="has no weights that could be averaged"):
            accord.CRMOGM(2, of=of)
    accord.CRMOGM(2, of="db-mtl:beta=0")


@pytest.mark.parametrize("outer", ["alpha-fair:alpha=0.5", "cr-mogm"])
def test_the_inner_method_s_state_is_saved_with_the_wrapper(outer):
    for of in ("famo:lr=0.5", "rlw", "dwa:window=1", "uw", "gradvac", "nash-mtl:update_every=3", "stch:warmup=3"):
        name, _, options = outer.partition(":")
        spec = f"{name}:of='{of}'" + (f",{options}" if options else "")

        def train(balancer, steps, seen):
            for step in steps:
                net = Net(seed=step)
                balancer.zero_grad()
                seen.append(balancer.backward(net.losses(step), net.trunk).weights)
                for p in balancer.parameters():
                    p.data -= 0.1 * p.grad
                balancer.after_step(net.losses(step + 1))
            return seen

        whole, half = accord.make(spec, tasks=3), accord.make(spec, tasks=3)
        expected = train(whole, range(6), [])
        seen = train(half, range(3), [])
        buffer = io.BytesIO()
        torch.save(half.state_dict(), buffer)
        buffer.seek(0)
        fresh = accord.make(spec, tasks=3)
        fresh.load_state_dict(torch.load(buffer, weights_only=True))
        train(fresh, range(3, 6), seen)
        assert torch.equal(torch.stack(seen), torch.stack(expected)), spec
        whole.reset()
        assert str(whole.state_dict()) == str(accord.make(spec, tasks=3).state_dict()), spec


def test_a_failed_step_leaves_neither_trace():
    for spec in ("cr-mogm:of=rlw", "alpha-fair:of=pcgrad", "alpha-fair:of='cr-mogm:of=nash-mtl'"):
        net, balancer = Net(), accord.make(spec, tasks=3)
        balancer.backward(net.losses(), net.trunk)
        before = str(balancer.state_dict())
        with pytest.raises(accord.errors.EngineError, match="reaches"):
            balancer.backward(net.losses(), nn.Linear(2, 2))
        losses = net.losses()
        balancer.backward(losses, net.trunk)
        after = str(balancer.state_dict())
        with pytest.raises(accord.errors.EngineError, match="anew"):
            balancer.backward(losses, net.trunk)
        assert str(balancer.state_dict()) == after != before


def test_attributes_follow_the_inner_method():
    for of in ("uw", "nash-mtl", "graddrop", "mgda", "cagrad:c=2", "pcgrad", "modo", "famo"):
        inner, wrapped = accord.make(of, tasks=3), accord.AlphaFair(3, of=of, alpha=0.5)
        assert (wrapped.needs, wrapped.descent, wrapped.homogeneity) == (inner.needs, inner.descent, inner.homogeneity)
        assert (wrapped.equivariant, wrapped.cost) == (inner.equivariant, inner.cost)
        assert len(list(wrapped.parameters())) == len(list(inner.parameters()))


@pytest.mark.parametrize("wrapper", ["alpha-fair", "cr-mogm"])
@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("of=5", OptionError, "of = 5 is not the name of a method"),
        ("of=nahs-mtl", UnknownNameError, "did you mean 'nash-mtl'"),
        ("of=stl", UnknownNameError, "single-task"),
        ("of='cagrad:c=-1'", OptionError, "c = -1"),
        ("of='cagrad:d=1'", OptionError, "no option 'd'"),
    ],
)
def test_bad_inner_methods(wrapper, option, error, message):
    with pytest.raises(error, match=message):
        accord.make(f"{wrapper}:{option}", tasks=3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("alpha-fair:alpha=inf", "alpha = inf"),
        ("alpha-fair:alpha=x", "alpha = 'x'"),
        ("alpha-fair:alpha=True", "alpha = True"),
        ("cr-mogm:beta=1", "beta = 1"),
        ("cr-mogm:beta=-0.1", r"beta = -0\.1"),
        ("cr-mogm:beta=x", "beta = 'x'"),
    ],
)
def test_bad_options_are_named_with_their_values(spec, message):
    with pytest.raises(OptionError, match=message):
        accord.make(spec, tasks=3)


def test_second_reaches_the_inner_method():
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balance = accord.CRMOGM(3, of="modo").backward(net.losses(), net.trunk, second=net.losses(1000))
    assert not balance.cause
    with pytest.warns(OptionWarning, match="no effect"):
        accord.CRMOGM(3, of="mgda").backward(net.losses(), net.trunk, second=net.losses(1000))
