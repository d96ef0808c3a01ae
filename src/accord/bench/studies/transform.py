"""Does the α-fair transform of the losses help other methods?"""

from __future__ import annotations

from collections.abc import Sequence

from accord.bench.studies.columns import COST, DELTA, EPOCH, RANK, SEEDS
from accord.bench.studies.drawing import curves
from accord.bench.studies.study import Context, Setting, Study

METHODS = ("ls", "rlw", "dwa", "uw", "mgda", "pcgrad", "cagrad")
ALPHAS = ("0", "0.5", "1")
LOGARITHM = "1"


def _settings(context: Context) -> Sequence[Setting]:
    """The plain methods at α = 0; UW not at 1, where its objective has no minimum once a loss is below 1."""
    found = []
    for method in METHODS:
        for alpha in ALPHAS:
            if alpha == "0":
                found.append(Setting(alpha, method, method))
            elif not (method == "uw" and alpha == LOGARITHM):
                found.append(Setting(alpha, f"alpha-fair:of={method},alpha={alpha}", method))
    return found


STUDY = Study(
    name="alpha-fair",
    title="the α-fair transform of the losses around seven methods",
    source="Ban and Ji, ICML 2024 (the idea is in its abstract; its values of α and its gains were not found)",
    question="What does training on l^(1−α)/(1−α), log l at α = 1, change for methods that know nothing of fairness?",
    knob="alpha",
    settings=_settings,
    columns=(DELTA, RANK, COST, EPOCH, SEEDS),
    figures=(("alpha-fair", curves),),
    references=("nash-mtl",),
)
