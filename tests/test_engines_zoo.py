"""Every engine is the Jacobian that K plain backward passes give, on every model of the zoo."""

import itertools
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import accord
from accord import solvers
from accord.errors import EngineError
from accord.jacobian import accumulated, auto, batched, sequential
from support.zoo import CASES, jacobian_of, problem
from support.zoo_layers import drawn


def tiny(losses, shared):
    """Lean, in the least memory that the engine itself names."""
    with pytest.raises(EngineError) as info:
        sequential(losses, shared, lean=True, memory=1).gramian()
    named = str(info.value).split(" bytes would")[0].split()[-1]
    return sequential(losses, shared, lean=True, memory=int(named) if named.isdigit() else 1)


ENGINES = {
    "sequential": sequential,
    "sequential-lean": partial(sequential, lean=True),
    "sequential-lean-least": tiny,
    "batched": batched,
    "batched-chunked": partial(batched, chunk_size=2),
    "batched-lean": partial(batched, lean=True),
    "auto": auto,
}

REFUSED = {
    ("batched", "no_vmap"): "engine='sequential'",
    ("batched", "sparse"): "engine='sequential'",
    ("batched-lean", "reentrant"): "use_reentrant=False",
    ("batched", "reentrant"): "engine='sequential'",
    ("sequential-lean", "reentrant"): "use_reentrant=False",
}
"""By kind of engine and mark of the case: what the refusal must name."""


def refusal(case, name):
    """What the engine's error on this case must say, or None where there must be none."""
    return next((text for (kind, mark), text in REFUSED.items() if name.startswith(kind) and mark in case.marks), None)


def grid(refused):
    """All pairs of case and engine that are refused, or all others."""
    pairs = [(case, name) for case in CASES for name in ENGINES if (refusal(case, name) is not None) == refused]
    return pytest.mark.parametrize(("case", "name"), [pytest.param(c, n, id=f"{c.name}-{n}") for c, n in pairs])


def weights_of(count, seed):
    """One weight a task, of either sign."""
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def combined(blocks, weights):
    """Σ_k w_k block[k] of every leaf."""
    return [None if b is None else torch.tensordot(weights, b.double(), 1) for b in blocks]


def compare(found, expected, tolerance):
    """Tensors or None, leaf by leaf, to a relative tolerance; None must be None."""
    assert len(found) == len(expected)
    bound = tolerance * max((float(other.abs().max()) for other in expected if other is not None), default=0.0)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == other.shape
            torch.testing.assert_close(one.to_dense().double(), other.double(), rtol=0.0, atol=bound)


def gramian_of(blocks):
    """The Gramian of the reference rows."""
    rows = torch.cat([block.reshape(len(block), -1).double() for block in blocks if block is not None], 1)  # (K, P)
    return rows @ rows.T


def heads_of(jacobian, model, gradients):
    """An engine's gradients of the heads in the model's order."""
    by_leaf = {id(leaf): gradient for leaf, gradient in zip(jacobian.heads, gradients, strict=True)}
    assert set(by_leaf) <= {id(leaf) for leaf in model.heads}
    return [by_leaf.get(id(leaf)) for leaf in model.heads]


@grid(refused=False)
def test_the_rows_and_all_that_follows_from_them(case, name):
    model = problem(case)
    rows, heads = jacobian_of(case)
    expected = gramian_of(rows)
    jacobian = ENGINES[name](model.losses(), model.shared)
    assert [id(p) for p in jacobian.parameters] == [id(p) for p in model.parameters]
    w, v = (weights_of(jacobian.num_tasks, seed) for seed in (1, 2))

    gramian = jacobian.gramian()
    assert gramian.dtype == torch.float64
    assert gramian.device.type == "cpu"
    norms = expected.diagonal().sqrt()
    assert bool(((gramian - expected).abs() <= case.tolerance * norms[:, None] * norms).all())
    compare(jacobian.pull(w), combined(rows, w), case.tolerance)
    if name != "sequential-lean-least":  # which has no room for them
        compare(jacobian.rows(), rows, case.tolerance)
        compare(jacobian.pull(v), combined(rows, v), case.tolerance)
    compare(heads_of(jacobian, model, jacobian.head_gradients(v)), combined(heads, v), case.tolerance)
    assert all(leaf.grad is None for leaf in (*model.parameters, *model.heads))


@pytest.mark.parametrize(
    ("case", "engine"),
    [
        pytest.param(case, engine, id=f"{case.name}-{name}")
        for name, engine in (("sequential", sequential), ("batched", batched))
        for case in CASES
        if refusal(case, f"{name}-lean") is None
    ],
)
def test_the_gramian_is_the_same_in_any_memory(case, engine):
    """However many segments the graph is cut into, and however often their rows are made; or there is too little."""
    model = problem(case)
    expected = gramian_of(jacobian_of(case)[0])
    norms = expected.diagonal().sqrt()
    enough = len(expected) * sum(p.numel() * p.element_size() for p in model.parameters)
    found = []
    for memory in [int(enough * 0.65**i) for i in range(-3, 6)]:
        try:
            gramian = engine(model.losses(), model.shared, lean=True, memory=memory).gramian()
        except EngineError as error:
            assert "bytes would" in str(error)  # noqa: PT017
            found.append(False)
        else:
            assert bool(((gramian - expected).abs() <= case.tolerance * norms[:, None] * norms).all()), memory
            found.append(True)
    assert found[0]
    assert found == sorted(found, reverse=True)  # more memory never does less


@pytest.mark.parametrize("case", [c for c in CASES if "reentrant" not in c.marks], ids=lambda case: case.name)
def test_too_little_memory_is_told_how_much_would_do(case):
    """What the error names is enough, and never more than two rows of all parameters."""
    model = problem(case)
    jacobian = tiny(model.losses(), model.shared)
    jacobian.gramian()
    rows = min(jacobian.num_tasks, 2) * sum(p.numel() * p.element_size() for p in model.parameters)
    assert jacobian.memory <= (rows / 2 if case.name.startswith("deep") else rows)


@grid(refused=False)
def test_gradients_are_added_to_what_is_there(case, name):
    """With heads of the same weights or their own, after a Gramian or without one, between two plain backwards."""
    model = problem(case)
    rows, head_rows = jacobian_of(case)
    leaves = [*model.parameters, *model.heads]
    w = weights_of(len(model.losses()), 1)
    ones = torch.ones_like(w)
    torch.autograd.backward(model.losses())
    total, head_total = ones, ones
    for v, solved in itertools.product((w, ones), (True, False)):
        jacobian = ENGINES[name](model.losses(), model.shared)
        if solved:
            jacobian.gramian()
        jacobian.accumulate(w, v)
        total, head_total = total + w, head_total + v
    torch.autograd.backward(model.losses())
    expected = [*combined(rows, total + ones), *combined(head_rows, head_total + ones)]
    compare([leaf.grad for leaf in leaves], expected, case.tolerance)


@grid(refused=False)
def test_gradients_own_their_memory(case, name):
    """Into ``.grad`` that are None: no two of them in one memory, none that an engine keeps, None where none is due."""
    model = problem(case)
    rows, head_rows = jacobian_of(case)
    w = weights_of(len(model.losses()), 1)
    jacobian = ENGINES[name](model.losses(), model.shared)
    jacobian.gramian()
    jacobian.accumulate(w, torch.ones_like(w))
    found = [leaf.grad for leaf in (*model.parameters, *model.heads)]
    compare(found, [*combined(rows, w), *combined(head_rows, torch.ones_like(w))], case.tolerance)
    dense = [grad for grad in found if grad is not None and grad.layout is torch.strided]
    assert len({grad.untyped_storage().data_ptr() for grad in dense}) == len(dense)
    before = jacobian.gramian()
    for grad in dense:
        grad.zero_()
    assert torch.equal(jacobian.gramian(), before)


@grid(refused=True)
def test_what_an_engine_cannot_do_it_says(case, name):
    model = problem(case)
    for leaf in model.parameters:
        leaf.grad = torch.full_like(leaf, 0.5)
    jacobian = ENGINES[name](model.losses(), model.shared)
    with pytest.raises(EngineError) as info:
        jacobian.gramian()
    assert refusal(case, name) in str(info.value).split("[torch:")[0]  # torch's own words do not count
    assert all(bool((leaf.grad == 0.5).all()) for leaf in model.parameters)
    assert all(leaf.grad is None for leaf in model.heads)


@pytest.mark.parametrize("case", [case for case in CASES if "reentrant" in case.marks], ids=lambda case: case.name)
@pytest.mark.parametrize("name", ENGINES)
def test_reentrant_checkpoints_can_be_weighted(case, name):
    """What is refused is the Gramian: given weights are one plain backward, which such a graph can do."""
    model = problem(case)
    rows, heads = jacobian_of(case)
    w = weights_of(len(model.losses()), 1)
    ENGINES[name](model.losses(), model.shared).accumulate(w, w)
    compare([p.grad for p in model.parameters], combined(rows, w), case.tolerance)
    compare([p.grad for p in model.heads], combined(heads, w), case.tolerance)


@pytest.mark.parametrize("name", ENGINES)
def test_parameters_hidden_in_a_reentrant_checkpoint(name):
    """A head inside one is no leaf of the graph: it must have its gradient all the same, or the step be refused."""
    trunk, heads = torch.nn.Linear(5, 6).double(), [torch.nn.Linear(6, 1).double() for _ in range(2)]
    leaves = [*trunk.parameters(), *(p for head in heads for p in head.parameters())]
    w = weights_of(2, 1)

    def losses():
        z = trunk(drawn(4, 5)).tanh()
        runs = [heads[0], lambda z: heads[1](z)]  # as users write it: a module, or a function around one
        return [checkpoint(run, z, use_reentrant=True).square().mean() for run in runs]

    torch.autograd.backward(losses(), list(w))
    expected = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        jacobian = ENGINES[name](losses(), trunk)
        jacobian.gramian()
        assert all(leaf.grad is None for leaf in leaves)
        jacobian.accumulate(w, w)
    except EngineError as error:
        assert "reentrant" in str(error)  # noqa: PT017
        assert all(leaf.grad is None for leaf in leaves)
    else:
        compare([leaf.grad for leaf in leaves], expected, 1e-12)


@pytest.mark.parametrize("name", ENGINES)
def test_gradients_lie_in_memory_as_those_of_a_plain_backward(name):
    """Channels-last and transposed parameters have such gradients: wrappers and fused optimisers count on it."""
    (case,) = [case for case in CASES if case.name == "noncontiguous"]
    model, plain = problem(case), problem(case)
    sum(plain.losses()).backward()
    w = torch.ones(len(model.losses()), dtype=torch.float64)
    for solved in (True, False):
        jacobian = ENGINES[name](model.losses(), model.shared)
        if solved:
            jacobian.gramian()
        jacobian.accumulate(w, w)
        assert [p.grad.stride() for p in model.parameters] == [p.grad.stride() for p in plain.parameters]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_zoo_is_deterministic(case):
    """Otherwise the comparisons above would compare different models."""
    model, other = problem(case), problem(case)
    values = [torch.stack([loss.detach().double() for loss in m.losses()]) for m in (model, model, other)]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters, other.parameters, strict=True))
    assert all(a is not b for a, b in zip(model.parameters, other.parameters, strict=True))


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
}


def groups_of(model):
    """Parameter groups as users make them: the trunk and the heads at different rates."""
    return [{"params": model.parameters}, {"params": model.heads, "lr": 0.1, "weight_decay": 0.01}]


def train_by_definition(model, optimizer, steps, limit):
    """A loop without engines: K plain backward passes, the solver's weights, ``.grad`` written by hand."""
    leaves = [*model.parameters, *model.heads]
    for _ in range(steps):
        rows = []
        for k in range(len(model.losses())):
            optimizer.zero_grad()
            model.losses()[k].backward()
            rows.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in leaves])
        blocks = [torch.stack(block) for block in zip(*rows, strict=True)]
        shared = blocks[: len(model.parameters)]
        w = torch.from_numpy(solvers.upgrad(gramian_of(shared).numpy()).weights)
        for leaf, gradient in zip(leaves, combined(blocks, w), strict=True):
            leaf.grad = gradient
        torch.nn.utils.clip_grad_norm_(leaves, limit)
        optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("tied-trunk", "two-trunks")], ids=lambda c: c.name)
def test_training_is_that_of_the_definition(case, name, optimizer):
    """Parameter groups, clipping and the optimiser's own state see exactly the gradients they should."""
    model, twin = problem(case), problem(case)
    balancer = accord.make("upgrad:heads=weighted", 3)
    ours = OPTIMIZERS[optimizer](groups_of(model))
    for _ in range(3):
        ours.zero_grad()
        balancer.backward(model.losses(), model.shared, engine=ENGINES[name])
        torch.nn.utils.clip_grad_norm_([*model.parameters, *model.heads], 0.5)
        ours.step()
    start = [p.detach().clone() for p in twin.parameters]
    train_by_definition(twin, OPTIMIZERS[optimizer](groups_of(twin)), 3, 0.5)
    assert all(bool((a - b.detach()).abs().max() > 1e-3) for a, b in zip(start, twin.parameters, strict=True))
    for a, b in zip([*model.parameters, *model.heads], [*twin.parameters, *twin.heads], strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", ENGINES)
def test_micro_batches_are_one_batch(name):
    """Rows added up over micro-batches are those of the whole batch; averaging Gramians would not be."""
    trunk, heads = (torch.nn.Linear(5, 6).double(), [torch.nn.Linear(6, 1).double() for _ in range(3)])
    x, y = drawn(12, 5), drawn(12, 3, seed=2)

    def losses(part):
        z = trunk(x[part]).tanh()
        return [(head(z)[:, 0] - y[part, k]).square().mean() * 4.0**k for k, head in enumerate(heads)]

    leaves = [*trunk.parameters(), *(p for head in heads for p in head.parameters())]
    whole = sequential(losses(slice(None)), trunk)
    expected = whole.gramian()
    balancer = accord.make("upgrad", 3)
    balancer.apply(whole)
    gradients = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    pool = accumulated(trunk)
    for start in range(0, 12, 4):
        pool.include([loss / 3 for loss in losses(slice(start, start + 4))])
    assert all(leaf.grad is None for leaf in leaves)
    torch.testing.assert_close(pool.gramian(), expected, rtol=1e-12, atol=1e-12 * float(expected.max()))
    torch.testing.assert_close(pool.values, whole.values, rtol=1e-13, atol=0.0)
    accord.make("upgrad", 3).apply(pool)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=0.0, atol=1e-12 * float(gradient.abs().max()))
