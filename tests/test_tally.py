"""What an epoch's record says of its steps: recomputed from the gradients themselves."""

import numpy as np
import pytest
import torch

import accord
from accord.bench.tally import Tally

TASKS = ("a", "b", "c", "d")


def noted(jacobians):
    """The record of steps whose losses are linear, so that their gradients are the rows."""
    balancer = accord.make("mgda", tasks=TASKS)
    tally = Tally(TASKS)
    for jacobian in jacobians:
        x = torch.ones(jacobian.shape[1], dtype=jacobian.dtype, requires_grad=True)
        losses = [row @ x for row in jacobian]
        tally.add(losses, balancer.backward(losses, [x]), 0.1)
    return tally.record()


def test_cosines_are_those_of_the_gradients_pair_by_pair():
    jacobians = torch.randn(5, 4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    record = noted(jacobians)
    unit = jacobians / jacobians.norm(dim=-1, keepdim=True)
    each = np.array([[float(u[i] @ u[j]) for i in range(4) for j in range(i + 1, 4)] for u in unit])
    assert record["cosines"] == pytest.approx(each.mean(0), abs=1e-5)
    assert record["cosine"] == pytest.approx(each.mean())
    assert record["conflict"] == pytest.approx((each < 0).mean())


def test_a_task_without_a_gradient_agrees_with_none_and_opposes_none():
    jacobian = torch.eye(4, dtype=torch.float64)
    jacobian[2] = 0
    assert noted([jacobian])["cosines"] == [0.0] * 6


def test_without_gramians_there_are_no_cosines():
    tally = Tally(TASKS)
    tally.add([torch.tensor(1.0)] * 4, None, 0.1)
    assert tally.record()["cosines"] is None


def test_one_task_has_no_pairs_and_no_conflict():
    x = torch.ones(3, requires_grad=True)
    tally = Tally(("a",))
    tally.add([x.sum()], accord.make("mgda", tasks=("a",)).backward([x.sum()], [x]), 0.1)
    record = tally.record()
    assert [record[name] for name in ("conflict", "cosine", "cosines")] == [None, None, None]
