"""SDMGrad and MoDo against explicit Jacobians of two batches, and what ``second=`` is for."""

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord.errors import EngineError, NonFiniteError, NumericalWarning, OptionError, OptionWarning, ShapeError
from accord.jacobian import batched, sequential
from support.nets import Net, flat_grad, rows_of, side_by_side, write, write_heads
from support.twins import SlowMoDo, SlowSDMGrad

OTHER = 1000  # the step whose data are the second batch of step 0


CASES = [
    ("modo", {}),
    ("modo", {"gamma": 1.0, "rho": 0.1}),
    ("modo", {"gamma": 5.0}),
    ("sdmgrad", {}),
    ("sdmgrad", {"lam": 0.0, "lr": 0.3}),
    ("sdmgrad", {"lam": 0.6, "lr": 1.0, "momentum": 0.0, "inner_steps": 3}),
    ("sdmgrad", {"times_k": True, "lr": 0.1}),
]
TWINS = {"modo": SlowMoDo, "sdmgrad": SlowSDMGrad}


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("heads", ["plain", "weighted"])
def test_the_weights_follow_the_products_of_explicit_jacobians(name, options, batches, heads):
    balancer, twin = accord.make(name, tasks=3, heads=heads, **options), TWINS[name](**options)
    seen = []

    def own(net, step):
        second = net.losses(step + OTHER) if batches == 2 else None
        balance = balancer.backward(net.losses(step), net.trunk, second=second)
        seen.append(balance.weights)
        assert ("one batch" in balance.cause) == (batches == 1)
        assert (balance.gramian is None) == (batches == 2)

    def reference(net, step):
        losses = net.losses(step)
        one = rows_of(losses, net.shared)
        two = rows_of(net.losses(step + OTHER), net.shared) if batches == 2 else one
        weights = twin(one.numpy(), two.numpy())
        write(net.shared, torch.from_numpy(weights) @ one)
        write_heads(net, losses, weights if heads == "weighted" else np.ones(3))

    side_by_side(own, reference, steps=8, rtol=1e-7, atol=1e-9)
    assert len({tuple(np.round(w.tolist(), 9)) for w in seen}) > 1


@pytest.mark.parametrize("engine", [sequential, batched])
def test_the_cross_gramian_is_the_product_of_the_rows(engine):
    net = Net()
    one, two = engine(net.losses(0), net.trunk), engine(net.losses(1), net.trunk)
    expected = rows_of(net.losses(0), net.shared) @ rows_of(net.losses(1), net.shared).T
    torch.testing.assert_close(one.cross_gramian(two), expected)
    torch.testing.assert_close(two.cross_gramian(one), expected.T)
    torch.testing.assert_close(one.cross_gramian(one), one.gramian())
    with pytest.raises(EngineError, match="same parameters, got 3 losses and 4 parameters beside 3 and 2"):
        one.cross_gramian(engine(net.losses(1), net.trunk[0]))
    with pytest.raises(EngineError, match="as many losses"):
        one.cross_gramian(engine(net.losses(1)[:2], net.trunk))


def noisy_losses(x, rows, rng, noise):
    """Losses whose gradients are the rows plus noise that all tasks of a batch share in part."""
    drawn = torch.from_numpy(noise * (rng.standard_normal(rows.shape) + rng.standard_normal((1, rows.shape[1]))))
    return list((rows + drawn) @ x + 1.0)


def test_two_batches_estimate_the_gramian_without_the_bias_of_one():
    rows = torch.tensor([[1.0, 0.5, 0.0, -1.0], [-0.5, 1.0, 0.5, 0.0]], dtype=torch.float64)
    true = rows @ rows.T  # (K, K)
    rng, noise, draws = np.random.default_rng(0), 0.7, 1000
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    both, single = torch.zeros(2, 2), torch.zeros(2, 2)
    for _ in range(draws):
        one = sequential(noisy_losses(x, rows, rng, noise), x)
        two = sequential(noisy_losses(x, rows, rng, noise), x)
        both = both + one.cross_gramian(two) / draws
        single = single + one.gramian() / draws
    error = 0.2  # four standard errors of the largest entry
    bias = 4 * noise**2 * torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)  # its covariance's trace
    torch.testing.assert_close(both, true, rtol=0, atol=error)
    torch.testing.assert_close(single, true + bias, rtol=0, atol=2 * error)
    assert float(bias.min()) > 9 * error


def test_modo_s_mean_step_is_that_of_the_expected_gradients_only_with_two_batches():
    """Inside the simplex the projection is linear, so the mean of the steps is the step of the mean."""
    rows = torch.tensor([[1.0, 0.5, 0.0, -1.0], [-0.5, 1.0, 0.5, 0.0]], dtype=torch.float64)
    rows[0] *= 1.5
    rng, draws = np.random.default_rng(1), 500
    scale = torch.tensor([[1.0], [0.0]], dtype=torch.float64)  # the first task's gradients are noisy alone
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def losses():
        return list((rows + scale * torch.from_numpy(rng.standard_normal((2, 4)))) @ x + 1.0)

    def mean(two):
        balancer, total = accord.MoDo(2, gamma=0.01), np.zeros(2)
        for _ in range(draws):
            balancer.reset()
            total += balancer.backward(losses(), x, second=losses() if two else None).weights.numpy() / draws
        return total

    exact = SlowMoDo(gamma=0.01)
    exact.weights = np.ones(2) / 2
    expected = exact(rows.numpy(), rows.numpy())
    np.testing.assert_allclose(mean(two=True), expected, atol=0.0014)
    biased = mean(two=False)
    assert biased[1] - expected[1] == pytest.approx(0.01 * 4 / 4, rel=0.15)  # γ·½·trace/2 moves away from the noise


def test_sdmgrad_between_the_min_norm_point_and_the_mean():
    rows = np.random.default_rng(3).standard_normal((4, 12))
    least = accord.solvers.mgda(rows @ rows.T).weights
    x = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    losses = lambda: list(torch.from_numpy(rows) @ x + 1.0)  # noqa: E731
    patient = accord.SDMGrad(4, lam=0.0, lr=0.3, inner_steps=600)
    np.testing.assert_allclose(patient.backward(losses(), x).weights, least, atol=1e-6)
    np.testing.assert_allclose(accord.SDMGrad(4, lam=1e6).backward(losses(), x).weights, 0.25, atol=1e-5)


def test_the_second_batch_moves_the_weights_and_nothing_else():
    net, other = Net(), Net()
    second = net.losses(OTHER)
    a = accord.MoDo(3, gamma=2.0).backward(net.losses(), net.trunk, second=second)
    torch.testing.assert_close(flat_grad(net.shared), a.weights @ rows_of(other.losses(), other.shared))
    for k, head in enumerate(net.heads):
        own = torch.autograd.grad(other.losses()[k], list(other.heads[k].parameters()))
        for p, g in zip(head.parameters(), own, strict=True):
            torch.testing.assert_close(p.grad, g)
    torch.testing.assert_close(a.losses, torch.stack(net.losses()).detach())


def test_the_second_batch_comes_in_any_form_and_with_either_engine():
    names = ["a", "b", "c"]
    found = []
    for engine in ("sequential", "batched"):
        for form in (dict, lambda pairs: dict(reversed(list(pairs)))):
            net = Net()
            balancer = accord.SDMGrad(names, lr=0.5)
            first, second = (
                dict(zip(names, net.losses(), strict=True)),
                form(zip(names, net.losses(OTHER), strict=True)),
            )
            found.append(balancer.backward(first, net.trunk, second=second, engine=engine).weights)
    for weights in found[1:]:
        torch.testing.assert_close(weights, found[0])


def test_two_small_passes_of_one_head_give_the_graph_back():
    """The second graph is used once and freed: nothing grows from step to step, and a used one is refused."""
    net, balancer = Net(), accord.MoDo(3)
    second = net.losses(OTHER)
    balancer.backward(net.losses(), net.trunk, second=second)
    before = str(balancer.state_dict())
    with pytest.raises(EngineError, match="anew"):
        balancer.backward(net.losses(), net.trunk, second=second)
    assert str(balancer.state_dict()) == before


def test_second_where_it_has_no_place():
    net = Net()
    for name in ("ls", "nash-mtl", "graddrop", "moco", "cr-mogm", "alpha-fair"):
        with pytest.warns(OptionWarning, match=r"second= has no effect"):
            accord.make(name, tasks=3).backward(net.losses(), net.trunk, second=net.losses(OTHER))
    for name in ("modo", "sdmgrad", "cr-mogm:of=modo"):
        z = net.features()
        balancer = accord.make(name, tasks=3)
        before = str(balancer.state_dict())
        net.zero_grad()
        with pytest.raises(OptionError, match=r"second=.*features="):
            balancer.backward(net.losses(features=z), features=z, second=net.losses(OTHER))
        assert str(balancer.state_dict()) == before
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_a_bad_second_batch_is_refused_and_writes_nothing(name):
    net, balancer = Net(), accord.make(name, tasks=["a", "b", "c"])
    before = str(balancer.state_dict())
    first = net.losses()
    for bad, error, message in (
        (net.losses(1)[:2], ShapeError, "2 losses were given, but the balancer was made for 3 tasks"),
        ([loss * float("nan") for loss in net.losses(1)], NonFiniteError, "nan"),
        ([loss.detach() for loss in net.losses(1)], EngineError, "require grad"),
        (list(nn.Linear(2, 3)(torch.ones(2))), EngineError, "reaches"),
        (dict(zip("abx", net.losses(1), strict=True)), ShapeError, "named"),
    ):
        with pytest.raises(error, match=message):
            balancer.backward(first, net.trunk, second=bad)
        assert str(balancer.state_dict()) == before
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_a_second_batch_whose_gradient_is_not_finite_skips_the_move(name):
    balancer = accord.make(name, tasks=["a", "b"])
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    losses = lambda: [1 + x.sum(), 2 + x[0]]  # noqa: E731
    first = balancer.backward(losses(), x, second=losses())
    x.grad = None
    with pytest.warns(NumericalWarning, match="not finite"):
        balance = balancer.backward(losses(), x, second=[1 + x.sum(), 1 + (x[0] + 0).sqrt()])
    assert balance.outcome == "skipped"
    assert torch.equal(balance.weights, first.weights)
    assert torch.isfinite(x.grad).all()  # the first batch's are, and it is they that are written


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_features_work_with_one_batch_and_eval_keeps_the_last_weights(name):
    net, balancer = Net(), accord.make(name, tasks=3)
    z = net.features()
    losses = net.losses(features=z)
    at_z, at_shared = rows_of(losses, [z]).numpy(), rows_of(losses, net.shared)
    weights = TWINS[name]()(at_z, at_z)
    balance = balancer.backward(losses, features=z)
    np.testing.assert_allclose(balance.weights, weights, rtol=1e-9)
    torch.testing.assert_close(flat_grad(net.shared), balance.weights @ at_shared)
    balancer.eval()
    frozen = balancer.backward(net.losses(), net.trunk, second=net.losses(OTHER))
    assert torch.equal(frozen.weights, balance.weights)
    assert frozen.outcome == "frozen"


def test_zero_gradients_leave_sdmgrad_where_it_is():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    balance = accord.SDMGrad(2).backward([1 + 0 * x.sum(), 2 + 0 * x.sum()], x)
    assert balance.weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("modo:gamma=0", "gamma = 0"),
        ("modo:gamma=inf", "gamma = inf"),
        ("modo:rho=-1", "rho = -1"),
        ("modo:rho=inf", "rho = inf"),
        ("modo:heads=x", "heads = 'x'"),
        ("sdmgrad:lam=-1", "lam = -1"),
        ("sdmgrad:lam=inf", "lam = inf"),
        ("sdmgrad:lr=0", "lr = 0"),
        ("sdmgrad:momentum=-0.5", r"momentum = -0\.5"),
        ("sdmgrad:momentum=1", "momentum = 1"),
        ("sdmgrad:inner_steps=0", "inner_steps = 0"),
        ("sdmgrad:inner_steps=2.5", r"inner_steps = 2\.5"),
        ("sdmgrad:times_k=1", "times_k = 1"),
        ("sdmgrad:heads=1", "heads = 1"),
    ],
)
def test_bad_options_are_named_with_their_values(spec, message):
    with pytest.raises(OptionError, match=message):
        accord.make(spec, tasks=3)


@pytest.mark.parametrize("method", ["sdmgrad", "modo"])
def test_a_task_that_does_not_reach_the_trunk_is_named(method):
    x, own = torch.zeros(3, requires_grad=True), torch.ones((), requires_grad=True)
    balancer = accord.make(method, tasks=["a", "b", "c"])

    def losses():
        return {"a": (x - 1).square().sum(), "b": own**2, "c": (x + 2).square().sum()}

    for second in (None, losses()):
        cause = balancer.backward(losses(), x, second=second).cause
        assert "zero gradient of b," in cause
        assert ("one batch" in cause) == (second is None)
