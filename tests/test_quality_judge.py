"""The judge of `benchmarks.solver_quality`: right answers pass, slightly wrong ones and false claims do not."""

import warnings

import numpy as np
import pytest
from benchmarks import judge
from benchmarks.quality_methods import Method
from benchmarks.solver_quality import judged, kind_of

from accord.solvers import Solution, pareto_stationarity
from accord.testing.gramians import Case, cases, gramian

SKEW = [[4.0, -2.0], [-2.0, 1.5]]
APART = [[1.0, -0.5], [-0.5, 1.0]]
ORTHOGONAL = [[1.0, 0.0], [0.0, 9.0]]
IN_TURN = np.array([[0, 1], [0, 1]])

RIGHT = {  # each from its definition by hand
    "nash-mtl": (ORTHOGONAL, [1.0, 1 / 3], lambda a: judge.fair(a, 1.0)),
    "fairgrad": ([[8.0, 0.0], [0.0, 1.0]], [0.25, 1.0], lambda a: judge.fair(a, 2.0)),
    "max-min": (ORTHOGONAL, [1.0, 1 / 9], lambda a: judge.fair(a, np.inf)),
    "mgda": ([[1.0, 0.0], [0.0, 3.0]], [0.75, 0.25], judge.mgda),
    "cagrad": ([[1.0, 0.0], [0.0, 1.0]], [0.75, 0.75], lambda a: judge.cagrad(a, 0.5)),
    "imtl-g": (ORTHOGONAL, [0.75, 0.25], judge.imtl_g),
    "pcgrad": (APART, [1.5, 1.5], lambda a: judge.pcgrad(a, IN_TURN)),
    "gradvac": (
        [[1.0, 0.0], [0.0, 1.0]],
        [1.0, 1.75],
        lambda a: judge.gradvac(a, IN_TURN, np.array([[0.0, 0.6], [0.0, 0.0]])),
    ),
    "dualproj": (SKEW, [0.5, 2 / 3], judge.dualproj),
    "upgrad": (APART, [0.75, 0.75], lambda a: judge.upgrad(a, np.array([[1.0, 0.5], [0.5, 1.0]]))),
    "aligned-mtl": ([[4.0, 0.0], [0.0, 1.0]], [0.5, 1.0], lambda a: judge.aligned(a, "min", 1e-7)),
    "config": (ORTHOGONAL, [2.0, 2 / 3], judge.config),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_right_answers_pass(name, scale):
    g, w, certify = RIGHT[name]
    powers = {"nash-mtl": -1.0, "max-min": -2.0, "fairgrad": -4 / 3}  # of the weights when the gradients are scaled
    w = np.array(w) * scale ** powers.get(name, 0.0)
    assert certify(judge.answer(np.array(g) * scale**2, w)).value < 1e-14


@pytest.mark.parametrize("name", RIGHT)
def test_small_errors_show(name):
    g, w, certify = RIGHT[name]
    for error in ([1e-5, 0.0], [0.0, -1e-5]):
        certificate = certify(judge.answer(np.array(g), np.array(w) * (1 + np.array(error))))
        assert certificate.beyond > 1e-7
        assert certificate.value >= certificate.beyond


def test_rounding_is_granted_and_no_more():
    """Two nearly opposite gradients: the last bit of the weights moves Gw by 1e-9 of itself."""
    c = 1 - 1e-7
    g = np.array([[1.0, -c], [-c, 1.0]])
    w = np.full(2, 1 / np.sqrt(1 - c))
    off = judge.fair(judge.answer(g, w * [1 + 2.3e-16, 1.0]), 1.0)
    assert off.value > 1e-10
    assert off.beyond == 0.0
    assert judge.fair(judge.answer(g, w * [1 + 1e-11, 1.0]), 1.0).beyond > 1e-6


def test_least_combination_agrees_with_the_active_set():
    for problem in cases(300, seed=1, max_tasks=12):
        mine = judge.stationarity(problem.gramian)
        assert mine == pytest.approx(pareto_stationarity(problem.gramian), abs=1e-3, rel=1e-6)
    assert judge.stationarity(np.zeros((2, 2))) == 0.0
    assert judge.stationarity(np.array([[1.0, -1.0], [-1.0, 1.0]])) == 0.0
    assert judge.dependence(np.ones((2, 2))) < 1e-7
    assert judge.length_of_sum(gramian("vanishing_sum", 4, np.random.default_rng(0))) < 1e-7


def verdict_on(solution, g=((1.0, 0.0), (0.0, 1.0))):
    def solve(_):
        if isinstance(solution, Exception):
            raise solution
        if isinstance(solution, str):
            warnings.warn(solution, RuntimeWarning, stacklevel=1)
        return solution

    g = np.array(g)
    return judged(Method("nash-mtl", solve, lambda a, _: judge.fair(a, 1.0)), Case("", g, g))


def nash_answer(weights, outcome="solved", **fields):
    return Solution("nash-mtl", np.array(weights), 0.0, 0.0, outcome, **fields)


def test_labels():
    assert verdict_on(nash_answer([1.0, 1.0])).label == "solved"
    named = verdict_on(nash_answer([1.0, 1.0], "degenerate", cause="float64 cannot hold 1e400"))
    assert (named.label, named.reason) == ("named", "degenerate: float64 cannot hold 1e400")
    opposite = ((1.0, -1.0), (-1.0, 1.0))
    assert verdict_on(nash_answer([1.0, 1.0], "stationary", cause="opposite"), opposite).label == "named"


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        (ValueError("no"), "raised: ValueError: no"),
        ("divide by zero", "raised: RuntimeWarning"),
        (nash_answer([1.0, 1.1]), "certificate"),
        (nash_answer([1.0, np.nan]), "not finite"),
        (nash_answer([1.0]), "not finite"),
        (nash_answer([1.0, 1.0], "stationary", cause="so it is"), "not stationary"),
        (nash_answer([1.0, 1.0], "degenerate"), "no cause"),
        (nash_answer([1.0, 1.0], zero_rows=(1,)), "zero rows"),
        (nash_answer([1.0, -1.0]), "certificate"),
    ],
)
def test_false_claims_are_wrong(solution, reason):
    verdict = verdict_on(solution)
    assert verdict.label == "wrong"
    assert verdict.reason.startswith(reason)


def test_zero_rows_must_be_named_and_weightless():
    g = ((1.0, 0.0), (0.0, 0.0))
    assert verdict_on(nash_answer([1.0, 0.0], zero_rows=(1,)), g).label == "solved"
    assert verdict_on(nash_answer([1.0, 0.5], zero_rows=(1,)), g).label == "wrong"
    assert verdict_on(nash_answer([1.0, 0.0]), g).label == "wrong"


def test_reasons_of_one_kind_are_counted_together():
    a = "stationary: a gap of 1.2e-07 where 3e-9 is allowed; zero gradient in rows 1, 2"
    assert kind_of(a) == kind_of("stationary: a gap of 5e-08 where 1.5 is allowed")
