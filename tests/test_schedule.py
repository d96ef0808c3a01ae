"""When a Gramian method solves: budgets are kept whatever the weights do, and the options all such methods share."""

import inspect
import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import accord
from accord.balancers import GramianBalancer
from accord.balancers.gramian import BUDGET, GramianOptions
from accord.balancers.registry import balancer_class
from accord.balancers.schedule import CALM, LONGEST, ROUSED, SAVED, Auto, Every, drift_of
from accord.errors import OptionError, OptionWarning
from accord.jacobian import SequentialJacobian
from accord.jacobian.disjoint import disjoint
from accord.testing import Row, check_balancer
from support.nets import Net, counted, flat_grad

METHODS = [name for name in accord.available() if issubclass(balancer_class(name), GramianBalancer)]
STILL = 0.0
ASTIR = 1.0


def simulate(schedule, drifts, costs):
    """Which steps solve, and what each step costs in plain steps."""
    solves, spent = [], []
    for drift, cost in zip(drifts, costs, strict=True):
        due = schedule.due(cost)
        if due:
            schedule.solved(drift if solves.count(True) else None, cost)
        else:
            schedule.reused()
        solves.append(due)
        spent.append(1.0 + cost * due)
    return solves, spent


def gaps(solves):
    return np.diff(np.flatnonzero(solves))


# ---------------------------------------------------------------- the schedules alone


@settings(max_examples=200, deadline=None)
@given(
    budget=st.floats(1.001, 20.0),
    cost=st.floats(0.01, 700.0),
    drifts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=300),
    jitter=st.integers(0, 2**32 - 1),
)
def test_no_drifts_take_the_mean_cost_above_the_budget_and_one_solve(budget, cost, drifts, jitter):
    costs = cost * np.random.default_rng(jitter).uniform(0.2, 1.0, len(drifts))
    solves, spent = simulate(Auto(budget), drifts, costs)
    assert solves[0]
    total = np.cumsum(spent)
    steps = np.arange(1, len(drifts) + 1)
    assert (total <= steps * budget + cost + 1e-9 * total).all()  # from the start
    for begin in range(1, len(total), 7):  # from anywhere: what was saved up is bounded
        within = steps[: len(total) - begin] * budget + (SAVED + 1) * cost + 1e-6
        assert (total[begin:] - total[begin - 1] <= within).all()


@pytest.mark.parametrize("budget", [1.05, 1.2, 3.0])
def test_weights_that_never_rest_are_solved_for_as_often_as_the_budget_pays(budget):
    cost, steps = 20 / 3, 4000
    solves, spent = simulate(Auto(budget), [ASTIR] * steps, [cost] * steps)
    assert np.mean(spent) == pytest.approx(budget, abs=1e-9 + cost / steps)
    assert set(gaps(solves)) <= {math.floor(cost / (budget - 1)), math.ceil(cost / (budget - 1))}


def test_weights_that_rest_are_solved_for_ever_less_often_up_to_the_cap():
    schedule = Auto(budget=10.0)  # pays for every step, so that the interval alone decides
    solves, _ = simulate(schedule, [STILL] * 2000, [2.0] * 2000)
    doubling = [2 ** (n + 1) for n in range(int(math.log2(LONGEST)))]
    assert gaps(solves)[: len(doubling) + 1].tolist() == [1, *doubling]
    assert set(gaps(solves)[len(doubling) + 1 :]) == {LONGEST}
    assert schedule.interval == LONGEST


def test_the_account_can_hold_back_what_the_interval_asks_for_and_not_the_other_way_round():
    solves, _ = simulate(Auto(budget=1.125), [STILL] * 3000, [50.0] * 3000)  # one solve in 400 steps is paid for
    assert gaps(solves)[0] == 399  # the first step earns too
    assert set(gaps(solves)[1:]) == {400}
    solves, spent = simulate(Auto(budget=5.0), [STILL] * 3000, [1.0] * 3000)
    assert gaps(solves)[-1] == LONGEST
    assert np.mean(spent) < 1.1


def test_a_sudden_drift_is_met_by_shorter_intervals_from_what_was_saved():
    cost, calm = 20 / 3, 1500
    schedule = Auto(budget=1.2)
    drifts = [STILL] * calm + [ASTIR] * 400
    solves, _ = simulate(schedule, drifts, [cost] * len(drifts))
    before = gaps(solves[:calm])[-1]
    after = gaps(solves)[-len(np.flatnonzero(solves[calm:])) + 1 :]
    assert before == LONGEST
    assert after[:3].tolist() == [LONGEST // 2, LONGEST // 4, LONGEST // 8]
    assert after.min() < cost / 0.2 < after[-1] + 1  # sooner than the budget pays in the long run, and then no more
    assert sum(solves[calm:]) <= 400 * 0.2 / cost + SAVED + 1  # calm times had earned many more
    assert schedule.interval == 1


@pytest.mark.parametrize("drift", [CALM + 1e-9, 0.5 * (CALM + ROUSED), ROUSED - 1e-9])
def test_between_the_two_thresholds_the_interval_stays(drift):
    schedule = Auto(budget=100.0)
    simulate(schedule, [STILL] * 40, [1.0] * 40)
    kept = schedule.interval
    assert kept > 4
    simulate(schedule, [drift] * 500, [1.0] * 500)
    assert schedule.interval == kept


def test_a_solve_that_costs_nothing_is_made_at_every_step():
    schedule = Auto(budget=1.01)
    solves, spent = simulate(schedule, [STILL] * 300, [0.0] * 300)
    assert all(solves)
    assert set(spent) == {1.0}
    assert schedule.interval == 1
    simulate(schedule, [STILL] * 100, [0.001] * 100)
    assert schedule.interval > 1
    schedule.reused()
    assert schedule.due(0.0)  # whatever interval there was


@pytest.mark.parametrize("n", [1, 2, 7])
def test_every_nth_step_is_every_nth_step_whatever_drifts_and_costs(n):
    solves, _ = simulate(Every(n), [ASTIR] * 50, [1e9] * 50)
    assert [i for i, due in enumerate(solves) if due] == list(range(0, 50, n))


@settings(max_examples=50, deadline=None)
@given(
    drifts=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=200),
    cut=st.integers(1, 199),
    schedule=st.sampled_from([lambda: Auto(1.2), lambda: Auto(4.0), lambda: Every(5)]),
)
def test_a_schedule_goes_on_from_its_state_as_plain_numbers(drifts, cut, schedule):
    cut, cost = min(cut, len(drifts) - 1), 20 / 3
    whole, half, fresh = schedule(), schedule(), schedule()
    expected, _ = simulate(whole, drifts, [cost] * len(drifts))
    simulate(half, drifts[:cut], [cost] * cut)
    fresh.load(json.loads(json.dumps(half.state())))
    rest = []
    for drift in drifts[cut:]:
        rest.append(fresh.due(cost))
        fresh.solved(drift, cost) if rest[-1] else fresh.reused()
    assert rest == expected[cut:]
    assert fresh.state() == whole.state()
    fresh.reset()
    assert fresh.state() == schedule().state()


# ---------------------------------------------------------------- drift


def test_drift_is_the_sine_of_the_angle_between_weights_of_unit_gradients():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = rng.normal(size=(5, 9))
        old = rng.uniform(0.1, 2.0, 5)
        new = old + rng.normal(size=5) * 0.05
        a, b = (w * np.linalg.norm(rows, axis=1) for w in (old, new))
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert drift_of(old, new, rows @ rows.T) == pytest.approx(np.sin(angle), rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    powers=st.lists(st.floats(-60.0, 60.0), min_size=4, max_size=4),
    factor=st.floats(1e-100, 1e100),
    seed=st.integers(0, 1000),
)
def test_drift_knows_neither_the_units_of_the_losses_nor_a_common_factor(powers, factor, seed):
    rng = np.random.default_rng(seed)
    rows, (old, new) = rng.normal(size=(4, 6)), rng.uniform(0.1, 1.0, (2, 4))
    units = 10.0 ** np.array(powers)
    expected = drift_of(old, new, rows @ rows.T)
    scaled = rows * units[:, None]
    assert drift_of(old / units, new / units, scaled @ scaled.T) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert drift_of(factor * old, new, rows @ rows.T) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert 0.0 < expected <= 1.0
    assert drift_of(old, factor * old, rows @ rows.T) == pytest.approx(0.0, abs=1e-15)


def test_drift_of_nothing_and_of_opposites():
    gramian, zero = np.eye(3), np.zeros(3)
    some = np.array([1.0, -2.0, 0.5])
    assert drift_of(zero, zero, gramian) == 0.0
    assert drift_of(zero, some, gramian) == drift_of(some, zero, gramian) == 1.0
    assert drift_of(some, -some, gramian) == 1.0
    assert drift_of(some, 2 * some, np.zeros((3, 3))) == 0.0
    assert drift_of(np.array([1.0, 0.0]), np.array([1.0, 9.0]), np.diag([1.0, 0.0])) == 0.0  # no gradient, no drift


# ---------------------------------------------------------------- in a balancer


def train(balancer, steps, *, lr=0.05, first=0, net=None, **options):
    """Balances of some steps of SGD, and the network."""
    net = Net(balancer.num_tasks) if net is None else net
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    found = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        found.append(balancer.backward(net.losses(step % 3), net.trunk, **options))
        optimizer.step()
    return found, net


def test_auto_stays_within_its_budget_by_the_engine_s_own_arithmetic_and_reuses_in_between():
    tasks, steps = 8, 200
    for spec, budget in (("nash-mtl:update_every=auto", BUDGET), ("nash-mtl:update_every=auto,budget=1.6", 1.6)):
        net = Net(tasks)
        counts = counted([net.trunk[0].weight])
        balances, _ = train(accord.make(spec, tasks), steps, net=net, lr=0.01)
        solved = [b.outcome != "reused" for b in balances]
        assert sum(solved) > 4
        assert counts[0] == tasks * sum(solved) + steps - sum(solved)  # K products at a solve, one otherwise
        extra = SequentialJacobian(net.losses(), net.trunk).extra_cost
        assert extra == pytest.approx(2 * (tasks - 1) / 3)
        assert steps + extra * sum(solved) <= budget * steps + extra
        assert balances[0].drift is None
        for before, after in itertools.pairwise(balances):
            assert (after.drift is None) == (after.outcome == "reused")
            if after.outcome == "reused":
                assert torch.equal(before.weights, after.weights)
                assert after.interval == before.interval


def test_auto_is_the_exact_method_where_tasks_have_samples_of_their_own():
    def step(balancer, net, k):
        batches = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        jacobian = disjoint(net.trunk, lambda trunk, x: (trunk(x) - 1).square().mean(), batches)
        return balancer.apply(jacobian)

    auto, exact = accord.make("fairgrad:update_every=auto,budget=1.01", 3), accord.make("fairgrad", 3)
    a, b = Net(), Net()
    for k in range(12):
        found, expected = step(auto, a, k), step(exact, b, k)
        assert (found.outcome, found.interval) == ("solved", 1)
        assert torch.equal(found.weights, expected.weights)
    assert torch.equal(flat_grad(a.shared), flat_grad(b.shared))


def test_auto_solves_less_often_while_the_weights_stand_still_and_more_often_once_they_moved():
    balancer = accord.MGDA(2, update_every="auto", budget=50.0)

    def step(*where):
        x = torch.tensor(where, dtype=torch.float64, requires_grad=True)
        return balancer.backward([x[0] ** 2 + 1, 3 * x[1] ** 2 + 1], x)

    still = [step(1.0, 2.0) for _ in range(2 * LONGEST)]
    assert gaps([balance.outcome == "solved" for balance in still]).tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert all(balance.drift < 1e-9 for balance in still[1:] if balance.outcome == "solved")
    assert still[-1].interval == LONGEST
    moved = [step(6.0, 1 / 3) for _ in range(2 * LONGEST)]  # the gradients change their lengths, 2 and 12 for 12 and 2
    assert [balance.outcome for balance in moved].index("solved") == LONGEST - 1
    sine = math.sqrt(1 - 222**2 / (216**2 + 1) / 37)  # of the angle from (12/4, 2/144) to (12/144, 2/4)
    assert moved[LONGEST - 1].drift == pytest.approx(sine)
    assert moved[LONGEST - 1].interval == LONGEST // 2
    assert [balance.outcome for balance in moved[LONGEST:]].index("solved") == LONGEST // 2 - 1


@pytest.mark.parametrize("spec", ["nash-mtl", "pcgrad:seed=3", "imtl", "nash-mtl:solver=ccp,ccp_steps=2"])
@pytest.mark.parametrize("schedule", ["update_every=auto,budget=1.7", "update_every=3"])
def test_resume_is_the_uninterrupted_run_bit_for_bit(spec, schedule):
    whole, half, fresh = (accord.make(f"{spec}{',' if ':' in spec else ':'}{schedule}", 4) for _ in range(3))
    expected, a = train(whole, 40)
    _, b = train(half, 17)
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    found, _ = train(fresh, 23, first=17, net=b)
    assert {balance.outcome for balance in found} > {"reused"}
    for x, y in zip(found, expected[17:], strict=True):
        assert torch.equal(x.weights, y.weights)
        assert (x.outcome, x.interval, x.drift) == (y.outcome, y.interval, y.drift)
    assert torch.equal(flat_grad(a.shared), flat_grad(b.shared))
    whole.reset()
    again, _ = train(whole, 5)
    assert [balance.outcome for balance in again] == [balance.outcome for balance in expected[:5]]


def test_a_step_without_finite_gradients_costs_the_account_nothing_and_eval_mode_does_not_age():
    balancer = accord.NashMTL(2, update_every="auto", budget=1.3)
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    before = balancer.state_dict()["_extra_state"]["schedule"]
    with pytest.warns(accord.errors.NumericalWarning, match="not finite"):
        assert balancer.backward([(x[0] - 1).abs().sqrt() + 1, x[1] ** 2], x).outcome == "skipped"
    assert balancer.state_dict()["_extra_state"]["schedule"] == before
    assert balancer.backward([x[0] ** 2, x[1] ** 2], x).outcome == "solved"
    after = balancer.state_dict()["_extra_state"]["schedule"]
    assert after["credit"] == pytest.approx(0.3 - 2 / 3)
    balancer.eval()
    assert balancer.backward([x[0] ** 2, x[1] ** 2], x).outcome == "frozen"
    assert balancer.state_dict()["_extra_state"]["schedule"] == after


@pytest.mark.parametrize(
    "spec", ["alpha-fair:of='nash-mtl:update_every=auto',alpha=0.5", "cr-mogm:of='mgda:update_every=auto'"]
)
def test_wrappers_hand_the_schedule_on(spec):
    balances, _ = train(accord.make(spec, 4), 60)
    solved = [balance.outcome != "reused" for balance in balances]
    assert solved[0]
    assert 2 < sum(solved) <= 1 + 60 * 0.2 / 2
    assert all(balance.interval for balance in balances)


def test_auto_keeps_the_contract():
    for row in (Row("nash-mtl", update_every="auto"), Row("pcgrad", update_every="auto", budget=2.5)):
        check_balancer(row.name, **row.options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_every": "atuo"}, "'atuo' is neither a positive integer nor 'auto'; did you mean 'auto'"),
        ({"update_every": 0}, "update_every = 0 is neither a positive integer"),
        ({"update_every": -3}, "update_every = -3"),
        ({"update_every": None}, "update_every = None"),
        ({"update_every": 2.0}, r"update_every = 2\.0"),
        ({"update_every": True}, "update_every = True"),
        ({"update_every": "auto", "budget": 1}, "budget = 1 is not a finite number above 1"),
        ({"update_every": "auto", "budget": 0.5}, r"budget = 0\.5"),
        ({"update_every": "auto", "budget": math.inf}, "budget = inf"),
        ({"update_every": "auto", "budget": math.nan}, "budget = nan"),
        ({"update_every": "auto", "budget": "2"}, "budget = '2'"),
        ({"update_every": "auto", "budget": True}, "budget = True"),
    ],
)
def test_bad_schedules_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message):
        accord.CAGrad(3, **options)


def test_a_budget_without_auto_warns():
    with pytest.warns(OptionWarning, match="MGDA: budget has no effect without update_every='auto'"):
        accord.MGDA(3, budget=2.0)


# ---------------------------------------------------------------- options that all Gramian methods share


def test_what_subclasses_hand_on_is_what_the_base_takes():
    taken = set(inspect.signature(GramianBalancer).parameters) - {"tasks", "heads"}
    assert set(GramianOptions.__annotations__) == taken
    types = inspect.get_annotations(GramianBalancer.__init__)
    assert GramianOptions.__annotations__.keys() <= types.keys()
    for option, declared in GramianOptions.__annotations__.items():
        assert types[option] == declared.__forward_arg__


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_signature_spells_the_shared_options_out(name):
    parameters = inspect.signature(balancer_class(name)).parameters
    base = inspect.signature(GramianBalancer).parameters
    assert next(iter(parameters)) == "tasks"
    assert "common" not in parameters
    for option in GramianOptions.__annotations__:
        assert parameters[option].default == base[option].default
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
    balancer = accord.make(name, 5, update_every="auto", budget=2.0, gramian_ema=0.5, max_norm=1.0)
    assert repr(balancer).endswith("update_every='auto', budget=2.0, max_norm=1.0, gramian_ema=0.5)")
    assert repr(accord.make(name, 5)) == f"{type(balancer).__name__}(tasks=5)"
    with pytest.raises(TypeError, match="unexpected keyword argument 'update_evry'"):
        balancer_class(name)(3, update_evry=2)


def test_signatures_of_subclasses_follow_their_own_constructors():
    class Wider(accord.NashMTL):
        def __init__(self, tasks, *, wider=1, solver="ccp", **options):
            super().__init__(tasks, solver=solver, **options)
            self.wider = wider

    class Narrow(accord.NashMTL):
        def __init__(self, tasks, *, update_every=5):
            super().__init__(tasks, update_every=update_every)

    wider = inspect.signature(Wider).parameters
    assert list(wider)[:5] == ["tasks", "wider", "solver", "ccp_steps", "first_term"]
    assert wider["solver"].default == "ccp"
    assert "gramian_batch" in wider
    assert repr(Wider(2, wider=3, update_every=4)) == "Wider(tasks=2, wider=3, update_every=4)"
    assert list(inspect.signature(Narrow).parameters) == ["tasks", "update_every"]
    assert repr(Narrow(2)) == "Narrow(tasks=2)"
    assert "tasks" not in inspect.signature(accord.NashMTL(2)).parameters  # calling an instance is another matter
