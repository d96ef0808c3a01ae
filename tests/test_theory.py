"""Closed forms and limits that join the methods, and MGDA-UB's bound on MGDA.

Nash of two tasks; FairGrad between linear scalarization and MGDA; CAGrad between the mean and MGDA; Sener and Koltun's
upper bound at the representation Z, with ∂Z/∂θ written out for a small torch network.
"""

import cvxpy
import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.solvers import cagrad, fairgrad, mgda, nash
from gramian_families import jacobian

FAMILIES = ("random", "aligned", "conflicting")


def least_norm(rows):
    """The shortest vector in the convex hull of the rows, by least squares with signs (SciPy)."""
    size = np.linalg.norm(rows, axis=1).max()
    system = np.vstack([rows.T / size, np.ones(len(rows))])
    x = scipy.optimize.nnls(system, np.append(np.zeros(rows.shape[1]), 1.0))[0]
    return rows.T @ (x / x.sum())


def angle(a, b):
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))


def common_gain(rows, d):
    """The least utility per unit of length, which MGDA's direction makes largest."""
    return (rows @ d).min() / np.linalg.norm(d)


@settings(max_examples=100)
@given(st.floats(0.02, 3.1), st.floats(-4, 4), st.floats(-4, 4))
def test_nash_of_two_tasks_is_the_closed_form(theta, log_first, log_second):
    first, second = 10.0**log_first, 10.0**log_second
    rows = np.array([[first, 0.0], [second * np.cos(theta), second * np.sin(theta)]])
    weights = nash(rows @ rows.T).weights
    expected = 1 / (np.array([first, second]) * np.sqrt(1 + np.cos(theta)))
    np.testing.assert_allclose(weights, expected, rtol=1e-9)
    assert angle(rows.T @ weights, [np.cos(theta / 2), np.sin(theta / 2)]) < 1e-9  # the bisector of the angle


@pytest.mark.parametrize("k", [2, 3, 5, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_fairgrad_from_linear_scalarization_over_nash_to_mgda(family, k):
    """From one α to another nearby the angle to MGDA's direction may grow; over decades it falls."""
    rows = jacobian(family, k, np.random.default_rng(k), spread=0.3, p=k + 5)
    gramian, shortest = rows @ rows.T, least_norm(rows)
    np.testing.assert_array_equal(fairgrad(gramian, 0.0).weights, np.ones(k))
    np.testing.assert_allclose(fairgrad(gramian, 1.0).weights, nash(gramian).weights, rtol=1e-9)
    for alpha in (1 - 1e-6, 1 + 1e-6):
        np.testing.assert_allclose(fairgrad(gramian, alpha).weights, nash(gramian).weights, rtol=1e-4)

    directions = [rows.T @ fairgrad(gramian, alpha).weights for alpha in 10.0 ** np.arange(6)]
    angles = np.array([angle(d, shortest) for d in directions])
    assert (angles[1:] < np.maximum(angles[:-1], 1e-7)).all()
    assert (angles[3:] < np.maximum(0.2 * angles[2:-1], 1e-7)).all()  # at last as 1/α
    assert angles[0] > 4e-3 > 1e-3 > angles[-1]
    assert angles[-1] < 1e-2 * angles[0]
    assert angle(rows.T @ fairgrad(gramian, np.inf).weights, shortest) < 1e-6
    gains = [common_gain(rows, d) for d in directions]
    assert gains[-1] == pytest.approx(np.linalg.norm(shortest), rel=1e-3)
    assert (np.array(gains) <= np.linalg.norm(shortest) * (1 + 1e-9)).all()


@pytest.mark.parametrize("k", [2, 3, 5, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_fairgrad_of_vanishing_alpha_is_the_sum_projected_on_what_harms_no_task(family, k):
    """The limit of α → 0 has w ≥ 1, above 1 only where a task would lose: the sum itself only where none loses.

    α = 0 itself is linear scalarization by name, harm or not.
    """
    rows = jacobian(family, k, np.random.default_rng(k), spread=0.3, p=k + 5)
    d = cvxpy.Variable(rows.shape[1])
    nearest = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(d - rows.sum(0))), [rows @ d >= 0])
    nearest.solve(solver=cvxpy.CLARABEL)
    weights = fairgrad(rows @ rows.T, 1e-6).weights
    np.testing.assert_allclose(rows.T @ weights, d.value, atol=2e-3 * np.linalg.norm(d.value))
    assert (weights > 0.999).all()
    harmless = bool((rows @ rows.sum(0) > 0).all())
    assert np.allclose(weights, 1, rtol=1e-3) == harmless
    assert family == "random" or harmless == (family == "aligned")


@pytest.mark.parametrize("k", [2, 3, 5, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_cagrad_from_the_mean_to_mgda(family, k):
    """As c grows the angle to MGDA's direction falls, and the common gain per unit of length rises to its."""
    rows = jacobian(family, k, np.random.default_rng(k), spread=0.3, p=k + 5)
    gramian, shortest = rows @ rows.T, least_norm(rows)
    np.testing.assert_allclose(rows.T @ cagrad(gramian, 0.0).weights, rows.mean(0), rtol=1e-12)
    directions = [rows.T @ cagrad(gramian, c).weights for c in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0, 1.5, 3.0, 1e1, 1e2, 1e4)]
    angles = np.array([angle(d, shortest) for d in directions])
    gains = np.array([common_gain(rows, d) for d in directions])
    assert (np.diff(angles) < 1e-9).all()
    assert (np.diff(gains) > -1e-9 * np.linalg.norm(shortest)).all()
    assert angles[0] > 1e-2
    assert angles[-1] < 1e-3 * angles[0]
    assert gains[-1] == pytest.approx(np.linalg.norm(shortest), rel=1e-3)
    assert angle(rows.T @ mgda(gramian).weights, shortest) < 1e-6


def features(width=6, samples=5, seed=0):
    """A trunk's representation Z of shape (samples, 3), flat, with ∂Z/∂θ, of shape (15, P), by plain autograd."""
    torch.manual_seed(seed)
    layers = torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 3)
    trunk = torch.nn.Sequential(*layers).double()
    z = trunk(torch.randn(samples, 4, dtype=torch.float64))
    return z, trunk, rows_of(z.flatten(), list(trunk.parameters()))


def rows_of(outputs, inputs):
    """The gradients of each output, flattened over the inputs, as a NumPy matrix."""
    rows = [torch.autograd.grad(output, inputs, retain_graph=True) for output in outputs]
    return np.stack([np.concatenate([part.numpy().ravel() for part in row]) for row in rows])


def losses_on(z, k):
    """K heads and their losses on one representation: regression, classification and a large regression in turn."""
    losses = []
    for task in range(k):
        out = torch.nn.Linear(3, 2).double()(z)
        if task % 3 == 1:
            losses.append(torch.nn.functional.cross_entropy(out, torch.randint(0, 2, (len(z),))))
        else:
            losses.append(10.0 ** (task % 3) * (out - torch.randn(len(z), 2)).square().mean())
    return losses


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_mgda_ub_bounds_mgda(k, seed):
    """‖Σ a_i ∇_θ l_i‖² ≤ ‖∂Z/∂θ‖²·‖Σ a_i ∇_Z l_i‖², and so for the minima; its least singular value bounds below."""
    z, trunk, inner = features(seed=seed)
    losses = losses_on(z, k)
    at_theta, at_z = rows_of(losses, list(trunk.parameters())), rows_of(losses, [z])
    np.testing.assert_allclose(at_theta, at_z @ inner, atol=1e-12)
    largest, *_, least = np.linalg.svd(inner, compute_uv=False)
    assert least > 1e-3  # ∂Z/∂θ has full rank
    rng = np.random.default_rng(seed)
    upper = mgda(at_z @ at_z.T).weights
    own = mgda(at_theta @ at_theta.T).weights
    for a in (upper, own, *rng.dirichlet(np.ones(k), 10), *rng.standard_normal((10, k))):
        outer, middle = np.linalg.norm(a @ at_theta), np.linalg.norm(a @ at_z)
        assert least * middle * (1 - 1e-9) <= outer <= largest * middle * (1 + 1e-9)
    shortest, shortest_at_z = (np.linalg.norm(least_norm(rows)) for rows in (at_theta, at_z))
    assert np.linalg.norm(upper @ at_z) == pytest.approx(shortest_at_z, rel=1e-7)
    assert shortest <= np.linalg.norm(upper @ at_theta) * (1 + 1e-9)
    assert least * shortest_at_z * (1 - 1e-7) <= shortest <= largest * shortest_at_z * (1 + 1e-7)


def at_parameters(at_z, z, trunk):
    """The gradients with respect to θ of losses that are linear in Z, by autograd."""
    return rows_of(torch.from_numpy(at_z) @ z.flatten(), list(trunk.parameters()))


def test_the_bound_is_attained_and_zero_only_together():
    """Along the singular directions of ∂Z/∂θ nothing is lost; at full rank the bound is zero only where MGDA is."""
    z, trunk, inner = features()
    left, singular, _ = np.linalg.svd(inner, full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(at_parameters(left.T, z, trunk), axis=1), singular, rtol=1e-9)

    at_z = np.random.default_rng(0).standard_normal((4, len(inner)))
    at_z[3] = -(2 * at_z[0] + at_z[1] + 3 * at_z[2])  # a convex combination vanishes
    solution = mgda(at_z @ at_z.T)
    assert solution.stationary
    np.testing.assert_allclose(solution.weights, np.array([2, 1, 3, 1]) / 7, rtol=1e-6)
    at_theta = at_parameters(at_z, z, trunk)
    assert np.linalg.norm(solution.weights @ at_theta) < 1e-6
    assert np.linalg.norm(least_norm(at_theta)) < 1e-9
    assert mgda(at_theta[:3] @ at_theta[:3].T).solved  # without that task neither vanishes
    assert np.linalg.norm(least_norm(at_theta[:3])) > singular[-1] * np.linalg.norm(least_norm(at_z[:3])) > 1e-3

    z, trunk, inner = features(width=1, samples=40)  # more features than parameters: full rank is lost
    unseen = np.linalg.svd(inner.T)[2][-1]
    opposed = np.stack([unseen + inner[:, 0], unseen - inner[:, 0]])
    assert np.linalg.norm(least_norm(opposed)) > 0.5
    assert np.linalg.norm(least_norm(at_parameters(opposed, z, trunk))) < 1e-8


def test_the_bound_promises_no_descent():
    """MGDA-UB's direction may raise a task's loss, full rank or not, where ∂Z/∂θ is ill-conditioned.

    ∇_Z l_iᵀ∇_Z l_x > 0 for all tasks does not make ∇_Z l_iᵀ(∂Z/∂θ ∂Z/∂θᵀ)∇_Z l_x positive. It is so where ∂Z/∂θ keeps
    angles, and then MGDA-UB is MGDA.
    """
    at_z = np.array([[1.0, 0.0], [0.0, 3.0]])
    turn = np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)
    upper = mgda(at_z @ at_z.T).weights
    assert (at_z @ (upper @ at_z) > 0).all()
    for stretch, harmed in ((0.1, True), (1.0, False)):
        at_theta = at_z @ (turn @ np.diag([1.0, stretch]))
        gains = at_theta @ (upper @ at_theta)
        assert (gains.min() < -0.1) == harmed
        assert (at_theta @ (mgda(at_theta @ at_theta.T).weights @ at_theta) > 0).all()
    np.testing.assert_allclose(mgda(at_theta @ at_theta.T).weights, upper, rtol=1e-9)
