"""What a Gramian may come as: any real dtype, any memory layout, read only; it is never written to."""

import numpy as np
import pytest

from accord import solvers
from gramian_families import jacobian

CALLS = {
    **solvers.SOLVERS,
    "pcgrad": lambda g: solvers.pcgrad(g, generator=np.random.default_rng(0)),
    "gradvac": lambda g: solvers.gradvac(g, np.full(np.shape(g), 0.3), generator=np.random.default_rng(0)),
    "nash-mtl ccp": solvers.nash_ccp,
    "max-min": lambda g: solvers.fairgrad(g, np.inf),
}
FORMS = {
    "int64": lambda g: g.astype(np.int64),
    "int16": lambda g: g.astype(np.int16),
    "float32": lambda g: g.astype(np.float32),
    "longdouble": lambda g: g.astype(np.longdouble),
    "list": lambda g: g.tolist(),
    "every other": lambda g: np.repeat(np.repeat(g, 2, 0), 2, 1)[::2, ::2],
    "reversed": lambda g: np.ascontiguousarray(g[::-1, ::-1])[::-1, ::-1],
}


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("name", CALLS)
def test_the_form_of_a_gramian_does_not_count(name, k):
    rows = np.random.default_rng(k).integers(-4, 5, (k, 7))
    g = (rows @ rows.T + np.eye(k)).astype(np.float64)
    expected = CALLS[name](g)
    for form, change in FORMS.items():
        given = change(g)
        np.testing.assert_array_equal(CALLS[name](given).weights, expected.weights, err_msg=form)
        np.testing.assert_array_equal(given, g, err_msg=form)
    columns = np.asfortranarray(g)
    columns.flags.writeable = False
    np.testing.assert_allclose(CALLS[name](columns).weights, expected.weights, rtol=1e-13)


@pytest.mark.parametrize("name", CALLS)
def test_a_power_of_two_is_only_a_unit(name):
    """From 1e-60 to 1e60 times the Gramian, by factors that do not round: the same direction, certificate and name."""
    for k in (1, 2, 6):
        rows = jacobian("conflicting", k, np.random.default_rng(k), spread=1.0)
        g = rows @ rows.T
        expected = CALLS[name](g)
        if name == "nash-mtl ccp":  # whose two terms scale differently
            continue
        assert expected.solved
        unit = rows.T @ expected.weights
        for exponent in (-200, -100, 100, 200):
            solution = CALLS[name](g * 2.0**exponent)
            assert solution.outcome == expected.outcome
            d = rows.T @ (solution.weights / solution.weights.max())
            scale = expected.weights.max()
            np.testing.assert_allclose(d * scale, unit, atol=1e-12 * np.abs(unit).max())


@pytest.mark.parametrize("name", CALLS)
def test_a_gramian_that_is_not_quite_symmetric_counts_as_its_symmetric_part(name):
    """Rows in single precision leave triangles that differ by 1e-7; the transpose has the same answer, bit for bit."""
    for k in (2, 6):
        rng = np.random.default_rng(k)
        rows = jacobian("random", k, rng, spread=1.0)
        g = rows @ rows.T * (1 + 1e-7 * np.tril(rng.standard_normal((k, k)), -1))
        solution = CALLS[name](g)
        np.testing.assert_array_equal(CALLS[name](np.ascontiguousarray(g.T)).weights, solution.weights)
        np.testing.assert_allclose(solution.weights, CALLS[name]((g + g.T) / 2).weights, rtol=1e-10)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_and_next_to_nothing(name):
    for k in (1, 2, 5):
        for zero in (np.zeros((k, k)), np.zeros((k, k), int), np.full((k, k), 1e-300)):
            solution = CALLS[name](zero)
            assert solution.outcome == "degenerate"
            assert solution.cause == "every gradient is zero"
            assert solution.zero_rows == tuple(range(k))
            assert not solution.weights.any()
    solution = CALLS[name](np.diag([0.0, 4.0, 0.0]))
    assert solution.solved
    assert solution.zero_rows == (0, 2)
    assert (solution.weights > 0).tolist() == [False, True, False]
    assert "zero gradient in rows 0, 2" in solution.cause
