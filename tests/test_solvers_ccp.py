"""Nash-MTL's published algorithm: each program against a cone solver, the sequence against the exact solution."""

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers import ccp_gap, ccp_objective, fair_residual, nash
from accord.solvers.ccp import ccp_program, nash_ccp
from accord.testing.gramians import case
from gramian_families import FAMILIES, STATIONARY, gramian, jacobian


def program_by_cone_solver(rows, at, first_term):
    """The published program as it is written, logarithms and all."""
    g = rows @ rows.T
    alpha = cvxpy.Variable(len(g), nonneg=True)
    beta = g @ alpha
    objective = cvxpy.sum(beta) if at is None or first_term else 0
    if at is not None:
        objective = objective + (1 / at + g @ (1 / (g @ at))) @ alpha
    constraints = [cvxpy.log(alpha[i]) + cvxpy.log(beta[i]) >= 0 for i in range(len(g))]
    problem = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
    problem.solve(solver=cvxpy.CLARABEL)
    return alpha.value, problem.value


def value(g, at, alpha, first_term):
    beta = g @ alpha
    total = beta.sum() if at is None or first_term else 0.0
    return total if at is None else total + (alpha / at + beta / (g @ at)).sum()


@pytest.mark.parametrize("first_term", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 6, 12])
def test_a_program_is_the_cone_solver_s(k, first_term):
    rng = np.random.default_rng(k)
    for spread in (0.0, 0.5, 1.0):
        rows = jacobian("random", k, rng, spread=spread, p=k + 5)
        g = rows @ rows.T
        at = nash(g).weights * np.exp(rng.uniform(-0.5, 0.5, k))
        if not (g @ at > 0).all():
            at = nash(g).weights
        program = ccp_program(g, at, first_term)
        expected, optimum = program_by_cone_solver(rows, at, first_term)
        assert program.gap < 1e-10
        assert (program.weights * (g @ program.weights) >= 1 - 1e-12).all()
        assert value(g, at, program.weights, first_term) == pytest.approx(optimum, rel=1e-6)
        np.testing.assert_allclose(program.weights, expected, rtol=1e-3)


@pytest.mark.parametrize("k", [2, 5])
def test_equation_4_is_the_cone_solver_s(k):
    rows = jacobian("random", k, np.random.default_rng(k), spread=0.5, p=k + 3)
    g = rows @ rows.T
    program = ccp_program(g, None)
    _, optimum = program_by_cone_solver(rows, None, True)
    assert (g @ program.weights).sum() == pytest.approx(optimum, rel=1e-6)
    assert ccp_gap(g, None, program.weights, program.multipliers) < 1e-10


def test_the_gap_sees_errors():
    g = gramian("random", 5, np.random.default_rng(0), spread=0.5)
    at = np.ones(5)
    program = ccp_program(g, at)
    assert ccp_gap(g, at, program.weights, program.multipliers) < 1e-12
    assert ccp_gap(g, at, 1.001 * program.weights, program.multipliers) > 1e-4
    assert ccp_gap(g, at, 0.999 * program.weights, program.multipliers) > 1e-4
    assert ccp_gap(g, at, program.weights, 1.01 * program.multipliers) > 1e-6
    assert ccp_gap(g, 0.01 * at, program.weights, program.multipliers) > 1e-3


def converged(k, rng, family="random", **options):
    """A Gramian away from stationarity."""
    while True:
        g = gramian(family, k, rng, **options)
        if nash(g).solved:
            return g


@pytest.mark.parametrize("first_term", [True, False])
@pytest.mark.parametrize("family", ["random", "aligned", "duplicates", "nearly_equal", "zero_row"])
def test_with_norms_alike_it_is_the_exact_solution(family, first_term):
    rng = np.random.default_rng(FAMILIES.index(family))
    for k in (1, 2, 3, 10, 40):
        g = converged(k, rng, family, spread=0.3) if k > 1 or family != "zero_row" else np.eye(1)
        solution = nash_ccp(g, first_term=first_term)
        assert solution.solved
        assert solution.residual <= 1e-8
        live = np.diag(g) > 0
        assert fair_residual(g, solution.weights) <= 1e-8
        if family not in ("duplicates", "nearly_equal"):
            np.testing.assert_allclose(solution.weights[live], nash(g).weights[live], rtol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_without_the_first_term_it_arrives_at_the_exact_solution(spread):
    rng = np.random.default_rng(7)
    for k in (2, 3, 5, 8):
        g = converged(k, rng, spread=spread)
        solution = nash_ccp(g, steps=200, first_term=False)
        assert solution.solved
        np.testing.assert_allclose(solution.weights, nash(g).weights, rtol=1e-6)


@pytest.mark.parametrize("first_term", [True, False])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_the_objective_never_rises(spread, first_term):
    rng = np.random.default_rng(8)
    for k in (2, 4, 9):
        g = converged(k, rng, spread=spread)
        values = [
            ccp_objective(g, nash_ccp(g, steps=steps, first_term=first_term).weights, first_term)
            for steps in range(1, 8)
        ]
        assert (np.diff(values) <= 1e-9 * (1 + np.abs(values[:-1]))).all()
        start = nash_ccp(g, steps=1, first_term=True).weights
        later = nash_ccp(g, start, steps=1).weights
        assert ccp_objective(g, later) <= ccp_objective(g, start) + 1e-9 * abs(ccp_objective(g, start))


def test_more_programs_solve_more_often():
    """The comparison of the paper's Section D.2, on random Gramians."""
    rng = np.random.default_rng(9)
    problems = [converged(6, rng, spread=1.0, p=8) for _ in range(60)]
    once = sum(nash_ccp(g, steps=1).solved for g in problems)
    twenty = sum(nash_ccp(g, steps=20).solved for g in problems)
    without = sum(nash_ccp(g, steps=20, first_term=False).solved for g in problems)
    assert 0 < once < twenty < without


def test_where_the_published_objective_stalls_it_says_so():
    rows = np.array([[1e3, 0.0], [-0.9, 0.1]])
    g = rows @ rows.T
    solution = nash_ccp(g, steps=100)
    assert solution.outcome == "approximate"
    assert "a stationary point of the published objective, not the bargaining solution" in solution.cause
    assert solution.steps < 100
    assert (g @ solution.weights > 0).all()
    assert nash_ccp(g, steps=100, first_term=False).solved
    few = nash_ccp(g, steps=2, first_term=False)
    assert few.outcome == "approximate"
    assert few.cause.startswith("2 convex programs leave")


def test_start():
    rng = np.random.default_rng(10)
    g = converged(5, rng, spread=1.0)
    exact = nash(g).weights
    again = nash_ccp(g, exact)
    assert again.solved
    assert again.steps <= 1
    np.testing.assert_array_equal(nash_ccp(g, np.ones(5), 1).weights, nash_ccp(g, None, 1).weights)
    np.testing.assert_array_equal(nash_ccp(g, np.zeros(5), 1).weights, nash_ccp(g, None, 1).weights)
    rows = np.array([[10.0, 0.0], [-1.0, 1.0]])  # at α = 1 the second task would lose
    conflicting = nash_ccp(rows @ rows.T, steps=1)
    np.testing.assert_allclose(conflicting.weights, ccp_program(rows @ rows.T, None).weights)


@pytest.mark.parametrize("first_term", [True, False])
def test_the_sequence_is_its_programs_one_after_the_other(first_term):
    rng = np.random.default_rng(14)
    g = converged(6, rng, spread=2.0)
    first = ccp_program(g, None).weights  # α = 1 has no derivative here, and without the first term it is the start
    assert not (g.sum(1) > 0).all()
    second = ccp_program(g, first, first_term).weights
    third = ccp_program(g, second, first_term).weights
    for steps, expected in ((1, first), (2, second), (3, third)):
        np.testing.assert_allclose(nash_ccp(g, steps=steps, first_term=first_term).weights, expected, rtol=1e-4)


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_permutation(k, seed):
    rng = np.random.default_rng(seed)
    g = converged(k, rng, spread=0.5)
    order = rng.permutation(k)
    permuted = nash_ccp(g[np.ix_(order, order)])
    np.testing.assert_allclose(permuted.weights, nash_ccp(g).weights[order], rtol=1e-5)


@pytest.mark.parametrize("family", STATIONARY)
def test_stationary_points_are_named_as_by_nash(family):
    rng = np.random.default_rng(11)
    for k in (2, 3, 8):
        g = gramian(family, k, rng)
        if nash(g).stationary:
            solution = nash_ccp(g)
            assert solution.stationary or solution.outcome == "degenerate"
            assert np.isfinite(solution.weights).all()
    assert nash_ccp([[1.0, -1.0], [-1.0, 1.0]]).stationary
    assert nash_ccp(np.zeros((2, 2))).outcome == "degenerate"


@pytest.mark.parametrize("block", range(3))
def test_adversarial_cases_are_solved_or_named(block):
    for index in range(30 * block, 30 * block + 30):
        g = case(13, index, 20).gramian
        g = (g + g.T) / 2
        for first_term in (True, False):
            solution = nash_ccp(g, first_term=first_term)
            assert np.isfinite(solution.weights).all()
            assert not solution.solved or fair_residual(g, solution.weights) <= 2e-8
            assert solution.solved or solution.cause
            if solution.outcome in ("solved", "approximate"):
                live = np.diag(g) > 0
                assert (solution.weights[live] > 0).all()
                assert ((g @ solution.weights)[live] > 0).all()


@pytest.mark.parametrize("extreme", [1e-320, 1e-200, 1e200, 1e308])
def test_a_start_that_float64_cannot_square_is_left(extreme):
    g = gramian("random", 3, np.random.default_rng(15))
    np.testing.assert_array_equal(
        nash_ccp(g, np.full(3, extreme), steps=2).weights, nash_ccp(g, steps=2, start=ccp_program(g, None).weights)
    )


def test_two_hundred_tasks():
    assert nash_ccp(gramian("random", 200, np.random.default_rng(12), p=400)).solved


def test_bad_input():
    g = np.eye(2)
    for steps in (0, -1, 1.5, True, "20"):
        with pytest.raises(OptionError, match="steps"):
            nash_ccp(g, steps=steps)
    with pytest.raises(OptionError, match="first_term"):
        nash_ccp(g, first_term=1)
    with pytest.raises(ShapeError, match=r"start of shape \(2,\) is needed, got \(3,\)"):
        nash_ccp(g, np.ones(3))
    with pytest.raises(OptionError, match=r"start\[1\] = -1 is negative"):
        nash_ccp(g, [1.0, -1.0])
    for start in ([[1.0], []], "ab", [1j, 1.0]):
        with pytest.raises(ShapeError, match="nash_ccp: start"):
            nash_ccp(g, start)
    with pytest.raises(NonFiniteError, match="start"):
        nash_ccp(g, [1.0, np.nan])
    with pytest.raises(OptionError, match="must be positive"):
        ccp_program(g, [1.0, 0.0])
    with pytest.raises(OptionError, match="first term alone"):
        ccp_program(g, None, False)
    with pytest.raises(ShapeError, match="rows"):
        ccp_program(np.diag([1.0, 0.0]), [1.0, 1.0])
    with pytest.raises(OptionError, match="nothing is feasible"):
        ccp_program([[1.0, -1.0], [-1.0, 1.0]], [1.0, 1.0])
