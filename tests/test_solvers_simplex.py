"""Projection on the simplex and projected descent against their optimality conditions, torch's SGD and TorchJD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torchjd.aggregation import MoDoWeighting, SDMGradWeighting

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers import mgda, mgda_gap
from accord.solvers.simplex import descend_on_simplex, project_on_simplex
from gramian_families import gramian

finite = st.floats(-1e6, 1e6)


@settings(max_examples=200)
@given(st.lists(finite, min_size=1, max_size=30))
def test_projection_meets_its_conditions(x):
    x = np.array(x)
    w = project_on_simplex(x)
    assert w.sum() == pytest.approx(1.0, abs=1e-12)
    assert (w >= 0).all()
    support = w > 0
    theta = x[support] - w[support]  # the multiplier: one number on the support, no smaller than the others' x
    scale = 1e-14 * (1 + np.abs(x).max()) * len(x)
    np.testing.assert_allclose(theta, theta.mean(), rtol=0, atol=scale)
    assert (x[~support] <= theta.mean() + scale).all()


@settings(max_examples=50)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_projection_is_the_root_of_its_equation(x):
    x = np.array(x)
    theta = brentq(lambda t: np.maximum(x - t, 0).sum() - 1, x.min() - 2, x.max(), xtol=1e-15)
    np.testing.assert_allclose(project_on_simplex(x), np.maximum(x - theta, 0), atol=1e-12)


def test_projection_leaves_the_simplex_and_takes_any_size():
    rng = np.random.default_rng(0)
    w = rng.dirichlet(np.ones(7))
    np.testing.assert_allclose(project_on_simplex(w), w, atol=1e-15)
    np.testing.assert_allclose(project_on_simplex(w + 1e3), w, atol=1e-12)
    np.testing.assert_array_equal(project_on_simplex([1e308, -1e308, 0.0]), [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(project_on_simplex([1e300, 1e300]), [0.5, 0.5])
    np.testing.assert_array_equal(project_on_simplex([-5.0]), [1.0])
    order = rng.permutation(50)
    x = rng.standard_normal(50)
    np.testing.assert_array_equal(project_on_simplex(x[order]), project_on_simplex(x)[order])


@pytest.mark.parametrize("k", [2, 3, 10])
def test_descent_on_a_gramian_ends_at_mgda(k):
    g = gramian("random", k, np.random.default_rng(k))
    step = 1 / np.linalg.eigvalsh(g)[-1]
    w = descend_on_simplex(g, np.full(k, 1 / k), step=step, steps=5000)
    assert mgda_gap(g, w) < 1e-8
    np.testing.assert_allclose(w, mgda(g).weights, atol=1e-6)


def test_the_shift_pulls_towards_the_mean():
    """SDMGrad: the optimum of ½‖g_w + λg_0‖² on the simplex, by its variational inequality."""
    k, coefficient = 5, 0.3
    g = gramian("conflicting", k, np.random.default_rng(1))
    shift = coefficient * g.mean(1)
    w = descend_on_simplex(g, np.full(k, 1 / k), step=1 / np.linalg.eigvalsh(g)[-1], steps=5000, shift=shift)
    slope = g @ w + shift
    assert slope @ w - slope.min() <= 1e-6 * np.abs(slope).max()


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_steps_are_torch_sgd_with_a_projection_after_each(momentum):
    rng = np.random.default_rng(2)
    k = 6
    h, shift = rng.standard_normal((k, k)), rng.standard_normal(k)
    w = torch.full((k,), 1 / k, dtype=torch.float64)
    optimizer = torch.optim.SGD([w], lr=0.02, momentum=momentum)
    for _ in range(5):
        w.grad = torch.from_numpy(h) @ w + torch.from_numpy(shift)
        optimizer.step()
        w.copy_(torch.from_numpy(project_on_simplex(w.numpy())))
    ours = descend_on_simplex(h, np.full(k, 1 / k), step=0.02, steps=5, shift=shift, momentum=momentum)
    np.testing.assert_allclose(ours, w.numpy(), atol=1e-12)
    assert np.count_nonzero(ours) > 1


def test_agreement_with_torchjd_on_two_batches():
    rng = np.random.default_rng(3)
    k = 4
    modo, sdmgrad = MoDoWeighting(gamma=0.1, rho=0.2), SDMGradWeighting(lr=10.0, momentum=0.5, n_iter=20, lambda_=0.3)
    ours_modo = ours_sdmgrad = np.full(k, 1 / k)
    for _ in range(3):  # both remember the weights of the last step
        first, second = rng.standard_normal((2, k, 30))
        h = first @ second.T
        ours_modo = descend_on_simplex(h + 0.2 * np.eye(k), ours_modo, step=0.1)
        np.testing.assert_allclose(ours_modo, modo(torch.from_numpy(h)).numpy(), atol=1e-12)
        scaled = h / (np.sqrt(np.maximum(np.diag(h), 0)).mean() ** 2 + 1e-8)
        shift = 0.3 * scaled.mean(1)
        ours_sdmgrad = descend_on_simplex(scaled, ours_sdmgrad, step=10.0, steps=20, shift=shift, momentum=0.5)
        theirs = sdmgrad(torch.from_numpy(h)).numpy()
        np.testing.assert_allclose((ours_sdmgrad + 0.3 / k) / 1.3, theirs, atol=1e-10)


def test_descent_takes_any_scale():
    w = descend_on_simplex(1e60 * np.eye(3), [0.2, 0.3, 0.5], step=10.0)
    np.testing.assert_array_equal(w, [1.0, 0.0, 0.0])
    np.testing.assert_allclose(descend_on_simplex(1e-60 * np.eye(3), [0.2, 0.3, 0.5], step=10.0), [0.2, 0.3, 0.5])
    with pytest.raises(NonFiniteError, match="a step of size 1e"):
        descend_on_simplex(1e300 * np.eye(3), [0.2, 0.3, 0.5], step=1e10)


def test_bad_input():
    for x in (1.0, [], np.eye(2), [[1.0], []], "ab", [1j]):
        with pytest.raises(ShapeError, match="project_on_simplex"):
            project_on_simplex(x)
    with pytest.raises(NonFiniteError, match="project_on_simplex"):
        project_on_simplex([np.nan, 0.0])
    h, w = np.eye(2), [0.5, 0.5]
    with pytest.raises(ShapeError, match="matrix of shape"):
        descend_on_simplex(np.ones((2, 3)), w, step=1.0)
    with pytest.raises(ShapeError, match="weights and shift"):
        descend_on_simplex(h, [1.0], step=1.0)
    with pytest.raises(ShapeError, match="weights and shift"):
        descend_on_simplex(h, w, step=1.0, shift=[0.0])
    with pytest.raises(NonFiniteError, match="the matrix"):
        descend_on_simplex([[np.inf, 0.0], [0.0, 1.0]], w, step=1.0)
    for options in ({"step": 0.0}, {"step": -1}, {"step": True}, {"step": np.inf}, {"step": np.nan}):
        with pytest.raises(OptionError, match="step"):
            descend_on_simplex(h, w, **options)
    for options in ({"steps": 0}, {"steps": 1.5}, {"momentum": 1.0}, {"momentum": -0.1}, {"momentum": "0.5"}):
        with pytest.raises(OptionError, match=next(iter(options))):
            descend_on_simplex(h, w, step=1.0, **options)
