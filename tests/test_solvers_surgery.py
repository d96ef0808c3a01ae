"""IMTL-G and PCGrad against their definitions on the gradients themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import OptionError, ShapeError
from accord.solvers import imtl_g, imtl_g_spread, pcgrad, pcgrad_residual
from gramian_families import FAMILIES, STATIONARY, gramian, jacobian


@pytest.mark.parametrize("family", FAMILIES)
def test_imtl_g_has_equal_projections(family):
    rng = np.random.default_rng(FAMILIES.index(family))
    for k in (1, 2, 3, 10, 40):
        for spread in (0.0, 1.0, 4.0):
            rows = jacobian(family, k, rng, spread=spread, scale=10.0 ** rng.uniform(-12, 12))
            solution = imtl_g(rows @ rows.T)
            assert solution.solved
            assert solution.weights.sum() == pytest.approx(1.0)
            assert solution.residual <= 1e-8
            assert imtl_g_spread(rows @ rows.T, solution.weights) <= 1e-7
            if spread < 4:  # in P dimensions, where the sum itself rounds
                live = np.linalg.norm(rows, axis=1) > 0
                projections = rows[live] @ (rows.T @ solution.weights) / np.linalg.norm(rows[live], axis=1)
                np.testing.assert_allclose(projections, projections.mean(), rtol=1e-5)


def test_imtl_g_says_when_every_loss_rises():
    rng = np.random.default_rng(0)
    causes = [imtl_g(gramian("random", 3, rng, p=4, spread=2)).cause for _ in range(200)]
    assert any("every task's loss increases" in cause for cause in causes)


@pytest.mark.parametrize("family", STATIONARY)
def test_imtl_g_names_stationary_points(family):
    rng = np.random.default_rng(1)
    for k in (2, 5, 9):
        solution = imtl_g(gramian(family, k, rng))
        assert np.isfinite(solution.weights).all()
        assert np.abs(solution.weights).sum() < 10  # never a vector of norm 1e7
        assert solution.stationary or solution.solved


def pcgrad_on_rows(rows, order):
    """The published algorithm on the gradients, one projection at a time."""
    projected = rows.copy()
    for i in range(len(rows)):
        for j in order[i]:
            dot = projected[i] @ rows[j]
            if dot < 0:
                projected[i] = projected[i] - dot / (rows[j] @ rows[j]) * rows[j]
    return projected.sum(0)


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(0, 10**6), st.sampled_from(["random", "conflicting", "duplicates", "zero_row"]))
def test_pcgrad_is_the_algorithm_on_rows(k, seed, family):
    rng = np.random.default_rng(seed)
    rows = jacobian(family, k, rng, spread=1.0)
    order = np.stack([rng.permutation(k) for _ in range(k)])
    solution = pcgrad(rows @ rows.T, order)
    expected = pcgrad_on_rows(rows, order)
    size = np.linalg.norm(rows, axis=1).sum()
    np.testing.assert_allclose(rows.T @ solution.weights, expected, atol=1e-9 * size)
    assert solution.residual < 1e-10


def test_pcgrad_order_and_generator():
    g = gramian("conflicting", 4, np.random.default_rng(0))
    drawn = pcgrad(g, generator=np.random.default_rng(3)).weights
    np.testing.assert_array_equal(drawn, pcgrad(g, generator=np.random.default_rng(3)).weights)
    rng = np.random.default_rng(3)
    order = np.stack([rng.permutation(4) for _ in range(4)])
    np.testing.assert_array_equal(drawn, pcgrad(g, order).weights)
    np.testing.assert_array_equal(pcgrad(g, [2, 0, 1, 3]).weights, pcgrad(g, np.tile([2, 0, 1, 3], (4, 1))).weights)


def test_pcgrad_residual_sees_a_missed_projection():
    g = gramian("conflicting", 4, np.random.default_rng(0))
    order = [[0, 1, 2, 3]] * 4
    assert pcgrad_residual(g, np.ones(4), order) > 1e-3
    assert pcgrad_residual(g, pcgrad(g, order).weights, order) < 1e-14


def test_pcgrad_refuses_what_is_no_order():
    for order in ([0, 0], [0, 1, 2], [[0, 1]], None, [0.0, 1.0], [False, True], [[0, 1], [0]], "01"):
        with pytest.raises(OptionError, match="pcgrad"):
            pcgrad(np.eye(2), order)
    with pytest.raises(OptionError, match="either"):
        pcgrad(np.eye(2), [0, 1], np.random.default_rng(0))
    with pytest.raises(OptionError, match="generator = 3 is none of NumPy's"):
        pcgrad(np.eye(2), generator=3)
    with pytest.raises(ShapeError, match="an order for each of the 2 tasks"):
        pcgrad_residual(np.eye(2), np.ones(2), [[0, 1]])
