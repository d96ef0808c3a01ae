"""Balancing at the representation or at the parameters? Appendix C of the Nash-MTL paper."""

from __future__ import annotations

from collections.abc import Sequence

from accord.bench.studies.columns import COST, DELTA, RANK, SEEDS
from accord.bench.studies.drawing import curves
from accord.bench.studies.study import Context, Setting, Study
from accord.errors import OptionError

METHODS = ("nash-mtl", "cagrad", "mgda", "fairgrad")
PLACES = ("parameters", "features")


def _settings(context: Context) -> Sequence[Setting]:
    return [Setting(place, f"{method}:at={place}", method) for method in METHODS for place in PLACES]


def _check(context: Context) -> None:
    if not context.experiment.at_features:
        raise OptionError(
            f"study 'feature-level' needs a representation that all tasks share, which experiment "
            f"{context.experiment.name!r} does not name; take one that has it, such as qm9"
        )


STUDY = Study(
    name="feature-level",
    title="gradients of the features in the place of those of the shared parameters",
    source="Navon et al., ICML 2022, Appendix C (Nash-MTL on QM9); MGDA-UB of Sener and Koltun, NeurIPS 2018",
    question="What is lost, and what time is saved, if a method balances the gradients of the shared representation?",
    knob="balanced at",
    settings=_settings,
    columns=(DELTA, RANK, COST, SEEDS),
    figures=(("feature-level", curves),),
    check=_check,
)
