"""Nash's axioms for the Nash-MTL direction, on random bargaining problems and against cone programs.

The bargaining problem of Navon et al. 2022, section 3: the agreements are a ball, the players' utilities g_iᵀd, the
disagreement point 0. Each axiom is also shown to have bite: a method that is known to break it is seen to.
"""

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.solvers import fairgrad, imtl_g, mgda, nash, pcgrad
from gramian_families import jacobian

CASES = [(family, k) for family in ("random", "aligned", "conflicting") for k in (2, 3, 5, 8)]


def problem_of(family, k, spread=0.5):
    """K gradients in K + 2 dimensions, their norms spread over 10^±spread."""
    rng = np.random.default_rng([k, len(family)])
    return jacobian(family, k, rng, spread=spread)[:, : k + 2], rng


def unit(d):
    return d / np.linalg.norm(d)


def direction(solver, rows, **options):
    """The agreement in the unit ball; it is followed downhill."""
    return unit(rows.T @ solver(rows @ rows.T, **options).weights)


def nash_maximiser(rows, constraints):
    """The d that maximises Σ log g_iᵀd under the constraints that ``constraints(d)`` returns, by a cone program."""
    d = cvxpy.Variable(rows.shape[1])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    program = cvxpy.Problem(cvxpy.Maximize(cvxpy.sum(cvxpy.log(units @ d))), constraints(d))
    program.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return d.value


def common_gain(rows, d):
    """By how much every task's utility can grow together from d inside the unit ball, per unit of gradient norm."""
    e, gain = cvxpy.Variable(len(d)), cvxpy.Variable()
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    program = cvxpy.Problem(cvxpy.Maximize(gain), [units @ (e - d) >= gain, cvxpy.norm(e) <= 1])
    return float(program.solve(solver=cvxpy.CLARABEL))


def some_gain(rows, d):
    """By how much the tasks' utilities can grow in sum from d inside the unit ball while none falls."""
    e = cvxpy.Variable(len(d))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gains = units @ (e - d)
    program = cvxpy.Problem(cvxpy.Maximize(cvxpy.sum(gains)), [gains >= 0, cvxpy.norm(e) <= 1])
    return float(program.solve(solver=cvxpy.CLARABEL))


@pytest.mark.parametrize(("family", "k"), CASES)
def test_the_agreement_maximises_the_product_of_utilities(family, k):
    """Claim 3.1, and what it means: any other agreement has a negative mean relative change of utility."""
    rows, rng = problem_of(family, k)
    ours = direction(nash, rows)
    theirs = nash_maximiser(rows, lambda d: [cvxpy.norm(d) <= 1])
    np.testing.assert_allclose(ours, theirs, atol=5e-5)
    utilities = rows @ ours
    assert np.log(utilities).sum() >= np.log(rows @ unit(theirs)).sum() - 1e-13
    assert np.linalg.norm(rows.T @ (1 / utilities)) == pytest.approx(k, rel=1e-8)  # Σ (e's gain / ours) at its largest
    for _ in range(20):
        other = unit(ours + 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(len(ours)))
        assert (rows @ other / utilities).mean() < 1


@pytest.mark.parametrize(("family", "k"), CASES)
def test_axiom_pareto_optimality(family, k):
    rows, _ = problem_of(family, k)
    weights = nash(rows @ rows.T).weights
    d = unit(rows.T @ weights)  # a positive combination on the ball's boundary: Σ w_i g_iᵀe is largest at e = d
    assert (weights > 0).all()
    assert common_gain(rows, d) == pytest.approx(0, abs=1e-7)
    assert some_gain(rows, d) == pytest.approx(0, abs=1e-6)
    least = (rows @ d / np.linalg.norm(rows, axis=1)).min()
    for poorer in (0.99 * d, unit(d + 0.2 * np.linalg.svd(rows)[2][-1])):  # these the check refuses
        assert common_gain(rows, poorer) > 0.009 * least


@pytest.mark.parametrize("cycles", [(2,), (3,), (1, 2), (2, 3), (4, 1), (3, 3), (2, 2, 4)])
def test_axiom_symmetry(cycles):
    """Where the players may be exchanged, they agree on equal utilities."""
    k = sum(cycles)
    rng = np.random.default_rng(k)
    starts = np.cumsum((0, *cycles[:-1]))
    turned = np.concatenate([s + np.roll(np.arange(n), 1) for s, n in zip(starts, cycles, strict=True)])
    rows = rng.standard_normal((k, k + 3)) - 0.3
    gramian, order = np.zeros((k, k)), np.arange(k)
    for _ in range(int(np.lcm.reduce(cycles))):
        gramian += (rows @ rows.T)[np.ix_(order, order)]
        order = order[turned]
    np.testing.assert_allclose(gramian, gramian[np.ix_(turned, turned)], rtol=1e-12)
    weights = nash(gramian).weights
    utilities = gramian @ weights
    for s, n in zip(starts, cycles, strict=True):
        np.testing.assert_allclose(utilities[s : s + n], utilities[s], rtol=1e-10)
        np.testing.assert_allclose(weights[s : s + n], weights[s], rtol=1e-10)
    if len(cycles) == 1:  # every player may take any other's place
        np.testing.assert_allclose(weights, 1 / np.sqrt(gramian.sum(1)), rtol=1e-10)


@settings(max_examples=60)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_axiom_symmetry_the_players_names_do_not_count(k, seed):
    rng = np.random.default_rng(seed)
    rows = jacobian("random", k, rng, spread=1.0)
    order = rng.permutation(k)
    np.testing.assert_allclose(direction(nash, rows[order]), direction(nash, rows), atol=1e-9)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_axiom_invariance_to_rescaling_a_task(k, seed):
    rng = np.random.default_rng(seed)
    rows = jacobian("random", k, rng)
    factors = 10.0 ** rng.uniform(-4, 4, k)
    rescaled = rows * factors[:, None]
    d = direction(nash, rows)
    np.testing.assert_allclose(direction(nash, rescaled), d, atol=1e-9)
    np.testing.assert_allclose(rescaled @ d, factors * (rows @ d), rtol=1e-9)
    np.testing.assert_allclose(nash(rescaled @ rescaled.T).weights * factors, nash(rows @ rows.T).weights, rtol=1e-7)


@pytest.mark.parametrize(("family", "k"), CASES)
def test_axiom_independence_of_irrelevant_alternatives(family, k):
    """Take agreements away, or add some, and the solution stays as long as it is the best of the larger set."""
    rows, rng = problem_of(family, k)
    ours = direction(nash, rows)
    normals = rng.standard_normal((6, len(ours)))
    slack = rng.uniform(0, 0.3, 6) * (np.arange(6) % 2)  # every other plane runs through the solution
    sets = {
        "cut": lambda d: [cvxpy.norm(d) <= 1, normals @ (d - ours) <= slack],
        "small ball": lambda d: [cvxpy.norm(d - 0.6 * ours) <= 0.4],
        "box": lambda d: [cvxpy.norm(d) <= 1, cvxpy.abs(d) <= np.abs(ours) + 0.02],
        "half-space": lambda d: [ours @ d <= 1, cvxpy.norm(d) <= 3],  # larger: the ball lies inside
    }
    for name, alternatives in sets.items():
        np.testing.assert_allclose(nash_maximiser(rows, alternatives), ours, atol=3e-4, err_msg=name)
    without = nash_maximiser(rows, lambda d: [cvxpy.norm(d) <= 1, ours @ d <= 0.9])  # the solution itself taken away
    assert np.linalg.norm(without - ours) > 0.05


@settings(max_examples=60)
@given(st.integers(2, 10), st.integers(0, 10**6))
def test_axiom_independence_in_a_subspace(k, seed):
    """Agreements held to a subspace that contains the solution: another Gramian, the same weights."""
    rng = np.random.default_rng(seed)
    rows = jacobian("random", k, rng, spread=0.5)
    weights = nash(rows @ rows.T).weights
    others = rng.standard_normal((rows.shape[1], k))
    basis = np.linalg.qr(np.column_stack([rows.T @ weights, others]))[0]
    inside = rows @ basis
    np.testing.assert_allclose(nash(inside @ inside.T).weights, weights, rtol=1e-7)


def test_each_axiom_has_bite():
    """MGDA sees the tasks' scales, IMTL-G the alternatives and Pareto-poor directions, ordered PCGrad the names."""
    rng = np.random.default_rng(3)
    rows = jacobian("random", 4, rng, p=6)
    rescaled = rows * np.array([[1.0], [10.0], [0.2], [1.0]])
    for solver, options in ((mgda, {}), (fairgrad, {"alpha": 2.0})):
        assert np.linalg.norm(direction(solver, rescaled, **options) - direction(solver, rows, **options)) > 0.1

    weights = imtl_g(rows @ rows.T).weights
    basis = np.linalg.qr(np.column_stack([rows.T @ weights, rng.standard_normal((rows.shape[1], 4))]))[0]
    held = imtl_g(rows @ basis @ basis.T @ rows.T).weights
    assert np.linalg.norm(unit(basis @ (basis.T @ rows.T @ held)) - unit(rows.T @ weights)) > 0.1

    poor = np.array([[1.0, 0.0], [0.8, 0.6], [0.96, 0.28]]) @ rng.standard_normal((2, 5)) + 0.1 * np.eye(3, 5)
    solution = imtl_g(poor @ poor.T)
    assert solution.weights.min() < 0
    assert common_gain(poor, unit(poor.T @ solution.weights)) > 0.1

    conflict = rng.standard_normal((3, 4))
    conflict -= 0.9 * conflict.mean(0)
    renamed = [1, 2, 0]
    first, second = (direction(pcgrad, rows, order=[0, 1, 2]) for rows in (conflict, conflict[renamed]))
    assert np.linalg.norm(first - second) > 0.1
