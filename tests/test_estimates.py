"""Cheaper Gramians: each is what its name says, by plain autograd, and a step that used one says so."""

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord import solvers
from accord.balancers.estimates import Draw, Estimate, mean_of_rest
from accord.errors import ShapeError
from accord.jacobian import SequentialJacobian
from accord.jacobian.disjoint import disjoint
from support.nets import Net, counted, flat_grad, gramian_of, rows_of
from support.parts import ESTIMATES, Data

# ---------------------------------------------------------------- what each of them is


def test_the_batch_estimate_is_the_gramian_of_the_drawn_samples_and_the_step_that_of_the_whole_batch():
    data, drawn = Data(), []
    batch = data.batch()
    balancer = accord.NashMTL(5, gramian_batch=0.25)

    def part(draw):
        drawn.append(draw(batch))
        return data.losses(drawn[-1])

    balance = balancer.backward(data.losses(batch), data.net.trunk, part=part)
    rows = [next(i for i in range(24) if torch.equal(batch["x"][i], x)) for x in drawn[0]["x"]]
    assert len(rows) == len(set(rows)) == 6
    assert torch.equal(drawn[0]["y"], batch["y"][rows])
    gramian = gramian_of(data.losses(drawn[0]), data.net.shared)
    np.testing.assert_allclose(balance.gramian, gramian, rtol=1e-10)
    np.testing.assert_allclose(balance.weights, solvers.nash(gramian).weights, rtol=1e-8)
    whole = rows_of(data.losses(batch), data.net.shared)
    torch.testing.assert_close(flat_grad(data.net.shared), balance.weights @ whole, rtol=1e-10, atol=1e-12)
    assert not np.allclose(gramian, whole @ whole.T, rtol=0.1)


def test_each_solve_draws_other_samples_and_only_a_solve_draws():
    data, calls = Data(), []
    balancer = accord.NashMTL(5, gramian_batch=0.25, update_every=3)
    for step in range(9):
        batch = data.batch(0)

        def part(draw, batch=batch, step=step):
            calls.append((step, draw(torch.arange(24)).tolist()))
            return data.losses(draw(batch))

        balancer.backward(data.losses(batch), data.net.trunk, part=part)
    assert [step for step, _ in calls] == [0, 3, 6]
    assert len({tuple(rows) for _, rows in calls}) == 3
    accord.NashMTL(5, gramian_batch=0.25, gramian_seed=1).backward(data.losses(batch), data.net.trunk, part=part)
    assert calls[-1][1] != calls[0][1]


def test_drawn_samples_are_each_as_likely_as_any_other():
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[Draw(0.3, seed, "MGDA")(torch.arange(20))] += 1
    assert counts.sum() == 2000 * 6
    assert float((counts - 600).abs().max()) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_draw_takes_whatever_tensors_a_batch_is_made_of():
    draw = Draw(0.5, 7, "MGDA")
    x, y = torch.arange(10), torch.arange(30.0).reshape(10, 3)
    found = draw({"a": (x, [y, None]), "b": y[:, 0]})
    chosen = found["a"][0]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 5
    assert torch.equal(found["a"][1][0], y[chosen])
    assert found["a"][1][1] is None
    assert torch.equal(found["b"], y[chosen, 0])
    assert torch.equal(draw(x), chosen)  # another call of the same step
    assert torch.equal(draw(-x), -chosen)
    assert len(draw(torch.zeros(3))) == 2  # and samples of another number, as of a task with data of its own
    assert len(draw(torch.zeros(1, 4))) == 1


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(4), torch.zeros(5)), r"first axes of lengths \[4, 5\]"),
        ([torch.zeros(4), "name"], r"the batch holds str.*draw\(torch.arange"),
        ([torch.zeros(4), np.zeros(4)], "the batch holds ndarray"),
        (torch.tensor(1.0), r"the batch holds a tensor of shape \(\)"),
        (torch.zeros(0, 3), r"tensor of shape \(0, 3\), without samples"),
        ({}, r"lengths \[\]"),
        (None, r"lengths \[\]"),
    ],
)
def test_draw_refuses_what_it_cannot_take_samples_of(batch, message):
    with pytest.raises(ShapeError, match=f"CAGrad: draw.*{message}"):
        Draw(0.5, 0, "CAGrad")(batch)


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize(("part", "places"), [("2", [2, 3]), ("2.", [2, 3]), ("0.weight", [0])])
def test_the_part_estimate_is_the_gramian_of_the_named_parameters(part, places, engine):
    data = Data()
    balancer = accord.FairGrad(5, gramian_part=part)
    balance = data.step(balancer, engine=engine)
    own = [data.net.shared[i] for i in places]
    gramian = gramian_of(data.losses(data.batch()), own)
    np.testing.assert_allclose(balance.gramian, gramian, rtol=1e-10)
    whole = rows_of(data.losses(data.batch()), data.net.shared)
    torch.testing.assert_close(flat_grad(data.net.shared), balance.weights @ whole, rtol=1e-10, atol=1e-12)
    if part.isdigit():
        assert torch.equal(data.step(accord.make(f"fairgrad:gramian_part={part}", 5)).weights, balance.weights)
    named = data.step(accord.FairGrad(5, gramian_part=part), shared=dict(data.net.trunk.named_parameters()))
    torch.testing.assert_close(named.weights, balance.weights)


def test_a_part_is_a_name_up_to_a_dot():
    data = Data()
    trunk = nn.ModuleDict({"layer1": nn.Linear(4, 3), "layer10": nn.Linear(3, 3)}).double()
    z = trunk["layer10"](trunk["layer1"](data.batch()["x"]))
    losses = [z[:, 0].square().mean(), (z[:, 1] - 1).square().mean()]
    gramian = gramian_of(losses, list(trunk["layer1"].parameters()))
    balance = accord.MGDA(2, gramian_part="layer1").backward(losses, trunk)
    np.testing.assert_allclose(balance.gramian, gramian, rtol=1e-10)


def test_the_tasks_estimate_gives_each_task_not_drawn_the_row_of_their_mean():
    data, k, seen = Data(tasks=6), 6, set()
    for seed in range(12):
        balance = data.step(accord.MGDA(k, gramian_tasks=2, gramian_seed=seed))
        rows = rows_of(data.losses(data.batch()), data.net.shared).numpy()
        found = balance.gramian.numpy()
        chosen = [i for i in range(k) if np.isclose(found[i, i], rows[i] @ rows[i], rtol=1e-8)]
        assert len(chosen) == 2
        seen.add(tuple(chosen))
        rest = [i for i in range(k) if i not in chosen]
        rows[rest] = rows[rest].mean(0)
        np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-9, atol=1e-14)
        direction = solvers.mgda(rows @ rows.T).weights @ rows  # among equal rows the weights are free, it is not
        np.testing.assert_allclose(balance.weights.numpy() @ rows, direction, atol=1e-7 * np.linalg.norm(direction))
    assert len(seen) > 5


def test_the_tasks_estimate_walks_the_graph_once_for_each_row_and_once_for_the_step():
    data = Data(tasks=7)
    counts = counted([data.net.trunk[0].weight])
    data.step(accord.NashMTL(7, gramian_tasks=3))
    assert counts == [3 + 1 + 1]


def test_mixing_and_spreading_are_inverse_on_what_they_keep():
    mixing, spread = mean_of_rest(torch.tensor([1, 4]), 6)
    assert mixing.shape == (3, 6)
    torch.testing.assert_close(mixing @ spread, torch.eye(3, dtype=torch.float64))
    assert mixing.sum(1).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert spread.sum(1).tolist() == [1.0] * 6


def test_the_moving_average_is_the_bias_corrected_one():
    data, decay, mean = Data(), 0.8, 0.0
    balancer = accord.NashMTL(5, gramian_ema=decay)
    for t in range(1, 8):
        gramian = gramian_of(data.losses(data.batch(t)), data.net.shared)
        mean = decay * mean + (1 - decay) * gramian
        balance = data.step(balancer, t)
        np.testing.assert_allclose(balance.gramian, mean / (1 - decay**t), rtol=1e-10)
    balance.gramian.zero_()  # what is logged is a copy
    assert float(data.step(balancer, 8).gramian.diagonal().min()) > 0


def test_all_at_once_is_one_after_the_other():
    data, drawn = Data(tasks=6), []
    balancer = accord.CAGrad(6, **ESTIMATES["all"])
    mean = 0.0
    for t in range(1, 5):
        batch = data.batch(t)

        def part(draw, batch=batch):
            drawn.append(draw(batch))
            return data.losses(drawn[-1])

        balance = balancer.backward(data.losses(batch), data.net.trunk, part=part)
        rows = rows_of(data.losses(drawn[-1]), data.net.shared[2:]).numpy()
        average = balance.gramian.numpy() * (1 - 0.5**t)
        found = (average - 0.5 * mean) / 0.5
        mean = average
        chosen = [i for i in range(6) if np.isclose(found[i, i], rows[i] @ rows[i], rtol=1e-6)]
        assert len(chosen) == 2
        rest = [i for i in range(6) if i not in chosen]
        rows[rest] = rows[rest].mean(0)
        np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-6, atol=1e-12)


# ---------------------------------------------------------------- what it costs


def test_costs_are_those_of_the_products_that_are_made():
    data = Data(tasks=10)
    jacobian = SequentialJacobian(data.losses(data.batch()), data.net.trunk)
    exact = jacobian.extra_cost
    assert exact == pytest.approx(2 * 9 / 3)

    def cost(**options):
        return Estimate("MGDA", 10, **options).cost(jacobian)

    assert cost() == cost(ema=0.9) == exact
    assert cost(part="2") == pytest.approx(2 * 10 / 3)  # ten products for the estimate, then the step's backward
    assert cost(tasks=3) == pytest.approx(2 * 4 / 3)
    assert cost(batch=0.25) == pytest.approx(0.25 * (1 + 2 * 10) / 3)
    assert cost(batch=0.25, tasks=3) == pytest.approx(0.25 * (1 + 2 * 4) / 3)


def test_where_rows_cost_nothing_parts_of_them_cost_nothing_either():
    trunk, x = Net().trunk, Data().batch()["x"].reshape(4, 6, 4)

    def jacobian():
        return disjoint(trunk, lambda trunk, x: (trunk(x) - 1).square().mean(), x)

    rows = rows_of([(trunk(part) - 1).square().mean() for part in x], list(trunk.parameters())[2:])
    for options in ({"gramian_part": "2"}, {"gramian_part": "2", "gramian_tasks": 2}):
        balancer = accord.NashMTL(4, update_every="auto", **options)
        assert balancer.solve_cost(jacobian()) == 0.0
        for _ in range(3):
            balance = balancer.apply(jacobian())
            assert balance.outcome == "approximate"
            if "gramian_tasks" in options:  # two rows of their own, one for the other two
                assert torch.linalg.matrix_rank(balance.gramian, hermitian=True) == 3
            else:
                torch.testing.assert_close(balance.gramian, rows @ rows.T)


def test_auto_solves_more_often_with_a_cheaper_gramian():
    solved, steps = {}, 120
    for name, options in {"exact": {}, **ESTIMATES}.items():
        data = Data(tasks=6)
        jacobian = SequentialJacobian(data.losses(data.batch()), data.net.trunk)
        cost = accord.NashMTL(6, **options).solve_cost(jacobian)
        balances = data.follow(accord.NashMTL(6, update_every="auto", **options), steps)
        solved[name] = sum(balance.outcome != "reused" for balance in balances)
        assert solved[name] * cost <= 0.2 * steps + cost + 1e-9
    assert solved["batch"] > 1.3 * solved["exact"]
    assert solved["tasks"] > 1.3 * solved["exact"]
    assert solved["all"] > solved["tasks"]


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (ESTIMATES["batch"], "the Gramian is estimated from a random 0.25 of the batch"),
        (ESTIMATES["ema"], "the Gramian is estimated as a moving average (decay 0.8)"),
        (ESTIMATES["part"], "the Gramian is estimated from '2' alone"),
        (ESTIMATES["tasks"], "the Gramian is estimated from 2 drawn tasks and the mean of the others"),
        (
            ESTIMATES["all"],
            "the Gramian is estimated from a random 0.5 of the batch, '2' alone, 2 drawn tasks and the mean of the "
            "others, as a moving average (decay 0.5)",
        ),
    ],
)
def test_a_step_with_an_estimate_is_approximate_and_says_of_what(options, told):
    data = Data()
    first, second = data.follow(accord.MGDA(5, update_every=2, **options), 2)
    assert (first.outcome, first.cause) == ("approximate", told)
    assert first.residual is not None
    assert (second.outcome, second.cause) == ("reused", "")
    assert data.step(accord.MGDA(5)).outcome == "solved"


def test_the_solver_s_own_trouble_stays_visible():
    def step(**options):
        x = torch.ones(3, dtype=torch.float64, requires_grad=True)
        return accord.NashMTL(["a", "b", "c"], **options).backward([x.sum(), -x.sum(), x[0] * 0 + 1], x)

    plain, balance = step(), step(gramian_ema=0.5)
    assert plain.stationary
    assert balance.outcome == "approximate"
    assert balance.cause.startswith("the Gramian is estimated as a moving average (decay 0.5); stationary as far as")
    assert balance.cause.endswith(plain.cause)
    assert balance.cause.endswith("(c)")


@pytest.mark.parametrize("options", ESTIMATES.values(), ids=ESTIMATES)
def test_max_norm_clips_the_gradient_that_is_written_and_not_the_estimate(options):
    for bound in (0.01, 100.0):
        data = Data()
        balance = data.step(accord.NashMTL(5, max_norm=bound, **options))
        free = balance.weights @ rows_of(data.losses(data.batch()), data.net.shared)
        expected = free * min(1.0, bound / float(free.norm()))
        torch.testing.assert_close(flat_grad(data.net.shared), expected, rtol=1e-9, atol=1e-13)
        assert balance.scale == pytest.approx(min(1.0, bound / float(free.norm())))


@pytest.mark.parametrize("options", [ESTIMATES["ema"], ESTIMATES["part"], ESTIMATES["tasks"]])
def test_the_scalar_entry_has_the_same_gradient(options):
    a, b = Data(), Data()
    balancer = accord.NashMTL(5, max_norm=0.05, **options)
    other = accord.NashMTL(5, max_norm=0.05, **options)
    for step in range(3):
        a.step(balancer, step)
        b.net.zero_grad()
        other(b.losses(b.batch(step)), b.net.trunk).backward()
        torch.testing.assert_close(flat_grad(a.net.shared), flat_grad(b.net.shared), rtol=1e-9, atol=1e-13)
