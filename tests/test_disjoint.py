"""Tasks with their own samples: rows, Gramians and gradients equal those of K plain backwards, on many models."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import accord
from accord.errors import EngineError
from accord.jacobian.disjoint import disjoint
from support.disjoint_models import MODELS, D, K, Recurrent, batches_for, close, draw, mse, plain, seeded


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch maps attention task by task
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("name", MODELS)
def test_rows_gramian_and_gradients_equal_those_of_k_plain_backwards(name, vectorize):
    build, shape = MODELS[name]
    model = seeded(build)
    before = [id(p) for p in model.parameters()]
    x, y = batches_for(shape, integer=name == "embedding")
    values, rows = plain(model, mse, list(zip(x, y, strict=True)), [p for p in model.parameters() if p.requires_grad])
    statistics = "per-task" if name == "batch norm, no statistics" else None
    jacobian = disjoint(model, mse, (x, y), vectorize=vectorize, statistics=statistics)
    assert jacobian.vectorized is (vectorize is None)
    close(jacobian.gramian(), sum(r.reshape(K, -1) @ r.reshape(K, -1).T for r in rows))
    close(jacobian.values, values)
    for ours, row in zip(jacobian.rows(), rows, strict=True):
        if ours is None:
            assert not row.any()
        else:
            close(ours, row)
    assert [id(p) for p in model.parameters()] == before
    w = torch.tensor([0.3, -2.0, 1.5, 0.1], dtype=D)
    jacobian.accumulate(w, w)
    for p, row in zip(jacobian.parameters, rows, strict=True):
        close(torch.zeros_like(p) if p.grad is None else p.grad, torch.tensordot(w, row, 1))
    if name == "frozen and unused":
        assert model.frozen.weight.grad is None
        assert model.unused.weight.grad is None


@pytest.mark.parametrize("name", ["mlp", "frozen and unused", "tied", "twice", "lstm"])
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("asked", [True, False])
def test_without_rows_a_step_is_the_plain_backward(name, vectorize, asked):
    build, shape = MODELS[name]
    model, twin = seeded(build), seeded(build)
    x, y = batches_for(shape)
    w = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=D)
    losses = [mse(twin, batch) for batch in zip(x, y, strict=True)]
    sum(a * b for a, b in zip(w, losses, strict=True)).backward()
    jacobian = disjoint(model, mse, (x, y), vectorize=vectorize)
    if asked:
        jacobian.wanted = "losses"
        close(jacobian.values, torch.stack(losses).detach())
    jacobian.accumulate(w, w)
    assert jacobian._held is None  # no K rows were made
    close(jacobian.values, torch.stack(losses).detach())
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            close(p.grad, q.grad)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_from_a_common_state_say_so_and_run_in_turn(kind):
    model = seeded(lambda: Recurrent(kind, start=False))
    x, y = batches_for((3, 4))
    with pytest.raises(EngineError, match=r"torch\.zeros_like.*vectorize=False"):
        disjoint(model, mse, (x, y)).gramian()
    _, rows = plain(model, mse, list(zip(x, y, strict=True)), list(model.parameters()))
    close(disjoint(model, mse, (x, y), vectorize=False).rows(), rows)


# ---------------------------------------------------------------------- batches


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class Sample:
    x: Tensor
    y: Tensor


def test_batches_come_in_many_forms():
    model = seeded(MODELS["mlp"][0])
    x, y = batches_for((5,))
    reference = disjoint(model, mse, (x, y)).gramian()
    by_task = {f"t{k}": (x[k], y[k]) for k in range(K)}
    named = disjoint(model, mse, by_task)
    assert named.names == ("t0", "t1", "t2", "t3")
    close(named.gramian(), reference)
    ordered = disjoint(model, mse, by_task, tasks=["t3", "t2", "t1", "t0"])
    close(ordered.gramian(), reference.flip(0, 1))
    forms = {
        "list": ([(x[k], y[k]) for k in range(K)], mse),
        "fields": ({"x": x, "y": y}, lambda m, b: mse(m, (b["x"], b["y"]))),
        "named tuple": (Pair(x, y), lambda m, b: mse(m, (b.x, b.y))),
        "dataclass": (Sample(x, y), lambda m, b: mse(m, (b.x, b.y))),
        "nested": ({"in": {"x": [x], "none": None}, "y": y}, lambda m, b: mse(m, (b["in"]["x"][0], b["y"]))),
        "one tensor": (torch.cat([x, y[..., None]], 2), lambda m, b: mse(m, (b[:, :5], b[:, 5]))),
    }
    for name, (batches, loss_fn) in forms.items():
        for vectorize in (None, False):
            jacobian = disjoint(model, loss_fn, batches, vectorize=vectorize)
            assert jacobian.num_tasks == K, name
            close(jacobian.gramian(), reference)
    one_field_per_task = disjoint(model, lambda m, b: m(b).square().mean(), {"a": x[0], "b": x[1]}, tasks=["b", "a"])
    assert one_field_per_task.names == ("b", "a")
    close(one_field_per_task.values[1], model(x[0]).square().mean().detach())


@pytest.mark.parametrize("spec", ["nash-mtl", "ls", "fairgrad", "nash-mtl:max_norm=1.0", "db-mtl"])
def test_ragged_batches_run_task_by_task(spec):
    model, twin = seeded(MODELS["mlp"][0]), seeded(MODELS["mlp"][0])
    batches = [(draw(n, 5, seed=n), draw(n, seed=n + 1)) for n in (3, 7, 2, 5)]
    jacobian = disjoint(model, mse, batches)
    assert not jacobian.vectorized
    ours = accord.make(spec, K).apply(jacobian)
    theirs = accord.make(spec, K).backward([mse(twin, batch) for batch in batches], twin)
    close(ours.weights, theirs.weights, 1e-9)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        close(p.grad, q.grad, 1e-9)


def test_ragged_batches_keep_one_graph_at_a_time():
    alive, most = [0], [0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            alive[0] -= 1
            return g

    model = nn.Linear(5, 1)
    batches = [(torch.randn(n, 5), torch.randn(n)) for n in (3, 7, 2, 5)]
    for call in (lambda j: j.gramian(), lambda j: j.accumulate([1.0] * K, [2.0] * K)):
        most[0] = 0
        call(disjoint(model, lambda m, b: Counted.apply(mse(m, b)), batches))
        assert (alive[0], most[0]) == (0, 1)


# ---------------------------------------------------------------------- statistics and randomness


def norms():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4, momentum=None)
    )


@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("wanted", ["rows", "losses"])
def test_statistics_per_task_normalise_each_alone_and_move_to_the_mean(vectorize, wanted):
    model = seeded(norms)
    x, y = batches_for((2, 8))
    rows, moved = [], []
    for batch in zip(x, y, strict=True):
        twin = seeded(norms)
        rows.append(torch.autograd.grad(mse(twin, batch), list(twin.parameters())))
        moved.append(dict(twin.named_buffers()))
    jacobian = disjoint(model, mse, (x, y), statistics="per-task", vectorize=vectorize)
    jacobian.wanted = wanted
    assert jacobian.values.shape == (K,)
    for ours, row in zip(jacobian.rows(), zip(*rows, strict=True), strict=True):
        close(ours, torch.stack(row), 1e-11)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            close(buffer, torch.stack([one[name] for one in moved]).mean(0))
        else:
            assert buffer.item() == 1
    model.eval()
    model(x[0])  # the buffers are ordinary tensors again


@pytest.mark.parametrize("vectorize", [None, False])
def test_heads_with_batch_norm_keep_statistics_of_their_own(vectorize):
    def build():
        return nn.ModuleDict(
            {
                "trunk": nn.Linear(5, 4),
                "heads": nn.ModuleList(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)) for _ in range(K)),
            }
        )

    def loss(model, batch, head):
        return mse(lambda x: head(model["trunk"](x)), batch)

    model, twin = seeded(build), seeded(build)
    x, y = batches_for((5,))
    own = list(twin["trunk"].parameters())
    _, rows = plain(twin, loss, list(zip(x, y, strict=True)), own, [twin["heads"]])
    jacobian = disjoint(model, loss, (x, y), heads=model["heads"], vectorize=vectorize)
    close(jacobian.rows(), rows)
    for (name, a), (_, b) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        close(a, b, 1e-12), name


@pytest.mark.parametrize("vectorize", [None, False])
def test_dropout_differs_between_tasks_and_repeats_with_the_seed(vectorize):
    model = nn.Sequential(nn.Linear(4, 300), nn.Dropout(0.25), nn.Linear(300, 1, bias=False)).double()
    nn.init.ones_(model[2].weight)
    x = torch.ones(3, 1, 4, dtype=D)  # the same sample for all tasks: only the masks differ

    def rows():
        return disjoint(model, lambda m, b: m(b).sum(), x, vectorize=vectorize).rows()

    torch.manual_seed(3)
    bias, again = rows()[1], rows()[1]
    torch.manual_seed(3)
    assert torch.equal(bias, rows()[1])
    assert not torch.equal(bias, again)
    kept = bias != 0  # (3, 300)
    close(bias, kept.double() / 0.75)  # the gradient has the forward's mask
    assert 0.65 < kept.double().mean() < 0.85
    assert (kept[0] != kept[1]).any()
    assert (kept[1] != kept[2]).any()
