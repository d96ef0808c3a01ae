"""Aligned-MTL and ConFIG against singular values of the gradients themselves, pseudo-inverses and TorchJD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd import aggregation

from accord.errors import OptionError, ShapeError
from accord.solvers import alignment_residual, config_residual, imtl_g
from accord.solvers.spectral import aligned_mtl, config
from accord.testing.gramians import case
from gramian_families import FAMILIES, STATIONARY, gramian, jacobian

SCALES = ("min", "median", "rmse")
EPS32 = np.finfo(np.float32).eps


def aligned_on_rows(rows, scale, cutoff=EPS32):
    """Σ of the aligned gradients: the polar factor of J, times the length; from the singular values of J."""
    left, lengths, right = np.linalg.svd(rows, full_matrices=False)
    kept = lengths**2 > len(rows) * cutoff * lengths[0] ** 2
    left, lengths, right = left[:, kept], lengths[kept], right[kept]
    squares = np.sort(lengths**2)
    length = {"min": squares[0], "median": squares[(len(squares) - 1) // 2], "rmse": squares.mean()}[scale]
    return np.sqrt(length) * right.T @ left.sum(0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("family", FAMILIES)
def test_aligned_mtl_is_the_polar_factor_of_the_jacobian(family, scale):
    rng = np.random.default_rng([SCALES.index(scale), FAMILIES.index(family)])
    for k in (1, 2, 3, 10, 11, 40):
        for spread in (0.0, 1.0):
            rows = jacobian(family, k, rng, spread=spread, scale=10.0 ** rng.uniform(-12, 12))
            solution = aligned_mtl(rows @ rows.T, scale)
            if not rows.any():
                assert solution.cause.startswith("every gradient is zero")
                continue
            expected = aligned_on_rows(rows, scale)
            assert solution.solved
            assert solution.residual <= 1e-8
            error = np.linalg.norm(rows.T @ solution.weights - expected)
            assert error <= 1e-6 * np.linalg.norm(expected) + 1e-7 * np.linalg.norm(rows)


@pytest.mark.parametrize("family", FAMILIES + STATIONARY)
def test_aligned_mtl_meets_its_certificate_at_any_spread_and_scale(family):
    rng = np.random.default_rng(FAMILIES.index(family) if family in FAMILIES else 9)
    for k in (1, 2, 5, 40):
        for spread in (0.0, 2.0, 4.0):
            for exponent in (-30, 0, 30):
                g = gramian(family, k, rng, spread=spread, scale=10.0**exponent)
                for scale in SCALES:
                    solution = aligned_mtl(g, scale)
                    assert np.isfinite(solution.weights).all()
                    assert solution.solved or solution.cause
                    assert solution.residual <= 1e-8


def test_the_components_left_out_are_counted():
    rows = np.diag([1.0, 1.0, 1e-4, 0.0])
    solution = aligned_mtl(rows @ rows.T)
    assert solution.cause == "1 of 3 principal components lie below the cut-off; zero gradient in row 3"
    np.testing.assert_allclose(solution.weights, [1.0, 1.0, 0.0, 0.0])
    finer = aligned_mtl(rows @ rows.T, cutoff=np.finfo(float).eps)
    np.testing.assert_allclose(finer.weights, [1e-4, 1e-4, 1.0, 0.0])
    assert finer.solved


def test_aligned_mtl_names_gradients_that_sum_to_zero():
    assert aligned_mtl([[1.0, -1.0], [-1.0, 1.0]]).stationary
    rows = np.random.default_rng(0).standard_normal((5, 20))
    rows -= rows.mean(0)
    assert aligned_mtl(rows @ rows.T).stationary
    assert aligned_mtl(np.zeros((3, 3))).outcome == "degenerate"


def test_a_cutoff_at_rounding_is_named():
    rng = np.random.default_rng(1)
    outcomes = {aligned_mtl(gramian("random", 9, rng, spread=4), cutoff=np.finfo(float).eps).outcome for _ in range(20)}
    assert "degenerate" in outcomes
    assert outcomes <= {"solved", "degenerate"}


def test_the_alignment_certificate_sees_errors():
    g = gramian("random", 5, np.random.default_rng(2))
    values, vectors = np.linalg.eigh(g)
    balance = vectors @ np.diag(np.sqrt(values[0] / values)) @ vectors.T
    assert alignment_residual(g, balance, values[0]) < 1e-12
    turn = np.eye(5)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    whitened = np.sqrt(values[0]) * np.linalg.inv(np.linalg.cholesky(g))
    for wrong in (
        balance * (1 + 1e-4),
        balance @ turn,
        whitened,
        balance - 1e-3 * np.outer(vectors[:, 2], vectors[:, 2]),
    ):
        assert alignment_residual(g, wrong, values[0]) > 1e-5
    for component in range(5):  # lengths and angles are right, but one component points the other way
        signs = np.where(np.arange(5) == component, -1.0, 1.0)
        turned = vectors @ np.diag(signs * np.sqrt(values[0] / values)) @ vectors.T
        assert alignment_residual(g, turned, values[0]) > 0.1
    with pytest.raises(ShapeError, match="alignment_residual"):
        alignment_residual(g[:3], balance, 1.0)


@pytest.mark.parametrize(
    ("g", "balance", "level"),
    [
        (np.eye(2), np.array([[1.0, 1e-3], [0.0, 0.0]]), 1.0),  # BGB = B is an oblique projector
        (np.diag([4.0, 1.0]), np.full((2, 2), 0.5), 2.5),  # a projector, but on no eigenvector of G
        (np.diag([1.0, 0.0]), np.eye(2), 1.0),  # B reaches where BGB does not
        (np.diag([4.0, 1.0]), np.diag([0.5, 0.9]), 1.0),  # BGB is no projector
    ],
)
def test_each_part_of_the_alignment_certificate_counts(g, balance, level):
    assert alignment_residual(g, balance, level) > 5e-4


def test_each_part_of_the_config_certificate_counts():
    near = 1e-9
    aligned = np.array([[1.0, 1.0 - near], [1.0 - near, 1.0]])
    skewed = np.array([1.0, 1.0]) + 1e6 * np.array([1.0, -1.0])  # its cosines differ by 2e-3, along a near-null vector
    skewed *= (aligned @ skewed).sum() / (skewed @ aligned @ skewed)
    assert config_residual(aligned, skewed) > 1e-4
    opposite = np.array([[1.0, 1e-4 - 1.0], [1e-4 - 1.0, 1.0]])  # cosines off by 2e-9, where the gradients cancel
    exact = config(opposite).weights
    assert config_residual(opposite, exact) < 1e-7
    assert config_residual(opposite, exact * (1 + np.array([1e-13, -1e-13]))) > 1e-5


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_agreement_with_torchjd(k):
    rows = np.random.default_rng(k).standard_normal((k, 20))
    ones = torch.ones(k, dtype=torch.float64)
    for scale in SCALES:
        theirs = aggregation.AlignedMTL(ones, scale_mode=scale)(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(rows.T @ aligned_mtl(rows @ rows.T, scale).weights, theirs, atol=1e-12)
    theirs = aggregation.ConFIG()(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(rows.T @ config(rows @ rows.T).weights, theirs, atol=1e-12)


@settings(max_examples=40)
@given(st.integers(1, 10), st.integers(0, 10**6))
def test_permutation_and_overall_scale(k, seed):
    rng = np.random.default_rng(seed)
    g = gramian("random", k, rng, spread=0.5)
    order = rng.permutation(k)
    factor = 10.0 ** rng.uniform(-10, 10)
    for solver in (aligned_mtl, config):
        w = solver(g).weights
        size = np.abs(w).max()
        np.testing.assert_allclose(solver(g[np.ix_(order, order)]).weights, w[order], atol=1e-8 * size)
        np.testing.assert_allclose(solver(factor**2 * g).weights, w, atol=1e-8 * size)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_has_equal_cosines_and_the_length_of_its_projections(family):
    rng = np.random.default_rng(FAMILIES.index(family))
    for k in (1, 2, 3, 10, 40):
        for spread in (0.0, 1.0, 4.0):
            rows = jacobian(family, k, rng, spread=spread, scale=10.0 ** rng.uniform(-12, 12))
            solution = config(rows @ rows.T)
            assert solution.solved or (not rows.any() and solution.cause)
            assert solution.residual <= 1e-8
            live = np.linalg.norm(rows, axis=1) > 0
            assert config_residual(rows @ rows.T, solution.weights) <= 2e-8
            if live.any() and spread < 4:  # in P dimensions, where the sum itself rounds
                d = rows.T @ solution.weights
                cosines = rows[live] @ d / np.linalg.norm(rows[live], axis=1) / np.linalg.norm(d)
                np.testing.assert_allclose(cosines, cosines.mean(), rtol=1e-5)
                assert cosines.mean() > 0
                assert rows.sum(0) @ d == pytest.approx(d @ d, rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_config_of_dependent_gradients_is_the_pseudo_inverse(seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((rng.integers(3, 9), rng.integers(1, 4))) * 10.0 ** rng.uniform(-1, 1, (1, 1))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    direction = np.linalg.pinv(units) @ np.ones(len(rows))
    if np.linalg.norm(direction) < 1e-9:
        assert config(rows @ rows.T).stationary
        return
    direction /= np.linalg.norm(direction)
    expected = (rows @ direction).sum() * direction
    solution = config(rows @ rows.T)
    np.testing.assert_allclose(rows.T @ solution.weights, expected, atol=1e-7 * np.abs(rows).sum())
    assert solution.solved
    assert ("turned round" in solution.cause) == ((rows @ direction).sum() < 0)


def test_config_says_when_it_turns_round():
    rows = np.array([[10.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])  # two against one, and the one is long
    solution = config(rows @ rows.T)
    assert solution.solved
    assert "turned round" in solution.cause
    assert (rows.T @ solution.weights)[0] > 0


def test_config_is_imtl_g_at_another_length():
    g = gramian("random", 6, np.random.default_rng(3), spread=1)
    ours, theirs = config(g).weights, imtl_g(g).weights
    np.testing.assert_allclose(ours / theirs, (ours / theirs).mean(), rtol=1e-9)


def test_config_names_what_has_no_direction():
    assert config([[1.0, -1.0], [-1.0, 1.0]]).stationary
    hexagon = np.array([[np.cos(t), np.sin(t)] for t in np.arange(3) * 2 * np.pi / 3])
    assert config(hexagon @ hexagon.T).stationary
    rows = np.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])  # the projections on (-1, 0) are -2, 1 and 1
    solution = config(rows @ rows.T)
    assert solution.outcome == "degenerate"
    assert "add up to zero" in solution.cause
    near = np.array([[1.0, 0.0], [-1.0, 1e-7]])
    assert config(near @ near.T).stationary


def test_the_config_certificate_sees_errors():
    g = gramian("random", 5, np.random.default_rng(4))
    w = config(g).weights
    assert config_residual(g, w) < 1e-12
    assert config_residual(g, 1.001 * w) > 1e-4
    assert config_residual(g, -w) > 1  # as long the other way, where the projections add up to the opposite
    assert config_residual(g, w + 1e-4 * np.array([1, -1, 0, 0, 0])) > 1e-6
    assert config_residual(np.zeros((2, 2)), np.ones(2)) == 0.0
    with pytest.raises(ShapeError, match="config_residual"):
        config_residual(g, w[:3])


@pytest.mark.parametrize("block", range(4))
def test_adversarial_cases_are_solved_or_named(block):
    for index in range(60 * block, 60 * block + 60):
        g = case(11, index, 60).gramian
        for solution in (*(aligned_mtl(g, scale) for scale in SCALES), config(g)):
            assert np.isfinite(solution.weights).all()
            assert not solution.solved or solution.residual <= 1e-8
            assert solution.solved or solution.cause


def test_bad_options():
    with pytest.raises(OptionError, match="scale = 'max' is not one of min, median, rmse"):
        aligned_mtl(np.eye(2), "max")
    for cutoff in (0.0, 1e-20, 1.0, float("nan"), "1e-8", True):
        with pytest.raises(OptionError, match="cutoff"):
            aligned_mtl(np.eye(2), cutoff=cutoff)
