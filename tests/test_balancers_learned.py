"""FAMO, GradNorm, UW, IMTL-L and IMTL: trained weights, each against its own objective and torch's optimisers."""

import io
import warnings

import numpy as np
import pytest
import torch

import accord
from accord.errors import EngineError, NonFiniteError, OptionError, OptionWarning, ShapeError
from support.nets import Net, assert_same_grads, flat_grad, rows_of, side_by_side, write, write_heads
from support.twins import SlowFAMO, SlowGradNorm

NAMES = ["a", "b", "c"]


def balanced(balancer):
    return lambda net, step: balancer.backward(net.losses(step), net.trunk)


def saved(balancer):
    """The state after a journey through a file."""
    buffer = io.BytesIO()
    torch.save(balancer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---------------------------------------------------------------- FAMO


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 0.01},
        {"gamma": 0.0, "lr": 0.1},
        {"gamma": 0.5, "lr": 0.3},
        {"minima": [-1.0, 0.005, 0.0]},
        {"max_norm": 0.3},
    ],
)
@pytest.mark.parametrize("closure", [True, False])
def test_famo_is_the_published_class_with_a_real_second_forward(options, closure):
    balancer = accord.FAMO(3, **options)
    twin = SlowFAMO(3, **{"gamma": 0.001, "lr": 0.025, **options})

    def after(net, step):
        balancer.after_step((lambda: net.losses(step)) if closure else net.losses(step))

    side_by_side(
        balanced(balancer),
        twin,
        steps=30,
        after=after,
        reference_after=lambda net, step: twin.after(net, step),
        rtol=1e-8,
    )
    weights = balancer.state_dict()["_extra_state"]["logits"]["value"]
    torch.testing.assert_close(weights, twin.logits.detach(), rtol=1e-8, atol=1e-11)
    assert float(weights.std()) > 0.01


def test_famo_calls_the_closure_once_and_without_gradients():
    net, balancer, calls = Net(), accord.FAMO(3), []

    def losses():
        calls.append(torch.is_grad_enabled())
        return net.losses()

    balancer.after_step(losses)  # before the first step there is nothing to look back at
    balancer.backward(net.losses(), net.trunk)
    balancer.after_step(losses)
    balancer.after_step(losses)  # the same step twice
    assert calls == [False]
    balancer.eval()
    balancer.backward(net.losses(), net.trunk)
    balancer.after_step(losses)
    assert calls == [False]
    accord.MGDA(3).after_step(losses)  # methods that do not look back do not pay for it
    assert calls == [False]


def test_famo_takes_the_losses_after_the_step_in_any_form():
    states = []
    for form in (
        lambda values: values,
        tuple,
        torch.stack,
        lambda values: dict(zip(NAMES, values, strict=True)),
        lambda values: dict(reversed(list(zip(NAMES, values, strict=True)))),
        lambda values: [v.detach() for v in values],
        lambda values: [v.reshape(1) for v in values],
    ):
        net, balancer = Net(), accord.FAMO(NAMES)
        balancer.backward(dict(zip(NAMES, net.losses(), strict=True)), net.trunk)
        balancer.after_step(form(net.losses(1)))
        states.append(str(balancer.state_dict()))
    assert len(set(states)) == 1


def test_famo_without_after_step_warns_once_and_its_weights_stand_still():
    net, balancer = Net(), accord.FAMO(3, gamma=0.0)
    balancer.backward(net.losses(), net.trunk)
    with pytest.warns(OptionWarning, match="after_step was not called"):
        balancer.backward(net.losses(), net.trunk)
    balancer.backward(net.losses(), net.trunk)
    inverse = 1 / (torch.stack(net.losses()).detach() + 1e-8)
    torch.testing.assert_close(balancer.backward(net.losses(), net.trunk).weights, inverse / inverse.sum())


def test_famo_saved_between_backward_and_after_step_goes_on_alike():
    nets, balancers = [Net(), Net()], [accord.FAMO(3, lr=0.2), accord.FAMO(3, lr=0.2)]

    def train(net, balancer, steps):
        optimizer, weights = torch.optim.SGD(net.parameters(), lr=0.05), []
        for step in steps:
            optimizer.zero_grad()
            weights.append(balancer.backward(net.losses(step), net.trunk).weights)
            optimizer.step()
            yield torch.stack(weights)
            balancer.after_step(net.losses(step))

    whole = list(train(nets[0], balancers[0], range(9)))[-1]
    half = train(nets[1], balancers[1], range(9))
    for _ in range(5):
        next(half)  # step 4 has moved the parameters, and after_step is due
    fresh = accord.FAMO(3, lr=0.2)
    fresh.load_state_dict(saved(balancers[1]))
    fresh.after_step(nets[1].losses(4))
    rest = list(train(nets[1], fresh, range(5, 9)))[-1]
    assert torch.equal(rest, whole[5:])


def test_famo_refuses_bad_second_looks_and_keeps_its_weights():
    net, balancer = Net(), accord.FAMO(NAMES)
    balancer.backward(dict(zip(NAMES, net.losses(), strict=True)), net.trunk)
    before = str(balancer.state_dict())
    a, b, c = net.losses()
    for bad, error, message in (
        ([a, b], ShapeError, "3 scalar losses, got 2"),
        ([a, b, torch.ones(2)], ShapeError, "3 scalar losses"),
        ([1.0, 2.0, 3.0], ShapeError, "got 3: .*float"),
        (torch.tensor(5.0), ShapeError, "got 1"),
        (None, ShapeError, "NoneType"),
        ([a, b, c * float("nan")], NonFiniteError, "loss of 'c' = nan is not finite"),
        ([a, b - 1e3, c], NonFiniteError, "'b' = -9"),
        ({"a": a, "b": b, "x": c}, ShapeError, "named"),
    ):
        with pytest.raises(error, match=message):
            balancer.after_step(bad)
        assert str(balancer.state_dict()) == before
    through = accord.AlphaFair(3, of="famo", alpha=0.5)
    through.backward(net.losses(), net.trunk)
    for bad in ([1.0, 2.0, 3.0], [a, b, torch.ones(2)], torch.tensor(5.0), None, [a, b]):
        with pytest.raises(ShapeError, match="3 scalar losses"):
            through.after_step(bad)


def test_famo_the_scalar_entry_is_followed_by_after_step_too():
    a, b = accord.FAMO(3, lr=0.3), accord.FAMO(3, lr=0.3)
    for step in range(4):
        net, other = Net(seed=step), Net(seed=step)
        a(net.losses(step)).backward()
        b.backward(other.losses(step), other.trunk)
        assert_same_grads(net, other)
        a.after_step(net.losses(step + 1))
        b.after_step(other.losses(step + 1))
    assert str(a.state_dict()) == str(b.state_dict())


def test_famo_clips_in_the_scalar_entry_too_and_needs_the_shared_parameters_for_it():
    net, other, balancer = Net(), Net(), accord.FAMO(3, max_norm=0.1)
    before = str(balancer.state_dict())
    with pytest.raises(OptionError, match="max_norm needs the shared parameters"):
        balancer(net.losses())
    assert str(balancer.state_dict()) == before
    balancer(net.losses(), net.trunk).backward()
    accord.FAMO(3, max_norm=0.1).backward(other.losses(), other.trunk)
    assert float(flat_grad(net.shared).norm()) == pytest.approx(0.1)
    torch.testing.assert_close(flat_grad(net.shared), flat_grad(other.shared))
    with pytest.raises(EngineError, match="none of the 3 losses reaches"):
        balancer(net.losses(), torch.nn.Linear(2, 2))


# ---------------------------------------------------------------- GradNorm


@pytest.mark.parametrize("options", [{}, {"alpha": 0.12, "lr": 0.1}, {"alpha": 0.0}, {"alpha": 3.0}])
def test_gradnorm_descends_its_objective(options):
    balancer = accord.GradNorm(3, **options)
    twin = SlowGradNorm(3, **{"alpha": 1.5, "lr": 0.025, **options})
    side_by_side(balanced(balancer), twin, steps=12, rtol=1e-8)
    weights = balancer.last_weights()[0]
    assert weights.sum() == pytest.approx(3.0)
    assert weights.std() > 1e-3


def test_gradnorm_brings_the_norms_together_where_all_tasks_train_alike():
    balancer = accord.GradNorm(3, lr=0.02)
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(800):
        balance = balancer.backward([1 + x[0], 1 + 2 * x[1], 1 + 4 * x[2]], x)
    np.testing.assert_allclose(balance.weights * torch.tensor([1, 2, 4]), [12 / 7] * 3, rtol=0.08)


def test_gradnorm_prefers_the_task_that_trains_more_slowly():
    balancer = accord.GradNorm(2)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for step in range(50):
        balance = balancer.backward([x[0] + 0.95**step, x[1] + 1.0], x)
    assert balance.weights[1] > 1.2


# ---------------------------------------------------------------- UW, IMTL-L, IMTL


def learned_objective(name, s, losses):
    if name == "uw":
        return sum(0.5 * (torch.exp(-v) * loss + v) for v, loss in zip(s, losses, strict=True))
    return sum(torch.exp(v) * loss - v for v, loss in zip(s, losses, strict=True))


@pytest.mark.parametrize("name", ["uw", "imtl-l"])
@pytest.mark.parametrize("init", [0.0, -0.5])
@pytest.mark.parametrize("scalar", [False, True])
def test_parameters_and_network_descend_one_objective(name, init, scalar):
    balancer = accord.make(name, tasks=3, init=init)
    s = torch.full((3,), init, requires_grad=True)

    def own(net, step):
        if scalar:
            balancer(net.losses(step)).backward()
        else:
            balancer.backward(net.losses(step), net.trunk)

    side_by_side(
        own,
        lambda net, step: learned_objective(name, s, net.losses(step)).backward(),
        steps=25,
        own_parameters=balancer.parameters(),
        reference_parameters=[s],
        rtol=1e-5,
        atol=1e-6,
    )
    assert float((s.detach() - init).abs().min()) > 0.01


def equal_projections(rows):
    """The paper's closed form α_2:K = g_1 Uᵀ (D Uᵀ)⁻¹, with α_1 what is left of 1."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    d, u = rows[0] - rows[1:], units[0] - units[1:]
    rest = rows[0] @ u.T @ np.linalg.inv(d @ u.T)
    return np.concatenate([[1 - rest.sum()], rest])


@pytest.mark.parametrize("heads", ["plain", "weighted"])
@pytest.mark.parametrize("features", [False, True])
def test_imtl_is_imtl_g_on_scaled_losses_and_imtl_l_beyond(heads, features):
    balancer, s = accord.IMTL(3, heads=heads), torch.zeros(3, requires_grad=True)

    def own(net, step):
        if features:
            z = net.features(step)
            balancer.backward(net.losses(step, z), features=z)
        else:
            balancer.backward(net.losses(step), net.trunk)

    def reference(net, step):
        z = net.features(step)
        raw = net.losses(step, z)
        scaled = [torch.exp(v) * loss - v for v, loss in zip(s, raw, strict=True)]
        alpha = equal_projections(rows_of(scaled, [z] if features else net.shared).numpy())
        write(net.shared, torch.from_numpy(alpha) @ rows_of(scaled, net.shared))
        write_heads(net, scaled, np.ones(3) if heads == "plain" else alpha)
        s.grad = torch.autograd.grad(sum(scaled), s)[0]

    side_by_side(
        own,
        reference,
        steps=15,
        own_parameters=balancer.parameters(),
        reference_parameters=[s],
        rtol=1e-4,
        atol=1e-5,
    )
    assert float(s.detach().abs().min()) > 0.01


def test_imtl_s_scalar_entry_has_the_shared_gradients():
    balancer, reference = accord.IMTL(3, init=0.3), accord.IMTL(3, init=0.3, heads="weighted")
    net, other = Net(), Net()
    balancer(net.losses(), net.trunk).backward()
    reference.backward(other.losses(), other.trunk)
    assert_same_grads(net, other)
    torch.testing.assert_close(balancer.log_scale.grad, reference.log_scale.grad)


def test_imtl_with_untrained_scales_is_imtl_g():
    net, other = Net(), Net()
    a = accord.IMTL(3).backward(net.losses(), net.trunk)
    b = accord.IMTLG(3).backward(other.losses(), other.trunk)
    torch.testing.assert_close(a.weights, b.weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(flat_grad(net.shared), flat_grad(other.shared))


def test_a_dead_task_trains_its_head_with_its_own_scale_in_imtl():
    net, balancer = Net(), accord.IMTL(3, init=0.5, heads="weighted")
    losses = net.losses()
    losses[1] = net.heads[1](torch.ones(2, 5, dtype=torch.float64)).square().mean()
    expected = np.exp(0.5) * torch.autograd.grad(losses[1], net.heads[1].bias, retain_graph=True)[0]
    balance = balancer.backward(losses, net.trunk)
    assert balance.weights[1] == 0
    torch.testing.assert_close(net.heads[1].bias.grad, expected)


@pytest.mark.parametrize("name", ["uw", "imtl-l", "imtl"])
def test_parameters_that_no_optimiser_moves_are_told_of_after_a_hundred_steps(name):
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    balancer = accord.make(name, tasks=2)
    step = lambda: balancer.backward([2.0 + x[0], 3.0 + x[1] + x[2]], x)  # noqa: E731
    for _ in range(99):
        step()
    with pytest.warns(OptionWarning, match=r"have not moved for 100 steps.*add_param_group"):
        step()
    for _ in range(150):
        step()  # once is enough
    trained = accord.make(name, tasks=2)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    for _ in range(120):
        optimizer.zero_grad()
        trained.backward([2.0 + x[0], 3.0 + x[1] + x[2]], x)
        optimizer.step()
    frozen = accord.make(name, tasks=2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(120):
            frozen.backward([2.0 + x[0], 3.0 + x[1] + x[2]], x)


@pytest.mark.parametrize("name", ["uw", "imtl-l", "imtl"])
def test_the_balancer_s_own_gradients_accumulate_and_rest_in_eval(name):
    net, balancer = Net(), accord.make(name, tasks=3)
    balancer.backward(net.losses(), net.trunk)
    once = next(balancer.parameters()).grad.clone()
    assert once.abs().min() > 0
    balancer.backward(net.losses(), net.trunk)
    torch.testing.assert_close(next(balancer.parameters()).grad, 2 * once)
    balancer.eval()
    balancer.backward(net.losses(), net.trunk)
    torch.testing.assert_close(next(balancer.parameters()).grad, 2 * once)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("famo:gamma=-1", "gamma = -1"),
        ("famo:gamma=inf", "gamma = inf"),
        ("famo:gamma=x", "gamma = 'x'"),
        ("famo:lr=0", "lr = 0"),
        ("famo:minima=[0]", r"minima = \[0\]"),
        ("famo:minima=0", "minima = 0"),
        ("famo:max_norm=0", "max_norm = 0"),
        ("gradnorm:alpha=-1", "alpha = -1"),
        ("gradnorm:alpha=inf", "alpha = inf"),
        ("gradnorm:lr=-1", "lr = -1"),
        ("imtl-l:init=inf", "init = inf"),
        ("imtl:init=x", "init = 'x'"),
        ("imtl:heads=none", "heads = None"),
        ("imtl:update_every=0", "update_every = 0"),
    ],
)
def test_bad_options_are_named_with_their_values(spec, message):
    with pytest.raises(OptionError, match=message):
        accord.make(spec, tasks=3)
