"""The page itself: sections in order, one file that asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from accord.bench.files import write_atomic
from accord.bench.html import conflicts, courses, palette, standings
from accord.bench.html.drawing import Drawing
from accord.bench.html.fragments import Markup, folded, joined, plain_table, tag
from accord.bench.html.material import LeftOut, Material, collect, facts, settings
from accord.bench.html.own import own_figures
from accord.bench.html.svg import SETTINGS
from accord.bench.html.table import comparison
from accord.bench.spec import Experiment, RunKey
from accord.bench.store import Store, accord_version
from accord.bench.tables import footer
from accord.errors import DependencyError


def write_page(
    path: str | Path,
    store: Store,
    experiment: Experiment,
    preset: str,
    only: Collection[RunKey] | None = None,
    fronts: Sequence[str] | None = None,
    without_baseline: str | None = None,
    name: str | None = None,
) -> Path:
    """Write the page, whole or not at all; the arguments are those of ``page``.

    Raises:
        StoreError: There are no runs, or the disk refuses; an old file is then untouched.
    """
    text = page(store, experiment, preset, only, fronts, without_baseline, name)
    write_atomic(Path(path), text.encode())
    return Path(path)


def page(
    store: Store,
    experiment: Experiment,
    preset: str,
    only: Collection[RunKey] | None = None,
    fronts: Sequence[str] | None = None,
    without_baseline: str | None = None,
    name: str | None = None,
) -> str:
    """Everything that a store says about a preset of an experiment, as one HTML document.

    Failed, unfinished and damaged runs are named with what to do. The same store gives the same text.

    Args:
        store: Where the runs are.
        experiment: Whose runs.
        preset: Which preset.
        only: The runs to take; None for all.
        fronts: The two metrics, as ``"task/metric"``, that are drawn against each other; by default those over which
            the methods disagree most.
        without_baseline: See ``accord.bench.report.summarise``.
        name: The experiment as typed on the command line; without it the page names no commands.

    Raises:
        UnknownNameError: There is no such preset or metric.
        OptionError: The same metric is given twice.
        StoreError: There are no runs.
        DependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise DependencyError("the HTML report needs matplotlib: pip install 'accord[bench]'") from error
    pair = standings.check_pair(experiment, fronts) if fronts else None
    material = collect(store, experiment, preset, only, without_baseline, name)
    with matplotlib.rc_context(SETTINGS):
        figures = [
            ("standing", "Where they stand", [standings.delta_m_figure(material), standings.rank_figure(material)]),
            ("learning", "Learning curves", [courses.progress_figure(material), courses.metrics_figure(material)]),
            ("trade-off", "Trade-off", [standings.front_figure(material, pair)]),
            ("task-weights", "Weights", [courses.weights_figure(material)]),
            ("conflicts", "Conflict", [conflicts.conflict_figure(material), conflicts.pairs_figure(material)]),
            ("own", "Figures of the experiment", own_figures(material)),
        ]
    return _document(material, [(key, title, [f for f in found if f]) for key, title, found in figures])


def _document(material: Material, figures: Sequence[tuple[str, str, Sequence[Drawing]]]) -> str:
    sections: list[tuple[str, str, Markup]] = [("comparison", "Comparison", _comparison(material))]
    for key, title, drawings in figures:
        if drawings:
            several = tag("div", *(drawing.html() for drawing in drawings), class_="drawings")
            sections.append((key, title, several))
    if material.left_out:
        sections.append(("left-out", "Runs that are not in the table", _left_out(material.left_out)))
    sections.append(("made", "How this was made", _made(material)))
    title = f"{material.experiment.name}, preset {material.report.preset}"
    links = [tag("li", tag("a", heading, href=f"#{key}")) for key, heading, _ in sections]
    body = [
        tag("a", "Skip to the table", class_="skip", href="#comparison"),
        tag(
            "header",
            tag("h1", title),
            tag("p", material.experiment.summary, class_="summary"),
            tag("button", "Dark", type="button", id="theme", hidden=True),
            _facts(material),
            _warning(material),
            tag("nav", tag("ul", *links), aria_label="On this page"),
        ),
        tag(
            "main",
            *(
                tag("section", tag("h2", heading, id=key, tabindex=-1), content, aria_labelledby=key)
                for key, heading, content in sections
            ),
        ),
        tag("footer", tag("p", f"Written by accord {accord_version()} from the runs alone.")),
        tag("p", "", id="said", class_="vh", role="status"),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">\n{_head(title)}\n{tag("body", joined(body, chr(10)))}\n</html>\n'


def _head(title: str) -> Markup:
    """With a policy under which a browser loads nothing, and runs this one script alone."""
    script, style = _read("page.js"), palette.css() + _read("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"accord {accord_version()}"),
        tag("title", f"{title} · accord"),
        Markup(f"<style>\n{style}</style>\n<script>{script}</script>"),
    )


def _read(name: str) -> str:
    return (files("accord.bench.html") / name).read_text(encoding="utf-8")


def _facts(material: Material) -> Markup:
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", text)) for term, text in facts(material)), class_="facts")


def _warning(material: Material) -> Markup:
    """What a reader must see before any number."""
    parts: list[Markup] = []
    if not material.done:
        parts.append(tag("p", "No run is done yet, so that there is nothing to compare."))
    if count := len(material.left_out):
        which = f"{count} run{'s are' if count > 1 else ' is'} not in the table: "
        names = ", ".join(f"{run.name} ({run.state})" for run in material.left_out[:3])
        more = f" and {count - 3} more" if count > 3 else ""
        link = tag("a", "what to do", href="#left-out")
        parts.append(tag("p", f"{which}{names}{more}. See ", link, "."))
    parts += [tag("p", f"{note}.") for note in material.report.notes if "synthetic" in note.lower()]
    return tag("div", *parts, class_="warning", role="note", aria_label="Warnings") if parts else Markup("")


def _comparison(material: Material) -> Markup:
    if not material.report.rows:
        return tag("p", "No run is done yet: there is no table.")
    notes = footer(replace(material.report, left_out=()))
    hint = "The buttons in the headings sort; names in the legends below single out a method or a task."
    return joined(
        [
            tag("p", hint, class_="hint", hidden=True, data_script=True),
            comparison(material),
            tag("ul", *(tag("li", note) for note in notes), class_="notes"),
        ]
    )


def _left_out(runs: Sequence[LeftOut]) -> Markup:
    items = []
    for run in runs:
        parts = [tag("p", tag("strong", run.name), f" is {run.state}."), tag("p", run.cause, class_="cause")]
        parts.append(tag("p", run.remedy))
        if run.command:
            parts.append(tag("pre", tag("code", run.command), tabindex=0))
        if run.trace:
            parts.append(folded("Traceback", tag("pre", run.trace, tabindex=0)))
        items.append(tag("li", *parts))
    return tag("ul", *items, class_="left-out")


def _made(material: Material) -> Markup:
    found = settings(material)
    tasks = [
        [task.name, ", ".join(_metric(metric.name, metric.unit, metric.higher_is_better) for metric in task.metrics)]
        for task in material.experiment.tasks
    ]
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
        for name, value in found.items()
    ]
    parts = [folded("Tasks and metrics", plain_table(["task", "metrics"], tasks, "What each task is judged by"))]
    if rows:
        parts.append(folded("Settings of the preset", plain_table(["setting", "value"], rows, "Settings")))
    which = f"{material.experiment.name} version {material.experiment.version}, preset {material.report.preset}."
    return joined([tag("p", which), *parts])


def _metric(name: str, unit: str, higher: bool) -> str:
    return f"{name}{f' ({unit})' if unit else ''}, {'higher' if higher else 'lower'} is better"
