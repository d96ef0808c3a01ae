"""The QM9 network: equal to PyTorch Geometric's layers, in outputs and in gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accord.bench.data.graphs import GraphBatch, Graphs
from accord.bench.data.molecules import Molecules
from accord.bench.models.qm9 import EdgeConv, QM9Net

geometric = pytest.importorskip("torch_geometric.nn")


def molecules(sizes: list[int], seed: int = 0) -> Molecules:
    """Chains of atoms of random kinds, with random geometry."""
    rng = np.random.default_rng(seed)
    atoms = sum(sizes)
    chain = [(i, i + 1) for n in sizes for i in range(n - 1)]
    return Molecules(
        index=np.arange(len(sizes), dtype=np.int32),
        sizes=np.array(sizes, np.uint8),
        atoms=np.column_stack(
            [rng.choice([1, 6, 7, 8, 9], atoms), *(rng.integers(0, top, atoms) for top in (2, 4, 5))]
        ).astype(np.uint8),
        positions=rng.normal(0, 2, (atoms, 3)).astype(np.float32),
        bond_counts=np.array(sizes, np.uint8) - 1,
        bonds=np.column_stack([np.array(chain).reshape(-1, 2), rng.integers(1, 5, len(chain))]).astype(np.uint8),
        targets=rng.normal(size=(len(sizes), 3)),
    )


SIZES = [5, 9, 3, 9, 12, 5, 9, 7, 3, 4, 11, 9]


def make(dtype: torch.dtype, group: int) -> tuple[Graphs, GraphBatch]:
    graphs = Graphs(molecules(SIZES), dtype=dtype)
    return graphs, graphs.batch(torch.arange(len(SIZES)), group)


def edge_lists(batch: GraphBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of real atoms, the molecule of each, and PyG's (2, E) edges with their (E, 5) features."""
    rows, owner = batch.atoms, batch.owner
    number = torch.full((sum(batch.rows),), -1)
    number[rows] = torch.arange(len(rows))
    ends, features, base = [], [], 0
    for edges, count in zip(batch.edges, batch.rows, strict=True):
        m, i, j = torch.nonzero(edges[..., -1], as_tuple=True)
        n = edges.shape[1]
        ends.append(torch.stack([base + m * n + j, base + m * n + i]))  # from j to i
        features.append(edges[m, i, j, :5] / edges[m, i, j, 5:])
        base += count
    return rows, owner, number[torch.cat(ends, 1)], torch.cat(features)


class Published(torch.nn.Module):
    """The same network from PyTorch Geometric's layers, a matrix per edge, with copied weights."""

    def __init__(self, net: QM9Net, batch: GraphBatch) -> None:
        super().__init__()
        trunk, width, hidden = net.trunk, net.trunk.conv.width, net.trunk.conv.hidden
        dtype = trunk.embed.weight.dtype
        edge_net = torch.nn.Sequential(
            torch.nn.Linear(5, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, width * width)
        )
        self.conv = geometric.NNConv(width, width, edge_net, aggr="mean").to(dtype)
        self.gru = torch.nn.GRU(width, width).to(dtype)
        self.pool = geometric.Set2Set(width, processing_steps=3).to(dtype)
        self.net = net
        trunk.conv.copy_from(self.conv)
        self.gru.load_state_dict({f"{k}_l0": v for k, v in trunk.gru.state_dict().items()})
        self.pool.load_state_dict(trunk.pool.state_dict())

    def forward(self, batch: GraphBatch) -> tuple[torch.Tensor, ...]:
        rows, owner, edge_index, edge_attr = edge_lists(batch)
        out = torch.relu(self.net.trunk.embed(batch.nodes[rows]))
        state = out[None]
        for _ in range(3):
            message = torch.relu(self.conv(out, edge_index, edge_attr))
            out, state = self.gru(message[None], state)
            out = out[0]
        pooled = self.pool(out, owner, dim_size=len(batch))
        shared = torch.relu(self.net.trunk.out(pooled))
        return tuple(head(shared)[:, 0] for head in self.net.heads)


@pytest.mark.parametrize("group", [1, 4, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_convolution_equals_nnconv(dtype: torch.dtype, tolerance: float, group: int) -> None:
    _, batch = make(dtype, group)
    torch.manual_seed(1)
    width, hidden = 6, 10
    net = torch.nn.Sequential(torch.nn.Linear(5, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, width * width))
    reference = geometric.NNConv(width, width, net, aggr="mean").to(dtype)
    torch.nn.init.normal_(reference.bias)
    conv = EdgeConv(width, hidden).to(dtype)
    conv.copy_from(reference)
    rows, _, edge_index, edge_attr = edge_lists(batch)
    x = torch.randn(sum(batch.rows), width, dtype=dtype, requires_grad=True)
    ours = conv(x, conv.filters(batch), batch)[rows]
    theirs = reference(x[rows], edge_index, edge_attr)
    assert_close(ours, theirs, tolerance)
    cotangent = torch.randn_like(theirs)
    parameters = [
        net[0].weight,
        net[0].bias,
        net[2].weight,
        net[2].bias,
        reference.lin.weight,
        reference.bias,
    ]
    wanted_x, *wanted = torch.autograd.grad(theirs, [x, *parameters], cotangent)
    got_x, edge, message, root, bias = torch.autograd.grad(
        ours, [x, conv.edge, conv.message, conv.root.weight, conv.root.bias], cotangent
    )
    assert_close(got_x, wanted_x, tolerance)
    message = message.view(width, hidden + 1, width)
    got = [
        edge[:-1].t(),
        edge[-1],
        message[:, :-1].transpose(1, 2).reshape(width * width, hidden),
        message[:, -1].reshape(-1),
        root,
        bias,
    ]
    for ours_, theirs_ in zip(got, wanted, strict=True):
        assert_close(ours_, theirs_, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_network_equals_published(dtype: torch.dtype, tolerance: float) -> None:
    _, batch = make(dtype, 4)
    torch.manual_seed(3)
    net = QM9Net(3, width=8, hidden=12).to(dtype)
    reference = Published(net, batch)
    ours, theirs = net(batch), reference(batch)
    shared = list(net.trunk.embed.parameters()) + list(net.trunk.out.parameters())
    recurrent = list(net.trunk.gru.parameters()) + list(net.trunk.pool.parameters())
    copies = list(reference.gru.parameters()) + list(reference.pool.parameters())
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, tolerance)
        got = torch.autograd.grad(a.sum(), [*shared, *recurrent], retain_graph=True)
        wanted = torch.autograd.grad(b.sum(), [*shared, *copies], retain_graph=True)
        for mine, other in zip(got, wanted, strict=True):
            assert_close(mine, other, tolerance)


def test_padding_and_grouping_change_nothing() -> None:
    torch.manual_seed(4)
    net = QM9Net(2, width=8, hidden=12).double()
    exact, padded = (net(make(torch.float64, group)[1]) for group in (1, 100))
    for a, b in zip(exact, padded, strict=True):
        assert_close(a, b, 1e-13)


def test_batched_vjps_equal_sequential() -> None:
    _, batch = make(torch.float64, 4)
    torch.manual_seed(5)
    net = QM9Net(4, width=8, hidden=12).double()
    losses = torch.stack([p.square().mean() for p in net(batch)])
    parameters = list(net.trunk.parameters())
    batched = torch.autograd.grad(
        losses, parameters, torch.eye(4, dtype=torch.float64), is_grads_batched=True, retain_graph=True
    )
    for task, loss in enumerate(losses):
        for row, one in zip(batched, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            assert_close(row[task], one, 1e-12)


def test_a_loss_reaches_the_trunk_and_its_own_head_alone() -> None:
    _, batch = make(torch.float32, 4)
    net = QM9Net(3, width=8, hidden=12)
    net(batch)[1].square().mean().backward()
    assert all(p.grad is not None for p in net.trunk.parameters())
    assert [head.weight.grad is not None for head in net.heads] == [False, True, False]


def test_published_size() -> None:
    assert sum(p.numel() for p in QM9Net(11).trunk.parameters()) == 616_960


def test_features_and_edges() -> None:
    _, batch = make(torch.float64, 100)
    data = molecules(SIZES)
    assert batch.chosen.tolist() == sorted(range(len(SIZES)), key=lambda m: SIZES[m])
    assert torch.equal(batch.targets, torch.from_numpy(data.targets)[batch.chosen])
    starts = np.cumsum([0, *SIZES])
    bonds = np.cumsum([0, *(n - 1 for n in SIZES)])
    (edges,) = batch.edges
    for m, chosen in enumerate(batch.chosen.tolist()):
        n = SIZES[chosen]
        atoms = data.atoms[starts[chosen] : starts[chosen + 1]]
        place = data.positions[starts[chosen] : starts[chosen + 1]].astype(np.float64)
        features = batch.nodes[batch.atoms[batch.owner == m]].numpy()
        assert (features[:, :5].argmax(1) == [[1, 6, 7, 8, 9].index(z) for z in atoms[:, 0]]).all()
        assert (features[:, 5:7] == atoms[:, :2]).all()
        assert (features[:, 7:10] @ [1, 2, 3] == atoms[:, 2]).all()
        assert (features[:, 10] == atoms[:, 3]).all()
        full = edges[m].numpy() * (n - 1)
        distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
        np.testing.assert_allclose(full[:n, :n, 4], distance, rtol=1e-12, atol=1e-12)
        assert (full[:n, :n, 5].round(12) == 1 - np.eye(n)).all()
        assert not full[n:].any()
        assert not full[:, n:].any()
        wanted = np.zeros((n, n, 4))
        for i, j, kind in data.bonds[bonds[chosen] : bonds[chosen + 1]]:
            wanted[i, j, kind - 1] = wanted[j, i, kind - 1] = 1
        np.testing.assert_allclose(full[:n, :n, :4], wanted, atol=1e-12)


def test_batches_cover_every_molecule_once() -> None:
    graphs, _ = make(torch.float32, 4)
    seen = torch.cat([batch.chosen for batch in graphs.batches(torch.randperm(len(graphs)), 5)])
    assert sorted(seen.tolist()) == list(range(len(SIZES)))


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    """Equal relative to the largest entry."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-30)
