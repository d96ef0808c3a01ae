"""The HTML report of stores that are not as they should be: evil names, failures, damage, nothing at all."""

import math
from dataclasses import replace

import pytest

import accord
from accord.bench.compare import experiment_of
from accord.bench.html import page as make
from accord.bench.html import write_page
from accord.bench.report import summarise
from accord.bench.spec import MethodSpec, RunKey, TaskSpec
from accord.bench.store import Store
from accord.bench.writing import writing
from accord.errors import StoreError, UnknownNameError
from support import small_problem
from support.pages import Page, put, trained
from support.quadratic import EXPERIMENT


@pytest.fixture
def empty(tmp_path):
    return Store(tmp_path / "runs", create=True)


# Names and texts that come from users


EVIL = "</script><script>alert(1)</script>"


def test_names_and_errors_are_text_and_never_markup(empty):
    names = (f"{EVIL}$x_", '"><img src=x onerror=alert(2)>', "a&amp;b ${oops}")
    metric = replace(EXPERIMENT.tasks[0].metrics[0], unit="<b>m</b>")
    experiment = replace(
        EXPERIMENT, tasks=tuple(TaskSpec(name, (metric,)) for name in names), summary="<i>two</i> & more"
    )
    values = {f"{name}/distance": 1.0 + k for k, name in enumerate(names)}
    record = {"weights": [1.0, 2.0, 3.0], "conflict": 0.3, "metrics": values}
    put(empty, experiment, "ls", 0, record)
    put(empty, experiment, f"cagrad:note='{EVIL}'", 0, record)
    failing = empty.run(RunKey("quadratic", 1, "smoke", MethodSpec.parse("mgda"), 0))
    with writing(failing) as writer:
        writer.begin({"note": EVIL}, threads=1)
        writer.fail(ValueError(f"{EVIL}\n<second> line"), 1, {})
    text = make(empty, experiment, "smoke")
    page = Page(text)
    assert len(page.named("script")) == 1
    assert not page.named("img", "b", "i")
    assert "alert(" not in page.named("script")[0].text
    for name in names:
        assert name in page.text
    assert f"ValueError: {EVIL} <second> line" in page.text
    assert "<i>two</i> & more" in page.text
    assert "<b>m</b>" in page.text
    pictures = [element.get("aria-label") for element in page.named("svg") if element.get("role") == "img"]
    assert any(name in label for name in names for label in pictures)


# Stores that are not whole


def test_failed_unfinished_and_damaged_runs_are_named_with_what_to_do(tmp_path):
    store, experiment = trained(tmp_path / "my runs", "quadratic", ("stl", "ls", "mgda"), preset="broken")
    (damaged,) = [run for run in store.runs("quadratic", 1, "broken") if str(run.key.method) == "mgda"]
    (damaged.folder / "result.json").write_text("{")
    with writing(store.run(RunKey("quadratic", 1, "broken", MethodSpec("uw"), 3))) as writer:
        writer.begin({}, threads=1)
        writer.append({"unit": 1, "steps": 1, "seconds": 0.1})
    page = Page(make(store, experiment, "broken", name="quadratic:EXPERIMENT"))
    (warning,) = page.classed("warning")
    assert "3 runs are not in the table" in warning.text
    items = {
        item.text.split(" is ")[0]: item
        for item in page.named("li")
        if item.inside("section") and " is " in item.text and page.within(item, "strong")
    }
    failed, unfinished, broken = items["stl:task=left seed 0"], items["uw seed 3"], items["mgda seed 0"]
    again = f"accord run quadratic:EXPERIMENT --preset broken --methods stl:task=left --seeds 0 --store '{store.root}'"
    assert again in failed.text
    assert "after unit 2: DataError: unit 3 was told to fail" in failed.text
    assert "Traceback" in failed.text
    assert "1 unit done" in unfinished.text
    assert "--methods uw --seeds 3" in unfinished.text
    assert str(damaged.folder / "result.json") in broken.text
    assert "made anew from the checkpoint" in broken.text
    (table,) = page.classed("comparison")
    assert [row.text for row in page.within(table, "th") if row.get("scope") == "row"] == ["stl", "ls"]


def test_a_store_with_no_finished_run_still_makes_a_page(empty):
    with writing(empty.run(RunKey("quadratic", 1, "smoke", MethodSpec("ls"), 0))) as writer:
        writer.begin({}, threads=1)
        writer.fail(ValueError("out of luck"), 0, {})
    page = Page(make(empty, EXPERIMENT, "smoke"))
    assert "goes on from its last checkpoint, by the call that began it" in page.text
    page = Page(make(empty, EXPERIMENT, "smoke", name="quadratic"))
    assert "No run is done yet" in page.classed("warning")[0].text
    assert not page.classed("comparison")
    assert not page.named("figure")
    assert "out of luck" in page.text
    assert "accord run quadratic --preset smoke --methods ls --seeds 0" in page.text


def test_a_run_without_a_finite_number_is_shown_and_drawn(empty):
    for method, value in (("ls", float("nan")), ("mgda", 2.0), ("uw", float("inf"))):
        values = {"left/distance": value, "right/distance": 1.0}
        put(empty, EXPERIMENT, method, 0, {"weights": [value, 1.0], "conflict": None, "metrics": values})
    page = Page(make(empty, EXPERIMENT, "smoke"))
    (table,) = page.classed("comparison")
    rows = {page.within(row, "th")[0].text: row for row in page.within(table, "tr") if row.inside("tbody")}
    assert "nan" in rows["ls"].text
    assert sum(cell.get("data-v") is None for cell in page.within(rows["ls"], "td")) > 1
    assert "Metrics over training" in [heading.text for heading in page.named("h3")]


def test_a_method_that_diverged_is_not_the_best_at_the_end(empty):
    for task in ("left", "right"):
        put(empty, EXPERIMENT, f"stl:task={task}", 0, {"metrics": {f"{task}/distance": 1.0}})
    both = {"left/distance": 1.5, "right/distance": 1.5}
    put(empty, EXPERIMENT, "uw", 0, {"weights": [1.0, 1.0], "metrics": both})
    diverged = empty.run(RunKey("quadratic", 1, "smoke", MethodSpec("ls"), 0))
    with writing(diverged) as writer:
        writer.begin({}, threads=1)
        for unit, value in enumerate((1.1, 1.1, math.nan), 1):
            metrics = both | {"left/distance": value}
            writer.append({"unit": unit, "steps": 10, "seconds": 0.1, "metrics": metrics})
        writer.finish({"metrics": metrics})
    page = Page(make(empty, EXPERIMENT, "smoke"))
    (figure,) = [e for e in page.named("figure") if e.get("aria-labelledby") == "progress-title"]
    heads = [cell.text for cell in page.within(figure, "th") if cell.get("scope") == "row"]
    cells = [cell.text for cell in page.within(figure, "td")]
    assert dict(zip(heads, cells, strict=True)) == {"ls": "nan", "uw": "50"}
    (label,) = [e.get("aria-label") for e in page.within(figure, "svg") if e.get("role") == "img"]
    assert label.endswith("it ends between 50 and 50 %; 1 ended without a finite value")


def test_a_single_task_has_a_page(empty):
    one = replace(EXPERIMENT, tasks=EXPERIMENT.tasks[:1], baseline=False)
    record = {"metrics": {"left/distance": 1.0}, "conflict": math.nan, "cosine": math.nan, "cosines": []}
    put(empty, one, "mgda", 0, record)
    assert "Conflict" not in [heading.text for heading in Page(make(empty, one, "smoke")).named("h2")]


def test_a_method_keeps_its_look_where_another_has_no_number(empty):
    for method, value in {"ls": math.nan, "mgda": 2.0, "nash-mtl": 1.0}.items():
        put(empty, EXPERIMENT, method, 0, {"metrics": {"left/distance": value, "right/distance": 1 / value}})
    page = Page(make(empty, EXPERIMENT, "smoke", fronts=("left", "right")))
    (front,) = [e for e in page.named("figure") if e.get("aria-labelledby") == "front-title"]
    assert "Without both numbers: ls." in front.text
    looks = [
        {item.text: page.within(item, "svg")[0] for item in page.within(figure, "li")}
        for figure in page.named("figure")
        if figure.get("aria-labelledby") in ("front-title", "metrics-title")
    ]
    colours = [
        {name: next(e.get("style") for e in page.within(svg, "line", "path")) for name, svg in each.items()}
        for each in looks
    ]
    for name in ("mgda", "nash-mtl"):
        found = {each[name].split("(")[1].split(")")[0] for each in colours}
        assert len(found) == 1


def test_without_error_bars_a_caption_says_why(empty):
    for method, seeds in {"ls": (0, 1), "uw": (0,)}.items():
        for seed in seeds:
            put(empty, EXPERIMENT, method, seed, {"metrics": {"left/distance": 1.0, "right/distance": 2.0}})
    text = Page(make(empty, EXPERIMENT, "smoke")).text
    assert "fewer than two seeds that all methods have, so that there are no error bars" in text


def test_what_is_not_there_is_the_report_s_own_error(empty):
    for preset, kind in (("smokey", UnknownNameError), ("slow", StoreError)):
        with pytest.raises(kind) as told:
            summarise(empty, EXPERIMENT, preset)
        with pytest.raises(kind) as here:
            make(empty, EXPERIMENT, preset)
        assert str(here.value) == str(told.value)


def test_a_page_is_written_whole_or_not_at_all(empty, tmp_path, monkeypatch):
    put(empty, EXPERIMENT, "ls", 0, {"metrics": {"left/distance": 1.0, "right/distance": 2.0}})
    quadratic = empty, EXPERIMENT
    path = tmp_path / "new" / "page.html"
    assert write_page(path, *quadratic, "smoke") == path
    whole = path.read_bytes()
    assert whole.endswith(b"</html>\n")

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accord.bench.files.write_all", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_page(path, *quadratic, "smoke", fronts=("left", "right"))
    assert path.read_bytes() == whole
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


def test_a_comparison_of_one_s_own_has_a_page_too(tmp_path):
    problem = small_problem.Small(small_problem.Settings(epochs=2))
    accord.compare(problem, ["stl", "ls", "uw"], store=tmp_path / "runs")
    experiment = experiment_of(problem, ["stl", "ls", "uw"])
    text = make(Store(tmp_path / "runs"), experiment, "given", fronts=("up", "down/hits"))
    assert "up/abs_err against down/hits" in [heading.text for heading in Page(text).named("h3")]
    assert "accord run" not in text
