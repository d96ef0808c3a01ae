"""``accord.jacobian.compiled``: rows of tasks with their own samples from one compiled program."""

import shutil

import pytest
import torch
from torch import nn

import accord
from accord.errors import EngineError
from accord.jacobian import compiled, disjoint

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # batch norm in eval mode, under dynamo
BACKEND = "aot_eager"  # traces as inductor does, and needs no C++ compiler
K, N = 4, 6


@pytest.fixture(autouse=True)
def _fresh():
    """Nothing compiled in one test is found by another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Convolutions, a norm in eval mode whose buffers are read, tied and frozen weights, one that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3).eval()
        self.group = nn.GroupNorm(1, 3)
        self.first = nn.Linear(48, 5)
        self.second = nn.Linear(5, 48)
        self.second.weight = nn.Parameter(torch.randn(48, 5) / 7)
        self.tied = self.first
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.side = nn.Linear(5, 1)
        self.beside = False

    def forward(self, x):
        z = self.tied(self.group(self.norm(self.conv(x)).relu()).flatten(1)).tanh()
        z = self.first(self.second(self.frozen(z)))
        return z + self.side(z) if self.beside else z


def net(kind=Net):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().double()


def data(n=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(K, n, 2, 4, 4, generator=generator, dtype=torch.float64)
    return {"x": x, "scale": 10.0 ** torch.arange(K, dtype=torch.float64)}


def loss(model, batch):
    return batch["scale"] * (model(batch["x"]) - 1).square().mean()


def same(found, expected):
    torch.testing.assert_close(found.gramian(), expected.gramian(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=0)
    for a, b in zip(found.rows(), expected.rows(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()))


def test_rows_of_every_step_are_those_of_the_function_itself():
    model, program = net(), compiled(loss, backend=BACKEND)
    for step in range(4):
        same(disjoint(model, program, data(seed=step)), disjoint(model, loss, data(seed=step)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)  # the program reads what parameters are now
            model.norm.running_mean.add_(0.1)  # and buffers


def test_steps_of_training_are_the_same_and_untouched_gradients_stay_none():
    grads = []
    for fn in (loss, compiled(loss, backend=BACKEND)):
        model, balancer = net(), accord.NashMTL(tasks=K)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            balancer.apply(disjoint(model, fn, data(seed=step)))
            optimizer.step()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in grads[0].items():
        if gradient is None:
            assert grads[1][name] is None, name
        else:
            torch.testing.assert_close(grads[1][name], gradient, rtol=1e-9, atol=1e-12)
    assert {name for name, gradient in grads[0].items() if gradient is None} == {
        *("unused.weight", "unused.bias", "frozen.weight", "frozen.bias", "side.weight", "side.bias")
    }


def test_a_parameter_that_a_later_branch_reaches_gets_its_rows():
    model, program = net(), compiled(loss, backend=BACKEND)
    for beside in (False, False, True, True):
        model.beside = beside
        same(disjoint(model, program, data()), disjoint(model, loss, data()))


def test_other_numbers_of_samples_and_other_structures():
    def from_pair(model, batch):
        x, scale = batch
        return loss(model, {"x": x, "scale": scale})

    def either(model, batch):
        return loss(model, batch) if isinstance(batch, dict) else from_pair(model, batch)

    model, program = net(), compiled(either, backend=BACKEND)
    for n in (6, 6, 3, 8, 6):
        batch = data(n)
        same(disjoint(model, program, batch), disjoint(model, loss, batch))
        same(disjoint(model, program, (batch["x"], batch["scale"])), disjoint(model, loss, batch))


def test_fields_in_another_order_stay_who_they_are():
    """Leaves of one shape: only the structure tells which is which."""
    model = nn.Linear(3, 1).double()
    x, y = torch.randn(2, K, N, 3, dtype=torch.float64)

    def skewed(model, batch):
        return (model(batch["x"]) - 2 * batch["y"]).square().mean()

    program = compiled(skewed, backend=BACKEND)
    for batch in ({"x": x, "y": y}, {"y": y, "x": x}, {"x": x, "y": y}, {"y": y, "x": x}):
        same(disjoint(model, program, batch), disjoint(model, skewed, batch))


def test_heads_of_each_tasks_own():
    def headed(model, batch, head):
        return (head(model(batch["x"])) - 1).square().mean()

    model = net()
    heads = nn.ModuleList(nn.Linear(5, 2).double() for _ in range(K))
    grads = []
    for fn in (headed, compiled(headed, backend=BACKEND)):
        for _ in range(3):
            for module in (model, heads):
                module.zero_grad()
            accord.MGDA(tasks=K).apply(disjoint(model, fn, data(), heads=heads))
        grads.append([p.grad for module in (model, heads) for p in module.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_loss_scale_is_no_constant_of_the_program():
    model, program = net(), compiled(loss, backend=BACKEND)
    expected = disjoint(model, loss, data())
    for scale in (1024.0, 1024.0, 512.0, 64.0):
        found = disjoint(model, program, data(), scale=scale)
        torch.testing.assert_close(found.gramian(), expected.gramian(), rtol=1e-12, atol=0)


def test_mixed_precision_is_that_which_is_on():
    model, program = net().float(), compiled(loss, backend=BACKEND)
    model.norm = nn.GroupNorm(3, 3)
    batch = {name: tensor.float() for name, tensor in data().items()}
    for _ in range(2):
        plain = disjoint(model, program, batch).gramian()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed, expected = (disjoint(model, fn, batch).gramian() for fn in (program, loss))
    torch.testing.assert_close(mixed, expected, rtol=2e-2, atol=0)
    assert not torch.equal(mixed, plain)
    torch.testing.assert_close(plain, disjoint(model, loss, batch).gramian(), rtol=1e-4, atol=0)


def test_dropout_differs_from_task_to_task():
    model = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)).double()
    program = compiled(lambda model, x: model(x).square().mean(), backend=BACKEND)
    x = torch.ones(1, 5, 3, dtype=torch.float64).expand(K, 5, 3).contiguous()  # the same samples for all tasks
    for _ in range(3):
        (rows, _) = disjoint(model, program, x).rows()
        assert not torch.equal(rows[0], rows[1])


def test_between_two_solves_nothing_is_compiled():
    model, program = net(), compiled(loss, backend=BACKEND)
    balancer = accord.make("nash-mtl:update_every=3", K)
    for _ in range(7):
        balancer.apply(disjoint(model, program, data()))
    assert len(program._programs) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own imports
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_with_inductor():
    model, program = net(), compiled(loss)
    for step in range(3):
        found, expected = (disjoint(model, fn, data(seed=step)) for fn in (program, loss))
        torch.testing.assert_close(found.gramian(), expected.gramian(), rtol=1e-10, atol=0)


# ---------------------------------------------------------------------- bad input


def test_no_compiler_is_named():
    from torch._inductor import exc

    def backend(graph, inputs):
        raise exc.InvalidCxxCompiler

    model, program = net(), compiled(loss, backend=backend)
    disjoint(model, program, data()).gramian()
    with pytest.raises(EngineError, match=r"C\+\+ compiler.*g\+\+.*without accord\.jacobian\.compiled"):
        disjoint(model, program, data()).gramian()


def test_what_cannot_be_one_program_says_so_and_leaves_everything():
    def printing(model, batch):
        torch._dynamo.graph_break()
        return loss(model, batch)

    model, program = net(), compiled(printing, backend=BACKEND)
    balancer = accord.NashMTL(tasks=K)
    balancer.apply(disjoint(model, program, data()))
    model.zero_grad()
    before = balancer.state_dict()
    with pytest.raises(EngineError, match="no single program of this loss"):
        balancer.apply(disjoint(model, program, data()))
    assert all(p.grad is None for p in model.parameters())
    assert str(balancer.state_dict()) == str(before)


def test_ragged_batches_and_statistics_by_task_are_refused():
    model, program = net(), compiled(loss, backend=BACKEND)
    ragged = [{"x": torch.randn(n, 2, 4, 4).double(), "scale": torch.ones(()).double()} for n in (3, 5)]
    with pytest.raises(EngineError, match=r"one task after the other.*pad them"):
        disjoint(model, program, ragged)
    with pytest.raises(EngineError, match=r"one task after the other"):
        disjoint(model, program, data(), vectorize=False)
    model.norm.train()
    with pytest.raises(EngineError, match=r"running_mean.*eval mode"):
        disjoint(model, program, data(), statistics="per-task").gramian()


def test_batch_norm_in_mixed_precision_is_refused():
    model, program = net(), compiled(loss, backend=BACKEND)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        jacobian = disjoint(model, program, data())
    with pytest.raises(EngineError, match=r"mixed precision.*running_mean.*leave autocast away"):
        jacobian.gramian()


def test_no_function_and_one_compiled_already_are_refused():
    with pytest.raises(EngineError, match="a Tensor; give a function"):
        compiled(torch.ones(3))
    with pytest.raises(EngineError, match="compiled already"):
        compiled(compiled(loss))
    with pytest.raises(EngineError, match=r"loss_fn\(model, batch, head\)"):
        disjoint(net(), compiled(loss), data(), heads=[nn.Linear(1, 1) for _ in range(K)])
