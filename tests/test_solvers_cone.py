"""UPGrad and DualProj against cone programs, a projection made on the Jacobian, and their invariances."""

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torchjd import aggregation
from torchjd._linalg import _dual_cone

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers.certificates import cone_residual, upgrad_residual
from accord.solvers.cone import cone_projections, dualproj, upgrad
from accord.solvers.nonnegative import NonNegative
from gramian_families import FAMILIES, STATIONARY, gramian, jacobian

SIZES = (1, 2, 3, 5, 10, 40)
BOTH = pytest.mark.parametrize("solver", [upgrad, dualproj])


def certificate(g, solution):
    """The public residual of a solution with equal preferences, where zero rows may have any weight."""
    k = len(g)
    if solution.method == "dualproj":
        return cone_residual(g, np.full(k, 1 / k), solution.weights)
    return upgrad_residual(g, solution.weights, cone_projections(g))


def projection(rows, wish):
    """The wish projected on {d : rows @ d >= 0}, by its definition: the wish less its part in the polar cone.

    That part is the nearest to it among the non-negative combinations of the negated unit rows (Moreau). SciPy's
    nnls can end far from it where there are ties, so whether the optimality conditions hold is returned as well.
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    size = np.linalg.norm(wish)
    if size == 0.0:
        return wish, True
    multipliers, _ = nnls(unit.T, -wish / size)
    d = wish / size + unit.T @ multipliers
    return size * d, np.abs(np.minimum(multipliers, unit @ d)).max() < 1e-10


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("family", FAMILIES + STATIONARY)
@BOTH
def test_the_optimality_conditions_hold(solver, family, k):
    rng = np.random.default_rng([k, (FAMILIES + STATIONARY).index(family)])
    for spread in (0.0, 1.0, 2.0, 4.0):
        for scale in (1e-30, 1.0, 1e30):
            rows = jacobian(family, k, rng, spread=spread, scale=scale)
            g = rows @ rows.T
            solution = solver(g)
            live = np.diag(g) > 0
            assert (solution.weights[live] >= 1 / k).all()
            assert not solution.weights[~live].any()
            assert solution.zero_rows == tuple(np.flatnonzero(~live))
            if not live.any():  # the one task of a vanishing sum
                assert solution.outcome == "degenerate"
                continue
            assert solution.solved or (family in STATIONARY and solution.stationary)
            assert solution.residual <= 1e-8
            assert certificate(g, solution) <= 2e-8
            if solution.solved:
                unit = rows[live] / np.linalg.norm(rows[live], axis=1, keepdims=True)
                d = rows.T @ (solution.weights / solution.weights.max())
                assert (unit @ d).min() >= -1e-8 * np.linalg.norm(d)


@pytest.mark.parametrize("family", FAMILIES + STATIONARY)
def test_each_projection_meets_its_conditions(family):
    rng = np.random.default_rng(5)
    for k in SIZES:
        g = gramian(family, k, rng, spread=2.0)
        for wish, v in zip(np.eye(k), cone_projections(g), strict=True):
            assert (v >= wish).all()
            assert cone_residual(g, wish, v) <= 1e-8 or v @ g @ v <= 1e-12 * (v @ np.abs(g) @ v)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 10), st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0]))
def test_the_directions_are_projections_of_the_rows(k, p, seed, spread):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((k, p)) * 10.0 ** rng.uniform(-spread, spread, (k, 1))
    preference = rng.uniform(0, 1, k)
    g, length = rows @ rows.T, np.linalg.norm(rows, axis=1) @ preference
    projected = [projection(rows, row) for row in rows]
    jointly, sound = projection(rows, preference @ rows)
    assume(sound and all(sound for _, sound in projected))
    singly = preference @ [d for d, _ in projected]
    np.testing.assert_allclose(rows.T @ upgrad(g, preference).weights / length, singly / length, atol=1e-7)
    np.testing.assert_allclose(rows.T @ dualproj(g, preference).weights / length, jointly / length, atol=1e-7)


@pytest.mark.parametrize("k", [2, 3, 5, 8, 15])
def test_the_directions_are_those_of_a_cone_program(k):
    rows = jacobian("conflicting", k, np.random.default_rng(k), spread=0.3)
    d, wish = cvxpy.Variable(rows.shape[1]), cvxpy.Parameter(rows.shape[1])
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(d - wish)), [rows @ d >= 0])

    def solved(value):
        wish.value = value
        problem.solve(solver=cvxpy.CLARABEL)
        return d.value

    g = rows @ rows.T
    size = np.linalg.norm(rows.mean(0))
    np.testing.assert_allclose(rows.T @ dualproj(g).weights, solved(rows.mean(0)), atol=1e-5 * size)
    singly = np.mean([solved(row) for row in rows], axis=0)
    np.testing.assert_allclose(rows.T @ upgrad(g).weights, singly, atol=1e-5 * np.abs(rows).max())


def test_ties_are_no_trouble():
    """Rows of signs: equal cosines, opposite rows, singular blocks. The worst is where nnls goes astray."""
    rng = np.random.default_rng(0)
    d, wish, rows = cvxpy.Variable(7), cvxpy.Parameter(7), cvxpy.Parameter((10, 7))
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(d - wish)), [rows @ d >= 0])
    for _ in range(8):
        rows.value = rng.choice([-1.0, 1.0], (10, 7))
        g = rows.value @ rows.value.T
        for i, v in enumerate(cone_projections(g)):
            ours = rows.value.T @ v
            assert (rows.value @ ours).min() >= -1e-12
            assert v @ g @ v <= 1e-12 or cone_residual(g, np.eye(10)[i], v) <= 1e-12
            wish.value = rows.value[i]
            problem.solve(solver=cvxpy.CLARABEL)
            np.testing.assert_allclose(ours, d.value, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.999, 0.999), st.floats(-3, 3), st.floats(-3, 3))
def test_two_tasks_are_the_closed_form(cosine, a, b):
    n, m = 10.0**a, 10.0**b
    dot = cosine * n * m
    loss = max(0.0, -cosine)
    expected = [0.5 + 0.5 * loss * m / n, 0.5 + 0.5 * loss * n / m]
    np.testing.assert_allclose(upgrad([[n * n, dot], [dot, m * m]]).weights, expected, rtol=1e-9)


def test_without_conflict_both_are_the_preferred_combination():
    g = gramian("aligned", 6, np.random.default_rng(0))
    preference = np.arange(6.0)
    for solver in (upgrad, dualproj):
        np.testing.assert_array_equal(solver(g).weights, 1 / 6)
        np.testing.assert_allclose(solver(g, preference).weights, preference, rtol=1e-15)


@pytest.mark.parametrize("angle", 10.0 ** -np.arange(1, 5))
def test_nearly_opposite_gradients_are_told_apart(angle):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((8, 12))
    rows[4] = angle * rng.standard_normal(12) - 2 * rows[0]
    rows[5] = angle * rng.standard_normal(12) - rows[1]
    d, wish = rows.T @ dualproj(rows @ rows.T).weights, rows.mean(0)
    expected, sound = projection(rows, wish)
    assert sound
    tolerance = 1e3 * np.finfo(float).eps / angle**2  # rounding of G over the least eigenvalue of its cosines
    np.testing.assert_allclose(d, expected, atol=tolerance * np.linalg.norm(wish))


@BOTH
def test_the_ridge_of_the_kernel_is_taken_back(solver):
    """Gradients at 1e-6 from opposite, where a ridge of some eps would leave a residual of 1e-9."""
    for seed in range(20):
        solution = solver(gramian("near_opposite", 6, np.random.default_rng(seed), grade=1e-6))
        assert solution.solved
        assert solution.residual < 3e-10


@BOTH
def test_small_and_spread_gradients_are_not_hurt(solver):
    """Where a Gramian divided by its trace, plus a ridge, lets d conflict with small gradients or be the mean."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = jacobian("conflicting", 5, rng, spread=4.0)
        for factor in (1.0, 1e-6):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            d = factor * rows.T @ solver(factor**2 * rows @ rows.T).weights
            assert (unit @ d).min() / np.linalg.norm(d) > -1e-12
            assert (unit @ rows.mean(0)).min() / np.linalg.norm(rows.mean(0)) < -1e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from(["random", "conflicting", "duplicates", "low_rank"]))
def test_permutation_and_scale(k, seed, family):
    rng = np.random.default_rng(seed)
    rows = jacobian(family, k, rng, spread=0.5)
    g, order, s = rows @ rows.T, rng.permutation(k), 10.0 ** rng.uniform(-10, 10)
    for solver in (upgrad, dualproj):
        solution = solver(g)
        d = rows.T @ solution.weights
        size = np.linalg.norm(rows, axis=1).sum() * 1e-6
        again = rows[order].T @ solver(g[np.ix_(order, order)]).weights
        np.testing.assert_allclose(again, d, atol=size)
        np.testing.assert_allclose(rows.T @ solver(s**2 * g).weights, d, atol=size)


@BOTH
def test_identical_tasks_share_alike(solver):
    rows = np.random.default_rng(3).standard_normal((5, 12))
    rows[0] -= rows[1:].sum(0)
    rows[3] = rows[1]
    for preference in (None, np.eye(5)[0]):
        w = solver(rows @ rows.T, preference).weights
        assert w[1] == pytest.approx(w[3], rel=1e-12)
    assert w[1] > 0.1


@pytest.mark.parametrize("family", STATIONARY)
@BOTH
def test_a_vanishing_direction_is_named(solver, family):
    for k in (2, 3, 8, 40):
        rows = jacobian(family, k, np.random.default_rng(k))
        solution = solver(rows @ rows.T)
        d = rows.T @ solution.weights
        if solution.stationary:
            assert "vanishes" in solution.cause
            assert np.linalg.norm(d) <= 1e-5 * np.linalg.norm(rows)
        else:
            assert solution.solved
            assert np.linalg.norm(d) > 1e-6 * np.linalg.norm(rows)


def test_a_stationary_point_with_a_way_on_is_solved():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.3, 1.0]])  # the first two allow no step but along the second axis
    for solver in (upgrad, dualproj):
        solution = solver(rows @ rows.T)
        assert solution.solved
        np.testing.assert_allclose(rows.T @ solution.weights, [0.0, 1 / 3], atol=1e-12)


@pytest.mark.parametrize("family", ["random", "conflicting", "low_rank", "opposite", "vanishing_sum"])
def test_two_hundred_tasks(family):
    g = gramian(family, 200, np.random.default_rng(0), spread=1.0)
    for solver in (upgrad, dualproj):
        solution = solver(g)
        assert solution.residual <= 1e-8
        assert certificate(g, solution) <= 2e-8


@pytest.mark.parametrize("k", [12, 30, 120])
def test_fewer_parameters_than_tasks(k):
    """Passive blocks are singular here, and pivoting alone does not settle."""
    rows = np.random.default_rng(k).standard_normal((k, int(0.55 * k)))
    for solver in (upgrad, dualproj):
        solution = solver(rows @ rows.T)
        assert solution.solved or solution.stationary
        assert certificate(rows @ rows.T, solution) <= 1e-8


def test_gramians_rounded_to_single_precision():
    rng = np.random.default_rng(4)
    for trial in range(60):
        rows = rng.standard_normal((6, (2, 3, 8)[trial % 3])).astype(np.float32)
        rows[1] = -rows[0] * np.float32(1 + 1e-7 * (trial % 5))
        g = (rows @ rows.T).astype(np.float64)
        for solver in (upgrad, dualproj):
            solution = solver(g)
            size = np.linalg.norm(rows, axis=1) @ solution.weights
            hurt = (rows @ (rows.T.astype(float) @ solution.weights) / np.linalg.norm(rows, axis=1)).min() / size
            assert hurt >= -1e-6
            assert solution.residual <= 1e-8 if solution.solved else solution.cause
        assert np.isfinite(cone_projections(g)).all()


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("k", [3, 20, 60, 130])
def test_the_kernel_solves_its_problem(k, n):
    rng = np.random.default_rng(k)
    rows = rng.standard_normal((k, k + 5)) - 0.1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    h = rng.standard_normal((n, k))
    kernel = NonNegative(rows @ rows.T)
    x, _ = kernel.minimise(h)
    slope = x @ kernel.c + h
    assert (x >= 0).all()
    assert np.abs(np.minimum(x, slope)).max() <= 1e-12 * np.abs(x).max() * k
    descended = np.stack([kernel._descend(one, np.zeros(k))[0] for one in h])
    np.testing.assert_allclose(descended, x, atol=1e-7 * max(1.0, np.abs(x).max()))


def test_the_certificates_see_a_small_error():
    g = gramian("conflicting", 4, np.random.default_rng(0))
    v = dualproj(g).weights
    wish = np.full(4, 0.25)
    assert cone_residual(g, wish, v) < 1e-12
    for wrong in (v + 1e-4, v - 1e-4 * np.eye(4)[0], wish):
        assert cone_residual(g, wish, wrong) > 1e-6
    apart = np.diag([1e20, 1.0])  # the second projection counts for itself, however short it is beside the first
    assert cone_residual(apart, np.eye(2), np.diag([1.0, 2.0])) >= 0.5
    w = upgrad(g).weights
    projections = cone_projections(g)
    assert upgrad_residual(g, w, projections) < 1e-12
    assert upgrad_residual(g, w + 1e-4 * np.eye(4)[0], projections) > 1e-6
    assert upgrad_residual(g, np.full(4, 0.25), np.eye(4)) > 1e-3
    assert cone_residual(np.zeros((2, 2)), [1.0, 0.0], [1.0, 0.0]) == 0.0


def test_nothing_to_project():
    for solver in (upgrad, dualproj):
        assert solver(np.zeros((3, 3))).cause == "every gradient is zero"
        solution = solver([[1.0, 0.0], [0.0, 0.0]], [0.0, 1.0])
        assert solution.outcome == "degenerate"
        assert "positive preference" in solution.cause
        assert solver(np.eye(2), [0.0, 0.0]).outcome == "degenerate"
        assert solver([[4.0]]).weights == [1.0]
    np.testing.assert_array_equal(cone_projections(np.zeros((2, 2))), np.eye(2))


@BOTH
def test_extreme_norms_do_not_overflow(solver):
    far = solver([[1e-280, -0.5e10], [-0.5e10, 1e300]])
    assert far.solved
    np.testing.assert_allclose(far.weights, [2.5e289, 0.5])
    beyond = solver([[1e-280, -0.5e10], [-0.5e10, 1e300]], [0.0, 1e30])
    assert beyond.outcome == "degenerate"
    assert np.isfinite(beyond.weights).all()


@BOTH
def test_bad_input(solver):
    for preference in ([1.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf], "ab", [[1.0, 1.0]], [1j, 1.0], [[1.0], []]):
        with pytest.raises(OptionError, match="preference"):
            solver(np.eye(2), preference)
    with pytest.raises(ShapeError, match="positive semidefinite"):
        solver([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    with pytest.raises(ShapeError):
        solver(np.ones((2, 3)))
    with pytest.raises(NonFiniteError):
        solver([[1.0, np.nan], [np.nan, 1.0]])
    with pytest.raises(ShapeError, match="wish"):
        cone_residual(np.eye(2), np.ones(3), np.ones(3))
    with pytest.raises(ShapeError, match="projections"):
        upgrad_residual(np.eye(2), np.ones(2), np.ones(2))


def quadratic_program(matrix, linear, inequalities, bounds, solver):
    """``qpsolvers.solve_qp`` as TorchJD calls it, with Clarabel at work."""
    x = cvxpy.Variable(len(linear))
    objective = cvxpy.Minimize(0.5 * cvxpy.quad_form(x, cvxpy.psd_wrap(matrix)) + linear @ x)
    cvxpy.Problem(objective, [inequalities @ x <= bounds]).solve(
        solver=cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
    )
    return x.value


@pytest.mark.parametrize("family", ["random", "conflicting"])
def test_agreement_with_torchjd_without_its_ridge(monkeypatch, family):
    monkeypatch.setattr(_dual_cone.QuadprogProjector, "_REQUIRED_DEPS", [])
    monkeypatch.setattr(_dual_cone, "solve_qp", quadratic_program, raising=False)
    monkeypatch.setattr(_dual_cone, "np", np, raising=False)  # its import ends at the first package that is missing
    exact = _dual_cone.QuadprogProjector(norm_eps=0.0, reg_eps=0.0)
    rows = jacobian(family, 6, np.random.default_rng(0))
    for solver, peer in ((upgrad, aggregation.UPGrad), (dualproj, aggregation.DualProj)):
        theirs = peer(projector=exact)(torch.from_numpy(rows)).numpy()
        ours = rows.T @ solver(rows @ rows.T).weights
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.linalg.norm(ours))
        ridged = peer(projector=_dual_cone.QuadprogProjector())(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(ours, ridged, atol=1e-2 * np.linalg.norm(ours))
