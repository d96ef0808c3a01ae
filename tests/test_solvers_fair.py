"""Nash-MTL and FairGrad against their definition, their limits, their invariances and other solvers."""

import cvxpy
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers import cagrad, fair_residual, fairgrad, imtl_g, mgda, nash
from gramian_families import FAMILIES, STATIONARY, gramian

ALPHAS = (0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 3, 10, 11, 40)


def independent_residual(g, w, alpha):
    """The definition, written down once more: max |w^(1/α)(Gw) − 1| over non-zero rows."""
    live = np.diag(g) > 0
    return max(abs(w[i] ** (1 / alpha) * (g[i] @ w) - 1) for i in np.flatnonzero(live))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_definition_holds(family, k, alpha):
    rng = np.random.default_rng([k, int(10 * alpha), FAMILIES.index(family)])
    for spread in (0.0, 1.0, 4.0):
        for scale in (1e-12, 1e-6, 1.0, 1e12):
            g = gramian(family, k, rng, spread=spread, scale=scale)
            solution = fairgrad(g, alpha)
            if not solution.solved:  # only where rounding allows no more, and it says how much it allows
                assert family == "conflicting"
                assert solution.floor * 16 >= max(1e-8, solution.residual)
                continue
            assert solution.solved
            assert solution.residual <= 1e-8
            assert independent_residual(g, solution.weights, alpha) <= max(1e-8, solution.floor)
            assert solution.zero_rows == ((k // 2,) if family == "zero_row" and k > 1 else ())
            assert (solution.weights >= 0).all()


def test_conflicting_gradients_are_mostly_solved():
    """The exemption above is for rounding alone: at equal norms nothing is exempt."""
    rng = np.random.default_rng(1)
    for k in SIZES[1:]:
        for alpha in ALPHAS:
            assert fairgrad(gramian("conflicting", k, rng), alpha).residual <= 1e-8


def test_zero_rows_are_named_and_get_no_weight():
    solution = nash(gramian("zero_row", 5, np.random.default_rng(0)))
    assert solution.solved
    assert solution.zero_rows == (2,)
    assert solution.weights[2] == 0
    assert "row 2" in solution.cause
    nothing = nash(np.zeros((3, 3)))
    assert nothing.outcome == "degenerate"
    assert nothing.cause == "every gradient is zero"
    assert (nothing.weights == 0).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("family", STATIONARY)
def test_pareto_stationary_points_are_named(family, alpha):
    rng = np.random.default_rng(5)
    found = 0
    for k in (2, 3, 7, 12):
        g = gramian(family, k, rng, spread=1.0)
        solution = fairgrad(g, alpha)
        assert np.isfinite(solution.weights).all()
        if solution.stationary:
            found += 1
            direction = np.sqrt(max(0.0, solution.weights @ g @ solution.weights))
            assert direction <= 1e-6 * (solution.weights @ np.sqrt(np.diag(g)))
            assert (solution.weights >= 0).all()
        else:
            assert solution.residual <= 1e-8
    assert found >= 2


def test_near_stationarity_tells_the_floor():
    for angle in (1e-2, 1e-4, 1e-6):
        rows = np.array([[1.0, angle], [-1.0, angle]])
        solution = nash(rows @ rows.T)
        assert solution.floor >= np.finfo(float).eps / angle**2
        assert solution.stationary == (solution.residual > 1e-8)
        assert solution.residual <= 16 * solution.floor


@given(st.floats(-0.999, 0.999), st.floats(-4, 4), st.floats(-4, 4))
def test_two_tasks_are_the_closed_form(cosine, a, b):
    norms = 10.0 ** np.array([a, b])
    g = norms[:, None] * np.array([[1.0, cosine], [cosine, 1.0]]) * norms
    np.testing.assert_allclose(nash(g).weights, 1 / (norms * np.sqrt(1 + cosine)), rtol=1e-9)


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from(ALPHAS))
def test_permutation_and_scale(k, seed, alpha):
    rng = np.random.default_rng(seed)
    g = gramian("random", k, rng, spread=1.0)
    w = fairgrad(g, alpha).weights
    order = rng.permutation(k)
    np.testing.assert_allclose(fairgrad(g[np.ix_(order, order)], alpha).weights, w[order], rtol=1e-7)
    s = 10.0 ** rng.uniform(-6, 6)
    np.testing.assert_allclose(fairgrad(s**2 * g, alpha).weights, s ** (-2 * alpha / (1 + alpha)) * w, rtol=1e-7)


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_nash_absorbs_the_scale_of_a_loss_and_has_norm_sqrt_k(k, seed):
    rng = np.random.default_rng(seed)
    g = gramian("random", k, rng, spread=2.0)
    w = nash(g).weights
    assert w @ g @ w == pytest.approx(k, rel=1e-9)
    scale = 10.0 ** rng.uniform(-3, 3, k)
    np.testing.assert_allclose(nash(scale[:, None] * g * scale).weights, w / scale, rtol=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_an_interior_point_solver_of_the_primal_agrees(alpha):
    """max_d Σ u_α(g_iᵀd) in a ball, as a cone program in d: the same direction."""
    rng = np.random.default_rng(3)
    for k in (2, 4, 6):
        rows = rng.standard_normal((k, k)) / np.sqrt(k)
        d = cvxpy.Variable(k)
        gain = rows @ d
        utility = cvxpy.sum(cvxpy.log(gain)) if alpha == 1 else cvxpy.sum(cvxpy.power(gain, 1 - alpha)) / (1 - alpha)
        problem = cvxpy.Problem(cvxpy.Maximize(utility), [cvxpy.norm(d) <= 1])
        problem.solve(solver=cvxpy.CLARABEL)
        ours = rows.T @ fairgrad(rows @ rows.T, alpha).weights
        assert ours @ d.value / np.linalg.norm(ours) / np.linalg.norm(d.value) > 1 - 1e-6


@pytest.mark.parametrize("alpha", [5.0, 10.0])
def test_a_quasi_newton_method_agrees(alpha):
    """The convex function of the weights, minimised by L-BFGS over log w."""
    rng = np.random.default_rng(6)
    for k in (2, 4, 6):
        g = gramian("random", k, rng, p=20) / 20
        power = 1 - 1 / alpha

        def function(z, g=g, power=power):
            w = np.exp(z)
            return w @ g @ w / 2 - (w**power).sum() / power, w * (g @ w) - w**power

        found = scipy.optimize.minimize(
            function, np.zeros(k), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}
        )
        ours, theirs = fairgrad(g, alpha).weights, np.exp(found.x)
        assert ours @ g @ theirs / np.sqrt((ours @ g @ ours) * (theirs @ g @ theirs)) > 1 - 1e-8


def test_limits_of_alpha():
    rng = np.random.default_rng(4)
    for family in ("random", "conflicting", "aligned"):
        g = gramian(family, 6, rng, spread=0.5)
        np.testing.assert_array_equal(fairgrad(g, 0).weights, np.ones(6))
        if family != "conflicting":  # there the solution for small alpha keeps (Gw)_i above zero instead
            np.testing.assert_allclose(fairgrad(g, 1e-2).weights, np.ones(6), rtol=0.1)
        np.testing.assert_array_equal(fairgrad(g, 1).weights, nash(g).weights)
        x = mgda(g).weights
        limit = fairgrad(g, np.inf).weights
        np.testing.assert_allclose(limit / limit.sum(), x, rtol=1e-12)
        assert (g @ limit >= 1 - 1e-9).all()
        near = fairgrad(g, 200.0).weights
        assert near @ g @ x / np.sqrt((near @ g @ near) * (x @ g @ x)) > 0.999


def test_identical_tasks_share_alike():
    rows = np.random.default_rng(0).standard_normal((3, 9))
    rows[2] = rows[0]
    for alpha in (*ALPHAS, np.inf):
        w = fairgrad(rows @ rows.T, alpha).weights
        assert w[0] == pytest.approx(w[2], rel=1e-9)


def test_the_certificate_sees_a_small_error():
    g = gramian("random", 5, np.random.default_rng(0))
    w = nash(g).weights
    assert fair_residual(g, w) < 1e-12
    for i in range(5):
        wrong = w.copy()
        wrong[i] *= 1 + 1e-6
        assert fair_residual(g, wrong) > 5e-7
    assert fair_residual(g, np.ones(5)) > 0.1


@pytest.mark.parametrize("solver", [nash, fairgrad, mgda, cagrad, imtl_g])
def test_bad_gramians_are_refused(solver):
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        solver(np.ones((2, 3)))
    with pytest.raises(ShapeError, match="not symmetric"):
        solver([[1.0, 0.5], [0.2, 1.0]])
    with pytest.raises(ShapeError, match="negative"):
        solver([[1.0, 0.0], [0.0, -1.0]])
    with pytest.raises(ShapeError, match="times the product"):
        solver([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(NonFiniteError, match="rows"):
        solver([[1.0, np.nan], [np.nan, 1.0]])
    with pytest.raises(ShapeError, match=r"\(0, 0\)"):
        solver(np.zeros((0, 0)))
    with pytest.raises(ShapeError, match="not positive semidefinite"):
        solver([[1.0, -0.9, -0.9], [-0.9, 1.0, -0.9], [-0.9, -0.9, 1.0]])
    with pytest.raises(ShapeError, match="zero diagonal"):
        solver([[0.0, 0.1], [0.1, 1.0]])
    with pytest.raises(ShapeError, match="no array"):
        solver([[1.0, 2.0], [3.0]])
    with pytest.raises(ShapeError, match="real"):
        solver(np.eye(2, dtype=complex))


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), "two", True, None])
def test_alpha_must_not_be_negative(alpha):
    with pytest.raises(OptionError, match="alpha"):
        fairgrad(np.eye(2), alpha)


def test_what_float64_cannot_hold_is_named():
    g = gramian("random", 10, np.random.default_rng(1), spread=4)
    solution = fairgrad(g, 300.0)
    assert np.isfinite(solution.weights).all()
    assert solution.solved or solution.cause
