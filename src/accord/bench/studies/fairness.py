"""How fair should FairGrad be?"""

from __future__ import annotations

from collections.abc import Sequence

from accord.bench.studies.columns import COST, DELTA, EPOCH, RANK, SEEDS
from accord.bench.studies.drawing import curves
from accord.bench.studies.study import Context, Setting, Study

ALPHAS = ("0.25", "0.5", "1", "2", "5", "10", "inf")
"""2 is that of the published scripts; 1 has Nash-MTL's direction, inf that of MGDA up to its length."""


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(alpha, f"fairgrad:alpha={alpha}") for alpha in ALPHAS]


STUDY = Study(
    name="fairgrad-alpha",
    title="FairGrad with different fairness α",
    source="the parameter of Ban and Ji, ICML 2024; the search of the paper was not found, its scripts have α = 2",
    question="Between the plain sum (α = 0) and the max-min direction (α = ∞): which α is best?",
    knob="alpha",
    settings=_settings,
    columns=(DELTA, RANK, COST, EPOCH, SEEDS),
    figures=(("fairgrad-alpha", curves),),
    references=("ls", "nash-mtl", "mgda"),
)
