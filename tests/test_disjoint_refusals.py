"""Tasks with their own samples: what could be read in two ways, or would silently mean something else, is refused."""

import operator

import pytest
import torch
from torch import nn

from accord.errors import EngineError, OptionError, ShapeError
from accord.jacobian import sequential
from accord.jacobian.disjoint import disjoint
from accord.jacobian.reduce import Local
from accord.jacobian.taskmodules import check_loss
from support.disjoint_models import close, draw

K, N = 3, 5
X = torch.randn(K, N, 4, generator=torch.Generator().manual_seed(0))


def square(model, batch):
    return model(batch).square().mean()


def linear_loss(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()


def one(length):
    return {"x": torch.randn(length, 4), "y": torch.randn(length, 3)}


# ---------------------------------------------------------------------- norms


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("vectorize", [None, False])
def test_batch_norm_without_statistics_normalises_by_the_batch_and_is_refused_unless_told(training, vectorize):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Tanh()).train(training)
    jacobian = disjoint(model, square, X, vectorize=vectorize)
    with pytest.raises(EngineError, match=r"1 \(BatchNorm1d\) has no running statistics.*statistics='per-task'"):
        jacobian.gramian()
    rows = disjoint(model, square, X, vectorize=vectorize, statistics="per-task").rows()
    expected = [torch.autograd.grad(square(model, x), list(model.parameters())) for x in X]
    for ours, row in zip(rows, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(row))


def test_batch_norm_in_a_head_is_the_tasks_own_and_taken():
    heads = [nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1)) for _ in range(K)]
    model = nn.Linear(4, 3)
    rows = disjoint(model, lambda m, b, head: square(lambda x: head(m(x)), b), X, heads=heads).rows()
    expected = [
        torch.autograd.grad(square(lambda x, h=h: h(model(x)), x), model.weight) for h, x in zip(heads, X, strict=True)
    ]
    torch.testing.assert_close(rows[0], torch.stack([row for (row,) in expected]))


def test_instance_norm_with_statistics_is_refused_for_its_own_reason():
    model = nn.Sequential(nn.InstanceNorm1d(4, affine=True, track_running_stats=True))
    x = torch.randn(K, N, 4, 6)
    with pytest.raises(EngineError, match="would move once per task") as caught:
        disjoint(model, square, x).gramian()
    assert "joint batch" not in str(caught.value)
    disjoint(model.eval(), square, x).gramian()
    disjoint(nn.Sequential(nn.InstanceNorm1d(4, affine=True)), square, x).gramian()  # nothing moves


# ---------------------------------------------------------------------- batches that can be read in two ways


def test_a_list_of_tensors_as_long_as_itself_needs_tasks_or_a_tuple():
    model, x, y = nn.Linear(4, 4).double(), draw(2, N, 4), draw(2, N, 4, seed=5)
    with pytest.raises(ShapeError, match=r"list of 2 tensors, \(2, 5, 4\), \(2, 5, 4\).*tasks=.*tuple"):
        disjoint(model, linear_pair, [x, y])
    expected = [linear_pair(model, batch).detach() for batch in zip(x, y, strict=True)]
    close(disjoint(model, linear_pair, (x, y)).values, torch.stack(expected))
    two = disjoint(model, square, [x, y], tasks=["a", "b"])
    close(two.values, torch.stack([square(model, x), square(model, y)]).detach())
    assert disjoint(model, square, [x, y, x]).num_tasks == 3  # no axis of three: three batches


def linear_pair(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def test_a_tuple_of_batches_is_told_from_a_list():
    model = nn.Linear(4, 3)
    with pytest.raises(ShapeError, match=r"zip\(\*loaders\).*list\(batches\)"):
        disjoint(model, linear_loss, (one(5), one(6), one(7)))
    same = (one(5), one(5), one(5))
    with pytest.raises(ShapeError, match=r"3 tasks are named.*of 5\. A tuple.*list\(batches\)"):
        disjoint(model, linear_loss, same, tasks=["a", "b", "c"])
    assert disjoint(model, linear_loss, list(same), tasks=["a", "b", "c"]).num_tasks == 3
    with pytest.raises(ShapeError) as caught:
        disjoint(model, linear_loss, X, tasks=["a", "b"])
    assert "tuple" not in str(caught.value)


@pytest.mark.parametrize(
    "make", [lambda b: zip(b, b, strict=True), lambda b: (x for x in b), iter, lambda b: dict(enumerate(b)).values()]
)
def test_generators_are_to_be_lists(make):
    with pytest.raises(EngineError, match=r"give list\(\.\.\.\)"):
        disjoint(nn.Linear(4, 3), linear_loss, make([one(5), one(5)]))


def test_a_mapping_of_containers_of_differing_structure_needs_tasks():
    model = nn.Linear(4, 3)
    fields = {"x": {"a": X}, "y": (torch.randn(K, N, 3),)}

    def loss(model, batch):
        return (model(batch["x"]["a"]) - batch["y"][0]).square().mean()

    with pytest.raises(ShapeError, match=r"\['x', 'y'\].*different structure.*tasks="):
        disjoint(model, loss, fields)
    assert disjoint(model, loss, fields, tasks=["a", "b", "c"]).names == ("a", "b", "c")
    by_task = {"long": {"x": X[0], "extra": X[0]}, "short": {"x": X[1]}}
    with pytest.raises(ShapeError, match="tasks="):
        disjoint(model, lambda m, b: square(m, b["x"]), by_task)
    named = disjoint(model, lambda m, b: square(m, b["x"]), by_task, tasks=["short", "long"])
    torch.testing.assert_close(named.values[0], square(model, X[1]).detach().double())


# ---------------------------------------------------------------------- heads, loss functions, inputs


def headed(model, batch, head):
    return square(lambda x: head(model(x)), batch)


def test_heads_are_found_by_what_their_keys_say():
    heads = {k: nn.Linear(3, 1) for k in range(K)}
    model, x = nn.Linear(4, 3), {k: (X[k],) for k in reversed(range(K))}

    def loss(model, batch, head):
        return headed(model, batch[0], head)

    jacobian = disjoint(model, loss, x, heads=heads)
    assert jacobian.names == ("2", "1", "0")
    expected = [headed(model, X[k], heads[k]).detach().double() for k in (2, 1, 0)]
    torch.testing.assert_close(jacobian.values, torch.stack(expected))
    with pytest.raises(ShapeError, match=r"named \['1', 'b'\]"):
        disjoint(model, headed, X, heads={1: heads[0], "b": heads[1]}, tasks=["0", "1", "2"])


@pytest.mark.parametrize("heads", [nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 1)), 3])
def test_one_module_is_not_heads(heads):
    with pytest.raises(EngineError, match=f"heads is one {type(heads).__name__}.*give 3"):
        disjoint(nn.Linear(4, 3), headed, X, heads=heads)


def test_a_loss_function_with_other_arguments_is_refused_before_it_runs():
    model, heads = nn.Linear(4, 3), [nn.Linear(3, 1) for _ in range(K)]
    for loss_fn, options, message in (
        (square, {"heads": heads}, r"\(model, batch\).*called as loss_fn\(model, batch, head\)"),
        (headed, {}, r"\(model, batch, head\).*called as loss_fn\(model, batch\).*only with heads="),
        (lambda batch: batch, {}, "too many positional"),
        (X, {}, "loss_fn is a Tensor"),
    ):
        with pytest.raises(EngineError, match=message):
            disjoint(model, loss_fn, X, **options)
    for loss_fn in (operator.itemgetter(0), min, lambda *args: 0, lambda m, b, weight=1.0: 0, nn.MSELoss()):
        check_loss(loss_fn, False, "test")  # they tell nothing, or take two


@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.Conv1d(5, 2, 1), nn.Embedding(3, 2)])
def test_another_dtype_is_named_as_the_cause(model, vectorize):
    with pytest.raises(EngineError, match="another dtype than the model's") as caught:
        disjoint(model, square, X.double(), vectorize=vectorize).gramian()
    assert "vectorize=False" not in str(caught.value)


@pytest.mark.parametrize("vectorize", [None, False])
def test_another_device_is_named_as_the_cause(vectorize):
    with pytest.raises(EngineError, match="another device than the model") as caught:
        disjoint(nn.Linear(4, 3), square, X.to("meta"), vectorize=vectorize).gramian()
    assert "vectorize=False" not in str(caught.value)


# ---------------------------------------------------------------------- the loss scale


def test_a_scaler_is_its_factor_and_none_when_disabled():
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # fresh: it has scaled nothing
    scaled = disjoint(model, square, X, scaler=scaler)
    assert (scaled.scale, scaled.scaled) == (1024.0, True)
    plain = disjoint(twin, square, X, scaler=torch.amp.GradScaler("cpu", enabled=False))
    assert (plain.scale, plain.scaled) == (1.0, False)
    torch.testing.assert_close(scaled.gramian(), plain.gramian())
    for jacobian in (scaled, plain):
        jacobian.accumulate([1.0] * K, [1.0] * K)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler.unscale_(optimizer)
    torch.testing.assert_close(model.weight.grad, twin.weight.grad)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), True, "2"])
def test_a_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(OptionError, match="not a positive number"):
        disjoint(nn.Linear(4, 3), square, X, scale=scale)


def test_what_is_no_scaler_and_both_at_once_are_refused():
    with pytest.raises(OptionError, match="scaler is a float"):
        disjoint(nn.Linear(4, 3), square, X, scaler=2.0)
    with pytest.raises(OptionError, match="not both"):
        disjoint(nn.Linear(4, 3), square, X, scaler=torch.amp.GradScaler("cpu"), scale=2.0)


class Listening(Local):
    """One process that keeps what it would hold against others'."""

    def agree(self, caller, error, **facts):
        self.facts = facts
        super().agree(caller, error, **facts)


def test_processes_must_agree_on_tasks_parameters_and_scale():
    model, found = nn.Linear(4, 3), {}
    for scale in (1.0, 2.0):
        ours, theirs = Listening(), Listening()
        disjoint(model, square, X, scale=scale, reduce=ours)
        sequential([square(model, x) for x in X], model, scale=scale, reduce=theirs)
        assert ours.facts.items() <= theirs.facts.items()  # those of losses that were computed separately
        assert {"tasks", "shared_tensors", "scale"} <= ours.facts.keys()
        found[scale] = ours.facts
    assert found[1.0] != found[2.0]
