"""The report: what is averaged, what is compared with what, and what is said about the rest."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from accord.bench import plots, tables
from accord.bench.reading import read, select
from accord.bench.report import STL, frame, summarise, to_json
from accord.bench.spec import MethodSpec, RunKey
from accord.bench.store import Store
from accord.bench.writing import writing
from accord.errors import StoreError, UnknownNameError
from accord.metrics import delta_m

SUPPORT = Path(__file__).parent / "support"


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(SUPPORT)
    from quadratic import EXPERIMENT

    return EXPERIMENT


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", create=True)


def put(store, method, seed, left, right, residual=None, weights=(0.75, 0.25), seconds=0.5, result=True):
    """One run of two units; a distance of None is not measured."""
    run = store.run(RunKey("quadratic", 1, "smoke", MethodSpec.parse(method), seed))
    measured = {"left/distance": left, "right/distance": right}
    with writing(run) as writer:
        writer.begin({}, threads=1)
        for unit in (1, 2):
            writer.append(
                {
                    "unit": unit,
                    "steps": 10,
                    "seconds": seconds,
                    "weights": weights,
                    "conflict": 0.5,
                    "residual": residual and residual * unit,
                    "outcomes": {"solved": 6, "reused": 3, "stationary": unit - 1},
                    "metrics": {name: value for name, value in measured.items() if value is not None},
                }
            )
        if result:
            writer.finish({"metrics": {name: value for name, value in measured.items() if value is not None}})
        else:
            writer.fail(ValueError("out of luck\nand more"), 2, {})


def rows(report):
    return {row.method: row for row in report.rows}


@pytest.fixture
def full(store):
    put(store, "stl:task=left", 0, 1.0, None)
    put(store, "stl:task=right", 0, None, 2.0)
    put(store, "ls", 0, 2.0, 2.0)
    put(store, "ls", 1, 4.0, 2.0)
    put(store, "nash-mtl", 0, 1.5, 1.0, residual=1e-13)
    return store


def test_one_row_a_method_with_stl_first(full, experiment):
    assert [row.method for row in summarise(full, experiment, "smoke").rows] == [STL, "ls", "nash-mtl"]


def test_means_and_standard_errors_are_over_seeds(full, experiment):
    value = rows(summarise(full, experiment, "smoke"))["ls"].metrics["left/distance"]
    assert value.mean == 3.0
    assert value.error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert rows(summarise(full, experiment, "smoke"))["nash-mtl"].metrics["left/distance"].error is None


def test_stl_merges_the_runs_of_its_tasks(full, experiment):
    stl = rows(summarise(full, experiment, "smoke"))[STL]
    assert {name: value.mean for name, value in stl.metrics.items()} == {
        "left/distance": 1.0,
        "right/distance": 2.0,
    }
    assert stl.seconds_per_step == pytest.approx(2 * 0.05)  # the sum of its networks


def test_delta_m_is_against_the_stl_of_the_store(full, experiment):
    found = rows(summarise(full, experiment, "smoke"))
    base = {"left/distance": 1.0, "right/distance": 2.0}
    lower = dict.fromkeys(base, False)
    assert found["nash-mtl"].delta_m.mean == delta_m(dict(zip(base, (1.5, 1.0), strict=True)), base, lower) == 0.0
    assert found["ls"].delta_m.mean == pytest.approx(100.0)
    assert found["ls"].delta_m.error == pytest.approx(50.0)
    assert found[STL].delta_m is None


def test_ranks_leave_stl_out(full, experiment):
    found = rows(summarise(full, experiment, "smoke"))
    assert found[STL].mean_rank is None
    assert found["nash-mtl"].mean_rank == 1.0
    assert found["ls"].mean_rank == 2.0


def test_the_worst_certificate_is_shown(full, experiment):
    found = rows(summarise(full, experiment, "smoke"))
    assert found["nash-mtl"].residual == 2e-13
    assert found["ls"].residual is None
    assert found["nash-mtl"].unsolved == 1 / 19


def test_without_stl_delta_m_is_blank_and_a_note_says_why(store, experiment):
    put(store, "ls", 0, 2.0, 2.0)
    report = summarise(store, experiment, "smoke")
    assert rows(report)["ls"].delta_m is None
    assert rows(report)["ls"].mean_rank == 1.0
    assert "`accord run quadratic --preset smoke --methods stl`" in report.notes[0]
    assert summarise(store, experiment, "smoke", None, "ask Ann").notes[0].endswith("STL run of any task: ask Ann")
    put(store, "stl:task=left", 0, 1.0, None)
    assert summarise(store, experiment, "smoke").notes == ("Δm is blank: there is no finished STL run of right",)


def test_failures_and_unfinished_runs_are_listed_with_their_cause(full, experiment):
    put(full, "mgda", 3, None, None, result=False)
    report = summarise(full, experiment, "smoke")
    (line,) = report.left_out
    assert line.startswith("mgda seed 3: failed after unit 2: ValueError: out of luck (see ")
    assert "mgda" not in rows(report)
    assert "out of luck" in tables.plain(report)


def test_a_method_that_diverged_is_shown_but_not_ranked(full, experiment):
    put(full, "mgda", 0, float("nan"), 1.0)
    report = summarise(full, experiment, "smoke")
    mgda = rows(report)["mgda"]
    assert math.isnan(mgda.metrics["left/distance"].mean)
    assert mgda.mean_rank is None
    assert mgda.delta_m is None
    assert rows(report)["nash-mtl"].mean_rank == 1.0
    assert report.notes == ("mgda has no finite left/distance: it is left out of the mean rank and of Δm",)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["mgda", "stl:task=left"])
def test_one_seed_of_two_without_a_finite_number_spoils_no_other_method(full, experiment, tmp_path, method, bad):
    put(full, method, 0 if method == "mgda" else 1, bad, None if ":" in method else 1.0)
    put(full, method, 1 if method == "mgda" else 2, 1.0, None if ":" in method else 1.0)
    report = summarise(full, experiment, "smoke")
    found = rows(report)
    assert math.isnan(found[method.partition(":")[0]].metrics["left/distance"].mean)
    assert found["nash-mtl"].mean_rank == 1.0
    assert (found["nash-mtl"].delta_m is None) == (method != "mgda")
    for shown in (text(report, 200), tables.markdown(report), to_json(report)):
        assert "nash-mtl" in shown
    stems = [path.stem for path in plots.draw(full, experiment, "smoke", tmp_path, "svg")]
    assert ("progress" in stems) == (method == "mgda")


def test_seeds_that_lack_each_a_metric_have_no_delta_m(full, experiment):
    put(full, "mgda", 0, 1.0, None)
    put(full, "mgda", 1, None, 1.0)
    assert rows(summarise(full, experiment, "smoke"))["mgda"].delta_m is None


def test_single_task_learning_of_some_tasks_has_no_time_and_no_whole_seed(store, experiment):
    put(store, "stl:task=left", 0, 1.0, None)
    half = rows(summarise(store, experiment, "smoke"))[STL]
    assert (half.seeds, half.seconds_per_step) == (0, None)
    put(store, "stl:task=right", 0, None, 1.0)
    whole = rows(summarise(store, experiment, "smoke"))[STL]
    assert (whole.seeds, whole.seconds_per_step) == (1, pytest.approx(0.1))


def test_the_ends_of_all_methods_are_in_the_figure_where_none_is_far_off():
    def course(*values):
        return [(10 * (i + 1), [float(v)]) for i, v in enumerate(values)]

    ends = {"a": -8, "b": -7, "c": -6, "d": -5, "e": 8}
    low, high = plots.change_window({name: course(60, end) for name, end in ends.items()})
    assert low < -8
    assert 8 < high < 60
    assert plots.change_window({"a": course(math.nan)}) is None
    low, high = plots.change_window({"a": course(3, math.nan), "b": course(4, 2)})  # of one, nothing is left
    assert low < 0 < 4 < high


def test_a_table_is_of_the_runs_that_were_read(full, experiment):
    reading = read(full, experiment, "smoke")
    put(full, "uw", 0, 1.0, 1.0)  # ends while a page is being written
    assert "uw" not in rows(summarise(full, experiment, "smoke", reading=reading))
    assert "uw" in rows(summarise(full, experiment, "smoke"))


def test_directions_count(store, experiment):
    higher = tuple(
        replace(t, metrics=tuple(replace(m, higher_is_better=True) for m in t.metrics)) for t in experiment.tasks
    )
    put(store, "stl:task=left", 0, 1.0, None)
    put(store, "stl:task=right", 0, None, 2.0)
    put(store, "ls", 0, 2.0, 4.0)
    put(store, "mgda", 0, 1.0, 1.0)
    found = rows(summarise(store, replace(experiment, tasks=higher), "smoke"))
    assert found["ls"].delta_m.mean == -100.0
    assert found["ls"].mean_rank == 1.0


def test_what_is_not_there_is_an_error_that_helps(store, experiment):
    with pytest.raises(UnknownNameError, match="did you mean 'smoke'"):
        summarise(store, experiment, "smokey")
    put(store, "ls", 0, 1.0, 1.0)
    with pytest.raises(StoreError, match=r"it has runs of preset smoke.*accord run quadratic --preset slow"):
        summarise(store, experiment, "slow")


# The same numbers in every format


def test_csv_and_json_keep_every_digit(full, experiment):
    put(full, "mgda", 0, 1 / 3, float("inf"))
    report = summarise(full, experiment, "smoke")
    table = {row["method"]: row for row in csv.DictReader(io.StringIO(frame(report).write_csv()))}
    data = {row["method"]: row for row in json.loads(to_json(report))["rows"]}
    assert float(table["mgda"]["left/distance"]) == data["mgda"]["left/distance"] == 1 / 3
    assert data["mgda"]["right/distance"] is None
    assert table["stl"]["delta_m"] == ""
    assert table["ls"]["left/distance ±"] == "1.0"


def test_markdown_marks_the_best_and_names_units(full, experiment):
    text = tables.markdown(summarise(full, experiment, "smoke"))
    lines = text.splitlines()
    assert lines[2].startswith("| method | left (m) ↓ | right (m) ↓ | mean rank ↓ | Δm (%) ↓ |")
    nash = next(line for line in lines if line.startswith("| nash-mtl"))
    assert "**1.500**" in nash
    assert "**0.00**" in nash
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def text(report, width):
    buffer = io.StringIO()
    tables.print_report(report, Console(file=buffer, width=width))
    return buffer.getvalue()


def test_a_narrow_terminal_gets_the_summary_first_and_loses_no_column(full, experiment):
    report = summarise(full, experiment, "smoke")
    wide, narrow = text(report, 200), text(report, 60)
    assert wide.count("nash-mtl") == 1
    assert narrow.count("nash-mtl") == 3
    assert "…" not in narrow
    assert narrow.index("rank") < narrow.index("left")
    for part in ("left", "right", "Δm", "residual", "1.500"):
        assert part in narrow
    table = narrow[: narrow.index("Metric of every task")]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 60


def test_methods_and_causes_are_shown_as_they_are_not_as_markup(full, experiment):
    put(full, "cagrad:c=[1]", 0, 2.0, 2.0)
    assert "cagrad:c=[1]" in text(summarise(full, experiment, "smoke"), 200)


def test_a_baseline_of_zero_leaves_delta_m_blank_and_says_so(store, experiment, tmp_path):
    put(store, "stl:task=left", 0, 0.0, None)
    put(store, "stl:task=right", 0, None, 2.0)
    put(store, "ls", 0, 2.0, 2.0)
    report = summarise(store, experiment, "smoke")
    assert rows(report)["ls"].delta_m is None
    assert any("0 for left/distance" in note for note in report.notes)
    assert "progress.png" not in [path.name for path in plots.draw(store, experiment, "smoke", tmp_path)]


def test_the_table_says_what_the_data_were(store, experiment):
    for method, data in (("ls", "synthetic: made here"), ("uw", {"left": "real", "right": "drawn"})):
        run = store.run(RunKey("quadratic", 1, "smoke", MethodSpec.parse(method), 0))
        with writing(run) as writer:
            writer.begin({}, threads=1)
            writer.finish({"metrics": {"left/distance": 1.0, "right/distance": 1.0}, "data": data})
    shown = text(summarise(store, experiment, "smoke"), 200)
    assert "Data: synthetic: made here" in shown
    assert "Data: left: real; right: drawn" in shown


# Figures


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_are_drawn_for_what_there_is(full, experiment, tmp_path, kind):
    paths = plots.draw(full, experiment, "smoke", tmp_path / "figures", kind)
    assert [path.name for path in paths] == [
        f"{stem}.{kind}" for stem in ("delta-m", "progress", "weights", "conflict")
    ]
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG") if kind == "png" else b"<svg" in data


def test_without_weights_and_stl_there_is_nothing_to_draw_but_conflict(store, experiment, tmp_path):
    put(store, "ls", 0, 1.0, 1.0, weights=None)
    assert [path.stem for path in plots.draw(store, experiment, "smoke", tmp_path)] == ["conflict"]


def test_drawing_leaves_matplotlib_as_it_was(full, experiment, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.draw(full, experiment, "smoke", tmp_path)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("panels", [1, 2, 3, 5, 7, 9, 11, 13, 17, 23])
def test_grids_leave_few_places_empty(panels):
    figure, axes = plots.grid(panels)
    assert len(axes) == panels
    assert len(figure.axes) - panels <= 3


# ------------------------------------------------------------------ means over tasks, remarks, damage, a choice of rows


def test_averages_are_over_tasks_then_seeds(full, experiment):
    found = rows(summarise(full, replace(experiment, averages=("distance",)), "smoke"))
    assert found["ls"].averages["distance"].mean == pytest.approx((2.0 + 3.0) / 2)
    assert found["ls"].averages["distance"].error == pytest.approx(0.5)  # of 2 and 3
    assert found[STL].averages["distance"].mean == 1.5
    assert "mean distance" in tables.markdown(summarise(full, replace(experiment, averages=("distance",)), "smoke"))
    data = frame(summarise(full, replace(experiment, averages=("distance",)), "smoke"))
    assert data.filter(data["method"] == "ls")["mean distance"].item() == 2.5


def test_an_average_is_blank_where_a_task_is_missing(store, experiment):
    put(store, "stl:task=left", 0, 1.0, None)
    put(store, "ls", 0, 2.0, 2.0)
    found = rows(summarise(store, replace(experiment, averages=("distance",)), "smoke"))
    assert found[STL].averages == {}


def test_remarks_of_the_experiment_stand_below_the_table(full, experiment):
    def remarks(preset, runs):
        return [f"{len(runs)} runs of {preset.name}"] if hasattr(preset, "name") else [f"{len(runs)} runs"]

    report = summarise(full, replace(experiment, remarks=remarks), "smoke")
    assert report.notes[-1].startswith("5 runs")
    assert report.notes[-1] in tables.markdown(report)


@pytest.mark.parametrize("file", ["result.json", "metrics.jsonl", "run.json"])
def test_a_damaged_run_is_left_out_and_named_and_the_others_stand(full, experiment, file, tmp_path):
    (run,) = [run for run in full.runs("quadratic", 1, "smoke") if str(run.key.method) == "nash-mtl"]
    path = run.folder / file
    path.write_text("{" if file != "metrics.jsonl" else 'no\n{"unit": 2}\n')
    report = summarise(full, experiment, "smoke")
    assert [row.method for row in report.rows] == [STL, "ls"]
    assert len(report.left_out) == 1
    assert report.left_out[0].startswith("nash-mtl seed 0: damaged: ")
    assert str(path) in report.left_out[0]
    assert "fresh=True" in report.left_out[0] or "made anew from the checkpoint" in report.left_out[0]
    for shown in (text(report, 200), tables.markdown(report), to_json(report)):
        assert report.left_out[0] in shown
    paths = plots.draw(full, experiment, "smoke", tmp_path / "figures", "svg")
    assert [path.stem for path in paths] == ["delta-m", "progress", "weights", "conflict"]
    assert all(">nash-mtl<" not in (tmp_path / f"figures/{name}.svg").read_text() for name in ("weights", "progress"))


def test_a_failure_that_cannot_be_read_is_named_too_and_a_table_may_be_empty(store, experiment):
    put(store, "mgda", 3, None, None, result=False)
    (run,) = store.runs("quadratic", 1, "smoke")
    (run.folder / "failure.json").write_text("[]")
    report = summarise(store, experiment, "smoke")
    assert report.rows == ()
    assert "mgda seed 3: damaged: " in tables.markdown(report)
    assert "failure.json" in text(report, 200)
    assert plots.draw(store, experiment, "smoke", store.root / "figures") == []


def test_rows_can_be_chosen(full, experiment):
    keys = select(full, experiment, "smoke", ["stl", "ls"], [0])
    assert {(str(key.method), key.seed) for key in keys} == {("stl:task=left", 0), ("stl:task=right", 0), ("ls", 0)}
    assert [row.method for row in summarise(full, experiment, "smoke", keys).rows] == [STL, "ls"]
    assert len(select(full, experiment, "smoke")) == 5


def test_choosing_rows_that_are_not_there_names_those_that_are(full, experiment):
    with pytest.raises(StoreError, match=r"no runs of cagrad in .*; it has ls, nash-mtl, stl, of seeds 0, 1"):
        select(full, experiment, "smoke", ["cagrad", "ls"])
    with pytest.raises(StoreError, match="no runs of seed 7"):
        select(full, experiment, "smoke", seeds=[7])
    with pytest.raises(UnknownNameError, match="cagrad"):
        select(full, experiment, "smoke", ["cagard"])
    path = full.run(RunKey("quadratic", 1, "smoke", MethodSpec.parse("nash-mtl"), 0)).folder / "run.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"no runs of nash-mtl in .*; nash-mtl seed 0: damaged: .*run\.json"):
        select(full, experiment, "smoke", ["nash-mtl"])
