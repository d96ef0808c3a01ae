"""How Sphinx builds the documentation: ``make docs``.

Pictures are drawn and notebooks executed by the build. A warning is an error there (``-W``).
"""

import dataclasses
import importlib
import inspect
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import accord

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the modules that draw

project = "accord"
author = "The accord authors"
copyright = "The accord authors. MIT licence"
version = release = accord.__version__

extensions = [
    "myst_nb",  # reads Markdown too
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinxcontrib.bibtex",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
suppress_warnings = ["mystnb.unknown_mime_type"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

nb_execution_mode = "force"  # whenever the page is read; a build that finds it unchanged does not read it
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_output_stderr = "remove"  # progress bars, and warnings of torch-geometric about torch
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables
# Trained runs are kept here, so that only the first build trains; accord.bench takes no run of other settings.
os.environ.setdefault("ACCORD_NOTEBOOK_STORE", str(HERE / "_build" / "runs"))

html_theme = "furo"
html_title = f"accord {version}"
html_copy_source = False
html_show_sourcelink = False

_KEPT: dict[str, list[str]] = {}
_LITERAL = re.compile(r"(``.+?``)", re.DOTALL)
_MARK = re.compile(r"(?<!\\)\||(?<![\\*\w])\*(?=[a-z_]+\.\w)")


def draw_pictures(app: Any) -> None:
    """Draw the pictures that are not up to date."""
    del app
    for module in ("draw_methods", "draw_concepts"):
        importlib.import_module(module).draw_all()


def keep_attribute(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon, which takes what stands before the first colon of an attribute's docstring for its type."""
    del app, thing, options
    if what in ("attribute", "data"):
        _KEPT[name] = list(lines)


def mend(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """After napoleon: the signature's types, and mathematics that is not markup."""
    del app, options
    lines[:] = _KEPT.pop(name, lines)
    if what == "class" and not dataclasses.is_dataclass(thing):
        lines[:] = [line for line in lines if not line.startswith(":type ")]
        lines[:] = [each for line in lines for each in (*_own_type(thing, line), line)]
    # Docstrings write |x| and (K, *shape) for people; in reStructuredText both would be markup.
    parts = _LITERAL.split("\n".join(lines))
    parts[::2] = [_MARK.sub(lambda mark: "\\" + mark[0], part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def _own_type(cls: type, line: str) -> list[str]:
    """The type of the argument that a line describes, where an attribute of the same name has another (``tasks``).

    Both napoleon and Sphinx take the annotation of the class for that of the constructor.
    """
    match = re.match(r":param (\w+):", line)
    parameter = inspect.signature(cls).parameters.get(match[1]) if match else None
    if parameter is None or not any(parameter.name in vars(base).get("__annotations__", {}) for base in cls.__mro__):
        return []
    return [f":type {parameter.name}: {parameter.annotation}"]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
    app.connect("builder-inited", draw_pictures)
    app.connect("autodoc-process-docstring", keep_attribute, priority=400)
    app.connect("autodoc-process-docstring", mend, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
