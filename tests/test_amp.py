"""Mixed precision: the scale of a GradScaler changes no number, and a step that it skips has not happened."""

import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

import accord
from accord.errors import NonFiniteError, NumericalWarning, OptionError
from accord.jacobian import batched, sequential

K, STEPS = 3, 3
SCALES = [1.0, 2.0**8, 2.0**16]
METHODS = accord.available()
ENGINES = ["sequential", "sequential:lean=true", "batched", "batched:lean=true", "auto"]
each_method = pytest.mark.parametrize("method", METHODS)


class Net(nn.Module):
    """A trunk and three heads; losses are positive, of several sizes, and change with the step."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
            self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(K))
        self.to(dtype)
        self.dtype = dtype

    def losses(self, step=0, features=None):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, K, generator=generator)
        z = self.trunk(x.to(self.dtype)) if features is None else features
        found = [(head(z)[:, 0].float() - y[:, k]).square() for k, head in enumerate(self.heads)]
        return [0.1 * 2.0**k * loss.mean() + 0.05 for k, loss in enumerate(found)]


def scaler_of(scale, **options):
    return GradScaler("cpu", init_scale=scale, **options)


def step_of(balancer, net, step, *, losses=None, **options):
    """``backward`` on one batch, with a second one for the methods that take it."""
    if balancer.needs == "cross-gramian":
        options["second"] = net.losses(step + 100)
    return balancer.backward(net.losses(step) if losses is None else losses, net.trunk, **options)


def everything(balancer, net):
    return [*net.parameters(), *balancer.parameters()]


def train(method, scaler=None, *, steps=STEPS, cast=None, net=None, optimizer=None, balancer=None, **options):
    """A loop as with any GradScaler; returns the unscaled gradients of each step, and what was trained."""
    net = Net() if net is None else net
    balancer = accord.make(method, K) if balancer is None else balancer
    optimizer = torch.optim.SGD(everything(balancer, net), lr=0.05) if optimizer is None else optimizer
    seen, weights = [], []
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
            losses = net.losses(step)
        if scaler is None:
            weights.append(step_of(balancer, net, step, losses=losses, **options).weights)
        else:
            weights.append(step_of(balancer, net, step, losses=losses, scaler=scaler, **options).weights)
            scaler.unscale_(optimizer)
        seen.append([None if p.grad is None else p.grad.clone() for p in everything(balancer, net)])
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        balancer.after_step(lambda step=step: net.losses(step))
    return seen, weights, net, balancer


def agree(found, expected, tolerance):
    """Gradients of as many steps, each to a tolerance relative to its norm."""
    for ours, others in zip(found, expected, strict=True):
        assert [g is None for g in ours] == [g is None for g in others]
        norm = torch.stack([g.double().square().sum() for g in others if g is not None]).sum().sqrt()
        for a, b in zip(ours, others, strict=True):
            assert a is None or float((a.double() - b.double()).norm()) <= tolerance * float(norm)


def state_of(balancer):
    """All state, generators too, to the last bit, and comparable."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes()
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)

    return {"steps": balancer.steps, **plain(balancer.state_dict())}


# ---------------------------------------------------------------------- the scale


@each_method
@pytest.mark.parametrize("scale", SCALES)
def test_no_number_depends_on_the_scale(method, scale):
    """A loop with a scaler is the loop without one: gradients, weights, parameters, the method's own among them."""
    expected, weights, plain, _ = train(method)
    scaler = scaler_of(scale)
    found, scaled, net, balancer = train(method, scaler)
    assert scaler.get_scale() == scale  # no step was skipped
    agree(found, expected, 1e-6)
    for a, b in zip(scaled, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)  # GradDrop has none
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert balancer.steps == STEPS


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "method", ["upgrad", "nash-mtl:max_norm=0.1", "mgda:update_every=2", "pcgrad", "graddrop", "si"]
)
def test_every_engine_knows_the_scale(method, engine):
    expected = train(method)[0]
    agree(train(method, scaler_of(2.0**16), engine=engine)[0], expected, 1e-6)


@pytest.mark.parametrize("method", ["mgda", "upgrad:heads=plain", "ls"])
def test_the_representation_knows_the_scale(method):
    results = []
    for scaler in (None, scaler_of(2.0**16)):
        net, balancer = Net(), accord.make(method, K)
        z = net.trunk(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)))
        balancer.backward(net.losses(features=z), features=z, scaler=scaler)
        factor = 1.0 if scaler is None else scaler.get_scale()
        results.append([p.grad / factor for p in net.parameters()])
    agree([results[1]], [results[0]], 1e-6)


@pytest.mark.parametrize("engine", [sequential, batched])
def test_a_jacobian_is_in_true_units_whatever_its_scale(engine):
    net = Net()
    plain, scaled = (engine(net.losses(), net.trunk, scale=scale, retain_graph=True) for scale in (None, 2.0**16))
    w = torch.tensor([0.5, -1.0, 2.0])
    torch.testing.assert_close(scaled.gramian(), plain.gramian(), rtol=1e-9, atol=0.0)
    for ours, others in (
        (scaled.rows(), plain.rows()),
        (scaled.pull(w), plain.pull(w)),
        (scaled.head_gradients(w), plain.head_gradients(w)),
    ):
        for a, b in zip(ours, others, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(scaled.values, plain.values, rtol=0.0, atol=0.0)
    scaled.accumulate(w, w)
    gradients = [p.grad / 2.0**16 for p in net.trunk.parameters()]
    for a, b in zip(gradients, plain.pull(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@each_method
def test_a_disabled_scaler_is_none(method):
    expected, _, _, balancer = train(method)
    found, _, _, other = train(method, GradScaler("cpu", enabled=False))
    for ours, others in zip(found, expected, strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, others, strict=True))
    assert state_of(balancer) == state_of(other)


def test_a_disabled_scaler_skips_nothing():
    """So losses that are not finite are an error, as without one."""
    net = Net()
    with pytest.raises(NonFiniteError, match="nan"):
        accord.make("upgrad", K).backward(
            spoilt(net, "NaN loss", 0), net.trunk, scaler=GradScaler("cpu", enabled=False)
        )
    assert all(p.grad is None for p in net.parameters())


def test_what_is_no_scaler_is_refused():
    net = Net()
    for wrong in (2.0**16, "dynamic", torch.ones(())):
        with pytest.raises(OptionError, match="GradScaler"):
            accord.make("upgrad", K).backward(net.losses(), net.trunk, scaler=wrong)


# ---------------------------------------------------------------------- autocast


@each_method
@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16])
def test_under_autocast_gradients_agree_at_every_scale(method, cast):
    """A scale that is a power of two changes no digit of a half number, but for those too small at scale 1."""
    reference = train(method, None, cast=cast, steps=1)[0]
    for scale in (2.0**4, 2.0**8):
        found = train(method, scaler_of(scale), cast=cast, steps=1)[0]
        assert all(p.dtype == torch.float32 for p in found[0] if p is not None)
        agree(found, reference, 2e-3 if cast is torch.float16 else 1e-6)


@each_method
def test_float16_autocast_trains(method):
    _, weights, net, balancer = train(method, scaler_of(2.0**8), cast=torch.float16, steps=4)
    assert all(bool(torch.isfinite(p).all()) for p in everything(balancer, net))
    assert balancer.needs == "rows" or bool(torch.isfinite(torch.stack(weights)).all())
    assert any(not torch.equal(p, q) for p, q in zip(net.parameters(), Net().parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("engine", [sequential, batched])
def test_the_gramian_of_half_rows_is_not_rounded_again(dtype, engine):
    """Products of rows are taken in float64: their own digits are all that half precision costs."""
    net = Net(dtype)
    jacobian = engine(net.losses(), net.trunk)
    rows = torch.cat([block.reshape(K, -1).double() for block in jacobian.rows()], 1)
    torch.testing.assert_close(jacobian.gramian(), rows @ rows.T, rtol=1e-12, atol=0.0)
    plain = []
    for k in range(K):
        net.zero_grad()
        net.losses()[k].backward()
        plain.append(torch.cat([p.grad.flatten().double() for p in net.trunk.parameters()]))
    torch.testing.assert_close(rows, torch.stack(plain), rtol=0.0, atol=1e-2 * float(rows.abs().max()))


@each_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters(method, dtype):
    """Near the float32 gradients, in the parameters' own dtype."""
    found, _, net, balancer = train(method, net=Net(dtype), steps=1)
    assert all(p.grad.dtype == dtype for p in net.parameters())
    assert all(p.dtype == torch.float32 for p in balancer.parameters())
    assert all(bool(torch.isfinite(g).all()) for g in found[0] if g is not None)
    w = accord.make(method, K)
    balance = step_of(w, Net(dtype), 0, scaler=scaler_of(2.0**6))
    assert balance.outcome != "skipped"


# ---------------------------------------------------------------------- skipped steps


class Overflow(torch.autograd.Function):
    """The identity, whose gradient is infinite, as that of a float16 layer that overflows at the scale."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return torch.full_like(g, float("inf"))


def spoilt(net, kind, step):
    """The losses of a batch whose gradients are not finite."""
    losses = net.losses(step)
    if kind == "gradients":
        return net.losses(step, features=Overflow.apply(net.trunk(torch.ones(8, 4))))
    if kind == "one gradient":
        return [losses[0], net.losses(step, features=Overflow.apply(net.trunk(torch.ones(8, 4))))[1], losses[2]]
    if kind == "head":
        return [losses[0], losses[1] + Overflow.apply(net.heads[1].bias).square().sum(), losses[2]]
    return [losses[0], losses[1] * float("inf" if kind == "infinite loss" else "nan"), losses[2]]


KINDS = ["infinite loss", "NaN loss", "gradients", "one gradient", "head"]


def with_a_spoilt_step(method, kind, entry, steps=(0, "bad", 1, 2)):
    """Train with a scaler over good steps and bad ones; returns the parameters, the state and the scales."""
    net, balancer, scaler = Net(), accord.make(method, K), scaler_of(2.0**10)
    optimizer = torch.optim.SGD(everything(balancer, net), lr=0.05)
    scales = []
    for step in steps:
        optimizer.zero_grad()
        before = state_of(balancer), [p.detach().clone() for p in everything(balancer, net)]
        losses = spoilt(net, kind, 7) if step == "bad" else net.losses(step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if step == "bad" else "error", NumericalWarning)
            entry(balancer, net, 7 if step == "bad" else step, losses, scaler)
        if step == "bad":
            assert not all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())
            assert state_of(balancer) == before[0]
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        if step == "bad":
            assert all(torch.equal(p, q) for p, q in zip(everything(balancer, net), before[1], strict=True))
            assert scaler.get_scale() == 0.5 * ([2.0**10, *scales])[-2]
        balancer.after_step(lambda step=step: net.losses(7 if step == "bad" else step))
        if step == "bad":
            assert state_of(balancer) == before[0]
    return [p.detach().clone() for p in everything(balancer, net)], balancer


def by_backward(balancer, net, step, losses, scaler):
    return step_of(balancer, net, step, losses=losses, scaler=scaler)


def by_scalar(balancer, net, step, losses, scaler):
    scaler.scale(balancer(losses, net.trunk, scaler=scaler)).backward()


@each_method
@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_has_not_happened(method, kind):
    """The gradient tells the scaler to skip; the balancer's state, to the last bit, is that of before."""
    found, balancer = with_a_spoilt_step(method, kind, by_backward)
    expected, other = with_a_spoilt_step(method, kind, by_backward, steps=(0, 1, 2))
    assert balancer.steps == other.steps == 3
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["mgda:update_every=3", "pcgrad:update_every=2", "nash-mtl:update_every=2,max_norm=0.1"]
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [("bad", 0, 1, 2), (0, "bad", 1, 2), (0, 1, "bad", 2), (0, "bad", "bad", 1, 2)])
def test_a_skipped_step_does_not_age_the_weights(method, kind, steps):
    """Also where it would have reused them, or would have been the first."""
    found, balancer = with_a_spoilt_step(method, kind, by_backward, steps=steps)
    expected, other = with_a_spoilt_step(method, kind, by_backward, steps=(0, 1, 2))
    assert balancer.steps == other.steps == 3
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- the scalar entry

SCALAR = [method for method in METHODS if accord.make(method, K).needs != "rows"]


@pytest.mark.parametrize("method", SCALAR)
@pytest.mark.parametrize("scale", SCALES)
def test_the_scalar_is_scaled_by_the_loop(method, scale):
    """``scaler.scale(loss).backward()`` on what ``balancer(...)`` gives: as with no scaler."""
    results = []
    for scaler in (None, scaler_of(scale)):
        net, balancer = Net(), accord.make(method, K)
        optimizer = torch.optim.SGD(everything(balancer, net), lr=0.05)
        loss = balancer(net.losses(), net.trunk, scaler=scaler)
        assert loss.shape == ()
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
        results.append(([p.grad for p in everything(balancer, net)], float(loss.detach())))
    agree([results[1][0]], [results[0][0]], 1e-6)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-5)


@pytest.mark.parametrize("method", [m for m in SCALAR if accord.make(m, K).needs != "losses"])
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_scalar_of_a_skipped_step(method, kind):
    """The rows are seen before the scalar is given, so a step that will be skipped has not happened."""
    found, _ = with_a_spoilt_step(method, kind, by_scalar)
    expected, _ = with_a_spoilt_step(method, kind, by_scalar, steps=(0, 1, 2))
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [m for m in SCALAR if accord.make(m, K).needs == "losses"])
@pytest.mark.parametrize("kind", ["infinite loss", "NaN loss"])
def test_a_scalar_of_losses_that_are_not_finite(method, kind):
    """Methods that look at losses alone cannot see gradients; what they see they skip."""
    with_a_spoilt_step(method, kind, by_scalar)
