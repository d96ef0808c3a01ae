"""Tasks with their own samples: heads chosen by task, and steps of every balancer."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import accord
from accord.errors import ShapeError
from accord.jacobian import sequential
from accord.jacobian.disjoint import disjoint
from support.disjoint_models import MODELS, D, K, N, batches_for, close, draw, mse, plain, seeded


def headed():
    return nn.ModuleDict(
        {
            "trunk": nn.Sequential(nn.Linear(5, 6), nn.Tanh()),
            "heads": nn.ModuleList(nn.Linear(6, 1) for _ in range(K)),
            "scale": nn.Linear(1, 1),
        }
    )


def head_loss(model, batch, head):
    return model["scale"](mse(lambda x: head(model["trunk"](x)), batch).reshape(1)).square().sum()


@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("with_rows", [True, False])
def test_heads_by_task_and_parameters_outside_shared_get_their_weighted_gradients(vectorize, inside, with_rows):
    model, twin = seeded(headed), seeded(headed)
    heads = model["heads"] if inside else list(model["heads"])
    if not inside:
        del model["heads"]
    x, y = batches_for((5,))
    w, h = torch.tensor([0.3, 1.0, 2.0, 0.7], dtype=D), torch.tensor([1.0, 0.2, 0.5, 3.0], dtype=D)
    losses = [head_loss(twin, batch, twin["heads"][k]) for k, batch in enumerate(zip(x, y, strict=True))]
    reference = sequential(losses, twin["trunk"], retain_graph=True)
    shared = model["trunk"] if inside else model["trunk"].named_parameters()
    jacobian = disjoint(model, head_loss, (x, y), shared=shared, heads=heads, vectorize=vectorize)
    assert jacobian.parameter_names == ("0.weight", "0.bias")
    assert len(jacobian.heads) == 2 + 2 * K
    if with_rows:
        close(jacobian.gramian(), reference.gramian())
    jacobian.accumulate(w, h)
    reference.accumulate(w, h)
    ours = [*model["trunk"].parameters(), *model["scale"].parameters(), *(p for m in heads for p in m.parameters())]
    theirs = [*twin["trunk"].parameters(), *twin["scale"].parameters(), *twin["heads"].parameters()]
    for p, q in zip(ours, theirs, strict=True):
        close(p.grad, q.grad)


def test_heads_of_different_structure_run_in_turn_only():
    model = seeded(lambda: nn.Linear(5, 6))
    heads = [seeded(b) for b in (lambda: nn.Linear(6, 1), lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 1)))]
    x, y = (t[:2] for t in batches_for((5,)))

    def loss(model, batch, head):
        return mse(lambda x: head(model(x)), batch)

    with pytest.raises(ShapeError, match="vectorize=False"):
        disjoint(model, loss, (x, y), heads=heads)
    _, rows = plain(model, loss, list(zip(x, y, strict=True)), list(model.parameters()), [heads])
    close(disjoint(model, loss, (x, y), heads=heads, vectorize=False).rows(), rows)
    by_task = {"a": (x[1], y[1]), "b": (x[0], y[0])}
    named = disjoint(model, loss, by_task, heads={"b": heads[0], "a": heads[1]}, vectorize=False)
    close(named.rows()[0].flip(0), rows[0])


# ---------------------------------------------------------------------- with balancers


@pytest.mark.parametrize("spec", accord.available())
def test_every_balancer_gives_what_it_gives_on_separate_losses(spec):
    model, twin = seeded(MODELS["mlp"][0]), seeded(MODELS["mlp"][0])
    ours, theirs = accord.make(spec, K), accord.make(spec, K)
    second = {"modo", "sdmgrad"} & {spec}
    for step in range(3):
        x, y = draw(K, N, 5, seed=step), draw(K, N, seed=step + 10)
        losses = [mse(twin, batch) for batch in zip(x, y, strict=True)]
        jacobian = disjoint(model, mse, (x, y))
        options = {}
        if second:
            jacobian.second = disjoint(model, mse, (x.flip(0), y))
            options["second"] = [mse(twin, batch) for batch in zip(x.flip(0), y, strict=True)]
        for net in (model, twin):
            net.zero_grad()
        found = ours.apply(jacobian)
        expected = theirs.backward(losses, twin, **options)
        close(found.losses, expected.losses)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-8, atol=1e-9, equal_nan=True)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            close(p.grad, q.grad, 1e-8)
            with torch.no_grad():
                p -= 0.05 * p.grad
                q -= 0.05 * q.grad
        for balancer in (ours, theirs):
            balancer.after_step([mse(twin, batch) for batch in zip(x, y, strict=True)])


@pytest.mark.parametrize("vectorize", [None, False])
def test_a_step_costs_the_arithmetic_of_one_backward_and_solves_in_between_cost_nothing(vectorize):
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    x, y = torch.randn(K, 16, 32), torch.randn(K, 16)

    def flops(call):
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    plain_step = flops(lambda: mse(model, (x.flatten(0, 1), y.flatten())).backward())
    nash = accord.NashMTL(tasks=K, update_every=3)

    def step(balancer):
        return flops(lambda: balancer.apply(disjoint(model, mse, (x, y), vectorize=vectorize)))

    assert [step(nash) / plain_step for _ in range(3)] == [pytest.approx(1.0, rel=0.03)] * 3
    assert step(accord.LS(tasks=K)) / plain_step == pytest.approx(1.0, rel=0.03)


def test_bfloat16_forward_and_autocast_at_the_time_of_asking():
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = (t.float() for t in batches_for((5,)))
    seen = []

    def loss(model, batch):
        out = model(batch[0])
        seen.append(out.dtype)
        return mse(lambda _: out.float(), batch)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        jacobian = disjoint(model, loss, (x, y))
        losses = [loss(model, batch) for batch in zip(x, y, strict=True)]
    rows = jacobian.rows()  # outside, but with the precision that was on inside
    assert seen == [torch.bfloat16] * (K + 1)
    for ours, row in zip(rows, sequential(losses, model).rows(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, row, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("vectorize", [None, False])
def test_scaled_losses_give_true_rows_and_scaled_gradients(vectorize):
    model, twin = seeded(MODELS["mlp"][0]), seeded(MODELS["mlp"][0])
    x, y = batches_for((5,))
    plain_one = disjoint(twin, mse, (x, y))
    scaled = disjoint(model, mse, (x, y), scale=1024.0, vectorize=vectorize)
    close(scaled.gramian(), plain_one.gramian())
    close(scaled.rows(), plain_one.rows())
    close(scaled.values, plain_one.values)
    scaled.accumulate([1.0] * K, [1.0] * K)
    plain_one.accumulate([1.0] * K, [1.0] * K)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        close(p.grad, 1024 * q.grad)


def test_under_no_grad_gradients_are_computed_all_the_same():
    model = seeded(MODELS["mlp"][0])
    x, y = batches_for((5,))
    reference = disjoint(model, mse, (x, y)).gramian()
    for vectorize in (None, False):
        with torch.no_grad():
            close(disjoint(model, mse, (x, y), vectorize=vectorize).gramian(), reference)
            jacobian = disjoint(model, mse, (x, y), vectorize=vectorize)
            jacobian.accumulate([1.0] * K, [1.0] * K)


def test_views_are_those_of_the_rows():
    model = seeded(MODELS["mlp"][0])
    x, y = batches_for((5,))
    for vectorize in (None, False):
        jacobian = disjoint(model, mse, (x, y), vectorize=vectorize)
        rows = jacobian.rows()
        part = jacobian.restricted([1, 2])
        assert part.parameter_names == ("0.bias", "2.weight")
        close(part.gramian(), sum(r.reshape(K, -1) @ r.reshape(K, -1).T for r in rows[1:3]))
        matrix = draw(2, K)
        mixed = jacobian.mixed(matrix)
        close(mixed.gramian(), matrix @ jacobian.gramian() @ matrix.T)
        close(mixed.values, matrix @ jacobian.values)
