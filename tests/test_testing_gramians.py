"""The adversarial Gramians: each is what its name says, and comes again from its seed and index."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.testing.gramians import (
    FAMILIES,
    GRADED,
    HARD,
    PRECISIONS,
    STATIONARY,
    case,
    cases,
    gramian,
    jacobian,
    to_bfloat16,
)

EVERY = FAMILIES + STATIONARY + HARD + GRADED


@pytest.fixture(scope="module")
def stream():
    return list(cases(1500, seed=3))


def units(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_case_is_made_without_those_before_it(stream):
    for index in (0, 17, 1499):
        alone = case(3, index)
        assert alone.name == stream[index].name
        np.testing.assert_array_equal(alone.rows, stream[index].rows)
        np.testing.assert_array_equal(alone.gramian, stream[index].gramian)
    assert case(4, 0).name != case(3, 0).name or (case(4, 0).rows != case(3, 0).rows).any()


def test_the_stream_has_everything(stream):
    names = [c.name for c in stream]
    assert {name.split(",")[0].split()[0] for name in names} == set(EVERY)
    assert {name.split(", ", 4)[4] for name in names} == set(PRECISIONS)
    sizes = [c.num_tasks for c in stream]
    assert set(range(1, 13)) <= set(sizes)
    assert 12 < np.quantile(sizes, 0.97) <= 40 < max(sizes) <= 200
    largest = np.array([np.diagonal(c.gramian).max() for c in stream])
    largest = np.sqrt(largest[largest > 0])
    assert largest.min() < 1e-25
    assert largest.max() > 1e25


def test_gramians_are_those_of_their_rows(stream):
    for c in stream:
        k = c.num_tasks
        rows = c.rows.astype(np.float64)
        assert c.rows.dtype == (np.float64 if c.name.endswith("float64") else np.float32)
        assert c.gramian.shape == (k, k)
        assert c.gramian.dtype == np.float64
        norms = np.linalg.norm(rows, axis=1)
        single = c.name.endswith("float32")
        error = np.abs(c.gramian - rows @ rows.T)
        assert (error <= rows.shape[1] * (1e-7 if single else 3e-16) * np.outer(norms, norms)).all()
        assert ((np.diagonal(c.gramian) == 0) == (norms == 0)).all()


def test_max_tasks_is_kept():
    assert max(c.num_tasks for c in cases(300, seed=0, max_tasks=5)) == 5


@pytest.mark.parametrize("family", EVERY)
def test_every_family_is_finite_at_every_size(family):
    rng = np.random.default_rng(EVERY.index(family))
    for k in (1, 2, 3, 10, 41):
        for scale in (1e-30, 1.0, 1e30):
            rows = jacobian(family, k, rng, spread=4.0, scale=scale)
            assert rows.shape[0] == k
            assert np.isfinite(rows).all()
        assert np.isfinite(gramian(family, k, rng, spread=2.0)).all()


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match="nearly_identical"):
        jacobian("identical", 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("family", "rank"), [("rank_one", 1), ("rank_one_signed", 1), ("low_rank", 2), ("indefinite", 3)]
)
def test_ranks(family, rank):
    assert np.linalg.matrix_rank(jacobian(family, 8, np.random.default_rng(0))) == rank
    assert np.linalg.matrix_rank(jacobian("few_parameters", 8, np.random.default_rng(0))) == 4


def test_pairs_and_zero_rows():
    rng = np.random.default_rng(0)
    rows = jacobian("opposite", 4, rng, spread=2.0)
    np.testing.assert_array_equal(rows[1], -3 * rows[0])
    rows = jacobian("duplicates", 4, rng, spread=2.0)
    np.testing.assert_array_equal(rows[1], rows[0])
    assert not jacobian("zero_row", 4, rng)[2].any()
    empty = [(~jacobian("zero_rows", 4, rng).any(1)).sum() for _ in range(100)]
    assert set(empty) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("grade", [1e-1, 1e-4, 1e-8])
def test_grades_are_distances(grade):
    rng = np.random.default_rng(1)
    close = {
        "near_opposite": lambda u: np.linalg.norm(u[0] + u[1]),
        "near_duplicates": lambda u: np.linalg.norm(u[0] - u[1]),
        "nearly_identical": lambda u: np.linalg.norm(u - u[0], axis=1).max(),
    }
    for family, distance in close.items():
        assert 0.3 * grade < distance(units(jacobian(family, 5, rng, spread=1.0, grade=grade))) < 5 * grade
    rows = jacobian("near_stationary", 5, rng, grade=grade)
    x = np.linalg.lstsq(np.vstack([rows.T, np.full(5, 1e6)]), np.append(np.zeros(rows.shape[1]), 1e6), rcond=None)[0]
    assert (x > 0).all()
    assert 0.1 * grade < np.linalg.norm(x @ rows) / (x @ np.linalg.norm(rows, axis=1)) < 5 * grade


def test_exact_stationarity_is_exact():
    rng = np.random.default_rng(2)
    for scale in (1.0, 1e-20, 1e20):
        rows = jacobian("exactly_stationary", 6, rng, scale=scale)
        subsets = np.array(list(itertools.product((0.0, 1.0), repeat=5)))
        assert ((subsets @ rows[:5] + rows[5]) == 0.0).all(1).any()
        g = gramian("exactly_stationary", 6, rng, scale=scale)
        vanishing = np.hstack([subsets, np.ones((32, 1))]) @ g
        assert (vanishing == 0.0).all(1).any()
        spread = jacobian("exactly_stationary", 6, rng, scale=scale, spread=4.0)
        np.testing.assert_array_equal(to_bfloat16(spread), spread)  # small integers times powers of two


def test_bfloat16_rounds_as_torch_does():
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((50, 40)) * 10.0 ** rng.uniform(-30, 30, (50, 1))
    ties = (1.0 + np.arange(64) / 256)[None]  # every second one lies halfway between two bfloat16 numbers
    for x in (rows, ties, -ties, np.zeros((2, 2))):
        expected = torch.tensor(x.astype(np.float32)).to(torch.bfloat16).float().numpy()
        np.testing.assert_array_equal(to_bfloat16(x), expected)


def test_float32_leaves_no_true_gramian():
    rng = np.random.default_rng(5)
    lowest = [np.linalg.eigvalsh(gramian("indefinite", 8, rng))[0] for _ in range(20)]
    assert min(lowest) < -1e-7
    g = gramian("asymmetric", 8, rng)
    norms = np.sqrt(np.diagonal(g))
    assert 0 < (np.abs(g - g.T) / np.outer(norms, norms)).max() < 1e-6


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 10**9))
def test_any_seed_and_index_will_do(seed, index):
    c = case(seed, index)
    assert np.isfinite(c.gramian).all()
    assert 1 <= c.num_tasks <= 200
