"""The experiment's own figures: the toy's as panels of the page, all others as the experiment draws them."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from accord.bench.html.drawing import Drawing, Panel
from accord.bench.html.fragments import Markup, tag
from accord.bench.html.material import Material
from accord.bench.html.svg import adopt
from accord.bench.html.trajectories import trajectory_figures
from accord.bench.plots import style
from accord.errors import AccordError

LARGEST = 300_000
"""Bytes of a figure as vectors; a larger one is embedded as a picture."""


def own_figures(material: Material) -> list[Drawing]:
    """What the experiment draws of its finished runs; where it cannot, a text that says why.

    Such a figure has colours of its own, made for white paper: it keeps them.
    """
    experiment = material.experiment
    if experiment.figures is None or not material.done:
        return []
    if experiment.name == "toy":
        return trajectory_figures(material)
    try:
        vectors = _drawn(material, "svg")
        pictures = _drawn(material, "png") if any(len(data) > LARGEST for data in vectors.values()) else {}
    except AccordError as error:  # such as data that are not on this machine
        return [Drawing("own", "Not drawn", str(error), [])]
    found = []
    for i, (stem, data) in enumerate(vectors.items()):
        title = stem.replace("-", " ").capitalize()
        label = f"{title}, as {experiment.name} draws it"
        large = len(data) > LARGEST
        image = _picture(pictures[stem], label) if large else adopt(data, f"own-{i}", label, themed=False)
        found.append(
            Drawing(f"own-{i}", title, f"Drawn by the experiment {experiment.name}.", [Panel(image)], paper=True)
        )
    return found


def _drawn(material: Material, kind: str) -> dict[str, bytes]:
    """``{stem: file}``."""
    import matplotlib

    experiment = material.experiment
    assert experiment.figures is not None
    with tempfile.TemporaryDirectory(prefix="accord-") as folder, style(kind):
        plain = {"svg.fonttype": "none", "figure.facecolor": "white", "axes.facecolor": "white"}
        with matplotlib.rc_context(plain):
            paths = experiment.figures(experiment.presets[material.report.preset], material.done, Path(folder))
        return {path.stem: path.read_bytes() for path in paths}


def _picture(data: bytes, label: str) -> Markup:
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return tag("img", src=source, alt=label)
