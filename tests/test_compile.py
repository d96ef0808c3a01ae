"""Compiled forwards: engines on graphs whose nodes are whole compiled backward passes."""

import pytest
import torch
from torch import nn

import accord
from accord.errors import EngineError
from accord.jacobian import disjoint, sequential
from support.nets import Net

ENGINES = ["sequential", "sequential:lean=true", "batched", "batched:chunk_size=2", "batched:lean=true", "auto"]
BACKEND = "aot_eager"  # traces and partitions as inductor does, and needs no C++ compiler


@pytest.fixture(autouse=True)
def _fresh():
    """Nothing compiled in one test is found by another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Wide(nn.Module):
    """A trunk whose backward needs intermediates that nobody else sees, which a compiler may overwrite."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5), nn.Tanh()).double()
            self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(3)).double()

    def losses(self, run=None):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        z = (self.trunk if run is None else run)(x)
        return [3.0**k * (head(z) - k).square().mean() for k, head in enumerate(self.heads)]


def step(net, losses, engine, **options):
    """One step's decision and gradients."""
    net.zero_grad()
    balance = accord.make("upgrad", 3, **options).backward(losses, net.trunk, engine=engine)
    return balance, [p.grad.clone() for p in net.parameters()]


def agree(found, expected, tolerance=1e-12):
    bound = tolerance * float(expected[0].gramian.abs().max())
    torch.testing.assert_close(found[0].gramian, expected[0].gramian, rtol=0.0, atol=bound)
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * max(float(g.abs().max()) for g in expected[1]))


def test_every_engine_on_a_compiled_trunk():
    net = Wide()
    compiled = torch.compile(net.trunk, backend=BACKEND)
    expected = step(net, net.losses(), "sequential")
    for engine in ENGINES:
        losses = net.losses(compiled)
        assert "CompiledFunctionBackward" in names(losses)
        agree(step(net, losses, engine), expected)


def test_every_engine_on_compiled_losses():
    """Trunk and heads are one node of the graph, so there is nothing between them to walk alone."""
    net = Wide()
    compiled = torch.compile(net.losses, backend=BACKEND)
    expected = step(net, net.losses(), "sequential")
    for engine in ENGINES:
        agree(step(net, compiled(), engine), expected)


def test_a_compiled_representation():
    net = Wide()
    compiled = torch.compile(net.trunk, backend=BACKEND)
    results = []
    for run in (net.trunk, compiled):
        net.zero_grad()
        z = run(torch.ones(8, 4, dtype=torch.float64))
        balance = accord.make("mgda", 3).backward(net.losses(lambda _, z=z: z), features=z)
        results.append((balance, [p.grad.clone() for p in net.parameters()]))
    agree(results[1], results[0])


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_training_with_reused_weights(engine):
    """Steps that solve walk the compiled backward K times, those in between once: in one run, both."""
    finals = []
    for compile_it in (False, True):
        net = Net()
        run = torch.compile(net.trunk, backend=BACKEND) if compile_it else net.trunk
        balancer = accord.make("nash-mtl:update_every=2", 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for i in range(4):
            optimizer.zero_grad()
            z = run(net._draw(i)[0])
            balancer.backward(net.losses(i, features=z), net.trunk, engine=engine)
            optimizer.step()
        finals.append([p.detach().clone() for p in net.parameters()])
    for a, b in zip(*finals, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-10)


def test_a_backward_compiled_to_run_once():
    """After a plain backward the compiled one may overwrite its buffers; the error names the setting."""
    net = Wide()
    compiled = torch.compile(net.trunk, backend=BACKEND)
    expected = step(net, net.losses(), "sequential")
    sum(net.losses(compiled)).backward()
    before = [p.grad.clone() for p in net.parameters()]
    with pytest.raises(EngineError, match=r"torch\._functorch\.config\.donated_buffer = False"):
        accord.make("upgrad", 3).backward(net.losses(compiled), net.trunk)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), before, strict=True))
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        compiled = torch.compile(net.trunk, backend=BACKEND)
        sum(net.losses(compiled)).backward()
        for engine in ENGINES:
            agree(step(net, net.losses(compiled), engine), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the tracer's own look at it
def test_a_step_that_is_compiled_as_a_whole():
    """The balancer stays outside of what is compiled around it, and is not traced."""
    net = Wide()
    balancer = accord.make("upgrad", 3)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    traced = []

    def engine(losses, shared, **options):
        traced.append(torch.compiler.is_compiling())
        return sequential(losses, shared, **options)

    def whole(x):
        z = net.trunk(x)
        return balancer.backward(
            [3.0**k * (h(z) - k).square().mean() for k, h in enumerate(net.heads)], net.trunk, engine=engine
        )

    expected = step(net, net.losses(), "sequential")
    net.zero_grad()
    balance = torch.compile(whole, backend=BACKEND)(x)
    agree((balance, [p.grad.clone() for p in net.parameters()]), expected)
    assert traced == [False]


@pytest.mark.parametrize("vectorize", [True, False])
def test_tasks_with_their_own_samples_on_a_compiled_model(vectorize):
    """The mapped forward runs as it is, the one in turn compiled: the same rows."""
    net = Wide()
    compiled = torch.compile(net.trunk, backend=BACKEND)
    x = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(model, batch):
        return model(batch).square().mean()

    found = disjoint(compiled, loss, x, vectorize=vectorize)
    expected = sequential([loss(net.trunk, batch) for batch in x], net.trunk)
    torch.testing.assert_close(found.gramian(), expected.gramian(), rtol=1e-12, atol=1e-12)
    accord.make("upgrad", 3).apply(found)
    assert all(p.grad is not None for p in net.trunk.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor():
    """The default backend: sequential walks it; batched cannot, and says so."""
    net = Wide()
    compiled = torch.compile(net.trunk)
    expected = step(net, net.losses(), "sequential")
    for engine in ("sequential", "sequential:lean=true", "auto"):
        agree(step(net, net.losses(compiled), engine), expected)
    net.zero_grad()
    for engine in ("batched", "batched:lean=true"):
        with pytest.raises(EngineError, match="engine='sequential'"):
            accord.make("upgrad", 3).backward(net.losses(compiled), net.trunk, engine=engine)
    assert all(p.grad is None for p in net.parameters())
    jacobian = sequential(net.losses(compiled), net.trunk)
    torch.testing.assert_close(jacobian.gramian(), expected[0].gramian, rtol=1e-10, atol=1e-12)


def names(losses):
    """The kinds of node in the losses' graph."""
    seen, todo = set(), [loss.grad_fn for loss in losses]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [below for below, _ in node.next_functions]
    return {node.name() for node in seen}
