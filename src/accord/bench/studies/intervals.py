"""How seldom can the weights be updated? Figure 4 of the Nash-MTL paper, and the schedule that chooses for itself."""

from __future__ import annotations

from collections.abc import Sequence

from accord.bench.studies.columns import COST, DELTA, RANK, SEEDS, SOLVES
from accord.bench.studies.drawing import against_cost, curves
from accord.bench.studies.study import Context, Setting, Study

INTERVALS = (1, 5, 10, 25, 50, 100, "auto")
"""5 and 50 are the paper's on QM9, 50 and 100 those on MT10; 1 is the plain method."""


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(str(k), f"nash-mtl:update_every={k}") for k in INTERVALS]


STUDY = Study(
    name="update-every",
    title="Nash-MTL with weights updated every k-th step",
    source="Navon et al., ICML 2022, Section 6.4, Figure 4 (QM9) and Table 5 (MT10)",
    question="What does Nash-MTL lose, and what time does it save, if it reuses its weights between every k-th step?",
    knob="update_every",
    settings=_settings,
    columns=(DELTA, RANK, COST, SOLVES, SEEDS),
    figures=(("update-every", curves), ("update-every-cost", against_cost)),
)
