"""`accord reproduce`: what is missing is run, and published and ours stand side by side."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest

from accord.bench import cli, experiments, published, reproduce_text
from accord.bench.experiments.toy import EXPERIMENT as TOY
from accord.bench.published import Cell, Column, Item, PublishedRow
from accord.bench.report import Value, summarise
from accord.bench.reproduce import draw_pictures, reproduce, side_by_side
from accord.bench.reproduce_plan import methods_of
from accord.bench.runner import run
from accord.bench.spec import MethodSpec, RunKey
from accord.bench.spelling import shortest, spelled
from accord.bench.store import Store
from accord.bench.writing import writing
from accord.errors import OptionError, UnknownNameError

ROWS = (
    PublishedRow("LS", "ls", (Cell("−0.380", -0.38), Cell("5.0", 5.0), None), "a paper, Table 1", "a remark"),
    PublishedRow("CAGrad", "cagrad:c=0.4", (Cell("−0.38 ± 0.1", -0.38, 0.1), None, None), "a paper, Table 1"),
    PublishedRow("Another", None, (Cell("1", 1.0), None, None), "another paper", "not in this library"),
)
COLUMNS = (Column("A", "L1/A"), Column("tenfold B", "L2/B", scale=10.0), Column("times LS's", "time_over_ls"))
ITEM = Item("p/t", "A paper", "A table", "numbers", experiment="toy", on=("qm9",), columns=COLUMNS, rows=ROWS)


@pytest.fixture(scope="module", autouse=True)
def shorter():
    """A fifth of the toy's smoke preset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TOY.presets, "smoke", dataclasses.replace(TOY.presets["smoke"], iterations=40, block=20))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """LS and CAGrad, two seeds each (which are alike: the toy draws nothing)."""
    root = tmp_path_factory.mktemp("store")
    run(TOY, "smoke", ["ls", "cagrad"], (0, 1), root)
    return root


@pytest.fixture
def side(store):
    return side_by_side(ITEM, "smoke", store)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")


def accord(capsys, *args):
    try:
        code = cli.main(["reproduce", *args])
    except SystemExit as leave:
        code = leave.code
    out, err = capsys.readouterr()
    return code, out, err


# Side by side


def test_ours_are_the_numbers_of_the_report(side, store):
    rows = {row.method: row for row in summarise(Store(store), TOY, "smoke").rows}
    for line, method in zip(side.lines[:2], ("ls", "cagrad"), strict=True):
        first, second, ratio = line.ours.values
        assert first == rows[method].metrics["L1/A"]
        assert second.mean == pytest.approx(10 * rows[method].metrics["L2/B"].mean)
        assert ratio.mean == pytest.approx(rows[method].seconds_per_step / rows["ls"].seconds_per_step)
    assert side.lines[2].ours is None
    assert side.lines[0].published == ROWS[0]


def test_ours_say_where_they_come_from(side, store):
    run_of = next(iter(Store(store).runs("toy", 1, "smoke")))
    attempt = run_of.info()["attempts"][0]
    ours = side.lines[0].ours
    assert ours.seeds == (0, 1)
    assert ours.dates == (attempt["started"][:10],)
    if attempt["commit"] is not None:
        assert ours.commits == (attempt["commit"][:7] + "+" * bool(attempt["modified"]),)


def test_the_preset_and_other_data_are_remarked_on(side):
    assert any("preset smoke, which is not the published protocol (that is paper)" in each for each in side.remarks)
    assert not any("other data" in each for each in side.remarks)
    on = side_by_side(dataclasses.replace(ITEM, experiment="mt10", on=("toy",)), "smoke", "absent", on="toy")
    assert any(each.startswith("Ours are of other data: toy") for each in on.remarks)


def test_what_the_experiment_does_not_measure_is_named(store):
    item = dataclasses.replace(ITEM, columns=(COLUMNS[0], Column("odd", "seg/mIoU"), Column("none")))
    side = side_by_side(item, "smoke", store)
    assert "Not measured by toy: odd, none." in side.remarks
    assert [value is None for value in side.lines[0].ours.values] == [False, True, True]


def test_a_column_of_another_experiment_stays_blank(store):
    item = dataclasses.replace(ITEM, columns=(COLUMNS[0], Column("B", "L2/B", of="qm9"), COLUMNS[2]))
    assert side_by_side(item, "smoke", store).lines[0].ours.values[1] is None


def test_without_a_store_there_are_the_published_rows(tmp_path):
    side = side_by_side(ITEM, "smoke", tmp_path / "none")
    assert [line.ours for line in side.lines] == [None] * 3
    assert any("no finished runs of toy, preset smoke" in each for each in side.remarks)
    assert not (tmp_path / "none").exists()


def test_what_the_data_were_is_told_even_where_no_summary_is_shown(tmp_path):
    run(TOY, "smoke", ["ls"], (0,), tmp_path)
    file = next(Store(tmp_path).runs("toy", 1, "smoke")).folder / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "data": "synthetic: made here"}))
    assert "Data: synthetic: made here." in side_by_side(ITEM, "smoke", tmp_path).remarks


def test_a_run_that_failed_is_told(store, tmp_path):
    path = tmp_path / "copy"
    run(TOY, "smoke", ["ls"], (0,), path)
    folder = Store(path).run(next(iter(Store(path).runs("toy", 1, "smoke"))).key).folder
    (folder / "result.json").unlink()
    side = side_by_side(ITEM, "smoke", path)
    assert side.lines[0].ours is None
    assert any(each.startswith("Not in the table: ls seed 0: unfinished") for each in side.remarks)


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "result.json"])
def test_a_damaged_run_is_told_and_spoils_no_other(tmp_path, file):
    run(TOY, "smoke", ["ls", "cagrad"], (0,), tmp_path)
    whole = side_by_side(ITEM, "smoke", tmp_path).lines[0]
    found = next(each for each in Store(tmp_path).runs("toy", 1, "smoke") if each.key.method.name == "cagrad")
    (found.folder / file).write_text("{\n")  # a line that is whole, so not one that was being written
    side = side_by_side(ITEM, "smoke", tmp_path)
    assert side.lines[0] == whole
    assert side.lines[1].ours is None
    assert any(each.startswith("Not in the table: cagrad seed 0: damaged: ") for each in side.remarks)


# Text


def test_markdown_has_a_line_for_each_and_nothing_is_lost(side):
    text = reproduce_text.markdown(side)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| method | A | tenfold B | times LS's | from | remark |"
    assert lines[2] == "| LS | −0.380 | 5.0 |  | a paper, Table 1 | a remark |"
    assert re.fullmatch(r"\| `ls` \| \*−?\d\.\d{3} ± 0\.0+\* \| .* \| \*smoke, 2 seeds, .*\* \|  \|", lines[3])
    assert lines[5].startswith("| `cagrad` |")
    assert lines[6] == "| Another | 1 |  |  | another paper | not in this library |"
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "* Ours are means over seeds ± standard error of the mean." in text


def test_csv_and_json_keep_every_digit(side):
    rows = list(csv.DictReader(io.StringIO(reproduce_text.to_csv(side))))
    assert [row["whose"] for row in rows] == ["published", "ours", "published", "ours", "published"]
    exact = side.lines[0].ours.values[0]
    assert float(rows[1]["A"]) == exact.mean
    assert float(rows[2]["A ±"]) == 0.1
    assert rows[1]["seeds"] == "0 1"
    data = json.loads(reproduce_text.to_json(side))
    assert data["rows"][0]["ours"]["values"]["A"]["mean"] == exact.mean
    assert data["rows"][0]["published"]["values"]["A"]["printed"] == "−0.380"
    assert data["rows"][2]["ours"] is None


def test_a_narrow_terminal_gets_parts_with_all_columns(side):
    from rich.console import Console

    buffer = io.StringIO()
    reproduce_text.print_side_by_side(side, Console(file=buffer, width=60))
    text = buffer.getvalue()
    assert text.count("ours: cagrad") > 1
    for word in ("tenfold B", "times LS's", "a paper, Table 1", "[1] a remark"):
        assert word in text
    assert max(len(line) for line in text.splitlines() if "ours: ls" in line) <= 60


# Spellings


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        ("cagrad:c=0.4", "cagrad"),
        ("cagrad:c=0.5", "cagrad:c=0.5"),
        ("fairgrad:alpha=2.0,max_norm=1.0", "fairgrad:max_norm=1.0"),
        ("fairgrad:alpha=2", "fairgrad"),
        ("nash-mtl:update_every=1", "nash-mtl"),
        ("mgda:at=features,times_k=False", "mgda:at=features"),
        ("ls:at=parameters", "ls"),
        ("rlw:seed=0", "rlw:seed=0"),
        ("stl:task=mu", "stl:task=mu"),
    ],
)
def test_options_at_their_defaults_are_left_out(spec, short):
    assert shortest(spec) == short
    assert shortest(short) == short


def test_a_store_that_spells_it_out_is_read_all_the_same(tmp_path):
    run(TOY, "smoke", ["cagrad:c=0.4"], (0,), tmp_path)
    assert spelled(["cagrad"], TOY, "smoke", tmp_path) == {"cagrad": "cagrad:c=0.4"}
    side = side_by_side(ITEM, "smoke", tmp_path)
    assert side.lines[1].ours.method == "cagrad:c=0.4"


# Planning and running


def test_only_what_is_missing_is_run(store, tmp_path):
    item = dataclasses.replace(ITEM, rows=ROWS[:2])
    side = reproduce(item, "smoke", store=store, seeds=(0, 1))
    assert {outcome.status for outcome in side.outcomes} == {"skipped"}
    side = reproduce(item, "smoke", methods=["ls"], store=tmp_path)
    assert [(str(outcome.key.method), outcome.status) for outcome in side.outcomes] == [("ls", "done")]
    assert side.lines[0].ours.values[0] == side_by_side(ITEM, "smoke", tmp_path).lines[0].ours.values[0]
    assert side.lines[1].ours is None


def test_single_task_learning_is_run_where_there_is_a_delta_m():
    qm9 = experiments.load("qm9")
    assert methods_of(published.load("nash-mtl/table-1"), qm9)[0] == "stl"
    assert methods_of(published.load("nash-mtl/table-1"), qm9, ["LS"]) == ["stl", "ls"]
    assert "stl" not in methods_of(published.load("nash-mtl/table-7"), qm9)
    assert methods_of(published.load("nash-mtl/figure-3"), qm9)[:2] == ["stl", "ls"]
    assert methods_of(dataclasses.replace(ITEM, rows=(), columns=()), TOY) == list(TOY.methods)
    assert "stl" not in methods_of(published.load("nash-mtl/figure-1"), TOY)


def test_a_table_of_which_nothing_is_measured_runs_nothing():
    item = dataclasses.replace(ITEM, columns=(Column("a"), Column("b", of="toy"), Column("c", "x/y")))
    assert methods_of(item, TOY) == []


def test_a_wrong_row_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no row 'cagrat'; did you mean .*cagrad"):
        methods_of(ITEM, TOY, ["cagrat"])


def test_an_experiment_with_other_columns_is_refused():
    with pytest.raises(OptionError, match="p/t can be put on qm9 only, not on 'rooms'"):
        side_by_side(ITEM, "smoke", "runs", on="rooms")


# The command


def test_the_list_has_every_item(capsys):
    code, out, _ = accord(capsys)
    assert code == 0
    assert all(name in out for name in published.ids())
    code, out, _ = accord(capsys, "--format", "json")
    assert [each["id"] for each in json.loads(out)] == list(published.ids())
    code, out, _ = accord(capsys, "--format", "csv", "--out", "list.csv")
    assert out == ""


def test_a_study_has_its_own_methods_and_no_csv(capsys):
    code, _, err = accord(capsys, "nash-mtl/figure-4", "--methods", "ls")
    assert code == 2
    assert "shown by the study update-every" in err
    code, _, err = accord(capsys, "nash-mtl/figure-4", "--format", "csv")
    assert code == 2
    assert "no csv" in err
    code, out, _ = accord(capsys, "nash-mtl/figure-4", "--no-run", "--store", "none")
    assert code == 0
    assert "Without --no-run, the study update-every shows this on qm9." in out


def test_missing_data_are_told_with_what_can_be_done_without_them(capsys, monkeypatch):
    monkeypatch.delenv("ACCORD_NYUV2", raising=False)
    code, _, err = accord(capsys, "nash-mtl/table-2", "--methods", "ls")
    assert code == 2
    assert "ACCORD_NYUV2" in err
    assert "The same on other data: --on rooms" in err


def test_a_wrong_id_suggests_the_right_one(capsys):
    code, _, err = accord(capsys, "nash-mtl/tabel-2")
    assert code == 2
    assert "did you mean 'nash-mtl/table-2'" in err


@pytest.mark.parametrize("name", [n for n in published.ids() if published.load(n).rows])
def test_every_table_prints_its_rows_without_a_run(capsys, name):
    code, out, _ = accord(capsys, name, "--no-run", "--store", "none")
    assert code == 0
    for row in published.load(name).rows:
        assert row.name in out


@pytest.mark.parametrize("name", [n for n in published.ids() if not published.load(n).rows])
def test_every_figure_says_what_is_known_of_it(capsys, name):
    code, out, _ = accord(capsys, name, "--no-run", "--store", "none")
    assert code == 0
    assert "Status: " in out


def test_an_experiment_that_is_not_there_is_told(tmp_path):
    item = dataclasses.replace(ITEM, experiment="mt11")
    with pytest.raises(
        UnknownNameError, match=r"needs the experiment 'mt11', which this version .* '?mt10'?.*--no-run"
    ):
        reproduce(item, "smoke", store=tmp_path)
    side = side_by_side(item, "smoke", tmp_path)
    assert any("mt11" in remark for remark in side.remarks)
    assert draw_pictures(side, tmp_path) == side


# Success: the published statistic and the last evaluation

TWO = "mt:reach-v3,push-v3"
SUCCESS = (
    Column("success ↑", "best_success", True),
    Column("last ↑", "mean success", True),
    Column("other", "best_success", True, of="mt50"),
    Column("seconds"),
    Column("times", "time_over_ls"),
)
NOTHING = (None,) * len(SUCCESS)
MT = Item(
    "p/mt",
    "A paper",
    "Robots",
    "numbers",
    experiment="mt10",
    on=("mt:TASK,TASK",),
    columns=SUCCESS,
    rows=(
        PublishedRow("MTL SAC", "ls", (Cell("0.49", 0.49), *NOTHING[1:]), "a paper"),
        PublishedRow("CARE", "ls:net=care", (Cell("0.84", 0.84), *NOTHING[1:]), "a paper"),
        PublishedRow("STL SAC", "stl", (Cell("0.90", 0.9), *NOTHING[1:]), "a paper"),
        PublishedRow("on MT50", "cagrad:c=0.5", (None, None, Cell("0.5", 0.5), None, None), "a paper"),
    ),
)


def put(store, method, seed, curves, seconds=0.5):
    """A run of soft actor-critic that was evaluated once a unit: {task: successes}."""
    with writing(store.run(RunKey(TWO, 1, "laptop", MethodSpec.parse(method), seed))) as writer:
        writer.begin({}, threads=1)
        metrics = [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]
        named = [{f"{task}/success": value for task, value in each.items()} for each in metrics]
        for unit, each in enumerate(named, 1):
            record = {"unit": unit, "steps": 10, "seconds": seconds, "env_steps": 20 * unit, "metrics": each}
            writer.append(record)
        writer.finish({"metrics": named[-1]})


def test_the_best_average_is_one_over_seeds_and_the_last_evaluation_stands_beside_it(tmp_path):
    store = Store(tmp_path, create=True)
    put(store, "ls", 0, {"reach-v3": [0, 1, 1, 0], "push-v3": [0, 1, 0, 0]})  # means 0, 1, 0.5, 0
    put(store, "ls", 1, {"reach-v3": [0, 0, 1, 1], "push-v3": [1, 0, 1, 0]})  # means 0.5, 0, 1, 0.5
    put(store, "ls:net=care", 0, {"reach-v3": [0, 1], "push-v3": [0, 1]}, seconds=0.75)
    put(store, "stl:task=reach-v3", 0, {"reach-v3": [1, 0]})
    put(store, "stl:task=push-v3", 0, {"push-v3": [0, 0.5]})
    side = side_by_side(MT, "laptop", tmp_path, on="mt:reach,push")
    assert side.experiment == TWO
    ls, care, stl, elsewhere = side.lines
    best, last, other, printed_only, ratio = ls.ours.values
    assert best == Value(0.75, pytest.approx(0.25))  # of the third evaluation; each seed's own best would be 1
    assert last == Value(0.25, pytest.approx(0.25))
    assert other is printed_only is None
    assert ratio.mean == 1.0
    assert care.ours.values[:2] == (Value(1.0), Value(1.0))
    assert care.ours.values[4].mean == pytest.approx(1.5)
    assert stl.ours.values[:2] == (Value(0.5), Value(0.25))  # evaluated at 0.5 and 0.25 of both networks
    assert stl.ours.seeds == (0,)
    assert elsewhere.method is elsewhere.ours is None  # its number is another experiment's
    assert any("interquartile mean" in remark and remark.startswith("ls: ") for remark in side.remarks)
    assert "cagrad" not in reproduce_text.markdown(side)


def test_a_method_whose_number_is_of_another_experiment_is_not_run():
    table = published.load("cagrad/table-3")
    ten, fifty = (methods_of(table, experiments.load(name)) for name in ("mt10", "mt50"))
    assert set(ten) - set(fifty) == {"cagrad:c=0.9"}
    assert set(fifty) - set(ten) == {"cagrad:c=0.5"}
    assert not any("other data" in each for each in side_by_side(table, "smoke", "absent", on="mt50").remarks)
    with pytest.raises(OptionError, match="mt:TASK,TASK only, not on 'mt50'"):
        side_by_side(published.load("nash-mtl/table-4"), "smoke", "absent", on="mt50")


def test_the_times_of_table_5_are_those_of_its_first_row():
    table = published.load("nash-mtl/table-5")
    printed, computed = (
        next(i for i, c in enumerate(table.columns) if c.name == name)
        for name in ("runtime (s)", "times MTL-SAC's (computed)")
    )
    for row in table.rows:
        assert row.cells[computed].value == pytest.approx(row.cells[printed].value / 7.3)
    assert table.columns[printed].metric is None


def test_every_row_of_mt10s_tables_runs(capsys, tmp_path):
    """On two of the tasks, so that it takes seconds."""
    pytest.importorskip("metaworld", reason="needs accord[rl]")
    on = ("--preset", "smoke", "--on", "mt:reach,drawer-close", "--store", "runs", "--format", "json")
    for name, rows in (("nash-mtl/table-4", 9), ("nash-mtl/table-5", 6)):
        code, out, _ = accord(capsys, name, *on)
        assert code == 0
        data = json.loads(out)
        assert len(data["rows"]) == rows
        for row in data["rows"]:
            assert {"success ↑", "last evaluation ↑"} <= set(row["ours"]["values"]), row["name"]
            assert 0 <= row["ours"]["values"]["last evaluation ↑"]["mean"] <= 1
        assert any(path.endswith("success.png") for path in data["pictures"])
    code, _, err = accord(capsys, "nash-mtl/table-4", "--preset", "smoke", "--on", "mt:reech")
    assert code == 2
    assert "no task 'reech'; did you mean 'reach-v3'" in err


def test_a_toy_figure_from_nothing(capsys, tmp_path):
    command = ("nash-mtl/figure-1", "--preset", "smoke", "--methods", "ls", "nash-mtl", "--store", "runs")
    code, out, err = accord(capsys, *command)
    assert code == 0
    assert "nash-mtl seed 0: done" in err
    assert "ours: nash-mtl" in out
    for name in ("plane", "losses"):
        assert f"Figure: runs/figures/toy-smoke/{name}.png" in out
        assert (tmp_path / f"runs/figures/toy-smoke/{name}.png").stat().st_size > 5000
    assert accord(capsys, *command)[1] == accord(capsys, *command, "--no-run")[1]


def test_a_qm9_table_from_nothing(capsys, tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    pytest.importorskip("torch_geometric")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    rows = ("--methods", "LS", "SI")
    code, out, _ = accord(capsys, "nash-mtl/table-6", "--preset", "smoke", *rows, "--store", "runs", "--format", "json")
    assert code == 0
    lines = {line["name"]: line for line in json.loads(out)["rows"]}
    ours = {name: line["ours"]["values"] for name, line in lines.items() if line["ours"]}
    assert set(ours) == {"STL", "LS", "SI"}
    report = summarise(Store("runs"), experiments.load("qm9"), "smoke")
    delta = next(row.delta_m.mean for row in report.rows if row.method == "ls")
    assert ours["LS"]["Δm% ↓"]["mean"] == pytest.approx(delta)
    assert {ours[name]["MR ↓"]["mean"] for name in ("LS", "SI")} <= {1 + n / 11 for n in range(12)}
    assert lines["LS"]["published"]["values"]["Δm% ↓"] == {"printed": "177.6 ± 3.4", "value": 177.6, "error": 3.4}
    assert "MR ↓" not in ours["STL"]
    code, out, _ = accord(capsys, "nash-mtl/table-1", "--preset", "smoke", "--no-run", "--store", "runs")
    assert code == 0
    assert out.count("smoke, 1 seed") == 2
    # the single-task runs serve a figure that a study shows as well
    code, out, err = accord(capsys, "nash-mtl/figure-8", "--preset", "smoke", "--store", "runs", "--format", "json")
    assert code == 0
    assert "stl" not in err
    data = json.loads(out)
    assert data["study"]["study"] == "singular-value"
    assert "nash-mtl" in {row[0] for row in data["study"]["tables"][0]["rows"]}
    assert data["pictures"] == ["runs/figures/qm9-smoke/studies/singular-value.png"]
    assert (tmp_path / data["pictures"][0]).stat().st_size > 5000
