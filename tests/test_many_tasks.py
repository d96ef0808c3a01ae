"""A thousand tasks: every solver of a Gramian answers, and its certificate holds."""

import numpy as np
import pytest

import accord
from accord import solvers

MANY = 1000
OPTIONS = {"gradvac": {"targets": np.zeros((MANY, MANY))}}


@pytest.fixture(scope="module", params=["alike", "spread"])
def gramian(request):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((MANY, 2 * MANY))
    if request.param == "spread":
        rows += rng.standard_normal(2 * MANY)
        rows *= 10.0 ** rng.uniform(-1, 1, (MANY, 1))
    return rows @ rows.T


@pytest.mark.slow
@pytest.mark.parametrize("name", [*solvers.SOLVERS, "nash-mtl ccp"])
def test_a_thousand_tasks_are_solved(gramian, name):
    solve = solvers.nash_ccp if name == "nash-mtl ccp" else solvers.SOLVERS[name]
    random = {"order": np.arange(MANY)} if name in ("pcgrad", "gradvac") else {}
    solution = solve(gramian, **OPTIONS.get(name, {}), **random)
    assert np.isfinite(solution.weights).all()
    if name == "nash-mtl ccp":  # the published sequence need not arrive
        assert solution.outcome in ("solved", "approximate")
        assert (gramian @ solution.weights > 0).all()
    else:
        assert solution.solved
        assert solution.residual <= 1e-8


@pytest.mark.slow
def test_a_thousand_losses_go_through_a_balancer():
    import torch

    x = torch.zeros(1500, requires_grad=True)
    rows = torch.randn(MANY, 1500, generator=torch.Generator().manual_seed(0))
    balance = accord.NashMTL(MANY).backward(rows @ x + 1.0, [x], engine="batched")
    assert balance.solved
    assert float(x.grad.norm()) == pytest.approx(MANY**0.5, rel=1e-4)
