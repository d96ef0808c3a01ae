"""Studies: every one runs, its table holds what it says, and its figures are drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from accord.bench import cli, studies
from accord.bench.report import Value
from accord.bench.runner import plan, run
from accord.bench.spec import Experiment
from accord.bench.store import Run, Store
from accord.bench.studies import text
from accord.bench.studies.drawing import _front
from accord.errors import OptionError, UnknownNameError
from accord.metrics import delta_m
from support.studied import EXPERIMENT, TASKS, Three, experiment_of

FIXED = (
    "update-every",
    "ccp",
    "feature-level",
    "task-weights",
    "singular-value",
    "fairgrad-alpha",
    "cagrad-c",
    "alpha-fair",
    "cheaper-gramians",
    "static-weights",
)
HIGHER = {f"{task}/error": False for task in TASKS}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies") / "runs"


def found(store: Path, method: str, seed: int = 0, experiment: Experiment = EXPERIMENT) -> Run:
    (key,) = plan(experiment, "smoke", [method], [seed])
    return Store(store).run(key)


def timeless(value: Any) -> Any:
    """Without what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith("seconds")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def single(store: Path, seeds: tuple[int, ...]) -> dict[str, float]:
    """Test errors of single-task learning, means over the seeds, read from the files."""
    runs = {task: [found(store, f"stl:task={task}", seed).result()["metrics"] for seed in seeds] for task in TASKS}
    return {f"{t}/error": sum(m[f"{t}/error"] for m in metrics) / len(seeds) for t, metrics in runs.items()}


def test_the_names_are_fixed_and_each_study_says_what_it_asks() -> None:
    assert studies.names() == FIXED
    for name in studies.names():
        study = studies.load(name)
        assert study.name == name
        assert study.question.endswith("?")
        assert study.source
        assert study.figures
    with pytest.raises(UnknownNameError, match="did you mean 'update-every'"):
        studies.load("update-evry")


@pytest.mark.parametrize("name", FIXED)
def test_every_study_runs_and_its_table_holds_what_the_runs_hold(name: str, store: Path, tmp_path: Path) -> None:
    seeds = (0, 1)
    report = studies.run_study(studies.load(name), EXPERIMENT, "smoke", seeds, store)
    assert report.failed == ()
    assert not [note for note in report.notes if "Not in the table" in note or "blank" in note]
    base = single(store, seeds)
    for line in report.lines:
        metrics = [found(store, line.method, seed).result()["metrics"] for seed in seeds]
        assert line.row is not None
        if not report.study.measured:
            assert {name: value.mean for name, value in line.row.metrics.items()} == pytest.approx(
                {name: sum(m[name] for m in metrics) / len(seeds) for name in HIGHER}
            )
            continue
        assert line.row.delta_m is not None
        assert line.row.delta_m.mean == pytest.approx(sum(delta_m(m, base, HIGHER) for m in metrics) / len(seeds))
    paths = studies.draw_study(report, tmp_path)
    assert {path.stem for path in paths} == {stem for stem, _ in report.study.figures}
    assert all(path.stat().st_size > 5000 for path in paths)
    for table in report.tables:
        assert len(table.headings) == len(table.forms)
        for row in table.rows:
            assert len(row) == len(table.headings)
    printed = text.markdown(report)
    assert printed.count("\n## ") == len(report.tables)
    data = json.loads(text.to_json(report))
    assert [len(t["rows"]) for t in data["tables"]] == [len(t.rows) for t in report.tables]


def test_a_second_call_trains_nothing_and_says_the_same(store: Path) -> None:
    first = studies.run_study(studies.load("update-every"), EXPERIMENT, "smoke", (0,), store)
    second = studies.run_study(studies.load("update-every"), EXPERIMENT, "smoke", (0,), store)
    assert {outcome.status for outcome in second.outcomes} == {"skipped"}
    assert second.tables == first.tables


def test_updating_at_every_step_is_the_plain_method_bit_for_bit(tmp_path: Path) -> None:
    methods, store = ("nash-mtl", "nash-mtl:update_every=1", "nash-mtl:update_every=2"), tmp_path / "runs"
    run(EXPERIMENT, "smoke", methods, (0,), store)
    plain, every, second = (found(store, method) for method in methods)
    assert timeless(every.result()) == timeless(plain.result())
    assert timeless(every.records()) == timeless(plain.records())
    assert timeless(second.result()) != timeless(plain.result())


def test_update_every_solves_as_seldom_as_it_says(store: Path) -> None:
    report = studies.run_study(studies.load("update-every"), EXPERIMENT, "smoke", (0,), store)
    (table,) = report.tables
    place = table.headings.index("solves (% of steps)")
    solves = {row[0]: row[place] for row in table.rows}
    steps = 6  # three epochs of two batches
    for value, wanted in (("1", steps), ("5", 2), ("50", 1)):
        cell = solves[value]
        assert isinstance(cell, Value)
        assert cell.mean == pytest.approx(100 * wanted / steps)
    assert solves["ls"] is None


def test_a_study_and_a_run_share_their_runs_however_they_are_spelled(tmp_path: Path) -> None:
    run(EXPERIMENT, "smoke", ["cagrad:c=0.4", "stl", "ls"], (0,), tmp_path / "runs")
    report = studies.run_study(studies.load("cagrad-c"), EXPERIMENT, "smoke", (0,), tmp_path / "runs")
    assert sum(outcome.status == "done" for outcome in report.outcomes) == 4  # of five radii
    line = report.line("cagrad:c=0.4")
    assert line is not None
    assert line.setting.value == "0.4"


def test_tasks_with_the_most_and_the_least_weight_are_those_of_the_records(store: Path) -> None:
    report = studies.run_study(studies.load("task-weights"), EXPERIMENT, "smoke", (0,), store)
    (table,) = report.tables
    row = next(row for row in table.rows if row[0] == "nash-mtl")
    weights = found(store, "nash-mtl").records()[-1]["weights"]
    largest = max(range(3), key=weights.__getitem__)
    assert row[table.headings.index("most weight at the end")] == (
        f"{TASKS[largest]} {100 * weights[largest] / sum(weights):.1f} %"
    )


def test_feature_level_rows_pair_up_and_name_the_place(store: Path) -> None:
    report = studies.run_study(studies.load("feature-level"), EXPERIMENT, "smoke", (0,), store)
    by_group: dict[str, list[str]] = {}
    for line in report.lines:
        by_group.setdefault(line.setting.group, []).append(line.method)
    assert by_group["mgda"] == ["mgda", "mgda:at=features"]
    result = [found(store, method).result()["metrics"] for method in by_group["mgda"]]
    assert result[0] != result[1]


def test_cheaper_gramians_name_the_parts_and_tasks_of_the_experiment(store: Path) -> None:
    report = studies.run_study(studies.load("cheaper-gramians"), EXPERIMENT, "smoke", (0,), store)
    methods = [line.method for line in report.lines]
    assert "nash-mtl:gramian_part='2'" in methods  # the second linear map of the trunk
    assert "nash-mtl:gramian_tasks=1" in methods  # a third of three
    assert "nash-mtl:gramian_batch=0.25" in methods


def test_cheaper_gramians_leave_out_what_the_experiment_does_not_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    from accord.bench.studies import cheaper
    from accord.bench.studies.study import Context

    two = dataclasses.replace(EXPERIMENT, tasks=EXPERIMENT.tasks[:2])
    monkeypatch.setattr(cheaper, "network_of", lambda context: cheaper.Network(False, None))
    methods = " ".join(row.method for row in cheaper.STUDY.rows(Context(two, "smoke", (0,), Path("runs"))))
    assert "gramian_ema" in methods
    assert not any(option in methods for option in cheaper.MISSING)


# Refusals


def test_a_study_that_judges_by_delta_m_needs_single_task_runs(tmp_path: Path) -> None:
    bare = dataclasses.replace(EXPERIMENT, baseline=False)
    with pytest.raises(OptionError, match="experiment 'three' does not have"):
        studies.run_study(studies.load("cagrad-c"), bare, "smoke", (0,), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    report = studies.run_study(studies.load("singular-value"), bare, "smoke", (0,), tmp_path / "runs")
    assert len(report.tables[0].rows) == 4


def test_features_are_asked_for_where_the_experiment_has_none(tmp_path: Path) -> None:
    bare = dataclasses.replace(EXPERIMENT, at_features=False)
    with pytest.raises(OptionError, match="representation that all tasks share"):
        studies.run_study(studies.load("feature-level"), bare, "smoke", (0,), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_wrong_preset_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no preset 'laptop'"):
        studies.run_study(studies.load("cagrad-c"), EXPERIMENT, "laptop", (0,), tmp_path / "runs")


# Command line


def accord(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_lists_runs_prints_and_draws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    code, out, _ = accord(capsys, "study")
    assert code == 0
    assert all(name in out for name in FIXED)
    command = ["study", "cagrad-c", "--experiment", "support.studied:EXPERIMENT", "--preset", "smoke"]
    code, out, err = accord(capsys, *command, "--store", str(store))
    assert code == 0
    assert "How far may the direction be" in out
    assert "cagrad-c.png" in err
    assert (store / "figures/three-smoke/studies/cagrad-c.png").exists()
    target = tmp_path / "study.json"
    assert accord(capsys, *command, "--store", str(store), "--format", "json", "--out", str(target))[:2] == (0, "")
    data = json.loads(target.read_text())
    assert [row[0] for row in data["tables"][0]["rows"]] == ["ls", "0.2", "0.4", "0.6", "0.8", "0.9"]


def test_a_failed_run_shows_in_the_exit_code_and_below_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Broken(Three):
        name = "broken"

        def build(self) -> Any:
            if len(self.active) == 1:
                raise OptionError("broken: told to fail")
            return super().build()

    monkeypatch.setattr("accord.bench.experiments.load", lambda name: experiment_of(Broken))
    command = ["study", "cagrad-c", "--experiment", "broken", "--preset", "smoke", "--format", "markdown"]
    code, out, err = accord(capsys, *command, "--store", str(tmp_path / "runs"))
    assert code == 1
    assert "Not in the table: stl:task=a seed 0: failed" in out
    assert "Δm is blank" in out
    assert "stl:task=c seed 0 failed: OptionError: broken: told to fail" in err


def test_the_front_holds_what_nothing_cheaper_beats() -> None:
    assert _front([(3.0, 1.0), (1.0, 5.0), (2.0, 6.0), (4.0, 1.0)]) == [(1.0, 5.0), (3.0, 1.0)]
