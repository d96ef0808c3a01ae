"""``diagnose``: its numbers beside plain autograd, its first-order changes beside real steps, what it leaves alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord.diagnostics import Cost, diagnose
from accord.diagnostics.costs import interval
from support.nets import Net, gramian_of, rows_of

NAMES = ["a", "b", "c"]


def named(losses):
    return dict(zip(NAMES, losses, strict=True))


@pytest.fixture
def net():
    return Net()


# ---------------------------------------------------------------- the gradients


def test_norms_cosines_and_measures_are_those_of_the_rows(net):
    losses = net.losses()
    rows = rows_of(losses, net.shared).numpy()
    found = diagnose(net, named(losses))
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / norms[:, None]
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    np.testing.assert_allclose(found.cosines, unit @ unit.T, atol=1e-12)
    np.testing.assert_allclose(found.losses, [loss.item() for loss in losses], rtol=1e-15)
    assert found.imbalance == pytest.approx(norms.max() / norms.min())
    assert found.mean_gradient == pytest.approx(np.linalg.norm(rows.mean(0)))
    upper = (unit @ unit.T)[np.triu_indices(3, 1)]
    assert found.mean_cosine == pytest.approx(upper.mean())
    assert [pair.cosine for pair in found.pairs] == pytest.approx(sorted(upper))
    below = [(NAMES[i], NAMES[j]) for i in range(3) for j in range(i + 1, 3) if unit[i] @ unit[j] < 0]
    assert {pair[:2] for pair in found.conflicts} == set(below)
    assert below  # or nothing was tested


def test_the_stationarity_is_the_least_norm_of_mixtures_of_the_unit_gradients(net):
    rows = rows_of(net.losses(), net.shared).numpy()
    unit = rows / np.linalg.norm(rows, axis=1)[:, None]
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 200_000)  # (N, 3)
    least = np.linalg.norm(shares @ unit, axis=1).min()
    found = diagnose(net, net.losses(), methods=())
    assert found.stationarity <= least * (1 + 1e-12)
    assert found.stationarity == pytest.approx(least, rel=1e-3)


def test_a_pareto_stationary_point_is_recognised():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found = diagnose(x, {"one": 3 * x[0] + x[1], "two": -x[0] + x[1], "three": -x[1]})
    assert found.stationarity < 1e-7
    assert found.conflicts[0][:2] == ("two", "three")
    assert any("Pareto stationarity" in sentence for sentence in found.advice)


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_a_loss_in_other_units_changes_its_norm_alone(net, scale):
    plain = diagnose(net, named(net.losses()), methods=["nash-mtl", "config"])
    losses = net.losses()
    scaled = diagnose(net, named([losses[0] * scale, *losses[1:]]), methods=["nash-mtl", "config"])
    np.testing.assert_allclose(scaled.norms, plain.norms * [scale, 1, 1], rtol=1e-9)
    np.testing.assert_allclose(scaled.cosines, plain.cosines, atol=1e-9)
    assert scaled.stationarity == pytest.approx(plain.stationarity, abs=1e-7)
    for method in ("nash-mtl", "config"):  # directions that know no scale
        np.testing.assert_allclose(scaled.methods[method].relative, plain.methods[method].relative, atol=1e-6)


def test_the_order_of_the_losses_is_the_order_of_the_answer(net):
    one, other = named(net.losses()), dict(reversed(list(named(net.losses()).items())))
    first, second = (diagnose(net, losses, methods=["nash-mtl"]) for losses in (one, other))
    assert second.tasks == tuple(reversed(first.tasks))
    np.testing.assert_allclose(second.gramian, first.gramian[::-1, ::-1], rtol=1e-12)
    np.testing.assert_allclose(second.methods["nash-mtl"].weights, first.methods["nash-mtl"].weights[::-1], rtol=1e-9)
    assert first.conflicts == () or {frozenset(p[:2]) for p in first.conflicts} == {
        frozenset(p[:2]) for p in second.conflicts
    }


# ---------------------------------------------------------------- what each method would do


def test_every_method_s_preview_is_the_step_that_it_takes(net):
    found = diagnose(net, named(net.losses()))
    wrappers = {"alpha-fair", "cr-mogm"}
    assert {*found.methods, *found.not_run} >= set(accord.available()) - wrappers
    assert not found.not_run
    rows = rows_of(net.losses(), net.shared).numpy()
    mean = np.linalg.norm(rows.mean(0))
    for name, preview in found.methods.items():
        model = copy.deepcopy(net)
        balance = accord.make(name, tasks=NAMES).backward(named(model.losses()), model.trunk)
        direction = torch.cat([p.grad.flatten() for p in model.shared]).numpy()
        change = -rows @ direction
        tolerance = 1e-7 * np.linalg.norm(rows, axis=1).max() * np.linalg.norm(direction)
        np.testing.assert_allclose(preview.change, change, atol=tolerance, err_msg=name)
        assert preview.length == pytest.approx(np.linalg.norm(direction) / mean, rel=1e-6), name
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(direction)
        np.testing.assert_allclose(preview.relative, change / lengths, atol=1e-6, err_msg=name)
        assert set(preview.rises) == {task for task, c in zip(NAMES, change / lengths, strict=True) if c > 1e-6}, name
        assert preview.outcome == balance.outcome, name
        if preview.weights is not None:
            np.testing.assert_allclose(preview.weights, balance.weights, rtol=1e-9, err_msg=name)
            assert np.abs(preview.shares).sum() == pytest.approx(1.0), name
        else:
            assert bool(balance.weights.isnan().all()), name
        assert (preview.residual is None) == (balance.residual is None), name


@pytest.mark.parametrize("method", ["ls", "nash-mtl", "mgda", "pcgrad", "graddrop"])
def test_first_order_changes_are_those_of_a_small_real_step(net, method):
    """Central differences, whose error is cubic in the step."""
    change = diagnose(net, named(net.losses()), methods=[method]).methods[method].change
    accord.make(method, tasks=NAMES).backward(named(net.losses()), net.trunk)
    gradients = [p.grad.clone() for p in net.shared]
    step = 1e-4 / float(torch.cat([g.flatten() for g in gradients]).norm())

    def moved(by):
        with torch.no_grad():
            for p, g in zip(net.shared, gradients, strict=True):
                p -= by * g
            values = torch.stack(net.losses()).numpy()
            for p, g in zip(net.shared, gradients, strict=True):
                p += by * g
        return values

    measured = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose(change, measured, rtol=1e-5, atol=1e-6 * np.abs(measured).max())


def test_the_best_method_for_the_worst_off_task_comes_first(net):
    found = diagnose(net, named(net.losses()))
    worst = [preview.worst for preview in found.methods.values()]
    assert worst == sorted(worst)
    for preview in found.methods.values():
        assert preview.worst == pytest.approx(preview.relative.max())


def test_methods_may_be_specs_with_options_and_balancers_in_their_present_state(net):
    trained = accord.GradNorm(NAMES, lr=0.5)
    for step in range(3):
        trained.backward(named(net.losses(step)), net.trunk)
    net.zero_grad()
    before = {k: copy.deepcopy(v) for k, v in trained.get_extra_state().items()}
    found = diagnose(net, named(net.losses(3)), methods=["cagrad:c=0.1", "cagrad:c=0.9", trained, trained])
    assert {*found.methods} == {"cagrad:c=0.1", "cagrad:c=0.9", "gradnorm", "gradnorm (2)"}
    after = trained.get_extra_state()
    assert str(after) == str(before)
    balance = trained.backward(named(net.losses(3)), net.trunk)
    np.testing.assert_allclose(found.methods["gradnorm"].weights, balance.weights, rtol=1e-12)
    assert not np.allclose(balance.weights, 1.0)
    assert not found.methods["gradnorm"].first


def test_a_clipped_update_is_shown_as_clipped(net):
    found = diagnose(net, named(net.losses()), methods=["nash-mtl", "nash-mtl:max_norm=1e-3"])
    plain, clipped = found.methods["nash-mtl"], found.methods["nash-mtl:max_norm=1e-3"]
    assert clipped.length * found.mean_gradient == pytest.approx(1e-3)
    np.testing.assert_allclose(clipped.relative, plain.relative, atol=1e-9)


def test_what_remembers_and_what_draws_is_marked(net):
    found = diagnose(net, named(net.losses()))
    first = {name for name, preview in found.methods.items() if preview.first}
    assert {"dwa", "gradnorm", "uw", "famo", "moco", "gradvac"} <= first
    assert not first & {"ls", "si", "nash-mtl", "mgda", "cagrad", "pcgrad", "upgrad", "fairgrad"}
    assert {name for name, preview in found.methods.items() if preview.random} == {
        "rlw",
        "pcgrad",
        "gradvac",
        "graddrop",
    }


@pytest.mark.parametrize(
    ("spec", "remembers", "draws"),
    [
        ("alpha-fair:of=rlw", False, True),
        ("cr-mogm:of=pcgrad", True, True),
        ("alpha-fair:of=dwa", True, False),
        ("nash-mtl:gramian_tasks=1", False, True),
        ("nash-mtl:gramian_ema=0.9", True, False),
        ("alpha-fair:of='mgda:gramian_ema=0.9'", True, False),
    ],
)
def test_marks_see_through_wrappers_and_estimates(net, spec, remembers, draws):
    (preview,) = diagnose(net, named(net.losses()), methods=[spec]).methods.values()
    assert (preview.first, preview.random) == (remembers, draws)


def test_a_balancer_in_eval_mode_is_previewed_as_the_step_that_it_would_take(net):
    frozen = accord.make("nash-mtl", NAMES).eval()
    (preview,) = diagnose(net, named(net.losses()), methods=[frozen]).methods.values()
    balance = frozen.backward(named(net.losses()), net.trunk)
    assert preview.outcome == balance.outcome == "frozen"
    np.testing.assert_array_equal(preview.weights, balance.weights)


# ---------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("engine", ["auto", "sequential", "batched", "sequential:lean=true"])
def test_nothing_is_changed_and_the_graph_can_be_used(engine):
    net, twin = Net(), Net()
    dropout = nn.Dropout(0.3)
    kept = torch.ones_like(net.shared[0])
    net.shared[0].grad = kept
    torch.manual_seed(1)
    losses = [loss * dropout(torch.ones(4)).sum() for loss in net.losses()]
    torch.manual_seed(1)
    expected = [loss * dropout(torch.ones(4)).sum() for loss in twin.losses()]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    values = [p.detach().clone() for p in net.parameters()]
    diagnose(net, losses, engine=engine)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert net.shared[0].grad is kept
    assert bool((kept == 1).all())
    assert all(p.grad is None for p in [*net.shared[1:], *net.heads.parameters()])
    assert all(torch.equal(p, v) for p, v in zip(net.parameters(), values, strict=True))
    net.shared[0].grad = None
    balance = accord.NashMTL(3).backward(losses, net.trunk)
    reference = accord.NashMTL(3).backward(expected, twin.trunk)
    assert torch.equal(balance.weights, reference.weights)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_it_can_be_asked_again_and_says_the_same(net):
    losses = named(net.losses())
    first, second = diagnose(net, losses), diagnose(net, losses)
    assert first.advice[:-2] == second.advice[:-2]  # the last but one is of the clock
    for name, preview in first.methods.items():
        np.testing.assert_array_equal(preview.change, second.methods[name].change)


# ---------------------------------------------------------------- costs


def test_costs_are_ratios_of_what_was_timed():
    cost = Cost(backward=2.0, rows=7.0, combine=0.5, forward=1.0, timed_forward=True)
    make = accord.make
    assert cost.plain == 3.0
    assert cost.of(make("ls", 3), 0.0) == 1.0
    assert cost.of(make("famo", 3), 0.0) == pytest.approx(4 / 3)  # a forward more
    assert cost.of(make("nash-mtl", 3), 0.1) == pytest.approx((1 + 7 + 0.5 + 0.1) / 3)
    assert cost.of(make("sdmgrad", 3), 0.0) == pytest.approx((2 + 14 + 0.5) / 3)
    assert cost.of(make("graddrop", 3), 1.0) == pytest.approx((1 + 7 + 1) / 3)
    for estimate in ("gramian_part=0", "gramian_tasks=1"):  # its own rows are among what it takes to decide
        for spec in (f"nash-mtl:{estimate}", f"alpha-fair:of='nash-mtl:{estimate}'"):
            assert cost.of(make(spec, 3), 0.1) == pytest.approx((1 + 2 + 0.1) / 3)
    for steps in (1.0, 1.1, 1.2, 1.21, 2.8, 7.67):
        n = interval(make("nash-mtl", 3), steps)
        assert (n - 1 + steps) / n <= 1.2 + 1e-9
        assert n == 1 or (n - 2 + steps) / (n - 1) > 1.2
    assert interval(make("gradnorm", 3), 3.0) is None


def test_costs_are_measured_here_and_a_forward_may_be_given(net):
    found = diagnose(net, net.losses(), methods=["ls", "nash-mtl"])
    cost = found.cost
    assert min(cost.backward, cost.rows, cost.combine) > 0.0
    assert cost.forward == cost.backward / 2
    assert not cost.timed_forward
    nash = found.methods["nash-mtl"]
    assert nash.steps == pytest.approx((cost.forward + cost.rows + cost.combine + nash.seconds) / cost.plain)
    given = diagnose(net, net.losses(), forward=1.0).cost
    assert given.forward == 1.0
    assert given.timed_forward


# ---------------------------------------------------------------- advice


def lines(model, losses, **options):
    return " ".join(diagnose(model, losses, **options).advice)


def test_advice_follows_from_the_numbers():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    alike = {"a": x[0] + x[1], "b": x[0] - 0.5 * x[1]}
    assert "expect little from balancing" in lines(x, alike)
    apart = {"a": 100 * (x[0] + x[1]), "b": x[0] - 0.5 * x[1]}
    assert "expect little" not in lines(x, apart)
    assert "the plain sum follows a" in lines(x, apart)
    hurt = {"a": 9 * (x[0] - x[1]), "b": x[1] + 0.1 * x[2]}
    said = lines(x, hurt, methods=["ls", "mgda", "nash-mtl", "graddrop"])
    assert "The plain sum raises b" in said
    assert "Lower every loss here: " in said
    good = said.split("Lower every loss here: ")[1].split(".")[0]
    assert {"mgda", "nash-mtl"} <= set(good.split(", "))
    assert "ls" not in good.split(", ")
    mild = {"a": x[0] - 0.2 * x[1], "b": x[0] * 0.1 + x[1]}
    assert "still lowers every loss" in lines(x, mild)


def test_the_plain_sum_s_rises_are_those_of_ls(net):
    found = diagnose(net, named(net.losses()), methods=["ls"])
    assert found.plain_rises == found.methods["ls"].rises


def test_gramian_of_the_diagnosis_equals_an_independent_one(net):
    np.testing.assert_allclose(
        diagnose(net.trunk, net.losses(), methods=()).gramian, gramian_of(net.losses(), net.shared), rtol=1e-12
    )
