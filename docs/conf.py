"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path
from typing import Any

import accord

HERE = Path(__file__).parent

project = "accord"
author = "The accord authors"
copyright = "The accord authors. MIT licence"
version = release = accord.__version__

extensions = ["myst_parser", "sphinxcontrib.bibtex", "sphinx.ext.mathjax"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

html_theme = "furo"
html_title = f"accord {version}"
html_copy_source = False
html_show_sourcelink = False


def draw_pictures(app: Any) -> None:
    """Draw the methods' pictures that are not up to date."""
    del app
    sys.path.insert(0, str(HERE))
    try:
        from draw_methods import draw_all
    finally:
        sys.path.remove(str(HERE))
    draw_all()


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", draw_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
