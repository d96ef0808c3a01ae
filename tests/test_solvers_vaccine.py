"""GradVac against the published algorithm on the gradients themselves, PCGrad and TorchJD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd.aggregation import GradVac

from accord.errors import NonFiniteError, OptionError, ShapeError
from accord.solvers import gradvac_residual, pcgrad
from accord.solvers.vaccine import gradvac, vaccinate
from accord.testing.gramians import case
from gramian_families import gramian, jacobian


def gradvac_on_rows(rows, targets, order):
    """The published algorithm, one pair at a time, on vectors: the sum, and the cosines met (NaN where none)."""
    changed, met = rows.copy(), np.full((len(rows), len(rows)), np.nan)
    for i in range(len(rows)):
        for j in order[i]:
            mine, theirs = np.linalg.norm(changed[i]), np.linalg.norm(rows[j])
            if i == j or mine == 0 or theirs == 0:
                continue
            met[i, j] = phi = np.clip(changed[i] @ rows[j] / (mine * theirs), -1, 1)
            if phi < targets[i, j]:
                aim = targets[i, j]
                gain = mine * (aim * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - aim**2)) / (theirs * np.sqrt(1 - aim**2))
                changed[i] = changed[i] + gain * rows[j]
    return changed.sum(0), met


def problem(seed, k, spread=1.0, reach=0.9, family="random"):
    rng = np.random.default_rng(seed)
    rows = jacobian(family, k, rng, spread=spread)
    return rows, rng.uniform(-reach, reach, (k, k)), np.stack([rng.permutation(k) for _ in range(k)])


@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sampled_from(["random", "aligned", "conflicting", "duplicates", "zero_row"]),
    st.sampled_from([0.1, 0.5, 0.9]),
)
def test_it_is_the_algorithm_on_rows(k, seed, family, reach):
    rows, targets, order = problem(seed, k, reach=reach, family=family)
    solution, observed = vaccinate(rows @ rows.T, targets, order)
    expected, met = gradvac_on_rows(rows, targets, order)
    size = np.abs(solution.weights) @ np.linalg.norm(rows, axis=1)
    tolerance = 1e-6 if family == "duplicates" else 1e-9  # sines of parallel vectors keep half the digits
    np.testing.assert_allclose(rows.T @ solution.weights, expected, atol=tolerance * size + 1e-300)
    known = ~np.isnan(met)
    np.testing.assert_allclose(observed[known], met[known], atol=1e-6)
    off_diagonal = ~known & ~np.eye(k, dtype=bool)
    np.testing.assert_array_equal(observed[off_diagonal], targets[off_diagonal])
    assert solution.residual <= 1e-8 or solution.cause


@pytest.mark.parametrize("k", [1, 2, 5, 11])
def test_targets_of_zero_are_pcgrad(k):
    rng = np.random.default_rng(k)
    for family in ("random", "conflicting", "zero_row"):
        g = gramian(family, k, rng, spread=2)
        order = np.stack([rng.permutation(k) for _ in range(k)])
        ours = gradvac(g, np.zeros((k, k)), order)
        np.testing.assert_allclose(ours.weights, pcgrad(g, order).weights, rtol=1e-9)
        assert ours.outcome == pcgrad(g, order).outcome


def test_the_first_meeting_reaches_the_target():
    rows, _, _ = problem(0, 2)
    for target in (-0.5, 0.0, 0.3, 0.99):
        wanted = np.array([[0.0, target], [-1.0, 0.0]])
        d = rows.T @ gradvac(rows @ rows.T, wanted, [0, 1]).weights
        first = d - rows[1]
        cosine = first @ rows[1] / np.linalg.norm(first) / np.linalg.norm(rows[1])
        before = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
        assert cosine == pytest.approx(max(target, before), abs=1e-9)


def test_low_targets_leave_the_sum():
    rows, _, order = problem(1, 6)
    solution, observed = vaccinate(rows @ rows.T, -np.ones((6, 6)), order)
    np.testing.assert_array_equal(solution.weights, np.ones(6))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = units @ units.T
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(observed, expected, atol=1e-12)


def test_three_steps_with_moving_targets_are_torchjd(monkeypatch):
    monkeypatch.setattr(torch, "randperm", torch.arange)
    k, beta = 4, 0.5
    theirs = GradVac(beta=beta, eps=0.0)
    order = np.tile(np.arange(k), (k, 1))
    targets = np.zeros((k, k))
    for step in range(3):
        rows = np.random.default_rng(step).standard_normal((k, 9))
        solution, observed = vaccinate(rows @ rows.T, targets, order)
        targets = targets + beta * (observed - targets)
        expected = theirs(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(rows.T @ solution.weights, expected, atol=1e-10)


def test_order_and_generator():
    g = gramian("conflicting", 4, np.random.default_rng(0))
    targets = np.full((4, 4), 0.2)
    drawn = gradvac(g, targets, generator=np.random.default_rng(3)).weights
    np.testing.assert_array_equal(drawn, gradvac(g, targets, generator=np.random.default_rng(3)).weights)
    rng = np.random.default_rng(3)
    order = np.stack([rng.permutation(4) for _ in range(4)])
    np.testing.assert_array_equal(drawn, gradvac(g, targets, order).weights)
    tiled = gradvac(g, targets, np.tile([2, 0, 1, 3], (4, 1))).weights
    np.testing.assert_array_equal(gradvac(g, targets, [2, 0, 1, 3]).weights, tiled)


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_permutation_and_scale(k, seed):
    rows, targets, order = problem(seed, k, spread=0.5, reach=0.5)
    g = rows @ rows.T
    rng = np.random.default_rng(seed)
    new = rng.permutation(k)  # task i of the permuted problem is task new[i]
    place = np.argsort(new)
    w = gradvac(g, targets, order).weights
    permuted = gradvac(g[np.ix_(new, new)], targets[np.ix_(new, new)], place[order[new]]).weights
    np.testing.assert_allclose(permuted, w[new], rtol=1e-9)
    factor = 10.0 ** rng.uniform(-30, 30)
    np.testing.assert_allclose(gradvac(factor**2 * g, targets, order).weights, w, rtol=1e-9)


def test_the_certificate_sees_errors():
    rows, targets, order = problem(5, 5, reach=0.5)
    g = rows @ rows.T
    w = gradvac(g, targets, order).weights
    assert gradvac_residual(g, w, targets, order) < 1e-12
    assert gradvac_residual(g, w + 1e-5 * w * np.array([1, 0, 0, 0, 0]), targets, order) > 1e-8
    assert gradvac_residual(g, w, targets, order[:, ::-1]) > 1e-6
    assert gradvac_residual(g, w, 0.9 * targets, order) > 1e-6
    with pytest.raises(ShapeError, match="gradvac_residual"):
        gradvac_residual(g, w, targets[:4], order)


def test_a_gradient_that_loses_its_length_has_no_cosine():
    g = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    targets = np.array([[0.0, 0.0, 0.7], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]])
    solution, observed = vaccinate(g, targets, [0, 1, 2])
    np.testing.assert_allclose(solution.weights, [2.0, 2.0, 1.0])  # g_1 + g_2 = 0 twice, and g_3 as it was
    assert observed[0, 1] == -1.0
    assert observed[0, 2] == 0.7
    assert solution.solved


def test_rounding_that_decides_is_named():
    solution = gradvac([[1.0, -1.0], [-1.0, 1.0]], [[0.0, 0.9999], [0.9999, 0.0]], [0, 1])
    assert solution.outcome == "degenerate"
    assert "rounding may move the sum" in solution.cause
    assert solution.floor > 1e-8


def test_a_cosine_beyond_one_counts_as_rounding():
    beyond = 1.0 + 1e-6  # as a Gramian accumulated in float32 may have it
    solution = gradvac([[1.0, -beyond], [-beyond, 1.0]], np.zeros((2, 2)), [0, 1])
    assert solution.outcome == "degenerate"
    assert solution.floor > 1e-7


def test_a_sum_too_long_is_named():
    k = 40
    solution = gradvac(np.eye(k), np.ones((k, k)), np.arange(k))
    assert solution.outcome == "degenerate"
    assert "too long" in solution.cause
    assert np.isfinite(solution.weights).all()
    assert gradvac(np.eye(3), np.ones((3, 3)), np.arange(3)).solved
    assert gradvac(np.eye(3), -np.ones((3, 3)), np.arange(3)).solved


@pytest.mark.parametrize("block", range(4))
def test_adversarial_cases_are_solved_or_named(block):
    for index in range(50 * block, 50 * block + 50):
        g = case(12, index, 60).gramian
        k = len(g)
        rng = np.random.default_rng(index)
        order = np.stack([rng.permutation(k) for _ in range(k)])
        for targets in (np.zeros((k, k)), rng.uniform(-1, 1, (k, k))):
            solution, observed = vaccinate(g, targets, order)
            assert np.isfinite(solution.weights).all()
            assert (np.abs(observed) <= 1).all()
            assert not solution.solved or max(solution.residual, solution.floor) <= 1e-8
            assert solution.solved or solution.cause


def test_bad_input():
    g, zero = np.eye(3), np.zeros((3, 3))
    with pytest.raises(OptionError, match="gradvac: give either an order"):
        gradvac(g, zero)
    with pytest.raises(OptionError, match="gradvac: give either an order"):
        gradvac(g, zero, [0, 1, 2], np.random.default_rng())
    with pytest.raises(OptionError, match=r"gradvac: order must be a permutation of 0\.\.2"):
        gradvac(g, zero, [0, 1, 1])
    with pytest.raises(ShapeError, match=r"targets of shape \(3, 3\) are needed, got \(2, 2\)"):
        gradvac(g, np.zeros((2, 2)), [0, 1, 2])
    with pytest.raises(OptionError, match=r"target \[0, 2\] = 1.5 is no cosine"):
        gradvac(g, [[0, 0, 1.5], [0, 0, 0], [0, 0, 0]], [0, 1, 2])
    with pytest.raises(NonFiniteError, match="targets"):
        gradvac(g, np.full((3, 3), np.nan) + np.eye(3), [0, 1, 2])
    for targets in ([[0.0], [1.0, 2.0]], np.zeros((3, 3), complex), "targets"):
        with pytest.raises(ShapeError, match="gradvac: the targets"):
            gradvac(g, targets, [0, 1, 2])
    for order in ([0.0, 1.0, 2.0], [[0, 1, 2], [0]]):
        with pytest.raises(OptionError, match="gradvac: order"):
            gradvac(g, zero, order)
    assert gradvac(g, np.diag([np.nan] * 3), [0, 1, 2]).solved  # the diagonal means nothing
