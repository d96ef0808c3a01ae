"""The random search over static weights: fair draws, an honest choice, and the budget it says."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import pytest

from accord.bench import studies
from accord.bench.report import Value
from accord.bench.runner import plan
from accord.bench.spec import MethodSpec
from accord.bench.store import Run, Store
from accord.bench.studies.static import LARGEST, SMALLEST, Candidate, draw, expected, winner
from accord.errors import OptionError
from accord.metrics import delta_m
from support.studied import EXPERIMENT, TASKS, Forgetful, Unvalidated, experiment_of

STATIC = studies.load("static-weights")
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("static") / "runs"


@pytest.fixture(scope="module")
def report(store: Path) -> studies.StudyReport:
    return studies.run_study(STATIC, EXPERIMENT, "smoke", SEEDS, store)


def runs(store: Path, methods: list[str], seed: int) -> list[Run]:
    return [Store(store).run(key) for key in plan(EXPERIMENT, "smoke", methods, [seed])]


def candidate(score: float, delta: float) -> Candidate:
    return Candidate(f"{score}", score, {}, delta)


def test_draws_follow_from_the_seed_and_longer_searches_begin_with_shorter_ones() -> None:
    assert draw("three", 3, 0, 5) == draw("three", 3, 0, 9)[:5]
    assert draw("three", 3, 0, 5) != draw("three", 3, 1, 5)
    assert draw("three", 3, 0, 5) != draw("qm9", 3, 0, 5)


def test_weights_sum_to_the_number_of_tasks_and_are_log_uniform() -> None:
    weights = [MethodSpec.parse(spec).options["weights"] for spec in draw("three", 5, 0, 400)]
    for each in weights:
        assert sum(each) == pytest.approx(5, rel=2e-3)  # four digits are kept
        assert max(each) / min(each) <= 1.01 * LARGEST / SMALLEST
    # the difference of two uniform logarithms on an interval of length L has the mean absolute value L/3
    gaps = [abs(math.log(each[0] / each[1])) for each in weights]
    assert statistics.fmean(gaps) == pytest.approx(math.log(LARGEST / SMALLEST) / 3, rel=0.1)


def test_the_validation_score_chooses_whatever_the_test_set_says() -> None:
    found = [candidate(2.0, -9.0), candidate(1.0, 5.0), candidate(3.0, 0.0)]
    assert winner(found).delta == 5.0


def test_the_expected_winner_is_the_mean_over_all_choices_of_runs() -> None:
    found = [candidate(s, d) for s, d in [(2.0, -1.0), (1.0, 4.0), (5.0, 3.0), (4.0, 7.5), (3.0, 0.5)]]
    for n, value in enumerate(expected(found), start=1):
        every = [winner(chosen).delta for chosen in itertools.combinations(found, n)]
        assert value == pytest.approx(statistics.fmean(d for d in every if d is not None))


def test_the_search_takes_the_validation_winner_of_each_seed(report: studies.StudyReport, store: Path) -> None:
    budget, whole = report.data
    single = {}
    for task in TASKS:
        per_seed = [runs(store, [f"stl:task={task}"], seed)[0].result()["metrics"][f"{task}/error"] for seed in SEEDS]
        single[f"{task}/error"] = statistics.fmean(per_seed)
    chosen = []
    for seed in SEEDS:
        results = [run.result() for run in runs(store, draw("three", 3, seed, budget.time), seed)]
        assert len(results) == budget.time
        best = min(results, key=lambda result: result["score"])
        chosen.append(delta_m(best["metrics"], single, dict.fromkeys(single, False)))
    (table,) = report.tables
    row = next(row for row in table.rows if str(row[0]).startswith(f"static, best of {budget.time}: the time"))
    assert isinstance(row[1], Value)
    assert row[1].mean == pytest.approx(statistics.fmean(chosen))
    assert set(whole) == set(SEEDS)


def test_the_budget_is_that_of_one_run_of_the_method_compared(report: studies.StudyReport, store: Path) -> None:
    budget, whole = report.data

    def per_step(method: str) -> float:
        records = [record for seed in SEEDS for record in runs(store, [method], seed)[0].records()]
        return sum(record["seconds"] for record in records) / sum(record["steps"] for record in records)

    assert budget.time == max(1, math.floor(per_step("nash-mtl") / per_step("ls")))
    assert budget.runs == 5  # mgda, cagrad, nash-mtl, fairgrad, famo
    assert all(len(found) == budget.most for found in whole.values())
    (table,) = report.tables
    for row in table.rows:
        if str(row[0]).startswith(f"static, best of {budget.time}: the time") and budget.time > 1:
            assert isinstance(row[-1], Value)
            assert row[-1].mean <= 1.0


def test_median_and_worst_are_those_of_the_test_metrics(report: studies.StudyReport) -> None:
    budget, whole = report.data
    (table,) = report.tables
    rows = {str(row[0]).split(":")[0]: row[1] for row in table.rows}
    worst = rows[f"static, worst of {budget.most} (test Δm)"]
    assert isinstance(worst, Value)
    assert worst.mean == pytest.approx(statistics.fmean(max(c.delta for c in found) for found in whole.values()))
    median = rows[f"static, median of {budget.most} (test Δm)"]
    assert isinstance(median, Value)
    middles = [statistics.median_high(c.delta for c in found) for found in whole.values()]
    assert median.mean == pytest.approx(statistics.fmean(middles))


def test_without_a_validation_set_it_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="chooses weights on a validation set, which experiment 'unvalidated'"):
        studies.run_study(STATIC, experiment_of(Unvalidated), "smoke", (0,), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_runs_without_a_validation_score_are_refused_before_the_search(tmp_path: Path) -> None:
    experiment = experiment_of(Forgetful)
    with pytest.raises(OptionError, match="experiment 'forgetful' does not have"):
        studies.run_study(STATIC, experiment, "smoke", (0,), tmp_path / "runs")
    methods = {run.key.method.name for run in Store(tmp_path / "runs").runs("forgetful", 1, "smoke")}
    assert methods == {"stl", "ls", "nash-mtl"}
    assert len(list((tmp_path / "runs").rglob("result.json"))) == 5
