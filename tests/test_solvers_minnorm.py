"""MGDA and CAGrad against enumeration of all faces, cone programs, their limits and their invariances."""

import itertools

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import OptionError
from accord.solvers import cagrad, cagrad_gap, mgda, mgda_gap, pareto_stationarity
from gramian_families import FAMILIES, STATIONARY, gramian

SIZES = (1, 2, 3, 10, 11, 40)


def min_norm_by_enumeration(g):
    """The least xᵀGx over the simplex: the best of the affine minimisers that lie inside their face."""
    k, best = len(g), (np.inf, None)
    for size in range(1, k + 1):
        for face in itertools.combinations(range(k), size):
            face = list(face)
            y = np.linalg.lstsq(g[np.ix_(face, face)], np.ones(size), rcond=None)[0]
            y = y / y.sum()
            if (y >= -1e-12).all():
                x = np.zeros(k)
                x[face] = y
                best = min(best, (x @ g @ x, tuple(x)))
    return best


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_mgda_meets_its_gap(family, k):
    rng = np.random.default_rng([k, FAMILIES.index(family)])
    for spread in (0.0, 1.0, 4.0):
        for scale in (1e-12, 1.0, 1e12):
            g = gramian(family, k, rng, spread=spread, scale=scale)
            live = np.diag(g) > 0
            solution = mgda(g)
            x = solution.weights
            assert x.sum() == pytest.approx(1.0)
            assert (x >= 0).all()
            assert solution.solved or (spread == 4 and solution.cause)
            assert solution.residual <= max(1e-9, 64 * solution.floor)
            if spread < 4:
                assert solution.residual <= 1e-9
                assert mgda_gap(g[np.ix_(live, live)], x[live]) <= 2e-9


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0]))
def test_mgda_is_the_best_of_all_faces(k, seed, spread):
    g = gramian("random", k, np.random.default_rng(seed), spread=spread, p=6)
    square, _ = min_norm_by_enumeration(g)
    x = mgda(g).weights
    assert x @ g @ x == pytest.approx(square, rel=1e-8)


@settings(max_examples=40)
@given(st.floats(-0.99, 0.99), st.floats(-3, 3), st.floats(-3, 3))
def test_mgda_of_two_tasks_is_the_closed_form(cosine, a, b):
    n, m = 10.0**a, 10.0**b
    dot = cosine * n * m
    gamma = np.clip((m * m - dot) / (n * n + m * m - 2 * dot), 0, 1)
    x = mgda([[n * n, dot], [dot, m * m]]).weights
    assert x[0] == pytest.approx(gamma, abs=1e-9)


@pytest.mark.parametrize("family", STATIONARY)
def test_stationary_points_are_named(family):
    rng = np.random.default_rng(0)
    outcomes = []
    for k in (2, 3, 8, 15):
        g = gramian(family, k, rng)
        solution = mgda(g)
        outcomes.append(solution.outcome)
        assert np.isfinite(solution.weights).all()
        if solution.stationary:
            assert np.sqrt(max(0.0, solution.weights @ g @ solution.weights)) < 1e-6
            assert pareto_stationarity(g) < 1e-6
    assert outcomes.count("stationary") >= 2


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_cagrad_meets_its_gap(family, c):
    rng = np.random.default_rng([int(10 * c), FAMILIES.index(family)])
    for k in SIZES:
        for spread in (0.0, 1.0, 4.0):
            solution = cagrad(gramian(family, k, rng, spread=spread, scale=10.0 ** rng.uniform(-12, 12)), c)
            assert solution.solved or (spread == 4 and solution.cause)
            assert solution.residual <= max(1e-8, 64 * solution.floor)
            assert spread == 4 or solution.residual <= 1e-8


@pytest.mark.parametrize("c", [0.2, 0.4, 0.9, 1.5])
def test_cagrad_is_the_cone_program_of_its_definition(c):
    rng = np.random.default_rng(7)
    for k in (2, 3, 5, 8):
        rows = rng.standard_normal((k, k))
        mean = rows.mean(0)
        d, worst = cvxpy.Variable(k), cvxpy.Variable()
        near = cvxpy.norm(d - mean) <= c * np.linalg.norm(mean)
        problem = cvxpy.Problem(cvxpy.Maximize(worst), [rows @ d >= worst, near])
        problem.solve(solver=cvxpy.CLARABEL)
        solution = cagrad(rows @ rows.T, c)
        ours = rows.T @ solution.weights
        assert np.linalg.norm(ours - mean) <= c * np.linalg.norm(mean) * (1 + 1e-9)
        if solution.solved and problem.value > 1e-6:
            assert (rows @ ours).min() == pytest.approx(problem.value, rel=1e-5)


def test_cagrad_between_the_mean_and_mgda():
    g = gramian("random", 5, np.random.default_rng(2))
    np.testing.assert_allclose(cagrad(g, 0.0).weights, 0.2)
    x = mgda(g).weights
    far = cagrad(g, 1e4).weights
    assert far @ g @ x / np.sqrt((far @ g @ far) * (x @ g @ x)) > 1 - 1e-6
    plain = cagrad(g, 0.4).weights
    np.testing.assert_allclose(cagrad(g, 0.4, rescale=1).weights, plain / 1.16)
    np.testing.assert_allclose(cagrad(g, 0.4, rescale=2).weights, plain / 1.4)


@settings(max_examples=30)
@given(st.integers(2, 10), st.integers(0, 10**6))
def test_permutation_and_scale(k, seed):
    rng = np.random.default_rng(seed)
    g = gramian("random", k, rng, spread=0.5)
    order = rng.permutation(k)
    s = 10.0 ** rng.uniform(-10, 10)
    for solver in (mgda, cagrad):
        w = solver(g).weights
        np.testing.assert_allclose(solver(g[np.ix_(order, order)]).weights, w[order], atol=1e-9)
        np.testing.assert_allclose(solver(s**2 * g).weights, w, atol=1e-9)


def test_identical_tasks_share_alike():
    rows = np.random.default_rng(3).standard_normal((4, 12))
    rows[3] = rows[1]
    g = rows @ rows.T
    for solver in (mgda, cagrad):
        w = solver(g).weights
        assert w[1] == pytest.approx(w[3], rel=1e-12)


def test_the_certificates_see_a_small_error():
    g = gramian("random", 4, np.random.default_rng(0))
    x = mgda(g).weights
    wrong = x + 1e-4 * np.array([1, -1, 0, 0])
    assert mgda_gap(g, x) < 1e-12 < 1e-6 < mgda_gap(g, wrong)
    assert mgda_gap(g, 2 * x) > 0.5
    assert cagrad_gap(g, np.full(4, 0.25), 0.4) > 1e-4


@pytest.mark.parametrize("c", [0.4, 1.0, 2.0])
def test_cagrad_at_a_stationary_point_hurts_no_task(c):
    for rows in (
        [[1.0, 0.0], [-1.0, 0.0], [0.25, 1.0]],
        [[2.0, 0.0], [-1.0, 0.0]],
        [[1.0, 1.0], [-1.0, 1.0], [0.0, -0.5]],
    ):
        rows = np.array(rows)
        mean = rows.mean(0)
        d = cvxpy.Variable(2)
        nearest = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(d - mean)), [rows @ d >= 0])
        nearest.solve(solver=cvxpy.CLARABEL)
        solution = cagrad(rows @ rows.T, c)
        ours = rows.T @ solution.weights
        if solution.stationary:
            np.testing.assert_allclose(ours, d.value, atol=1e-5)
            assert (rows @ ours).min() >= -1e-6
            assert np.linalg.norm(ours - mean) <= c * np.linalg.norm(mean) * (1 + 1e-9)
            assert solution.residual < 1e-6
        else:
            assert solution.residual < 1e-8
    assert cagrad(rows @ rows.T, 2.0).stationary


def test_a_vanishing_mean_is_named():
    solution = cagrad([[1.0, -1.0], [-1.0, 1.0]])
    assert solution.stationary
    assert "mean gradient vanishes" in solution.cause


def test_bad_options():
    with pytest.raises(OptionError, match=r"c = -0\.1"):
        cagrad(np.eye(2), -0.1)
    with pytest.raises(OptionError, match="rescale"):
        cagrad(np.eye(2), 0.4, rescale=3)
    for c in (1e200, np.float64(1e200), np.inf):
        with pytest.raises(OptionError, match="for the max-min direction use mgda"):
            cagrad(np.eye(2), c)
    np.testing.assert_allclose(cagrad(np.eye(2), 1e99, np.int64(1)).weights, [0.5e-99] * 2)
    with pytest.raises(OptionError, match="c = nan"):
        cagrad(np.eye(2), float("nan"))
