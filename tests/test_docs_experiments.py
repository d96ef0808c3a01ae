"""The list of experiments, tables and figures in the docs is what the package has."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from accord.bench import experiments, published

DOCS = Path(__file__).parents[1] / "docs"
README = DOCS / "experiments/README.md"


@pytest.fixture(scope="module")
def listing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("list_experiments", DOCS / "list_experiments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_up_to_date(listing):
    expected = listing.written(README.read_text(encoding="utf-8"))
    assert README.read_text(encoding="utf-8") == expected, "run: python docs/list_experiments.py"


def test_every_item_has_its_command_on_the_page():
    text = README.read_text(encoding="utf-8")
    commands = re.findall(r"\| `accord reproduce (\S+?)( --no-run)?` \|", text)
    assert tuple(name for name, _ in commands) == published.ids()
    for name, printed_only in commands:
        item = published.load(name)
        assert bool(printed_only) == (item.experiment is not None and item.experiment not in experiments.names())


def test_links_lead_to_pages():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
