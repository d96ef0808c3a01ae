"""What cannot be differentiated is refused with the cause and the remedy, and nothing is written."""

import copy
import re

import pytest
import torch
from torch import nn

import accord
from accord.errors import EngineError, OptionError, ShapeError, UnknownNameError
from accord.jacobian import batched, sequential
from support.nets import Net

ENGINES = ["sequential", "sequential:lean=true", "batched", "batched:chunk_size=2", "batched:lean=true", "auto"]
each_engine = pytest.mark.parametrize("engine", ENGINES)


def filled():
    """A network whose ``.grad`` are already there, so that what is written shows."""
    made = Net()
    for p in made.parameters():
        p.grad = torch.full_like(p, 0.25)
    return made


@pytest.fixture
def net():
    return filled()


def refused(net, error, match, losses, shared=None, *, spec="upgrad", **options):
    """``backward`` raises, its own words match, and neither ``.grad`` nor the balancer has changed."""
    balancer = accord.make(spec, 3)
    before = copy.deepcopy(balancer.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    with pytest.raises(error) as info:
        balancer.backward(losses, net.trunk if shared is None and "features" not in options else shared, **options)
    own = str(info.value).split("[torch:")[0]
    for word in [match] if isinstance(match, str) else match:
        assert word in own, f"{word!r} is not said in: {own}"
    assert len(own) < 800  # whole listings of backends are torch's, not for a user
    for p, grad in zip(net.parameters(), grads, strict=True):
        assert (p.grad is None) == (grad is None)
        assert grad is None or torch.equal(p.grad, grad)
    assert str(balancer.state_dict()) == str(before)
    return own


# ---------------------------------------------------------------------- the losses' graph


@each_engine
def test_losses_already_backpropagated(net, engine):
    losses = net.losses()
    sum(losses).backward()
    refused(net, EngineError, "compute the losses anew", losses, engine=engine)


@each_engine
def test_a_graph_that_another_step_freed(net, engine):
    losses = net.losses()
    accord.make("upgrad", 3).backward(losses, net.trunk, engine=engine)
    refused(net, EngineError, "compute the losses anew", losses, engine=engine)


@each_engine
def test_a_parameter_changed_in_place_after_the_forward(net, engine):
    losses = net.losses()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.9)
    refused(net, EngineError, "changed in place", losses, engine=engine)


@each_engine
def test_losses_without_a_graph(net, engine):
    with torch.no_grad():
        losses = net.losses()
    refused(net, EngineError, ["'0'", "no_grad"], losses, engine=engine)
    losses = net.losses()
    refused(net, EngineError, ["'1'", "detached"], [losses[0], losses[1].detach(), losses[2]], engine=engine)


def test_losses_of_inference_mode(net):
    with torch.inference_mode():
        losses = net.losses()
    refused(net, EngineError, "does not require grad", losses)


class Fails(torch.autograd.Function):
    """The identity, whose backward raises."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        raise ctx.error("the user's own failure")


@each_engine
@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyboardInterrupt])
def test_a_failure_in_the_middle_of_the_rows_writes_nothing(net, engine, error):
    """The last task's backward raises, when the others' are done."""
    losses = net.losses()
    losses[2] = Fails.apply(losses[2], error)
    expected = (EngineError, error) if error is RuntimeError else error
    grads = [p.grad.clone() for p in net.parameters()]
    balancer = accord.make("upgrad", 3)
    before = str(balancer.state_dict())
    with pytest.raises(expected, match="the user's own failure"):
        balancer.backward(losses, net.trunk, engine=engine)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))
    assert all(p.requires_grad for p in net.parameters())
    assert str(balancer.state_dict()) == before
    fresh = filled()
    balancer.backward(net.losses(), net.trunk, engine=engine)  # and the next step is as if nothing had been
    accord.make("upgrad", 3).backward(fresh.losses(), fresh.trunk, engine=engine)
    for p, q in zip(net.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)


@each_engine
def test_a_failing_hook_writes_nothing(net, engine):
    def fail(gradient):
        raise ValueError("a hook's own failure")

    handle = net.trunk[0].weight.register_hook(fail)
    grads = [p.grad.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match="a hook's own failure"):
        accord.make("upgrad", 3).backward(net.losses(), net.trunk, engine=engine)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))
    handle.remove()


# ---------------------------------------------------------------------- the shared parameters


@each_engine
def test_the_wrong_module(net, engine):
    refused(net, EngineError, ["none of the 3 losses reaches", "4 shared"], net.losses(), Net().trunk, engine=engine)


@each_engine
def test_a_detached_representation(net, engine):
    losses = net.losses(features=net.features().detach())
    refused(net, EngineError, ["none of the 3 losses", "detached"], losses, engine=engine)


def test_shared_that_is_no_set_of_parameters(net):
    optimizer = torch.optim.SGD(net.trunk.parameters(), lr=0.1)
    refused(net, EngineError, ["SGD", "give a module"], net.losses(), optimizer)
    refused(net, EngineError, ["dict", "give a module"], net.losses(), optimizer.param_groups)
    refused(net, EngineError, "str", net.losses(), "trunk")
    refused(net, EngineError, "holds no parameter", net.losses(), nn.Tanh())
    used = net.trunk.parameters()
    list(used)
    refused(net, EngineError, "used up", net.losses(), used)
    refused(net, EngineError, ["computed", "(6, 4)"], net.losses(), [net.trunk[0].weight * 1.0])
    losses = net.losses()
    refused(net, EngineError, ["frozen", "4 shared"], losses, net.trunk.state_dict())


def test_a_complex_parameter_is_refused_with_the_reason(net):
    mixed = nn.ParameterList([nn.Parameter(torch.ones(3, dtype=torch.complex128)), *net.trunk.parameters()])
    refused(net, EngineError, ["complex", "(3,)", "view_as_real"], net.losses(), mixed)


def test_losses_on_another_device_than_each_other(net):
    losses = net.losses()
    elsewhere = torch.zeros((), device="meta", requires_grad=True)
    refused(net, EngineError, ["several devices", "cpu", "meta", ".to(device)"], [*losses[:2], elsewhere])


@each_engine
def test_a_trunk_on_two_devices_is_refused(net, engine):
    elsewhere = nn.Parameter(torch.zeros(2, device="meta"))
    words = ["shared parameters", "several devices", "cpu", "meta", "fully_shard"]
    refused(net, EngineError, words, net.losses(), [*net.trunk.parameters(), elsewhere], engine=engine)


# ---------------------------------------------------------------------- the engine


@pytest.mark.parametrize(
    ("engine", "nearest"),
    [("sequental", "sequential"), ("batch", "batched"), ("sequentiel:lean=true", "sequential"), ("autos", "auto")],
)
def test_a_misspelt_engine_is_told_the_nearest(net, engine, nearest):
    own = refused(net, UnknownNameError, ["engine", nearest], net.losses(), engine=engine)
    assert "did you mean" in own.lower()


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("sequential:leen=true", ["leen", "lean"]),
        ("sequential:chunk_size=2", ["chunk_size"]),
        ("batched:chunk_size=0", ["chunk_size", "0"]),
        ("batched:chunk_size=1.5", ["chunk_size", "1.5"]),
        ("batched:chunk_size=two", ["chunk_size", "two"]),
        ("batched:memory=0", ["memory", "0"]),
        ("sequential:memory=-1", ["memory", "-1"]),
        ("sequential:memory=nan", ["memory", "nan"]),
        ("sequential:lean=2", ["lean", "2"]),
        ("auto:memory=lots", ["memory", "lots"]),
        ("auto:memory=-1", ["memory", "-1"]),
        ("auto:lean=true", ["lean", "auto"]),
    ],
)
def test_options_out_of_range(net, engine, words):
    refused(net, OptionError, words, net.losses(), engine=engine)


@pytest.mark.parametrize("engine", [3, None, ["sequential"], object()])
def test_engines_that_are_none(net, engine):
    refused(net, (OptionError, UnknownNameError), ["engine"], net.losses(), engine=engine)


@pytest.mark.parametrize(
    "engine",
    ["sequential:", "batched:", "auto:", "sequential:lean=true,", "batched:lean=true,", "batched:chunk_size=1,"],
)
def test_too_little_memory_is_told_the_least(net, engine):
    """The number that the message names is enough, and one byte less is not."""
    own = refused(net, EngineError, ["memory", " bytes"], net.losses(), engine=f"{engine}memory=8")
    least = max(int(word) for word in re.findall(r"(\d+) bytes", own))
    refused(net, EngineError, f"{least} bytes", net.losses(), engine=f"{engine}memory={least - 1}")
    accord.make("upgrad", 3).backward(net.losses(), net.trunk, engine=f"{engine}memory={least}")


@pytest.mark.parametrize("engine", [sequential, batched])
def test_weights_that_do_not_fit(net, engine):
    jacobian = engine(net.losses(), net.trunk)
    for wrong in ([1.0], [[1.0, 1.0, 1.0]], 1.0, torch.ones(4)):
        with pytest.raises(ShapeError, match="3 tasks"):
            jacobian.pull(wrong)
    grads = [p.grad.clone() for p in net.parameters()]
    with pytest.raises(ShapeError, match="3 tasks"):
        jacobian.accumulate(torch.ones(3), torch.ones(2))
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))


# ---------------------------------------------------------------------- the representation


def test_features_that_are_none_of_the_losses(net):
    z = net.features()
    refused(net, EngineError, "none of the 3 losses reaches", net.losses(), features=z)
    refused(net, EngineError, ["does not require grad", "detached"], net.losses(), features=z.detach())
    refused(net, EngineError, "representation", net.losses(), features=[])
    refused(net, EngineError, "representation", net.losses(), features=[nn.Linear(2, 2)])
    refused(net, OptionError, ["shared=", "features="], net.losses(features=z), net.trunk, features=z)


def test_features_that_the_trunk_bypasses(net):
    z = net.features()
    losses = net.losses(features=z)
    losses[1] = losses[1] + net.trunk[0].weight.square().sum()
    refused(net, EngineError, ["through the features and past them", "(6, 4)"], losses, features=z)


def test_a_module_that_is_not_watched(net):
    refused(net, EngineError, ["Sequential", "not watched", "accord.watch"], net.losses(), features=net.trunk)
    with pytest.raises(EngineError, match="Tensor"):
        accord.watch(net.features())


def test_a_watched_module_that_was_not_called(net):
    """Its outputs are those of one step: none are left for a second, or from a forward without gradients."""
    watched = accord.watch(net.trunk)
    words = ["watched Sequential", "no output", "with gradients enabled"]
    refused(net, EngineError, words, Net().losses(), features=watched)
    with torch.no_grad():
        net.losses()
    refused(net, EngineError, words, Net().losses(), features=watched)
    losses = net.losses()
    accord.make("mgda", 3).backward(losses, features=net.trunk)
    refused(net, EngineError, words, losses, features=net.trunk)
    watched.close()
    refused(net, EngineError, "not watched", net.losses(), features=net.trunk)


@pytest.mark.parametrize("method", ["mgda", "upgrad:heads=plain"])
def test_a_trunk_that_fails_after_its_representation_was_balanced(net, method):
    """The heads are written when nothing can fail any more."""

    def fail(gradient):
        raise ValueError("a hook's own failure")

    x, _ = net._draw(0)
    z = net.trunk(x)
    z.grad_fn.register_hook(lambda inner, outer: fail(outer))
    balancer = accord.make(method, 3)
    before, grads = str(balancer.state_dict()), [p.grad.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match="a hook's own failure"):
        balancer.backward(net.losses(features=z), features=z)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))
    assert str(balancer.state_dict()) == before


@each_engine
def test_a_backward_where_gradients_are_off(net, engine):
    """As ``loss.backward()`` does, it works under ``no_grad`` on losses that were computed outside."""
    twin = filled()
    accord.make("upgrad", 3).backward(twin.losses(), twin.trunk, engine=engine)
    for give in (list, torch.stack, lambda losses: [loss[None] for loss in losses]):
        fresh = filled()
        losses = give(fresh.losses())
        with torch.no_grad():
            accord.make("upgrad", 3).backward(losses, fresh.trunk, engine=engine)
        for p, q in zip(fresh.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)
            assert not p.grad.requires_grad


@each_engine
def test_want_of_memory_comes_through_as_torch_raised_it(net, engine):
    """Who catches ``torch.OutOfMemoryError`` to try a smaller batch must still see it; nothing is written."""

    def want(_inner, _outer):
        raise torch.OutOfMemoryError("CUDA out of memory")

    losses = net.losses()
    losses[-1].grad_fn.register_hook(want)
    refused(net, torch.OutOfMemoryError, "CUDA out of memory", losses, engine=engine)
