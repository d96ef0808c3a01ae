"""``accord.watch``: a module's outputs as the representation, exactly as if they were given by hand."""

import copy
import gc
import io
import pickle
import re
import weakref
from collections import namedtuple

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import accord
from accord.errors import EngineError, NonFiniteError, ShapeError
from support.nets import Branched, Net, assert_same_grads, counted, flat_grad

METHODS = accord.available()
VARIANTS = ["nash-mtl:update_every=2", "cagrad:max_norm=0.3", "upgrad:heads=weighted", "cr-mogm:of=mgda"]
NO_OUTPUT = r"has given no output that requires grad since the last step; call the model \(with gradients enabled\)"


def batch(step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def step_of(balancer, net, step, features, **options):
    """One balanced step; the trunk runs once, inside."""
    z = net.trunk(batch(step))
    balance = balancer.backward(net.losses(step, z), features=z if features is None else features, **options)
    balancer.after_step(lambda: net.losses(step, net.trunk(batch(step))))
    return balance


def assert_same_weights(balance, expected):
    """To the last bit; NaN where no weights describe the method."""
    torch.testing.assert_close(balance.weights, expected.weights, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize(("given", "engine"), [("module", "sequential"), ("watched", "batched")])
@pytest.mark.parametrize("method", [*METHODS, *VARIANTS])
def test_it_is_the_tensor_given_by_hand(method, given, engine):
    """Weights, certificate, and every gradient, to the last bit, over steps that change the method's state."""
    net, other = Net(), Net()
    watched = accord.watch(net.trunk)
    ours, reference = accord.make(method, 3), accord.make(method, 3)
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.05) for n in (net, other)]
    for step in range(3):
        for optimizer in optimizers:
            optimizer.zero_grad()
        balance = step_of(ours, net, step, net.trunk if given == "module" else watched, engine=engine)
        expected = step_of(reference, other, step, None, engine=engine)
        assert_same_weights(balance, expected)
        assert balance.outcome == expected.outcome
        assert (balance.gramian is None) == (expected.gramian is None)
        assert balance.gramian is None or torch.equal(balance.gramian, expected.gramian)
        assert_same_grads(net, other, rtol=0.0, atol=0.0)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("method", [m for m in METHODS if accord.make(m, 3).needs != "rows"])
def test_the_scalar_entry(method):
    net, other = Net(), Net()
    accord.watch(net.trunk)
    z = other.features(1)
    accord.make(method, 3)(net.losses(1, net.trunk(net._draw(1)[0])), features=net.trunk).backward()
    accord.make(method, 3)(other.losses(1, z), features=z).backward()
    assert_same_grads(net, other, rtol=0.0, atol=0.0)


# ---------------------------------------------------------------------- which outputs


def two_views(net, x):
    """Each task from a call of its own."""
    return [(head(net.trunk(x + k))[:, 0] - k).square().mean() for k, head in enumerate(net.heads)]


@pytest.mark.parametrize("method", ["nash-mtl", "mgda", "graddrop", "ls", "cagrad:max_norm=0.1"])
def test_several_calls_in_a_step(method):
    """All their outputs together are the representation: three tensors, each reached by one task."""
    net, other = Net(), Net()
    accord.watch(net.trunk)
    balance = accord.make(method, 3).backward(two_views(net, batch(0)), features=net.trunk)
    seen = [other.trunk(batch(0) + k) for k in range(3)]
    losses = [(head(z)[:, 0] - k).square().mean() for k, (head, z) in enumerate(zip(other.heads, seen, strict=True))]
    expected = accord.make(method, 3).backward(losses, features=seen)
    assert_same_weights(balance, expected)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)
    if balance.gramian is not None:  # the tasks have nothing in common
        assert float((balance.gramian - balance.gramian.diag().diag()).abs().max()) == 0.0


Pair = namedtuple("Pair", ["one", "two"])
SHAPES = {
    "tuple": lambda one, two: (one, two),
    "list": lambda one, two: [one, two],
    "dict": lambda one, two: {"one": one, "two": two},
    "named tuple": Pair,
    "nested": lambda one, two: {"first": (one, [two]), "mask": torch.ones(3), "name": "z", "none": None},
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("method", ["nash-mtl", "moco", "ls"])
def test_outputs_in_containers(method, kind):
    """All tensors that carry a gradient; masks, names and None are passed over."""

    class Trunk(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self):
            return SHAPES[kind](*self.net.features())

    net, other = Branched(), Branched()
    trunk = Trunk(net)
    accord.watch(trunk)
    found = [t for t in torch.utils._pytree.tree_leaves(trunk()) if isinstance(t, torch.Tensor) and t.requires_grad]
    accord.make(method, 3).backward(net.losses(*found), features=trunk)
    z = other.features()
    accord.make(method, 3).backward(other.losses(*z), features=z)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)


def test_forwards_without_gradients_are_ignored():
    """Evaluation, targets and frozen passes between forward and backward leave the step as it is."""
    net, other = Net(), Net()
    accord.watch(net.trunk)
    with torch.no_grad():
        net.trunk(batch(5))
    losses = net.losses(1, net.trunk(net._draw(1)[0]))
    with torch.no_grad():
        net.trunk(batch(6))
    with torch.inference_mode():
        net.trunk(batch(7))
    accord.NashMTL(3).backward(losses, features=net.trunk)
    z = other.features(1)
    accord.NashMTL(3).backward(other.losses(1, z), features=z)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)
    counts = counted(net.shared)
    with torch.no_grad():
        net.trunk(batch(8))
    with pytest.raises(EngineError, match=NO_OUTPUT):
        accord.NashMTL(3).backward(losses, features=net.trunk)
    assert counts == [0] * len(counts)


def test_a_forward_that_no_loss_uses_changes_nothing():
    """An output whose losses were thrown away stays until the next step, and has no part in it."""
    net, other = Net(), Net()
    accord.watch(net.trunk)
    net.losses(3, net.trunk(batch(3)))
    for step in range(2):
        step_of(accord.NashMTL(3), net, step, net.trunk)
        step_of(accord.NashMTL(3), other, step, None)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)


# ---------------------------------------------------------------------- stale outputs


@pytest.mark.parametrize("method", ["nash-mtl", "ls", "graddrop"])
def test_an_output_serves_one_step(method):
    net, balancer = Net(), accord.make(method, 3)
    watched = accord.watch(net.trunk)
    step_of(balancer, net, 0, net.trunk)
    before = str(balancer.state_dict())
    gradient = flat_grad(net.shared)
    for features in (net.trunk, watched):
        losses = net.losses(1, net.trunk(batch(1)).detach())
        watched.take("test")  # the outputs so far are gone
        with pytest.raises(EngineError, match=NO_OUTPUT):
            balancer.backward(losses, features=features)
    assert str(balancer.state_dict()) == before
    assert torch.equal(flat_grad(net.shared), gradient)
    step_of(balancer, net, 2, net.trunk)  # and the next step goes on


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(lambda losses: [losses[0] * float("nan"), *losses[1:]], NonFiniteError), (lambda losses: losses[:2], ShapeError)],
    ids=["not finite", "two of three"],
)
def test_outputs_of_a_step_that_failed_are_forgotten(spoil, error):
    net, other = Net(), Net()
    accord.watch(net.trunk)
    balancer = accord.MoCo(3)  # keeps gradients: outputs left over would be further features, of which it has none
    step_of(balancer, net, 0, net.trunk)
    z = net.trunk(batch(1))
    with pytest.raises(error):
        balancer.backward(spoil(net.losses(1, z)), features=net.trunk)
    step_of(balancer, net, 2, net.trunk)
    reference = accord.MoCo(3)
    for step in (0, 2):
        step_of(reference, other, step, None)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)


def test_a_step_lets_the_outputs_go():
    net = Net()
    watched = accord.watch(net.trunk)
    z = net.trunk(batch(0))
    losses, alive = net.losses(0, z), weakref.ref(z)
    accord.NashMTL(3).backward(losses, features=watched)
    del z, losses
    gc.collect()
    assert alive() is None


# ---------------------------------------------------------------------- the watch itself


def test_watching_twice_is_watching_once():
    net, other = Net(), Net()
    assert accord.watch(net.trunk) is accord.watch(net.trunk)
    step_of(accord.NashMTL(3), net, 0, net.trunk)
    step_of(accord.NashMTL(3), other, 0, None)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)
    assert repr(accord.watch(net.trunk)) == "Watched(Sequential)"


def test_two_modules_are_watched_apart():
    """The trunk and its first layer, in one model: each is a representation of its own."""
    net, other = Net(), Net()
    accord.watch(net.trunk)
    accord.watch(net.trunk[0])
    z = net.trunk(batch(0))
    at_first = accord.NashMTL(3).backward(net.losses(0, z), features=net.trunk[0])
    h = other.trunk[0](batch(0))
    expected = accord.NashMTL(3).backward(other.losses(0, other.trunk[2](other.trunk[1](h))), features=h)
    assert torch.equal(at_first.weights, expected.weights)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)


def test_closed():
    net = Net()
    watched = accord.watch(net.trunk)
    net.trunk(batch(0))
    watched.close()
    z = net.trunk(batch(0))
    with pytest.raises(EngineError, match=r"is not watched.*call accord\.watch\(module\) once before the forward"):
        accord.NashMTL(3).backward(net.losses(0, z), features=net.trunk)
    with pytest.raises(EngineError, match=r"no longer watched.*call accord\.watch\(module\) once before the forward"):
        accord.NashMTL(3).backward(net.losses(0, z), features=watched)
    watched.close()  # twice does nothing
    assert not net.trunk._forward_hooks
    again = accord.watch(net.trunk)
    assert again is not watched
    step_of(accord.NashMTL(3), net, 0, again)
    watched.close()  # nor does it end another's
    step_of(accord.NashMTL(3), net, 0, net.trunk)


@pytest.mark.parametrize("closed", [False, True], ids=["watched", "closed"])
def test_a_module_that_is_deleted_is_let_go(closed):
    net = Net()
    watched = accord.watch(net.trunk)
    step_of(accord.NashMTL(3), net, 0, net.trunk)
    if closed:
        watched.close()
    alive = weakref.ref(net.trunk), weakref.ref(net.trunk[0].weight)
    del net
    gc.collect()
    assert [a() for a in alive] == [None, None]
    with pytest.raises(EngineError, match="no longer watched"):
        watched.take("test")


def copies():
    """Ways to have a module twice."""

    def saved(net):
        buffer = io.BytesIO()
        torch.save(net, buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)

    def state(net):
        other = Net(seed=1)
        other.load_state_dict(net.state_dict())
        return other

    averaged = torch.optim.swa_utils.AveragedModel
    return {
        "copy.deepcopy": copy.deepcopy,
        "pickle": lambda net: pickle.loads(pickle.dumps(net)),
        "torch.save": saved,
        "state_dict": state,
        "AveragedModel": lambda net: averaged(net).module,
    }


@pytest.mark.parametrize("way", copies())
@pytest.mark.parametrize("when", ["before a forward", "between forward and backward"])
def test_copies_are_not_watched(way, when):
    """A copy runs as the module does, keeps no outputs, leaves the module's own alone, and can be watched itself."""
    net, other = Net(), Net()
    watched = accord.watch(net.trunk)
    z = None if when == "before a forward" else net.trunk(batch(0))
    twin = copies()[way](net)
    y = twin.trunk(batch(0))
    alive = weakref.ref(y)
    with pytest.raises(EngineError, match=re.escape("call accord.watch(module) once before the forward")):
        accord.NashMTL(3).backward(twin.losses(0, y), features=twin.trunk)
    z = net.trunk(batch(0)) if z is None else z
    accord.NashMTL(3).backward(net.losses(0, z), features=watched)
    step_of(accord.NashMTL(3), other, 0, None)
    assert_same_grads(net, other, rtol=0.0, atol=0.0)
    del y
    gc.collect()
    assert alive() is None
    accord.watch(twin.trunk)
    step_of(accord.NashMTL(3), twin, 0, twin.trunk)
    assert_same_grads(net, twin, rtol=0.0, atol=0.0)


def test_a_watch_that_is_a_part_of_the_model_is_copied_with_it():
    net = Net()
    net.representation = accord.watch(net.trunk)
    twin = copy.deepcopy(net)
    z = twin.trunk(batch(0))
    with pytest.raises(EngineError, match=r"this is a copy; call accord\.watch\(module\)"):
        accord.NashMTL(3).backward(twin.losses(0, z), features=twin.representation)
    step_of(accord.NashMTL(3), net, 0, net.representation)


def test_parameters_and_state_stay_as_they_are():
    net, other = Net(), Net()
    accord.watch(net.trunk)
    assert list(net.state_dict()) == list(other.state_dict())
    assert [n for n, _ in net.named_modules()] == [n for n, _ in other.named_modules()]
    assert type(net.trunk) is nn.Sequential
    assert torch.equal(net.trunk(batch(0)), other.trunk(batch(0)))


@pytest.mark.parametrize("bad", [3, "trunk", torch.ones(3), [nn.Linear(2, 2)]], ids=lambda bad: type(bad).__name__)
def test_what_is_no_module_is_refused(bad):
    with pytest.raises(EngineError, match=f"got a {type(bad).__name__}; give the module whose output all tasks share"):
        accord.watch(bad)


def test_what_no_loss_goes_through():
    net = Net()
    accord.watch(net.trunk)
    net.trunk(batch(0))
    losses = net.losses(0, (batch(0) @ torch.ones(4, 5, dtype=torch.float64)).requires_grad_())
    with pytest.raises(EngineError, match="none of the 3 losses reaches"):
        accord.NashMTL(3).backward(losses, features=net.trunk)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_a_checkpointed_trunk(engine, reentrant):
    """What lies before the representation is walked by one real backward, whatever hides in it."""
    net, other = Net(), Net()

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net.trunk

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=reentrant)

    trunk = Checkpointed()
    accord.watch(trunk)
    z = trunk(batch(0).requires_grad_())
    accord.NashMTL(3).backward(net.losses(0, z), features=trunk, engine=engine)
    step_of(accord.NashMTL(3), other, 0, None)
    assert_same_grads(net, other, rtol=1e-12, atol=1e-14)


@pytest.fixture
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh")
def test_a_compiled_trunk():
    """Its outputs are seen whether it was watched before it was compiled or after."""
    for order in ("watch first", "compile first"):
        net, other = Net(), Net()
        if order == "watch first":
            accord.watch(net.trunk)
        run = torch.compile(net.trunk, backend="aot_eager")
        features = net.trunk if order == "watch first" else run
        if order == "compile first":
            accord.watch(run)
        for step in range(2):
            z = run(batch(step))
            balance = accord.NashMTL(3).backward(net.losses(step, z), features=features)
            expected = step_of(accord.NashMTL(3), other, step, None)
            torch.testing.assert_close(balance.weights, expected.weights, rtol=1e-9, atol=0.0)
        assert_same_grads(net, other)
