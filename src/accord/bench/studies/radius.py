"""How far may CAGrad's direction be from the mean gradient?"""

from __future__ import annotations

from collections.abc import Sequence

from accord.bench.studies.columns import COST, DELTA, EPOCH, RANK, SEEDS
from accord.bench.studies.drawing import curves
from accord.bench.studies.study import Context, Setting, Study

RADII = ("0.2", "0.4", "0.6", "0.8", "0.9")
"""The first four are those of the paper's Tables 5 and 6; 0.9 is that of its MT10."""


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(c, f"cagrad:c={c}") for c in RADII]


STUDY = Study(
    name="cagrad-c",
    title="CAGrad with different radii c",
    source="Liu et al., NeurIPS 2021, Tables 5 (NYUv2) and 6 (Cityscapes)",
    question="How far may the direction be from the mean gradient (c = 0), relative to its length?",
    knob="c",
    settings=_settings,
    columns=(DELTA, RANK, COST, EPOCH, SEEDS),
    figures=(("cagrad-c", curves),),
)
