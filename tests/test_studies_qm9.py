"""The studies on the experiment that the papers made most of them on, with real molecules."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from accord.bench import studies
from accord.bench.data.qm9_source import source_folder
from accord.bench.experiments.qm9 import EXPERIMENT, PRESETS
from accord.errors import DependencyError

pytest.importorskip("rdkit")
try:
    source_folder()
except DependencyError:
    pytest.skip("the data set is not installed", allow_module_level=True)

SHORT = dataclasses.replace(EXPERIMENT, presets={"smoke": dataclasses.replace(PRESETS["smoke"], epochs=1)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(tmp_path_factory.mktemp("cache")))
        EXPERIMENT.prepare(PRESETS["smoke"])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield tmp_path_factory.mktemp("store") / "runs"
        torch.set_num_threads(threads)


QUICK = ("update-every", "singular-value", "cheaper-gramians", "static-weights")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in studies.names()]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_runs_on_qm9_and_draws_its_figures(name: str, store: Path, tmp_path: Path) -> None:
    report = studies.run_study(studies.load(name), SHORT, "smoke", (0,), store)
    assert report.failed == ()
    assert all(line.row is not None for line in report.lines)
    if report.study.measured:
        assert all(line.row.delta_m is not None for line in report.lines if line.row is not None)
    drawn = {path.stem for path in studies.draw_study(report, tmp_path)}
    assert drawn >= {stem for stem, _ in report.study.figures} - {"ccp-progress"}  # one epoch is no progress


def test_the_first_epochs_gramians_are_those_of_the_runs(store: Path) -> None:
    report = studies.run_study(studies.load("singular-value"), SHORT, "smoke", (0,), store)
    for line in report.lines:
        (record,) = line.runs[0].records()
        assert 0 < record["singular"]["min"] <= record["singular"]["mean"]
        assert 0 < record["singular_cosines"]["mean"] < 1
