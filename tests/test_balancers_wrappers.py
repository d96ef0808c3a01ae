"""The α-fair transform against methods run on losses that are really transformed."""

import pytest
import torch

import accord
from accord.errors import NonFiniteError, OptionError
from accord.jacobian import ScaledJacobian, batched, sequential
from support.nets import Net, assert_same_grads, flat_grad, grads, rows_of, side_by_side

OTHER = 1000  # the step whose data are the second batch of step 0
LOSS_BASED = ["ls", "ls:weights=[1, 2, 0.5]", "rlw:seed=3"]
ON_THE_GRAMIAN = ["mgda", "cagrad:c=0.5,rescale=1", "imtl-g", "fairgrad:alpha=0.5", "nash-mtl", "config", "upgrad"]
WITH_OPTIONS = ["mgda:times_k=True,max_norm=0.5", "fairgrad:heads=weighted", "nash-mtl:update_every=3,max_norm=1"]
WITH_STATE = ["pcgrad", "graddrop:leak=0.2", "gradvac:beta=0.5", "moco", "modo:gamma=1", "sdmgrad:lr=0.5"]
ANY_SIGN = [*LOSS_BASED, *ON_THE_GRAMIAN, *WITH_OPTIONS, *WITH_STATE, "aligned-mtl", "dualproj", "cr-mogm:of=cagrad"]
LOGARITHMS = ["si", "gls", "stch:mu=0.5,warmup=2", "famo:lr=0.2", "famo:max_norm=0.1", "db-mtl", "db-mtl:beta=0"]
POSITIVE = [*LOGARITHMS, "uw", "imtl-l", "imtl", "mgda:normalization=loss+", "cr-mogm:of=uw"]


def transformed(losses, alpha):
    return [loss.log() if alpha == 1 else loss ** (1 - alpha) / (1 - alpha) for loss in losses]


def wrap(spec, alpha, **options):
    return accord.AlphaFair(3, of=spec, alpha=alpha, **options)


def beside_the_inner_method(spec, alpha, *, steps=5, second=False, **options):
    """Train with the wrapper on the losses and with the inner method on the transformed ones."""
    wrapped, inner = wrap(spec, alpha), accord.make(spec, tasks=3)

    def own(net, step):
        other = net.losses(step + OTHER) if second else None
        wrapped.backward(net.losses(step), net.trunk, second=other)

    def reference(net, step):
        other = transformed(net.losses(step + OTHER), alpha) if second else None
        inner.backward(transformed(net.losses(step), alpha), net.trunk, second=other)

    return side_by_side(
        own,
        reference,
        steps=steps,
        own_parameters=wrapped.parameters(),
        reference_parameters=inner.parameters(),
        after=lambda net, step: wrapped.after_step(lambda: net.losses(step)),
        reference_after=lambda net, step: inner.after_step(lambda: transformed(net.losses(step), alpha)),
        **options,
    )


# ---------------------------------------------------------------- the α-fair transform


@pytest.mark.parametrize("spec", ANY_SIGN)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, -1.0])
def test_any_method_on_really_transformed_losses(spec, alpha):
    beside_the_inner_method(spec, alpha, lr=0.05 if alpha > 0 else 1e-3, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("spec", POSITIVE)
@pytest.mark.parametrize("alpha", [0.5, -1.0])
def test_methods_of_positive_losses_on_really_transformed_ones(spec, alpha):
    beside_the_inner_method(spec, alpha, lr=0.05 if alpha > 0 else 1e-3, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("spec", ["modo:gamma=1", "sdmgrad:lr=0.5", "cr-mogm:of=modo"])
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_each_of_two_batches_is_transformed_by_its_own_losses(spec, alpha):
    beside_the_inner_method(spec, alpha, second=True, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("spec", ["ls", "nash-mtl", "uw", "famo", "graddrop"])
def test_alpha_zero_is_the_method_itself(spec):
    a, b = Net(), Net()
    wrap(spec, 0.0).backward(a.losses(), a.trunk)
    accord.make(spec, tasks=3).backward(b.losses(), b.trunk)
    assert_same_grads(a, b)


def test_around_ls_it_is_ls_or_si_and_may_see_losses_of_any_sign_at_zero():
    net, other = Net(), Net()
    wrap("ls", 1.0).backward(net.losses(), net.trunk)
    accord.SI(3).backward(other.losses(), other.trunk)
    assert_same_grads(net, other)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    balance = accord.AlphaFair(2, alpha=0).backward([x[0] - 1, x[1] + 1], x)
    assert balance.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_dwa_compares_the_losses_as_they_are(alpha):
    """Its ratios of past losses mean nothing on transformed ones, which may be negative."""
    wrapped, inner = wrap("dwa:window=2,temperature=0.5", alpha), accord.make("dwa:window=2,temperature=0.5", tasks=3)

    def reference(net, step):
        losses = net.losses(step)
        weights = inner.weigh(torch.stack(losses).detach().numpy())
        sum(float(w) * f for w, f in zip(weights, transformed(losses, alpha), strict=True)).backward()

    side_by_side(lambda net, step: wrapped.backward(net.losses(step), net.trunk), reference, steps=8)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("of", ["gradnorm:lr=0.2", "cr-mogm:of='gradnorm:lr=0.2',beta=0.0"])
def test_gradnorm_compares_the_losses_as_they_are_and_the_transformed_gradients(alpha, of):
    wrapped = wrap(of, alpha)
    logits, first = torch.zeros(3, dtype=torch.float64, requires_grad=True), []
    adam = torch.optim.Adam([logits], lr=0.2)

    def reference(net, step):
        losses = net.losses(step)
        values = torch.stack(losses).detach()
        first.append(values)
        changed = transformed(losses, alpha)
        norms = rows_of(changed, net.shared).norm(dim=1)
        weights = 3 * logits.softmax(0)
        rate = values / first[0]
        target = ((weights * norms).mean() * (rate / rate.mean()) ** 1.5).detach()
        logits.grad = torch.autograd.grad((weights * norms - target).abs().sum(), logits, retain_graph=True)[0]
        sum(w * f for w, f in zip(weights.tolist(), changed, strict=True)).backward()
        adam.step()

    side_by_side(lambda net, step: wrapped.backward(net.losses(step), net.trunk), reference, steps=6, rtol=1e-7)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0, 4.0])
def test_nash_and_imtl_g_keep_their_directions(alpha):
    for spec in ("nash-mtl", "imtl-g", "fairgrad:alpha=1", "config"):
        a, b = Net(), Net()
        wrap(spec, alpha).backward(a.losses(), a.trunk)
        accord.make(spec, tasks=3).backward(b.losses(), b.trunk)
        d, e = flat_grad(a.shared), flat_grad(b.shared)
        torch.testing.assert_close(d / d.norm(), e / e.norm(), rtol=1e-6, atol=1e-9)
        if spec == "nash-mtl":
            torch.testing.assert_close(d, e, rtol=1e-6, atol=1e-9)
        assert not torch.allclose(a.heads[0].weight.grad, b.heads[0].weight.grad) or spec == "nash-mtl"


def test_it_adds_no_backward():
    for spec, options in (("ls", {}), ("nash-mtl", {}), ("nash-mtl:update_every=2", {}), ("graddrop", {}), ("uw", {})):
        counts = []
        for balancer in (accord.make(spec, tasks=3), wrap(spec, 0.5)):
            net, calls = Net(), []
            for p in (net.trunk[0].weight, net.heads[0].weight, net.heads[2].weight):
                p.register_hook(lambda g, calls=calls: calls.append(1))
            for step in range(4):
                balancer.backward(net.losses(step), net.trunk, **options)
            counts.append(len(calls))
        assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("of", ["ls", "si", "uw", "stch:nadir=[1, 1, 1]", "famo", "gls"])
def test_the_scalar_entry_without_shared_parameters(of):
    a, b = Net(), Net()
    wrapped, inner = wrap(of, 0.5), accord.make(of, tasks=3)
    wrapped(a.losses()).backward()
    inner(transformed(b.losses(), 0.5)).backward()
    assert_same_grads(a, b, rtol=1e-6, atol=1e-8)
    for p, q in zip(wrapped.parameters(), inner.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("of", ["nash-mtl", "mgda:max_norm=0.05", "imtl"])
def test_the_scalar_entry_with_shared_parameters(of):
    a, b = Net(), Net()
    wrap(of, 0.5)(a.losses(), a.trunk).backward()
    accord.make(of, tasks=3)(transformed(b.losses(), 0.5), b.trunk).backward()
    assert_same_grads(a, b, rtol=1e-6, atol=1e-8)


def test_features_balance_the_transformed_losses_there():
    a, b = Net(), Net()
    for spec in ("cagrad", "graddrop", "imtl"):
        a.zero_grad()
        b.zero_grad()
        z, y = a.features(), b.features()
        wrap(spec, 0.5).backward(a.losses(features=z), features=z)
        accord.make(spec, tasks=3).backward(transformed(b.losses(features=y), 0.5), features=y)
        assert_same_grads(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("engine", [sequential, batched])
def test_the_scaled_jacobian_is_that_of_the_transformed_losses(engine):
    net, w = Net(), [0.3, -1.0, 2.0]
    values = torch.stack(net.losses()).detach()
    for first in ("rows", "pull"):  # with rows stored, and without
        scaled = ScaledJacobian(engine(net.losses(), net.trunk, retain_graph=True), values**-0.5, 2 * values**0.5)
        direct = engine(transformed(net.losses(), 0.5), net.trunk, retain_graph=True)
        if first == "rows":
            torch.testing.assert_close(scaled.gramian(), direct.gramian())
        for a, b in ((scaled.pull(w), direct.pull(w)), (scaled.head_gradients(w), direct.head_gradients(w))):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(scaled.rows(), direct.rows())
        torch.testing.assert_close(scaled.cross_gramian(direct), direct.gramian())
        found = []
        for jacobian in (scaled, direct):
            net.zero_grad()
            jacobian.accumulate(w, [1.0, 2.0, 3.0])
            found.append(grads(net))
        torch.testing.assert_close(*found)
        torch.testing.assert_close(scaled.values, direct.values)


@pytest.mark.parametrize("outer", ["alpha-fair", "cr-mogm"])
def test_wrapped_twice(outer):
    """f_β∘f_α; the average of transformed weights. What the innermost method refuses is refused through both."""
    if outer == "alpha-fair":
        wrapped, inner = wrap("alpha-fair:of=cagrad,alpha=0.5", -0.5), accord.make("cagrad", tasks=3)

        def reference(net, step):
            inner.backward(transformed(transformed(net.losses(step), -0.5), 0.5), net.trunk)

        side_by_side(lambda net, step: wrapped.backward(net.losses(step), net.trunk), reference, steps=4, rtol=1e-7)
        with pytest.raises(OptionError, match="alpha = 2"):
            wrap("alpha-fair:of=ls,alpha=0.5", 2.0)
    for between in (f"{outer}:of=uw", f"{outer}:of=gls"):
        with pytest.raises(OptionError, match="alpha = 2"):
            wrap(between, 2.0)
    inside = "dwa:window=1,temperature=0.1"
    alone, through = wrap(inside, 3.0), wrap(f"cr-mogm:of='{inside}',beta=0.0", 3.0)
    for step in range(5):
        a, b = Net(seed=step), Net(seed=step)
        alone.backward(a.losses(step), a.trunk)
        through.backward(b.losses(step), b.trunk)
        assert_same_grads(a, b)


def test_refusals():
    for of in ("uw", "imtl-l", "imtl", "si", "gls", "stch", "famo", "db-mtl"):
        with pytest.raises(OptionError, match=rf"of='{of}' cannot have alpha = 1\.5.*below 1"):
            wrap(of, 1.5)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for of in ("uw", "imtl-l", "imtl", "gls", "famo"):
        balancer = accord.AlphaFair(["a", "b"], of=of, alpha=1.0)
        before = str(balancer.state_dict())
        with pytest.raises(NonFiniteError, match=r"transformed loss of 'b' = -0\.69"):
            balancer.backward([x[0] + 2, x[1] + 0.5], x)
        assert str(balancer.state_dict()) == before
        balancer.backward([x[0] + 2, x[1] + 1.5], x)
    x.grad = None
    for bad in (0.0, -3.0):
        for alpha in (0.5, 1.0, 2.0, -1.0):
            balancer = accord.AlphaFair(["a", "b"], of="ls", alpha=alpha)
            with pytest.raises(NonFiniteError, match=rf"'b' = {bad:.6g} is not positive"):
                balancer.backward([x[0] + 2, x[1] + bad], x)
            assert balancer.steps == 0
    with pytest.raises(NonFiniteError, match="float64's range"):
        accord.AlphaFair(2, of="ls", alpha=200).backward([x[0] + 1e-3, x[1] + 1], x)
    assert x.grad is None


def test_famo_with_lower_bounds_takes_negative_transformed_losses():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    values, bounds = torch.tensor([2.0, 0.5], dtype=torch.float64), [-1.0, -2.0]
    balancer = accord.AlphaFair(2, of=f"famo:minima={bounds}", alpha=1.0)
    balance = balancer.backward([x[0] + values[0], x[1] + values[1]], x)
    pull = 1 / (values.log() - torch.tensor(bounds))
    torch.testing.assert_close(balance.weights, pull / pull.sum() / values, rtol=1e-6, atol=0)
    balancer = accord.AlphaFair(2, of=f"famo:minima={bounds}", alpha=1.0)
    with pytest.raises(NonFiniteError, match="less its minimum"):
        balancer.backward([x[0] + 0.1, x[1] + 0.5], x)


def test_cr_mogm_names_the_task_that_does_not_reach_the_trunk():
    net, own = Net(), torch.ones((), requires_grad=True)
    losses = dict(zip("abc", net.losses(), strict=True)) | {"b": own**2}
    assert accord.CRMOGM(["a", "b", "c"], of="nash-mtl").backward(losses, net.trunk).cause.endswith("(b)")


@pytest.mark.parametrize("of", ["nash-mtl:max_norm=0.05", "uw", "cagrad", "mgda:max_norm=0.05,update_every=2"])
def test_eval_keeps_the_last_weights_of_the_losses_themselves(of):
    net, balancer = Net(), wrap(of, 0.5)
    balance = balancer.backward(net.losses(), net.trunk)
    first = grads(net)
    net.zero_grad()
    balancer.eval()
    frozen = balancer.backward(net.losses(), net.trunk)
    assert frozen.outcome == "frozen"
    assert torch.equal(frozen.weights, balance.weights)
    for p, g in zip(net.parameters(), first, strict=True):
        torch.testing.assert_close(p.grad, g)
