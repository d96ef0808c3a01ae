"""The published tables: every file is well formed, says where it is from, and agrees with itself."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

import accord
from accord.bench import experiments, studies
from accord.bench.balancing import place_of
from accord.bench.published import Cell, Item, ids, load, papers
from accord.bench.published.reading import FOLDER
from accord.bench.published.reading import load as load_from
from accord.bench.reproduce_plan import applies
from accord.bench.spec import MethodSpec
from accord.bench.spelling import shortest
from accord.errors import DataError, DependencyError, UnknownNameError
from accord.metrics import delta_m, mean_rank


def numbered(figures: int, tables: int) -> set[str]:
    return {*(f"figure-{n + 1}" for n in range(figures)), *(f"table-{n + 1}" for n in range(tables))}


COMPLETE = {
    "nash-mtl": numbered(8, 7) | {"figure-7b", "appendix-c", "appendix-d2", "appendix-d3"},
    "cagrad": numbered(6, 8),
    "mgda": numbered(8, 5),
}
"""The tables and figures of the papers whose text was found."""

UNVERIFIED = ("3.82", "2.67", "1.50")
"""FairGrad's mean ranks, for which no source was found."""


def with_status(status: str) -> list[str]:
    return [name for name in ids() if load(name).status == status]


@pytest.mark.parametrize("name", ids())
def test_every_item_says_what_it_is_and_where_it_is_from(name):
    item = load(name)
    assert item.id == name
    assert item.title
    assert item.paper
    assert all(row.source for row in item.rows)
    assert all(any(cell is not None for cell in row.cells) for row in item.rows)
    assert item.status == "numbers" or item.remarks or item.experiment
    if item.status == "not-found":
        assert any("not found" in remark for remark in item.remarks)


@pytest.mark.parametrize("paper", COMPLETE)
def test_the_index_has_every_table_and_figure(paper):
    assert {name.partition("/")[2] for name in ids() if name.startswith(f"{paper}/")} == COMPLETE[paper]
    assert not any(load(name).status == "not-found" for name in ids() if name.startswith(f"{paper}/"))


def test_all_four_papers_are_there():
    assert [paper.name for paper in papers()][:4] == ["nash-mtl", "cagrad", "mgda", "fairgrad"]
    assert all(paper.known and paper.items for paper in papers())


@pytest.mark.parametrize("name", ids())
def test_every_method_can_be_made(name):
    item = load(name)
    specs = [*item.methods, *(row.method for row in item.rows if row.method not in (None, "stl"))]
    for spec in specs:
        own = experiments.load(item.experiment).own_options if item.experiment else lambda method: method
        plain, _ = place_of(own(MethodSpec.parse(spec)))
        accord.make(str(plain), tasks=3)
    assert len({shortest(spec) for spec in specs}) == len(set(specs))


def test_rows_without_a_method_say_why():
    for name in with_status("numbers"):
        for row in load(name).rows:
            assert row.method or row.remark, (name, row.name)


def test_the_networks_of_mt10_and_mt50_are_methods():
    from accord.bench.rl.networks import NAMES

    for name in ("nash-mtl/table-4", "cagrad/table-3"):
        methods = {row.method for row in load(name).rows}
        assert {f"ls:net={network}" for network in NAMES if network != "mlp"} | {"ls", "stl"} <= methods


def judged(summary: str) -> list[str]:
    """Items whose rows hold every metric, and the summary as well."""
    return [n for n in with_status("numbers") if summary in dict(load(n).tolerance) and load(n).baseline]


def whole(item: Item) -> dict[str, dict[str, float]]:
    """The printed metrics of the rows that have them all, single-task learning left out."""
    found = {row.name: item.printed(row) for row in item.rows if row is not item.baseline}
    return {name: values for name, values in found.items() if not any(map(math.isnan, values.values()))}


def printed(item: Item, name: str, summary: str) -> float | None:
    """What the paper prints; where that does not follow from its rows, what does."""
    row = next(row for row in item.rows if row.name == name)
    cell = row.cells[item.column(summary)]
    return None if cell is None else dict(row.recomputed).get(summary, cell.value)


@pytest.mark.parametrize("name", judged("delta_m"))
def test_delta_m_follows_from_the_rows(name):
    item = load(name)
    rows, base = whole(item), item.printed(item.baseline)
    compared = {}
    for method, values in rows.items():
        reported = printed(item, method, "delta_m")
        if reported is not None:
            compared[method] = reported
            found = delta_m(values, base, item.higher_is_better)
            assert found == pytest.approx(reported, abs=dict(item.tolerance)["delta_m"]), method
    assert len(compared) == len(rows)


@pytest.mark.parametrize("name", judged("mean_rank"))
def test_mean_ranks_follow_from_the_rows(name):
    item = load(name)
    ranks = mean_rank(whole(item), item.higher_is_better)
    for method, rank in ranks.items():
        assert rank == pytest.approx(printed(item, method, "mean_rank"), abs=dict(item.tolerance)["mean_rank"]), method


@pytest.mark.parametrize("name", with_status("numbers"))
def test_what_does_not_follow_from_its_row_has_a_remark_with_the_number(name):
    item = load(name)
    for row in item.rows:
        for summary, value in row.recomputed:
            assert f"{value:.2f}".replace("-", "−") in row.remark
            cell = row.cells[item.column(summary)]
            assert abs(cell.value - value) > dict(item.tolerance)[summary]


def test_tables_that_must_be_checked_are():
    complete = {"nash-mtl/table-2", "nash-mtl/table-3", "nash-mtl/table-6"}
    assert {f"cagrad/table-{n}" for n in (1, 2, 5, 6)} <= set(judged("delta_m"))
    assert complete <= set(judged("mean_rank"))
    also = {"fairgrad/nyuv2", "fairgrad/cityscapes", "fairgrad/qm9", "fairgrad/celeba-attributes", "ntkmtl/table-3"}
    assert complete | also <= set(judged("delta_m"))


def test_the_errors_of_the_attributes_have_the_printed_means():
    """Forty transcribed numbers a row against one that was printed elsewhere."""
    means = {row.method: row.cells[0] for row in load("mgda/table-1").rows}
    for row in load("mgda/table-5").rows:
        found = sum(cell.value for cell in row.cells) / len(row.cells)
        assert len(row.cells) == 40
        assert found == pytest.approx(means[row.method].value, abs=means[row.method].half_unit)


def test_every_study_is_there_and_has_an_experiment_it_can_be_made_with():
    for name in ids():
        item = load(name)
        if item.study is not None:
            study = studies.load(item.study)
            assert item.is_study == (item.status != "numbers")
            for which in (item.experiment, *item.on) if item.is_study else ():
                experiment = experiments.load(which)
                assert experiment.baseline or not study.judged


def test_no_number_without_a_source_is_cited():
    for name in (n for n in ids() if n.startswith("fairgrad/")):
        for row in load(name).rows:
            if row.name == "FairGrad":
                assert not {cell.text for cell in row.cells if cell} & set(UNVERIFIED)


@pytest.mark.parametrize("name", with_status("numbers"))
def test_columns_are_metrics_of_the_experiment_with_the_same_direction(name):
    item = load(name)
    for which in (item.experiment, *item.on):
        if which is None or which not in experiments.names():
            continue
        try:
            experiment = experiments.load(which)
        except DependencyError:
            continue
        metrics = dict(experiment.metrics)
        for column in item.columns:
            if column.judges and column.of in (None, which):
                assert column.metric in metrics, (which, column.metric)
                assert metrics[column.metric].higher_is_better == column.higher_is_better
            if column.averaged is not None and column.of in (None, which):
                assert column.averaged in experiment.averages
                for task in experiment.tasks:
                    assert metrics[f"{task.name}/{column.averaged}"].higher_is_better == column.higher_is_better
        assert item.protocol in experiment.presets or which != item.experiment
        assert any(applies(column, experiment) for column in item.columns)


def test_two_tables_with_one_row_print_one_number():
    seen: dict[tuple[str, str, str], dict[str, str]] = {}
    for name in with_status("numbers"):
        item = load(name)
        for row in item.rows:
            for column, cell in zip(item.columns, row.cells, strict=True):
                if (
                    cell
                    and column.metric
                    and column.metric != "mean_rank"
                    and row.source.endswith(("Table 2", "Table 3"))
                ):
                    seen.setdefault((row.source, row.name, column.metric), {})[name] = cell.text
    differing = {key: found for key, found in seen.items() if len(set(found.values())) > 1}
    assert len(seen) > 150
    assert not differing


@pytest.mark.parametrize(
    ("file", "names"),
    [("nyuv2", ["nash-mtl/table-2", "ntkmtl/table-1"]), ("cityscapes", ["nash-mtl/table-3", "ntkmtl/table-7"])],
)
def test_the_rows_agree_with_another_transcript(file, names):
    with (Path(__file__).parent / f"published/{file}.csv").open(encoding="utf-8") as stream:
        other = {row.pop("method"): [float(cell) for cell in row.values() if cell] for row in csv.DictReader(stream)}
    for name in names:
        item = load(name)
        for row in item.rows:
            cells = [cell for cell, c in zip(row.cells, item.columns, strict=True) if c.metric != "mean_rank"]
            assert [cell.value for cell in cells if cell is not None] == other[row.name]
    assert {row.name for name in names for row in load(name).rows} == set(other)


def test_a_cell_knows_its_digits():
    assert Cell("0.6754", 0.6754).half_unit == pytest.approx(5e-5)
    assert Cell("177.6 ± 3.44", 177.6, 3.44).half_unit == pytest.approx(0.05)
    assert Cell("62", 62.0).half_unit == pytest.approx(0.5)


def test_a_wrong_id_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=re.escape("did you mean 'nash-mtl/table-2'")):
        load("nash-mtl/table2")


# Malformed files

GOOD = """
title = "t"
status = "numbers"
source = "s"
columns = [{ name = "a", metric = "t/m" }, { name = "b", metric = "delta_m" }]
rows = [{ name = "LS", method = "ls", cells = "1.0 −2±0.5" }]
"""


def folder(tmp_path: Path, text: str, items: str = '"one"') -> Path:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/one.toml").write_text(text, encoding="utf-8")
    index = f'[p]\ncitation = "c"\nknown = "k"\nitems = [{items}]\n'
    (tmp_path / "index.toml").write_text(index, encoding="utf-8")
    return tmp_path


def test_a_small_file_is_read_as_it_stands(tmp_path):
    item = load_from("p/one", folder(tmp_path, GOOD))
    assert item.rows[0].cells == (Cell("1.0", 1.0), Cell("−2 ± 0.5", -2.0, 0.5))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("1.0 −2", "1.0"), "no cell for column 'b'"),
        (("1.0 −2", "1.0 2 3"), "is left over"),
        (("1.0 −2", "1.0 x"), "'x±0.5' is not a number"),
        (("1.0 −2", "1.0 2±1"), "not a number"),
        (('status = "numbers"', 'status = "number"'), "is none of numbers"),
        (('status = "numbers"', 'status = "not-found"'), "with 1 rows"),
        (('source = "s"', ""), "has no source"),
        (('title = "t"', ""), "lacks title"),
        (('title = "t"', "title = 3"), "title = 3, a int"),
        (('"delta_m"', '"delta"'), "metric 'delta' is neither task/metric"),
        (("cells", "sells"), "unknown key 'sells'; did you mean 'cells'"),
        (("rows = [", "rows = [3, "), "a row is 3"),
        (("rows", "rows ="), "is not TOML"),
        (('metric = "delta_m"', 'ratio_of = "c"'), "to divide by"),
    ],
)
def test_a_malformed_file_is_told_with_its_fault(tmp_path, change, told):
    text = GOOD.replace(*change)
    where = folder(tmp_path, text.replace(" −2±0.5", "") if "ratio_of" in text else text)  # ratios are not printed
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        load_from("p/one", where)
    assert str(where / "p/one.toml") in str(caught.value)


def test_a_row_may_not_stand_twice(tmp_path):
    row = '{ name = "LS", method = "ls", cells = "1.0 −2±0.5" }'
    with pytest.raises(DataError, match="stands twice"):
        load_from("p/one", folder(tmp_path, GOOD.replace(row, f"{row}, {row}")))


@pytest.mark.parametrize("items", ['"one", "two"', "", '"one", "one"'])
def test_the_index_and_the_files_must_agree(tmp_path, items):
    with pytest.raises(DataError, match="differ in p/"):
        load_from("p/one", folder(tmp_path, GOOD, items))


def test_the_files_of_the_package_are_where_the_package_is():
    assert FOLDER.is_dir()
    assert (FOLDER / "index.toml").is_file()
