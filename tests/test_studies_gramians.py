"""Singular values and recorded Gramians: against the gradients themselves, and against the definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import accord
from accord.bench import studies
from accord.bench.report import Value
from accord.bench.runner import plan, run
from accord.bench.spec import MethodSpec
from accord.bench.store import Store
from accord.bench.studies import ccp
from accord.bench.studies.recording import recording
from accord.bench.tally import Tally
from accord.errors import OptionError
from support.studied import EXPERIMENT, TASKS, Three, experiment_of


def stacked(losses: dict[str, torch.Tensor], parameters: list[torch.Tensor]) -> np.ndarray:
    """The gradients of the losses, (K, P), one by one."""
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses.values()]
    return np.stack([torch.cat([part.flatten() for part in row]).double().numpy() for row in rows])


def smallest(rows: np.ndarray) -> float:
    """The smallest singular value of the Gramian of these rows."""
    return float(np.linalg.svd(rows, compute_uv=False)[-1] ** 2)


def test_an_epoch_keeps_mean_and_minimum_of_the_smallest_singular_value_of_the_gramian() -> None:
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(5, 7), torch.nn.Linear(7, 4)
    balancer, tally = accord.NashMTL(tasks=4), Tally("abcd")
    whole, unit = [], []
    for _ in range(5):
        x, y = torch.randn(9, 5), torch.randn(9, 4)
        losses = dict(zip("abcd", (heads(trunk(x).tanh()) - y).square().mean(0), strict=True))
        rows = stacked(losses, list(trunk.parameters()))
        whole.append(smallest(rows))
        unit.append(smallest(rows / np.linalg.norm(rows, axis=1, keepdims=True)))
        tally.add(list(losses.values()), balancer.backward(losses, trunk), 0.0)
    record = tally.record()
    assert record["singular"] == pytest.approx({"mean": np.mean(whole), "min": np.min(whole)}, rel=1e-5)
    assert record["singular_cosines"] == pytest.approx({"mean": np.mean(unit), "min": np.min(unit)}, rel=1e-5)


def test_dependent_gradients_have_none_and_gradients_that_are_not_finite_are_left_out() -> None:
    x = torch.ones(3, requires_grad=True)

    def tallied(second: torch.Tensor) -> dict[str, Any]:
        tally, losses = Tally("ab"), [x.sum(), second]
        tally.add(losses, accord.MGDA(tasks=2).backward(losses, [x]), 0.0)
        return tally.record()

    assert tallied(2.0 * x.sum())["singular"]["min"] == pytest.approx(0.0, abs=1e-12)
    with pytest.warns(accord.errors.NumericalWarning, match="not finite"):
        assert tallied((x.sum() - 3.0).sqrt())["singular"] is None  # a loss of 0 with an infinite gradient


def test_a_method_without_a_gramian_has_no_singular_value() -> None:
    trial = EXPERIMENT.trial(EXPERIMENT.presets["smoke"], MethodSpec("ls"), 0)
    assert trial.advance()["singular"] is None


def test_the_first_epoch_of_a_run_is_that_of_the_stacked_gradients(tmp_path: Path) -> None:
    experiment = experiment_of(Three, epochs=1, batches=1)
    report = studies.run_study(studies.load("singular-value"), experiment, "smoke", (0,), tmp_path / "runs")
    trial = experiment.trial(experiment.presets["smoke"], MethodSpec("nash-mtl"), 0)
    (batch,) = trial.training.batches  # pyrefly: ignore
    losses = trial.problem.losses(batch)  # pyrefly: ignore
    wanted = smallest(stacked(losses, list(trial.training.shared.parameters())))  # pyrefly: ignore
    (table,) = report.tables
    row = table.rows[0]
    assert row[0] == "nash-mtl"
    for cell in row[1:4]:  # first epoch, last epoch, least
        assert isinstance(cell, Value)
        assert cell.mean == pytest.approx(wanted, rel=1e-4)


def test_runs_from_before_singular_values_were_kept_are_named(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    run(EXPERIMENT, "smoke", ["mgda"], (0,), store)
    (key,) = plan(EXPERIMENT, "smoke", ["mgda"], (0,))
    file = Store(store).run(key).folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    old = [{k: v for k, v in record.items() if not k.startswith("singular")} for record in records]
    file.write_text("".join(json.dumps(record) + "\n" for record in old))
    report = studies.run_study(studies.load("singular-value"), EXPERIMENT, "smoke", (0,), store)
    assert [note for note in report.notes if "runs of mgda have no singular values" in note and "--fresh" in note]
    row = next(row for row in report.tables[0].rows if row[0] == "mgda")
    assert row[1] is None


# Recorded Gramians


def test_recording_leaves_the_training_as_it_is_and_keeps_the_gradients_products(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    kept = recording(EXPERIMENT, most=1)
    run(EXPERIMENT, "smoke", ["nash-mtl"], (0,), store)
    run(kept, "smoke", ["nash-mtl"], (0,), store)
    (plain,), (recorded,) = (plan(each, "smoke", ["nash-mtl"], (0,)) for each in (EXPERIMENT, kept))
    results = [Store(store).run(key).result()["metrics"] for key in (plain, recorded)]
    assert results[0] == results[1]
    records = Store(store).run(recorded).records()
    assert [np.shape(record["gramians"]) for record in records] == [(1, 3, 3)] * 3
    trial = EXPERIMENT.trial(EXPERIMENT.presets["smoke"], MethodSpec("nash-mtl"), 0)
    losses = trial.problem.losses(trial.training.batches[0])  # pyrefly: ignore
    rows = stacked(losses, list(trial.training.shared.parameters()))  # pyrefly: ignore
    np.testing.assert_allclose(records[0]["gramians"][0], rows @ rows.T, rtol=1e-5)


def test_a_trial_without_a_gramian_is_refused(tmp_path: Path) -> None:
    (outcome,) = run(recording(EXPERIMENT, 1), "smoke", ["ls"], (0,), tmp_path / "runs")
    assert outcome.status == "failed"
    assert "no balancer of a Gramian" in outcome.cause
    with pytest.raises(OptionError):
        recording(EXPERIMENT, 1).trial(EXPERIMENT.presets["smoke"], MethodSpec("ls"), 0)


def test_more_programs_solve_more_gramians_and_forty_solve_these(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    report = studies.run_study(studies.load("ccp"), EXPERIMENT, "smoke", (0,), store)
    context = studies.Context(EXPERIMENT, "smoke", (0,), store)
    blocks = ccp.gramians_of(context)
    assert [len(block) for block in blocks] == [2, 2, 2]  # three epochs of two steps
    for tried in report.data:
        assert len(tried.residuals) == 6
        assert (tried.cosines <= 1 + 1e-9).all()
        if tried.programs == 40 and not tried.first_term:
            assert tried.solved == 1.0
            np.testing.assert_allclose(tried.cosines, 1.0, atol=1e-9)
    by_programs = {tried.programs: tried.solved for tried in report.data if not tried.first_term}
    assert list(by_programs.values()) == sorted(by_programs.values())


def test_residuals_are_those_of_the_definition() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 6)) * [[1.0], [3.0], [0.1], [1.0]]
    gramian = rows @ rows.T
    tried = ccp.attempt([[gramian]], 1, first_term=True)
    weights = accord.solvers.nash_ccp(gramian, None, 1, True).weights
    assert tried.residuals[0] == pytest.approx(np.abs(weights * (gramian @ weights) - 1).max())
    exact = accord.solvers.nash(gramian).weights
    a, b = rows.T @ weights, rows.T @ exact
    assert tried.cosines[0] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_stationary_gramian_is_not_counted() -> None:
    assert len(ccp.attempt([[np.array([[1.0, -1.0], [-1.0, 1.0]])]], 5, first_term=True).residuals) == 0


def test_the_solver_is_started_from_the_last_steps_weights() -> None:
    rows = np.random.default_rng(1).normal(size=(len(TASKS), 5))
    gramian = rows @ rows.T
    twice = ccp.attempt([[gramian, gramian]], 1, first_term=False)
    apart = ccp.attempt([[gramian], [gramian]], 1, first_term=False)
    assert apart.residuals[0] == apart.residuals[1] == twice.residuals[0]
    started = ccp.attempt([[gramian, gramian]], 1, first_term=True)
    assert started.residuals[1] < started.residuals[0]
