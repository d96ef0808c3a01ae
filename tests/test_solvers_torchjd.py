"""TorchJD's aggregators on gradients that are kind to them: independent, of like norms, away from stationarity."""

import numpy as np
import pytest
import torch
from torchjd import aggregation

from accord.solvers import cagrad, fairgrad, imtl_g, mgda, nash, pcgrad
from gramian_families import jacobian

PEERS = {  # ours, theirs, and to which relative precision theirs is right
    "mgda": (mgda, lambda k: aggregation.MGDA(epsilon=1e-9, max_iters=5000), 1e-3),
    "cagrad c=0.4": (lambda g: cagrad(g, 0.4), lambda k: aggregation.CAGrad(c=0.4), 1e-4),
    "imtl-g": (imtl_g, lambda k: aggregation.IMTLG(), 1e-9),
    "pcgrad": (lambda g: pcgrad(g, np.arange(len(g))), lambda k: aggregation.PCGrad(), 1e-9),
    "fairgrad α=2": (lambda g: fairgrad(g, 2.0), lambda k: aggregation.FairGrad(alpha=2.0), 1e-4),
    "nash-mtl": (nash, lambda k: aggregation.NashMTL(n_tasks=k, max_norm=0.0), 1e-2),
}


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem:UserWarning")
@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("name", PEERS)
def test_the_directions_agree(monkeypatch, name, k):
    monkeypatch.setattr(torch, "randperm", torch.arange)
    ours, theirs, precision = PEERS[name]
    rows = jacobian("random", k, np.random.default_rng(k), p=20)
    expected = theirs(k)(torch.from_numpy(rows)).numpy()
    d = rows.T @ ours(rows @ rows.T).weights
    np.testing.assert_allclose(d, expected, atol=precision * np.linalg.norm(d))


@pytest.mark.parametrize("k", [2, 3, 6])
def test_imtl_g_is_its_published_formula(k):
    """α_2..K = g_1 Uᵀ (D Uᵀ)⁻¹ with rows g_1 − g_i in D and u_1 − u_i in U; α_1 is the rest of 1."""
    rows = jacobian("random", k, np.random.default_rng(k), spread=1.0)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    differences, turns = rows[0] - rows[1:], units[0] - units[1:]
    others = rows[0] @ turns.T @ np.linalg.inv(differences @ turns.T)
    np.testing.assert_allclose(imtl_g(rows @ rows.T).weights, [1 - others.sum(), *others], rtol=1e-9)
