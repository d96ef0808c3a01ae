"""Every row of Nash-MTL's Table 4, and every other balancer, on MT10 at ``smoke``: ten environments, real steps."""

import math

import pytest
import torch

pytest.importorskip("metaworld", reason="needs accord[rl]")

from accord.bench.experiments import load
from accord.bench.methods import METHODS
from accord.bench.runner import run
from accord.bench.spec import MethodSpec
from accord.bench.store import Store

MT10 = load("mt10")
ROWS = [method for method in MT10.methods if method != "stl"]
OTHERS = [method for method in METHODS if method not in ("stl", *ROWS)]


@pytest.mark.parametrize("method", [*ROWS, *OTHERS, "cagrad:c=0.9,net=care", "nash-mtl:net=soft-modular"])
def test_a_row_runs(method, tmp_path):
    (outcome,) = run(MT10, "smoke", [method], store=tmp_path / "runs")
    assert (outcome.status, outcome.cause) == ("done", "")
    done = Store(tmp_path / "runs").run(outcome.key)
    metrics = done.result()["metrics"]
    assert set(metrics) == {f"{task.name}/success" for task in MT10.tasks}
    assert all(0 <= value <= 1 for value in metrics.values())
    trained = [record for record in done.records() if record["steps"]]
    assert trained
    for record in trained:
        assert all(math.isfinite(loss) for loss in record["train_loss"].values())
        assert sum(record["outcomes"].values()) == record["steps"]


def test_single_tasks_run(tmp_path):
    found = run(MT10, "smoke", ["stl:task=reach-v3", "stl:task=peg-insert-side-v3"], store=tmp_path / "runs")
    assert [outcome.status for outcome in found] == ["done", "done"]


def test_fifty_tasks_update():
    """MT50's learner, whose fifty environments the other tests need not make."""
    trial = load("mt50").trial(load("mt50").presets["smoke"], MethodSpec.parse("nash-mtl"), 0)
    torch.manual_seed(0)
    batch = {"state": torch.randn(50, 4, 39), "after": torch.randn(50, 4, 39), "reward": torch.randn(50, 4)}
    update = trial.learner.update({**batch, "action": torch.rand(50, 4, 4)})
    assert update.critic.outcome == "solved"
    assert update.critic.residual < 1e-8
