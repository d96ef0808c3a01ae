"""The site is whole: every public name has its place, notebooks run, pictures and numbers are what they claim to be."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import accord

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API = sorted((DOCS / "api").glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
RESULTS = ROOT / "benchmarks" / "results"
LARGEST = 32_000  # bytes of a picture

PACKAGES = ["accord", *(f"accord.{part.name}" for part in pkgutil.iter_modules(accord.__path__))]
PACKAGES = [name for name in PACKAGES if name not in ("accord.__main__", "accord.bench")]  # bench: see its own test
MEMBERS = re.compile(
    r"^\.\. auto(?:class|function|data|module):: (\S+)$|^\.\. py:data:: (\S+)$|^\.\. currentmodule:: (\S+)$"
)


def exported(package: str) -> list[str]:
    """The public names of a package; of a module without ``__all__``, what it defines."""
    module = importlib.import_module(package)
    own = [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == package]
    return list(getattr(module, "__all__", own))


def resolved(name: str) -> Any:
    """The object at a dotted name: an attribute where there is one, else a module."""
    first, *parts = name.split(".")
    found: Any = importlib.import_module(first)
    for part in parts:
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def documented() -> Iterator[str]:
    """The full name of everything that a directive of the API pages documents."""
    for page in API:
        home = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            match = MEMBERS.match(line)
            if match is None:
                continue
            auto, data, current = match.groups()
            if current:
                home = current
            elif line.startswith(".. automodule"):
                yield auto
                yield from (f"{auto}.{name}" for name in exported(auto))
            else:
                yield f"{home}.{auto or data}"


@pytest.fixture(scope="module")
def places() -> dict[str, Any]:
    """Full name to object, of all that is documented; each name exists."""
    names = list(documented())
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    return {name: resolved(name) for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_api(package: str, places: dict[str, Any]) -> None:
    objects = {id(thing) for thing in places.values() if isinstance(thing, type | ModuleType) or callable(thing)}
    for name in exported(package):
        thing = resolved(f"{package}.{name}")
        if isinstance(thing, ModuleType) and thing.__name__ in PACKAGES:
            continue  # a package with a page of its own, which this test looks at too
        assert f"{package}.{name}" in places or id(thing) in objects, f"{package}.{name} is on no page of docs/api"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_says_what_it_is(package: str) -> None:
    for name in exported(package):
        thing = resolved(f"{package}.{name}")
        if isinstance(thing, type | ModuleType) or inspect.isroutine(thing):
            own = thing.__doc__
        else:
            own = below(package, name) or on_the_page(package, name)
        assert (own or "").strip(), f"{package}.{name} has no docstring"
        if inspect.isclass(thing):
            for part, value in vars(thing).items():
                if not part.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    assert inspect.getdoc(value), f"{package}.{name}.{part} has no docstring"


def below(package: str, name: str) -> str:
    """The string that stands below an assignment in a module's source."""
    body = ast.parse(inspect.getsource(importlib.import_module(package))).body
    for statement, after in itertools.pairwise(body):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(getattr(target, "id", "") == name for target in targets) and isinstance(after, ast.Expr):
            return str(ast.literal_eval(after.value))
    return ""


def on_the_page(package: str, name: str) -> str:
    """What the API pages say of a value that cannot have a docstring where it is."""
    pattern = rf"^\.\. py:data:: {name}\n(?:   :.*\n)*\n((?:   .+\n)+)"
    where = DOCS / "api" / f"{package.rpartition('.')[2]}.md"
    match = re.search(pattern, where.read_text(encoding="utf-8"), flags=re.MULTILINE) if where.exists() else None
    return "" if match is None else match[1]


def test_the_overview_lists_all_that_the_package_exports() -> None:
    text = (DOCS / "api" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   ~accord\.(\w+)$", text, flags=re.MULTILINE))
    modules = {name for name in accord.__all__ if isinstance(getattr(accord, name), ModuleType)}
    assert listed == set(accord.__all__) - modules
    assert modules <= set(re.findall(r"\[accord\.(\w+)\]", text))


def test_every_guide_is_in_the_list_of_guides_and_every_notebook_in_its_own() -> None:
    for folder, suffix in (("guides", ".md"), ("notebooks", ".ipynb")):
        text = (DOCS / folder / "README.md").read_text(encoding="utf-8")
        linked = set(re.findall(rf"\]\(([\w-]+{re.escape(suffix)})\)", text))
        assert linked == {path.name for path in (DOCS / folder).glob(f"*{suffix}")} - {"README.md"}
    toctree = re.search(r"```\{toctree\}\n(.+?)```", (DOCS / "notebooks" / "README.md").read_text(), flags=re.DOTALL)
    assert toctree is not None
    assert {path.stem for path in NOTEBOOKS} == {line for line in toctree[1].split() if not line.startswith(":")}


# ---------------------------------------------------------------------- notebooks


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file = target.partition("#")[0]
        assert target.startswith("http") or (path.parent / file).exists(), target


def run_notebook(path: Path, changes: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the cells in this process, after replacing text that must be there."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        for cell in cells(path, "code"):
            source = "".join(cell["source"])
            for old in [old for old in changes or {} if old in source]:
                source = source.replace(old, changes.pop(old))  # type: ignore[union-attr]
            exec(compile(source, str(path), "exec"), space)
    finally:
        pyplot.close("all")
    assert not changes, f"not in {path.name}: {list(changes or {})}"
    return space


def test_the_toy_notebook_runs() -> None:
    space = run_notebook(DOCS / "notebooks" / "toy.ipynb", {"STEPS, LR = 1000, 2e-2": "STEPS, LR = 20, 2e-2"})
    assert space["paths"]["nash-mtl"]["A"].shape == (20, 4)


def test_the_qm9_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython", reason="comes with accord[docs]; the documentation's build runs the notebook too")
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv("ACCORD_NOTEBOOK_PRESET", "smoke")
    monkeypatch.setenv("ACCORD_NOTEBOOK_STORE", str(tmp_path))
    try:
        space = run_notebook(DOCS / "notebooks" / "qm9.ipynb")
    finally:
        torch.set_num_threads(threads)
    assert [row.method for row in space["found"].rows] == list(space["METHODS"])


# ---------------------------------------------------------------------- pictures of the concepts


@pytest.fixture(scope="module")
def drawing() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("draw_concepts")
    finally:
        sys.path.remove(str(DOCS))


def test_the_concepts_pictures_kept_are_those_drawn(drawing: ModuleType) -> None:
    kept = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "concepts" / "pictures").iterdir()}
    assert set(kept) == set(drawing.DRAWINGS)
    for name, svg in kept.items():
        assert len(svg.encode()) < LARGEST, name
        assert drawing.draw(name) == svg, f"{name}: run `python docs/draw_concepts.py` and look at what changed"
        page = (DOCS / "concepts" / f"{name}.md").read_text(encoding="utf-8")
        assert re.search(rf"!\[[^]]{{60,}}\]\(pictures/{name}\.svg\)", page), (
            f"{name}: no picture with alternative text"
        )


def test_conflict_harms_only_with_unequal_lengths(drawing: ModuleType) -> None:
    harmed = {"AGREE": False, "CONFLICT": False, "UNEQUAL": True}
    opposed = {"AGREE": False, "CONFLICT": True, "UNEQUAL": True}
    for name in harmed:
        rows = getattr(drawing, name)
        assert (rows[0] @ rows[1] < 0) == opposed[name]
        assert bool((rows @ rows.mean(0) < 0).any()) == harmed[name]


def test_each_agreement_is_best_at_what_it_is_said_to_be(drawing: ModuleType) -> None:
    turns = np.linspace(0.0, 2 * np.pi, 100_001)
    gains = np.stack([np.cos(turns), np.sin(turns)], 1) @ drawing.BARGAIN.T  # of all directions of length 1
    total, product, smallest = (drawing.BARGAIN @ found[0] for found in drawing.agreements(drawing.BARGAIN).values())
    positive = gains[(gains > 0).all(1)]
    assert total.sum() == pytest.approx(gains.sum(1).max(), rel=1e-6)
    assert product.prod() == pytest.approx(positive.prod(1).max(), rel=1e-6)
    assert smallest.min() == pytest.approx(gains.min(1).max(), rel=1e-3)


def test_paths_end_on_the_pareto_set_at_different_points(drawing: ModuleType) -> None:
    optimal = drawing.pareto_set()
    for point in optimal:
        slopes = drawing.slopes(point)
        across = slopes[0, 0] * slopes[1, 1] - slopes[0, 1] * slopes[1, 0]  # 0 where they lie on one line
        assert abs(across) <= 1e-9 * max(1.0, np.abs(slopes).max() ** 2)
        assert slopes[0] @ slopes[1] <= 1e-9
    start = np.array([-0.4, 1.7])
    ends = [
        drawing.path(start, weigh)[-1]
        for weigh in (lambda rows: np.ones(2), lambda rows: accord.solvers.nash(rows @ rows.T).weights)
    ]
    for end in ends:
        assert np.linalg.norm(optimal - end, axis=1).min() < 0.1
    assert np.linalg.norm(ends[0] - ends[1]) > 0.5


# ---------------------------------------------------------------------- numbers and commands


def section(title: str) -> str:
    text = (DOCS / "choosing.md").read_text(encoding="utf-8")
    return text.partition(f"### {title}")[2].partition("\n### ")[0]


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("QM9", "2026-11-22-qm9-laptop-seeds"),
        ("MultiMNIST", "2026-11-23-multimnist-laptop"),
        ("ToxCast-40", "2026-11-23-toxcast40-laptop"),
    ],
)
def test_the_evidence_is_that_of_the_results(title: str, file: str) -> None:
    text = section(title)
    assert f"`{file}.md`" in text
    measured = {row["method"]: row for row in json.loads((RESULTS / f"{file}.json").read_text())["rows"]}
    header, *lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    rows = [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines[1:]]
    checked = 0
    for cells_ in rows:
        name = re.match(r"`([^`]+)`", cells_[0])
        assert name is not None
        found = measured[name[1]]
        for column, cell in zip(columns, cells_, strict=True):
            key = {"Δm%": "delta_m", "mean rank": "mean_rank", "left %": "left/accuracy", "right %": "right/accuracy"}
            if column not in key or found[key[column]] is None:
                continue
            places = len(cell.split(" ±")[0].partition(".")[2])
            scale = 100 if column.endswith(" %") and found[key[column]] <= 1 else 1
            said = f"{scale * found[key[column]]:.{places}f}".replace("-", "−")
            if (error := found.get(f"{key[column]} ±")) is not None:
                said += f" ± {scale * error:.{places}f}"
            assert cell == said, f"{title}, {name[1]}, {column}"
            checked += 1
    assert checked >= 8


def test_the_start_names_what_is_there() -> None:
    text = (DOCS / "start.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"-e '\.\[(\w+)\]'", text)) <= set(extras)
    commands = re.findall(r"^\$ pip install (.+)$", text, flags=re.MULTILINE)
    assert commands[:2] == ["-c constraints.txt torch numpy", "-c constraints.txt -e '.[bench]'"]
    assert (ROOT / "constraints.txt").exists()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-c constraints.txt torch numpy" in makefile  # the page goes the way that `make` goes


@pytest.mark.slow
def test_the_site_builds_and_its_index_has_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="comes with accord[docs]; `make docs` installs it")
    options = ["-W", "--keep-going", "-q", "-D", "nb_execution_mode=off", "-d", str(tmp_path / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from sphinx.util.inventory import InventoryFile

    with (tmp_path / "html" / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, target: target)
    listed = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    for package in PACKAGES:
        for name in exported(package):
            thing = resolved(f"{package}.{name}")
            home = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
            assert {f"{package}.{name}", f"accord.{name}", home} & listed or isinstance(thing, ModuleType), name
