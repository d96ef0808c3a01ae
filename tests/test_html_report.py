"""The HTML report: whole, safe and readable for everyone, whatever the store holds; its numbers are the report's."""

import base64
import hashlib
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from accord.bench import cli
from accord.bench.html import page as make
from accord.bench.html import palette
from accord.bench.html.material import collect, duration, rank_errors
from accord.bench.html.table import sortables
from accord.bench.reading import select
from accord.bench.report import summarise
from accord.bench.spec import MethodSpec, RunKey
from accord.bench.store import Store
from accord.bench.writing import writing
from accord.errors import DataError
from support.pages import Page, trained

STL = ("stl", "ls", "mgda", "nash-mtl")


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory):
    """Three methods and single-task learning with two seeds: everything is there but trajectories."""
    return trained(tmp_path_factory.mktemp("store") / "quadratic", "quadratic", STL, (0, 1))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Metrics of both directions, weights of losses alone, one seed."""
    return trained(tmp_path_factory.mktemp("store") / "small", "small", ("stl", "ls", "uw"), preset="short")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy problem: no baseline, and trajectories."""
    return trained(tmp_path_factory.mktemp("store") / "toy", "toy", ("ls", "nash-mtl"))


@pytest.fixture(scope="module")
def texts(quadratic, small, toy):
    """One page of each."""
    presets = {"quadratic": "smoke", "small": "short", "toy": "smoke"}
    made = {"quadratic": quadratic, "small": small, "toy": toy}
    return {name: make(*made[name], presets[name]) for name in made}


@pytest.fixture(params=["quadratic", "small", "toy"])
def text(request, texts):
    return texts[request.param]


@pytest.fixture
def empty(tmp_path):
    return Store(tmp_path / "runs", create=True)


# What holds for every page


def test_ids_are_unique_and_every_reference_is_answered(text):
    page = Page(text)
    ids = [element.get("id") for element in page.elements if element.get("id")]
    assert len(set(ids)) == len(ids)
    links = [element.get("href") for element in page.elements if element.get("href") and element.name != "image"]
    labels = [element.get("aria-labelledby") for element in page.elements if element.get("aria-labelledby")]
    clips = re.findall(r"url\(#([^)]+)\)", text)
    assert len(links) > 5
    assert clips
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} | set(labels) | set(clips) <= set(ids)


def test_headings_are_in_order_and_sections_are_named(text):
    page = Page(text)
    levels = [int(element.name[1]) for element in page.named("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(element.text for element in page.named("h1", "h2", "h3"))
    assert len(page.named("main")) == len(page.named("header")) == 1
    assert page.named("html")[0].get("lang") == "en"
    assert page.named("title")[0].text


def test_every_figure_has_a_text_alternative(text):
    page = Page(text)
    figures = page.named("figure")
    assert len(figures) >= 3
    for figure in figures:
        (caption,) = page.within(figure, "figcaption")
        assert caption.text
        pictures = [svg for svg in page.within(figure, "svg") if svg.get("aria-hidden") != "true"]
        assert pictures
        for picture in pictures:
            assert picture.get("role") == "img"
            assert len(picture.get("aria-label")) > 20
        assert page.within(figure, "table"), "its numbers as a table"
    for svg in page.named("svg"):
        assert svg.get("aria-hidden") == "true" or svg.get("role") == "img"


def test_tables_have_captions_and_scopes(text):
    page = Page(text)
    for table in page.named("table"):
        assert page.within(table, "caption")[0].text
        assert all(head.get("scope") in ("row", "col") for head in page.within(table, "th"))
        width = len(page.within(table, "thead")[0] and [h for h in page.within(table, "th") if h.inside("thead")])
        for row in page.within(table, "tr"):
            assert len(page.within(row, "th", "td")) == width
    for region in page.classed("scroll"):
        assert (region.get("role"), region.get("tabindex")) == ("region", "0")
        assert region.get("aria-label")


def test_nothing_is_loaded_from_elsewhere_and_only_this_script_may_run(text):
    page = Page(text)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert not page.named("link", "iframe", "object", "embed", "base")
    assert all(
        element.get(
            "src",
        ).startswith("data:image/png")
        for element in page.named("img")
    )
    assert not [name for element in page.elements for name in element.attributes if name.startswith("on")]
    (script,) = page.named("script")
    digest = base64.b64encode(hashlib.sha256("".join(script.pieces).encode()).digest()).decode()
    (policy,) = [m.get("content") for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")


def test_colours_are_the_page_s_own_in_every_figure_that_the_page_draws(text):
    for style in re.findall(r'<(?:path|text|use|g)[^>]* style="([^"]*)"', text):
        for colour in re.findall(r"#[0-9a-f]{6}", style):
            assert colour not in palette.VARIABLES, style


def test_the_same_store_gives_the_same_bytes(quadratic, toy, texts):
    assert make(*quadratic, "smoke") == texts["quadratic"]
    assert make(*toy, "smoke") == texts["toy"]


def test_matplotlib_is_left_as_it_was(small):
    import matplotlib

    before = dict(matplotlib.rcParams)
    make(*small, "short")
    assert dict(matplotlib.rcParams) == before


# Numbers


@pytest.mark.parametrize("name", ["quadratic", "small", "toy"])
def test_the_table_has_every_number_of_the_report_in_full(name, texts, request):
    store, experiment = request.getfixturevalue(name)
    report = summarise(store, experiment, "short" if name == "small" else "smoke")
    page = Page(texts[name])
    (table,) = page.classed("comparison")
    heads = [head.text for head in page.within(table, "th") if head.inside("thead")]
    rows = [row for row in page.within(table, "tr") if row.inside("tbody")]
    assert [page.within(row, "th")[0].text for row in rows] == [row.method for row in report.rows]
    for line, row in zip(rows, report.rows, strict=True):
        shown = [cell.get("data-v") for cell in page.within(line, "td")]
        numbers = [None if value is None else float(value) for value in shown]
        wanted = [value.mean for value in row.metrics.values()]
        wanted += [row.seconds_per_step, float(row.seeds), row.mean_rank, row.residual, row.unsolved]
        wanted += [row.delta_m.mean] if row.delta_m else []
        assert {value for value in wanted if value is not None} <= set(numbers)
        assert len(numbers) == len(heads) - 1


def test_what_sums_a_method_up_comes_first_and_the_best_is_bold(quadratic, texts):
    page = Page(texts["quadratic"])
    (table,) = page.classed("comparison")
    heads = [head.text for head in page.within(table, "thead") for head in page.within(table, "th")][:4]
    assert heads[0] == "method"
    assert heads[1].startswith("mean rank")
    assert heads[2].startswith("Δm (%)")
    assert "lower is better" in heads[2]
    report = summarise(*quadratic, "smoke")
    best = min((row for row in report.rows if row.delta_m), key=lambda row: row.delta_m.mean)
    (line,) = [row for row in page.within(table, "tr") if page.within(row, "th")[0].text == best.method]
    assert f"{best.delta_m.mean:.2f}" in [bold.text for bold in page.within(line, "strong")]


def test_the_texts_of_cells_are_those_of_the_terminal(quadratic):
    from accord.bench import tables

    material = collect(*quadratic, "smoke")
    metrics, summary = tables.columns(material.report)
    assert sorted(map(repr, (each.column for each in sortables(material)))) == sorted(map(repr, [*metrics, *summary]))


def test_columns_say_which_way_is_better_and_sort_the_best_first(texts):
    page = Page(texts["small"])
    heads = {head.text: head for head in page.named("th") if head.get("data-first")}
    (hits,) = [head for name, head in heads.items() if name.startswith("down/hits")]
    (error,) = [head for name, head in heads.items() if name.startswith("down/abs_err")]
    assert "higher is better" in hits.text
    assert "lower is better" in error.text
    assert (hits.get("data-first"), error.get("data-first")) == ("descending", "ascending")


def test_rank_errors_are_standard_errors_over_seeds(quadratic):
    store, experiment = quadratic
    each = [
        {
            row.method: row.mean_rank
            for row in summarise(store, experiment, "smoke", select(*quadratic, "smoke", (), [seed])).rows
        }
        for seed in (0, 1)
    ]
    for method, error in rank_errors(collect(*quadratic, "smoke")).items():
        assert error == pytest.approx(abs(each[0][method] - each[1][method]) / 2)
    assert set(rank_errors(collect(*quadratic, "smoke"))) == {"ls", "mgda", "nash-mtl"}


def test_one_seed_has_no_error_bars_and_the_page_says_so(texts):
    assert "one seed, so that there are no error bars" in texts["small"]
    assert "the bars are standard errors over seeds" in texts["quadratic"]


def test_the_page_says_what_was_run_when_and_with_which_code(quadratic, texts):
    page, run = Page(texts["quadratic"]), next(iter(quadratic[0].runs("quadratic", 1, "smoke")))
    attempt = run.info()["attempts"][0]
    shown = {term.text: text.text for term, text in zip(page.named("dt"), page.named("dd"), strict=True)}
    assert shown["Preset"] == "smoke"
    assert shown["Seeds"] == "0, 1"
    assert shown["Runs"] == "10 done"
    assert shown["Trained"].startswith(attempt["started"][:10])
    assert attempt["torch"] in shown["Versions"]
    assert (attempt["commit"] or "not known")[:9] in shown["Commit"]


@pytest.mark.parametrize(("seconds", "text"), [(1.46, "1.5 s"), (200, "3 min 20 s"), (7500.2, "2 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


# Figures


def headings(text):
    return [element.text for element in Page(text).named("h3")]


def test_every_figure_that_the_runs_allow_is_there(texts):
    both = ["left/distance against right/distance", "Task weights over training", "Conflict over training"]
    start = ["Δm", "Mean rank", "Δm over training", "Metrics over training"]
    assert headings(texts["quadratic"]) == [*start, *both]
    descents = ["Descents in the plane", "Descents in the space of losses"]
    assert headings(texts["toy"])[-2:] == descents
    assert "Δm" not in headings(texts["toy"])  # it has no baseline


def test_without_evaluations_on_the_way_the_training_losses_are_drawn(empty, quadratic):
    experiment = quadratic[1]
    metrics = {"left/distance": 1.0, "right/distance": 2.0}
    store, last = empty, RunKey("quadratic", 1, "smoke", MethodSpec("ls"), 0)
    with writing(store.run(last)) as writer:
        writer.begin({}, threads=1)
        for unit in (1, 2):
            writer.append({"unit": unit, "steps": 5, "seconds": 0.1, "train_loss": {"left": 3.0 / unit, "right": 1.0}})
        writer.finish({"metrics": metrics})
    page = Page(make(store, experiment, "smoke"))
    assert [heading.text for heading in page.named("h3")] == ["Training losses"]
    assert [title.text for title in page.classed("panel-title")] == ["left ↓", "right ↓"]


def test_series_can_be_told_apart_and_belong_to_the_legend(texts):
    page = Page(texts["quadratic"])
    legends = page.classed("legend")
    assert legends
    listed = {item.get("data-key") for legend in legends for item in page.within(legend, "li")}
    drawn = {element.get("data-key") for element in page.classed("series")}
    assert drawn - {"stl"} <= listed
    named = {title.text for series in page.classed("series") for title in page.within(series, "title")}
    assert {"ls", "mgda", "nash-mtl", "left", "right"} <= named


def test_the_experiment_s_own_figures_are_on_the_page(quadratic):
    from accord.bench.plots import save

    store, experiment = quadratic

    def draws(preset, runs, folder):
        from matplotlib.figure import Figure

        small, large = Figure(), Figure()
        small.subplots().plot([0, 1], [0, len(runs)], label="a <b>")
        large.subplots().scatter(*np.random.default_rng(0).random((2, 5000)))
        return [save(small, folder, "a-line"), save(large, folder, "points")]

    text = make(store, replace(experiment, figures=draws), "smoke")
    page = Page(text)
    assert headings(text)[-2:] == ["A line", "Points"]
    assert [image.get("alt") for image in page.named("img")] == ["Points, as quadratic draws it"]
    assert len(text) < 500_000

    def refuses(preset, runs, folder):
        raise DataError("frames <are> not here: make them")

    text = make(store, replace(experiment, figures=refuses), "smoke")
    assert "frames &lt;are&gt; not here: make them" in text
    assert headings(text)[-1] == "Not drawn"


# The command


def command(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_writes_the_page(capsys, toy, tmp_path):
    path = tmp_path / "toy.html"
    common = ["report", "toy", "--preset", "smoke", "--store", str(toy[0].root)]
    code, out, err = command(
        capsys, *common, "--html", str(path), "--fronts", "L1/A", "L2/E", "--methods", "ls", "nash-mtl"
    )
    assert (code, out, err) == (0, "", f"written to {path}\n")
    assert "L1/A against L2/E" in headings(path.read_text())
    page = Page(path.read_text())
    assert [heading.text for heading in page.named("h1")] == ["toy, preset smoke"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--html", "a.html", "--out", "b"], "leave out --format and --out"),
        (["--html", "a.html", "--format", "csv"], "leave out --format and --out"),
        (["--fronts", "L1/A", "L2/A"], "name the page's file with --html"),
        (["--html", "a.html", "--fronts", "L1/A", "L3/A"], "no metric 'L3/A'"),
        (["--html", "a.html", "--preset", "laptop"], "no runs of toy version 1 with preset 'laptop'"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(capsys, toy, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "report", "toy", "--preset", "smoke", "--store", str(toy[0].root), *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert not list(tmp_path.iterdir())
