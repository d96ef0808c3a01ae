"""Tasks with their own samples: what cannot be is refused with its cause and remedy, and leaves nothing changed."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations

import accord
from accord.errors import EngineError, NonFiniteError, OptionError, ShapeError
from accord.jacobian.disjoint import disjoint

K, N = 3, 5
X = torch.randn(K, N, 4, generator=torch.Generator().manual_seed(0))


def square(model, batch):
    return model(batch).square().mean()


class Doubled(torch.autograd.Function):
    """Without a rule for torch.func."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Unmapped(torch.autograd.Function):
    """Without a rule for vmap."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Counting(nn.Module):
    """A forward that changes a buffer in one of several ways."""

    def __init__(self, change):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.ones(3))
        self.change = change

    def forward(self, x):
        y = self.linear(x)
        self.change(self, y.detach())
        return y


def replace(module, y):
    module.seen = module.seen + y.mean(0)


CHANGES = {
    "constant": lambda module, y: module.seen.add_(1),
    "data": lambda module, y: module.seen.add_(y.mean(0)),
    "copy": lambda module, y: module.seen.copy_(y.mean(0)),
    "item": lambda module, y: module.seen.__setitem__(0, 2.0),
    "out": lambda module, y: torch.add(torch.zeros(3), 1.0, out=module.seen),
    "replaced": replace,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wanted", ["rows", "losses"])
def test_a_forward_that_changes_a_buffer_is_refused_and_changes_nothing(change, wanted):
    model = Counting(CHANGES[change])
    before = model.seen
    jacobian = disjoint(model, square, X)
    jacobian.wanted = wanted
    with pytest.raises(EngineError, match=r"buffer.*vectorize=False"):
        assert jacobian.values is None
    assert model.seen is before
    assert torch.equal(before, torch.ones(3))
    assert model.linear.weight.grad is None


def test_spectral_norm_is_refused_in_train_mode_and_taken_in_eval_mode():
    model = parametrizations.spectral_norm(nn.Linear(4, 3))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(EngineError, match="eval mode"):
        disjoint(model, square, X).gramian()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    model.eval()
    expected = [torch.autograd.grad(square(model, x), list(model.parameters())) for x in X]
    for ours, rows in zip(disjoint(model, square, X).rows(), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(rows))


def test_in_turn_buffers_move_as_in_a_loop_and_move_back_when_a_task_fails():
    model, twin = Counting(CHANGES["data"]), Counting(CHANGES["data"])
    twin.load_state_dict(model.state_dict())
    for x in X:
        twin(x)
    disjoint(model, square, X, vectorize=False).gramian()
    torch.testing.assert_close(model.seen, twin.seen)
    before, kept = model.seen, model.seen.clone()
    broken = X.clone()
    broken[2, 0, 0] = float("nan")
    for change in (CHANGES["constant"], replace):
        model.change = change
        with pytest.raises(NonFiniteError, match="'2'"):
            disjoint(model, square, broken, vectorize=False).gramian()
        assert model.seen is before
        assert torch.equal(before, kept)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize("vectorize", [None, False])
def test_norms_in_train_mode_are_refused_unless_told(norm, vectorize):
    model = nn.Sequential(nn.Linear(4, 3), norm(3))
    with pytest.raises(EngineError, match=r"^jacobian.disjoint: 1 \(.*statistics='per-task'"):
        disjoint(model, square, X, vectorize=vectorize).gramian()
    assert not model[1].running_mean.any()


def test_instance_norm_with_statistics_is_refused_unless_told():
    model, x = nn.Sequential(nn.InstanceNorm1d(4, affine=True, track_running_stats=True)), torch.randn(K, N, 4, 6)
    with pytest.raises(EngineError, match="per-task"):
        disjoint(model, square, x).gramian()
    disjoint(model, square, x, statistics="per-task").gramian()
    moved = model[0].running_mean.clone()
    assert moved.any()
    model[0].reset_running_stats()
    disjoint(model, square, x, statistics="per-task", vectorize=False).gramian()
    torch.testing.assert_close(model[0].running_mean, moved)


@pytest.mark.parametrize("vectorize", [None, False])
def test_statistics_stay_where_a_task_fails(vectorize):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    x = X.clone()
    x[1] = float("inf")
    with pytest.raises(NonFiniteError, match="'b'"):
        disjoint(model, square, x, tasks="abc", statistics="per-task", vectorize=vectorize).gramian()
    assert not model[1].running_mean.any()
    assert model[1].num_batches_tracked == 0


LINEAR_LOSSES = {
    "a number out of a tensor": (lambda m, b: square(m, b) * b.sum().item(), "branches on data"),
    "a branch on data": (lambda m, b: square(m, b) if b.sum() > 0 else m(b).mean(), "branches on data"),
    "a mask": (lambda m, b: m(b)[b[:, 0] > 0].mean(), "size of a result"),
    "a function without rules": (lambda m, b: Doubled.apply(m(b)).mean(), "generate_vmap_rule"),
    "a function without a vmap rule": (lambda m, b: Unmapped.apply(m(b)).mean(), "generate_vmap_rule"),
    "a common result": (lambda m, b: torch.zeros(N, 3).add_(m(b)).mean(), "torch.zeros_like"),
    "random numbers in place": (lambda m, b: torch.distributions.Normal(m(b), 1.0).rsample().mean(), "randn_like"),
    "checkpointing": (lambda m, b: torch.utils.checkpoint.checkpoint(m, b, use_reentrant=False).mean(), "checkpoint"),
}


@pytest.mark.parametrize("name", LINEAR_LOSSES)
@pytest.mark.parametrize("wanted", ["rows", "losses"])
def test_what_cannot_be_mapped_names_cause_and_remedy_and_runs_in_turn(name, wanted):
    loss_fn, message = LINEAR_LOSSES[name]
    model = nn.Linear(4, 3)
    jacobian = disjoint(model, loss_fn, X)
    jacobian.wanted = wanted
    if (name, wanted) != ("checkpointing", "losses"):
        with pytest.raises(EngineError, match=f"{message}.*vectorize=False"):
            assert jacobian.values is None
    if name != "random numbers in place":
        expected = [torch.autograd.grad(loss_fn(model, x), list(model.parameters())) for x in X]
        rows = disjoint(model, loss_fn, X, vectorize=False).rows()
        for ours, row in zip(rows, zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(ours, torch.stack(row))


def no_grad_loss(model, batch):
    with torch.no_grad():
        return square(model, batch)


BAD_LOSSES = {
    "not reduced": (lambda m, b: m(b), ShapeError, r"shape \(5, 3\).*\.mean\(\)"),
    "a float": (lambda m, b: 1.0, ShapeError, "a float"),
    "without the model": (lambda m, b: b.mean(), EngineError, "does not require grad"),
    "under no_grad": (no_grad_loss, EngineError, "does not require grad"),
    "not finite": (lambda m, b: square(m, b) / 0.0, NonFiniteError, "'0' = inf"),
}


@pytest.mark.parametrize("name", BAD_LOSSES)
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("wanted", ["rows", "losses"])
def test_bad_losses_are_refused_and_nothing_is_written(name, vectorize, wanted):
    loss_fn, error, message = BAD_LOSSES[name]
    model = nn.Linear(4, 3)
    with pytest.raises(error, match=message):
        accord.make("nash-mtl" if wanted == "rows" else "ls", K).apply(disjoint(model, loss_fn, X, vectorize=vectorize))
    assert model.weight.grad is None


@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("method", ["nash-mtl", "ls"])
def test_trainable_tensors_of_others_are_refused_and_constants_taken(vectorize, method):
    model, target = nn.Linear(4, 3), nn.Linear(4, 3)

    def distance(model, batch):
        return (model(batch) - target(batch)).square().mean()

    with pytest.raises(EngineError, match=r"\(3, 4\).*torch\.no_grad"):
        accord.make(method, K).apply(disjoint(model, distance, X, vectorize=vectorize))
    target.requires_grad_(False)
    accord.make(method, K).apply(disjoint(model, distance, X, vectorize=vectorize))
    assert model.weight.grad is not None


BAD_BATCHES = {
    "axes differ": ((X, X[:2]), {}, ShapeError, r"\(3, 5, 4\).*\(2, 5, 4\)"),
    "no axis": ((X, torch.tensor(1.0)), {}, ShapeError, r"batch\[1\]: \(\)"),
    "no task": (X[:0], {}, ShapeError, "no task"),
    "empty list": ([], {}, ShapeError, "no task"),
    "nothing": ({}, {}, ShapeError, "no tensor"),
    "a number": ({"x": X, "k": 3}, {}, EngineError, r"batch\['k'\] is a int"),
    "numbers in a list": ([(X[0], 0), (X[1], 1), (X[2], 2)], {}, EngineError, r"batches\[0\]\[1\].*vectorize=False"),
    "ragged": ([X[0], X[1, :2]], {"vectorize": True}, ShapeError, r"task 1: \(2, 4\)"),
    "requires grad": (X.clone().requires_grad_(), {}, EngineError, "detach"),
    "names": (X, {"tasks": ["a", "b"]}, ShapeError, "2 tasks are named"),
    "statistics": (X, {"statistics": "mean"}, OptionError, "per-task"),
    "heads": (X, {"heads": [nn.Linear(3, 1)]}, ShapeError, "1 heads for 3 tasks"),
    "no modules": (X, {"heads": [1, 2, 3]}, EngineError, "a int"),
    "heads without names": (X, {"heads": {"a": nn.Linear(3, 1)}}, ShapeError, "tasks="),
    "stranger": (X, {"shared": nn.Linear(4, 2)}, EngineError, r"\(2, 4\) is not in the model"),
    "reduce": (X, {"reduce": "sum"}, EngineError, "reduce"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_arguments_name_what_was_seen(name):
    batches, options, error, message = BAD_BATCHES[name]
    with pytest.raises(error, match=message):
        disjoint(nn.Linear(4, 3), square, batches, **options)


def test_python_numbers_reach_the_loss_in_turn():
    model = nn.ModuleList(nn.Linear(4, 3) for _ in range(K))
    batches = [(X[k], k) for k in range(K)]
    jacobian = disjoint(model, lambda m, b: square(m[b[1]], b[0]), batches, vectorize=False)
    off = jacobian.gramian() - jacobian.gramian().diagonal().diag()
    assert not off.any()


def test_an_empty_batch_in_a_ragged_list_is_named():
    with pytest.raises(NonFiniteError, match="'1' = nan"):
        disjoint(nn.Linear(4, 3), square, [X[0], X[1, :0], X[2]]).gramian()


def test_models_that_cannot_be_called_with_other_parameters_are_refused():
    for model, message in (
        (nn.DataParallel(nn.Linear(4, 3)), "give model.module"),
        (nn.LazyLinear(3), "lazy"),
        (square, "a function"),
        (nn.Linear(4, 3).requires_grad_(False), "no parameter"),
    ):
        with pytest.raises(EngineError, match=message):
            disjoint(model, square, X)
    model = nn.ModuleDict({"trunk": nn.Linear(4, 3), "idle": nn.Linear(4, 3)})
    for vectorize in (None, False):
        jacobian = disjoint(model, lambda m, b: square(m["trunk"], b), X, shared=model["idle"], vectorize=vectorize)
        with pytest.raises(EngineError, match="none of the 3 losses reaches"):
            jacobian.gramian()
        with pytest.raises(EngineError, match="none of the 3 losses reaches"):
            jacobian.accumulate([1.0] * K, [1.0] * K)
        assert model["trunk"].weight.grad is None


def test_heads_in_shared_are_refused():
    model = nn.ModuleDict({"trunk": nn.Linear(4, 3), "heads": nn.ModuleList(nn.Linear(3, 1) for _ in range(K))})
    with pytest.raises(EngineError, match="is in heads too"):
        disjoint(
            model, lambda m, b, head: square(lambda x: head(m["trunk"](x)), b), X, shared=model, heads=model["heads"]
        )


def test_errors_of_the_loss_function_itself_come_through():
    with pytest.raises(KeyError):
        disjoint(nn.Linear(4, 3), lambda m, b: square(m, b["missing"]), {"x": X}).gramian()
    with pytest.raises(EngineError, match="mat1 and mat2"):
        disjoint(nn.Linear(2, 3), square, X).gramian()


@pytest.mark.parametrize("vectorize", [True, False])
def test_want_of_memory_comes_through_as_torch_raised_it(vectorize):
    def loss(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        disjoint(nn.Linear(4, 3), loss, X, vectorize=vectorize).gramian()
