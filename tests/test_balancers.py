"""What is particular to a balancer; what all have in common is tested by the contract, in test_contract.py."""

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord import solvers
from accord.balancers import available
from accord.errors import EngineError, NonFiniteError, NumericalWarning, OptionError, ShapeError, UnknownNameError

NAMES = ["a", "b", "c"]
K = len(NAMES)


class Net(nn.Module):
    """A small trunk and K heads; losses are positive and depend on the step."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.trunk = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 5))
            self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(K))

    def losses(self, step=0):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 6, generator=generator), torch.randn(8, K, generator=generator)
        z = self.trunk(x)
        return {
            n: (head(z)[:, 0] - y[:, k]).square().mean() * 3.0**k
            for k, (n, head) in enumerate(zip(NAMES, self.heads, strict=True))
        }


def jacobian_rows(net, step=0):
    """Rows of the trunk and each head's own gradient, by plain autograd."""
    losses, shared = list(net.losses(step).values()), list(net.trunk.parameters())
    rows = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]) for loss in losses]
    )
    heads = [
        torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
        for loss, head in zip(losses, net.heads, strict=True)
    ]
    return rows.double(), heads


def shared_grad(net):
    return torch.cat([p.grad.flatten() for p in net.trunk.parameters()]).double()


# ---------------------------------------------------------------- particular methods


def test_weights_are_the_solvers():
    net = Net()
    rows, _ = jacobian_rows(net)
    g = (rows @ rows.T).numpy()
    cases = {
        "nash-mtl": solvers.nash(g),
        "fairgrad:alpha=5": solvers.fairgrad(g, 5),
        "mgda": solvers.mgda(g),
        "cagrad:c=0.7,rescale=1": solvers.cagrad(g, 0.7, 1),
        "imtl-g": solvers.imtl_g(g),
    }
    for spec, solution in cases.items():
        balance = accord.make(spec, tasks=NAMES).backward(net.losses(), net.trunk)
        np.testing.assert_allclose(balance.weights, solution.weights, rtol=1e-4, atol=1e-7)
        assert balance.solved
        assert balance.residual < 1e-8
    for spec in ("mgda:times_k=True", "cagrad:times_k=True", "fairgrad:times_k=True"):
        plain = accord.make(spec.partition(":")[0], tasks=NAMES).backward(net.losses(), net.trunk)
        times = accord.make(spec, tasks=NAMES).backward(net.losses(), net.trunk)
        torch.testing.assert_close(times.weights, K * plain.weights)


def test_update_every_skips_the_vector_jacobian_products_between_solves():
    net, calls = Net(), []
    net.trunk[0].weight.register_hook(lambda g: calls.append(1))
    balancer = accord.make("nash-mtl:update_every=3", tasks=NAMES)
    counts, outcomes, weights = [], [], []
    for step in range(7):
        net.zero_grad()
        before = len(calls)
        balance = balancer.backward(net.losses(step), net.trunk)
        counts.append(len(calls) - before)
        outcomes.append(balance.outcome)
        weights.append(balance.weights)
        rows, heads = jacobian_rows(net, step)
        calls[:] = calls[: before + counts[-1]]
        torch.testing.assert_close(shared_grad(net), balance.weights @ rows, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            net.heads[1].weight.grad, float(balance.weights[1]) * heads[1][0], rtol=1e-4, atol=1e-6
        )
    assert counts == [3, 1, 1, 3, 1, 1, 3]
    assert outcomes == ["solved", "reused", "reused", "solved", "reused", "reused", "solved"]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize("spec", ["nash-mtl", "fairgrad", "mgda", "cagrad", "pcgrad"])
def test_max_norm_clips_the_shared_gradient_alone(spec):
    net, plain = Net(), Net()
    reference = accord.make(spec, tasks=NAMES).backward(plain.losses(), plain.trunk)
    norm = float(shared_grad(plain).norm())
    clipped = accord.make(spec, tasks=NAMES, max_norm=norm / 3, update_every=2)
    for _ in range(2):  # solved, then reused
        net.zero_grad()
        balance = clipped.backward(net.losses(), net.trunk)
        torch.testing.assert_close(shared_grad(net), shared_grad(plain) / 3, rtol=1e-4, atol=1e-7)
        assert balance.scale == pytest.approx(1 / 3, rel=1e-5)
        torch.testing.assert_close(net.heads[0].weight.grad, plain.heads[0].weight.grad)
        torch.testing.assert_close(balance.weights, reference.weights)
    net.zero_grad()
    assert accord.make(spec, tasks=NAMES, max_norm=3 * norm).backward(net.losses(), net.trunk).scale == 1.0


def test_nash_has_norm_sqrt_k_and_ignores_a_loss_scale():
    net, other = Net(), Net()
    accord.NashMTL(3).backward(net.losses(), net.trunk)
    assert float(shared_grad(net).norm()) == pytest.approx(3**0.5, rel=1e-5)
    scaled = {n: loss * s for (n, loss), s in zip(other.losses().items(), (1e-3, 1.0, 1e4), strict=True)}
    accord.NashMTL(3).backward(scaled, other.trunk)
    torch.testing.assert_close(shared_grad(net), shared_grad(other), rtol=1e-3, atol=1e-5)


def test_heads_option():
    net = Net()
    _, heads = jacobian_rows(net)
    for spec in ("nash-mtl", "mgda", "cagrad", "fairgrad", "imtl-g", "pcgrad"):
        for option in ("plain", "weighted"):
            net.zero_grad()
            balance = accord.make(spec, tasks=NAMES, heads=option).backward(net.losses(), net.trunk)
            weight = 1.0 if option == "plain" else float(balance.weights[2])
            torch.testing.assert_close(net.heads[2].weight.grad, weight * heads[2][0], rtol=1e-4, atol=1e-7)


def test_names_and_numbers_of_other_kinds():
    net = Net()
    a, b, c = net.losses().values()
    assert accord.NashMTL(3).backward({0: a, 1: b, 2: c}, net.trunk).tasks == ("0", "1", "2")
    assert accord.make("fairgrad:alpha=inf", tasks=np.int64(3)).alpha == float("inf")
    assert accord.FairGrad(2, alpha=np.float32(2)).alpha == 2
    with pytest.raises(ShapeError, match="NoneType"):
        accord.NashMTL(3).backward(None, net.trunk)
    with pytest.raises(OptionError, match="neither was given"):
        accord.NashMTL(3).backward(net.losses(), None)


def test_a_task_that_does_not_reach_the_trunk_is_named_and_its_head_still_learns():
    net = Net()
    losses = net.losses()
    losses["b"] = net.heads[1](torch.ones(2, 5)).square().mean()
    balance = accord.make("nash-mtl", tasks=NAMES).backward(losses, net.trunk)
    assert balance.solved
    assert balance.weights[1] == 0
    assert "(b)" in balance.cause
    assert net.heads[1].weight.grad.abs().sum() > 0


def test_a_gradient_that_is_not_finite_skips_the_solve_and_shows_in_grad():
    balancer = accord.NashMTL(["a", "b"])
    x = torch.ones(3, requires_grad=True)
    first = balancer.backward([x.sum(), (x * torch.tensor([1.0, 2.0, 3.0])).sum()], x)
    x.grad = None
    y = torch.zeros(3, requires_grad=True)
    with pytest.warns(NumericalWarning, match="gradients of b are not finite"):
        balance = balancer.backward([y.sum(), (y + 0).sqrt().sum()], y)  # d√y/dy at 0 is infinite
    assert balance.outcome == "skipped"
    assert torch.equal(balance.weights, first.weights)
    assert not torch.isfinite(y.grad).all()


def test_opposite_tasks_give_a_named_outcome_and_no_junk():
    for spec in ("nash-mtl", "fairgrad", "mgda", "imtl-g", "cagrad"):
        x = torch.ones(4, requires_grad=True)
        balance = accord.make(spec, tasks=2).backward([x.sum(), -x.sum()], x)
        assert balance.stationary
        assert balance.cause
        assert x.grad.norm() < 1e-6


def test_loss_weightings():
    net = Net()
    values = torch.stack(list(net.losses().values())).double()
    ones = torch.ones(K, dtype=torch.float64)
    weigh = lambda spec: accord.make(spec, tasks=NAMES).backward(net.losses(), net.trunk).weights  # noqa: E731
    torch.testing.assert_close(weigh("ls"), ones)
    torch.testing.assert_close(weigh("ls:reduction=mean"), ones / K)
    torch.testing.assert_close(weigh("si"), 1 / values, rtol=1e-5, atol=0)
    torch.testing.assert_close(weigh("uw:init=-0.5"), 0.5 * np.exp(0.5) * ones)
    rlw = accord.RLW(3)
    drawn = torch.stack([rlw.backward(net.losses(), net.trunk).weights for _ in range(400)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(400, dtype=torch.float64))
    torch.testing.assert_close(drawn.mean(0), ones / K, rtol=0, atol=0.04)


def test_dwa_weighs_by_the_ratio_of_two_windows():
    balancer = accord.DWA(2, window=3, temperature=2.0)
    x = torch.ones(1, requires_grad=True)
    history = [(1.0, 8.0), (2.0, 4.0), (3.0, 6.0), (1.0, 3.0), (1.0, 3.0), (4.0, 3.0), (5.0, 5.0), (7.0, 1.0)]
    for step, pair in enumerate(history):
        weights = balancer.backward([x.sum() * v for v in pair], x).weights.numpy()
        if step < 6:
            np.testing.assert_array_equal(weights, 1.0)
            continue
        past = np.array(history[step - 6 : step])
        ratio = past[3:].mean(0) / past[:3].mean(0)
        np.testing.assert_allclose(weights, 2 * np.exp(ratio / 2) / np.exp(ratio / 2).sum(), rtol=1e-6)


def test_uw_trains_its_variances_to_the_losses():
    balancer = accord.UW(2)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        x = torch.ones(1, requires_grad=True)
        balancer.backward([x.sum() * 4.0, x.sum() * 0.25], x)
        optimizer.step()
    np.testing.assert_allclose(balancer.log_variance.detach().exp(), [4.0, 0.25], rtol=1e-3)


def test_graddrop_keeps_one_sign_a_coordinate():
    rows = torch.tensor([[1.0, 2.0, -3.0, 1.0], [1.0, -2.0, -1.0, -3.0]])
    balancer, kept = accord.GradDrop(2), []
    for _ in range(2000):
        x = torch.zeros(4, requires_grad=True)
        balancer.backward([rows[0] @ x, rows[1] @ x], x)
        kept.append(x.grad)
    kept = torch.stack(kept)
    assert (kept[:, 0] == 2).all()
    assert (kept[:, 2] == -4).all()
    assert set(kept[:, 1].tolist()) == {2.0, -2.0}
    assert float((kept[:, 1] > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float((kept[:, 3] > 0).float().mean()) == pytest.approx(0.25, abs=0.05)  # P = ½(1 + (1−3)/4)
    x = torch.zeros(4, requires_grad=True)
    accord.GradDrop(2, leak=1.0).backward([rows[0] @ x, rows[1] @ x], x)
    torch.testing.assert_close(x.grad, rows.sum(0))


# ---------------------------------------------------------------- bad input


def test_bad_input_is_refused_and_writes_nothing():
    net = Net()
    balancer = accord.NashMTL(NAMES)
    losses = net.losses()
    with pytest.raises(ShapeError, match="2 losses were given, but the balancer was made for 3"):
        balancer.backward(list(losses.values())[:2], net.trunk)
    with pytest.raises(ShapeError, match=r"\['a', 'b', 'x'\].*\['a', 'b', 'c'\]"):
        balancer.backward({"a": losses["a"], "b": losses["b"], "x": losses["c"]}, net.trunk)
    with pytest.raises(NonFiniteError, match="'c'"):
        balancer.backward({**losses, "c": losses["c"] / 0}, net.trunk)
    with pytest.raises(UnknownNameError, match="did you mean 'batched'"):
        balancer.backward(losses, net.trunk, engine="batch")
    with pytest.raises(EngineError, match="frozen"):
        balancer.backward(losses, [p.detach() for p in net.trunk.parameters()])
    with pytest.raises(OptionError, match="shared="):
        balancer(losses)
    with pytest.raises(NonFiniteError, match="SI: the loss of 'a'"):
        accord.SI(NAMES).backward({**losses, "a": losses["a"] - 100}, net.trunk)
    random_one = accord.RLW(NAMES)
    before = str(random_one.state_dict())
    with pytest.raises(EngineError, match="reaches"):
        random_one.backward(losses, nn.Linear(2, 2))
    assert str(random_one.state_dict()) == before
    assert all(p.grad is None for p in net.parameters())
    assert balancer.steps == 0


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nash", UnknownNameError, "did you mean 'nash-mtl'"),
        ("mdga", UnknownNameError, "did you mean 'mgda'"),
        ("stl", UnknownNameError, "single-task"),
        ("nash-mtl:updateevery=2", OptionError, "did you mean 'update_every'"),
        ("nash-mtl:update_every=0", OptionError, "update_every = 0"),
        ("nash-mtl:update_every=2.5", OptionError, "positive integer"),
        ("nash-mtl:max_norm=-1", OptionError, "max_norm"),
        ("nash-mtl:heads=wieghted", OptionError, "did you mean 'weighted'"),
        ("fairgrad:alpha=-1", OptionError, "alpha = -1"),
        ("fairgrad:alpha=two", OptionError, "alpha = 'two'"),
        ("cagrad:c=-0.5", OptionError, r"c = -0\.5"),
        ("cagrad:rescale=3", OptionError, "rescale"),
        ("graddrop:leak=2", OptionError, "leak"),
        ("dwa:window=0", OptionError, "window"),
        ("dwa:temperature=0", OptionError, "temperature"),
        ("ls:reduction=max", OptionError, "reduction"),
        ("uw:init=nan", OptionError, "init"),
        ("rlw:seed=1.5", OptionError, "seed"),
        ("pcgrad:seed=x", OptionError, "seed"),
        ("ls:mean", OptionError, "option=value"),
        ("cagrad:c=1,c=2", OptionError, "twice"),
        ("", OptionError, "no method name"),
    ],
)
def test_unknown_methods_and_options_are_named(spec, error, message):
    with pytest.raises(error, match=message):
        accord.make(spec, tasks=2)


def test_state_of_another_method_or_other_tasks_is_refused():
    with pytest.raises((ShapeError, RuntimeError), match="nash-mtl"):
        accord.MGDA(2).load_state_dict(accord.NashMTL(2).state_dict())
    with pytest.raises((ShapeError, RuntimeError), match="tasks"):
        accord.NashMTL(2).load_state_dict(accord.NashMTL(3).state_dict())


class Elsewhere(torch.Tensor):
    """A tensor that, like one on an accelerator, is not NumPy's before it comes to the CPU."""

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor of another device to numpy")

    def cpu(self, *args, **kwargs):
        return self.as_subclass(torch.Tensor)


def elsewhere(state):
    if isinstance(state, torch.Tensor):
        return state.as_subclass(Elsewhere)
    return {k: elsewhere(v) for k, v in state.items()} if isinstance(state, dict) else state


@pytest.mark.parametrize("spec", [*available(), "nash-mtl:solver=ccp", "cr-mogm:of=famo"])
def test_state_loaded_onto_another_device_is_taken_up(spec):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    balancer, fresh = accord.make(spec, tasks=2), accord.make(spec, tasks=2)
    for _ in range(2):
        balancer.backward([(x - 3).square().sum(), (x + 1).square().sum()], x)
        balancer.after_step([x.detach().sum(), x.detach().square().sum()])
    fresh.load_state_dict({key: elsewhere(value) for key, value in balancer.state_dict().items()})
    assert str(fresh.state_dict()) == str(balancer.state_dict())


def test_specs_read_back():
    from accord.balancers.registry import format_spec, parse_spec

    for text in ("ls", "nash-mtl:max_norm=None,update_every=25", "x:a=[1, 2],b=word,c=1e-05"):
        assert format_spec(*parse_spec(text)) == text
