"""The pages of docs/methods say what the classes say, and their pictures are what the library computes."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import accord
from accord.balancers.gramian import GramianOptions
from accord.balancers.registry import balancer_class

DOCS = Path(__file__).parents[1] / "docs"
METHODS = DOCS / "methods"
BUILT_IN = [name for name in accord.available() if balancer_class(name).__module__.startswith("accord.")]
WRAPPERS = ("alpha-fair", "cr-mogm")
LARGEST = 25_000  # bytes of a picture


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_methods", DOCS / "draw_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def page_of(name: str) -> str:
    return (METHODS / f"{name}.md").read_text(encoding="utf-8")


def table() -> dict[str, list[str]]:
    """The cells of the overview's rows, by method."""
    text = (METHODS / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \[`", line)]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {re.match(r"\[`([\w-]+)`\]\(([\w-]+)\.md\)", row[0])[1]: row for row in cells}  # type: ignore[index]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_has_a_page_in_one_form(name: str) -> None:
    text, cls = page_of(name), balancer_class(name)
    facts = text.splitlines()[2]
    assert facts.startswith(f"`{name}` · `accord.{cls.__name__}` · needs: ")
    assert getattr(accord, cls.__name__) is cls
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert sections == ["In code", "When to use it", "When not to", "Options and published variants", "Reference"]
    assert text.count("$$") == 2
    assert re.search(rf"^!\[[^]]{{40,}}\]\(pictures/{name}\.svg\)$", text, flags=re.MULTILINE), "picture with alt text"
    block = re.search(r"```python\n(.+?)```", text, flags=re.DOTALL)
    assert block is not None
    assert name in block[1] or cls.__name__ in block[1]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_page_names_every_option_with_its_default(name: str) -> None:
    section = page_of(name).partition("## Options")[2]
    shared = ("tasks", "update_every", "max_norm", "heads")
    for option in inspect.signature(balancer_class(name)).parameters.values():
        if option.name == "tasks" or option.name in set(GramianOptions.__annotations__) - set(shared):
            continue  # what all Gramian methods share stands in the overview alone
        row = next((line for line in section.splitlines() if line.startswith("|") and f"`{option.name}`" in line), "")
        assert row, option.name
        if option.name not in shared:
            names = re.findall(r"`(\w+)`", row.split("|")[1])
            shown = row.split("|")[2].split(", ")[names.index(option.name)].strip(" `\"'")
            words = {None: ("none", "ones", "zeros", "1/K each"), True: ("yes",), False: ("no",)}
            default = option.default
            if default is None or isinstance(default, bool):
                assert shown in words[default], option.name
            else:
                assert shown == str(default) or float(shown) == default, option.name


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_overview_says_what_the_class_says(name: str) -> None:
    balancer = accord.make(name, 3)
    _, cls, needs, cost, descent, homogeneity = table()[name]
    assert cls == f"`{type(balancer).__name__}`"
    assert needs == balancer.needs
    assert cost == balancer.cost
    assert re.match(r"yes|no", descent)[0] == ("yes" if balancer.descent else "no")  # type: ignore[index]
    if homogeneity == "none":
        assert balancer.homogeneity is None
    else:
        assert balancer.homogeneity == pytest.approx(float(Fraction(homogeneity.replace("−", "-"))))


@pytest.mark.parametrize("name", [n for n in BUILT_IN if n not in WRAPPERS])
def test_a_page_says_what_the_class_says(name: str) -> None:
    balancer = accord.make(name, 3)
    facts = page_of(name).splitlines()[2]
    assert f" · needs: {balancer.needs} · cost: {balancer.cost} · hurts no task: " in facts
    assert facts.partition("hurts no task: ")[2].startswith("yes" if balancer.descent else "no")


def test_the_overview_lists_what_is_built_in_and_nothing_else() -> None:
    assert sorted(table()) == sorted(BUILT_IN)
    pages = {path.stem for path in METHODS.glob("*.md")} - {"README", "feature-level"}
    assert pages == set(BUILT_IN)
    assert {path.name for path in (METHODS / "pictures").iterdir()} == {f"{name}.svg" for name in BUILT_IN}


def test_every_document_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(.+?)```", index, flags=re.DOTALL)
    entries = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    documents = {
        str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md") if "_build" not in path.parts
    }
    assert len(entries) == len(set(entries))
    assert set(entries) == documents - {"index"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_picture_kept_is_the_one_drawn(name: str, drawing: ModuleType) -> None:
    kept = (METHODS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert len(kept.encode()) < LARGEST
    assert drawing.draw(name) == kept, "run `python docs/draw_methods.py` and look at what changed"


@pytest.mark.parametrize("name", [n for n in BUILT_IN if accord.make(n, 3).descent])
def test_a_promise_shows_in_the_picture(name: str, drawing: ModuleType) -> None:
    for problem in (drawing.TWO, drawing.THREE):
        d, _ = drawing.direction(name, problem)
        assert (problem.gradients @ d >= -1e-12 * np.linalg.norm(d)).all()


def test_the_shaded_cone_is_that_of_directions_that_hurt_no_task(drawing: ModuleType) -> None:
    for problem in (drawing.TWO, drawing.THREE):
        products = problem.gradients @ drawing.cone(problem.gradients).T
        assert (np.diagonal(products) > 0).all()
        assert np.abs(products - np.diag(np.diagonal(products))).max() < 1e-12


def test_local_links_lead_somewhere() -> None:
    for path in DOCS.rglob("*.md"):
        if "_build" in path.parts:
            continue
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith("http"):
                file, _, anchor = target.partition("#")
                linked = path.parent / file if file else path
                assert linked.exists(), f"{path.name}: {target}"
                if anchor:
                    headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
                    slugs = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
                    assert anchor in slugs, f"{path.name}: {target}"


def test_every_paper_of_a_page_is_in_the_references() -> None:
    listed = set(re.findall(r"arXiv:(\d{4}\.\d{5})", (DOCS / "references.bib").read_text(encoding="utf-8")))
    for path in METHODS.glob("*.md"):
        assert set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", path.read_text(encoding="utf-8"))) <= listed, path.name


def test_the_overview_names_the_options_that_gramian_methods_share() -> None:
    section = (METHODS / "README.md").read_text().partition("## Options they share")[2].partition("\n## ")[0]
    for option in GramianOptions.__annotations__:
        assert f"`{option}" in section, option
