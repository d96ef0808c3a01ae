"""``accord.jacobian.accumulated``: micro-batches added up are the whole batch, for every method and engine."""

from functools import partial

import pytest
import torch
from torch import nn

import accord
from accord.errors import AccordError, EngineError, NonFiniteError, OptionError, ShapeError
from accord.jacobian import accumulated, auto, batched, features, sequential
from accord.jacobian.disjoint import disjoint
from support.nets import Net, assert_same_grads, flat_grad, gramian_of, rows_of

GRADIENT_METHODS = [m for m in accord.available() if accord.make(m, 3).needs != "losses"]
LOSS_METHODS = [m for m in accord.available() if m not in GRADIENT_METHODS]
VARIANTS = [
    "nash-mtl:heads=plain",
    "mgda:heads=weighted",
    "upgrad:heads=plain",
    "cagrad:max_norm=0.1",
    "nash-mtl:update_every=2",
    "pcgrad:gramian_ema=0.5",
    "alpha-fair:of=nash-mtl",
    "alpha-fair:of='graddrop'",
    "cr-mogm:of=mgda",
]
ESTIMATES = ["nash-mtl:gramian_part='0'", "upgrad:gramian_part='2.weight',gramian_ema=0.5", "nash-mtl:gramian_tasks=2"]
ENGINES = {
    "sequential": sequential,
    "batched": batched,
    "batched, 2 at a time": partial(batched, chunk_size=2),
    "batched, little memory": partial(batched, memory=2500),
    "sequential, within memory": partial(sequential, memory=10_000),
    "sequential, lean": partial(sequential, lean=True),
    "auto": auto,
}
PARTS = {"even": [slice(0, 4), slice(4, 8)], "uneven": [slice(0, 5), slice(5, 6), slice(6, 8)], "one": [slice(0, 8)]}


def losses_of(net, step, part=slice(None)):
    """Means over a part of the batch, times its share of it: they add up to those of the whole."""
    x, y = (tensor[part] for tensor in net._draw(step))
    z = net.trunk(x)
    share = len(x) / 8
    return [
        (share * ((head(z)[:, 0] - y[:, k]).square().mean() * 2.5 ** (k - 1) + 0.01 * (k + 1)))
        for k, head in enumerate(net.heads)
    ]


def sums_of(net, step, parts="uneven", engine=sequential, **options):
    """All micro-batches of a step."""
    sums = accumulated(net.trunk, engine=engine)
    for part in PARTS[parts]:
        sums.include(losses_of(net, step, part), **options)
    return sums


def compare(balance, expected, net, other, tolerance=1e-11):
    """Everything a step gives, to a tolerance relative to its size."""
    close = partial(torch.testing.assert_close, rtol=tolerance, equal_nan=True)
    close(balance.losses, expected.losses, atol=0.0)
    close(balance.loss, expected.loss, atol=1e-15)
    close(balance.weights, expected.weights, atol=tolerance * float(expected.weights.nan_to_num().abs().max()))
    assert (balance.gramian is None) == (expected.gramian is None)
    if balance.gramian is not None:
        close(balance.gramian, expected.gramian, atol=tolerance * float(expected.gramian.abs().max()))
    assert (balance.outcome, balance.cause) == (expected.outcome, expected.cause)
    assert_same_grads(net, other, rtol=tolerance, atol=tolerance * float(flat_grad(other.parameters()).abs().max()))


def train(spec, sums, tasks=3, steps=3, **how):
    """Train two networks, one with micro-batches and one with whole batches; every step must agree."""
    net, other = Net(tasks), Net(tasks)
    ours, reference = accord.make(spec, tasks=tasks), accord.make(spec, tasks=tasks)
    optimizers = [
        torch.optim.SGD([*n.parameters(), *b.parameters()], lr=0.02) for n, b in ((net, ours), (other, reference))
    ]
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        whole = sequential(losses_of(other, step), other.trunk)
        added = sums(net, step, **how)
        if ours.needs == "cross-gramian":
            whole.second, added.second = sequential(losses_of(other, step + 9), other.trunk), sums(net, step + 9, **how)
        compare(ours.apply(added), reference.apply(whole), net, other)
        for optimizer in optimizers:
            optimizer.step()
        ours.after_step(losses_of(net, step))
        reference.after_step(losses_of(other, step))
    assert not torch.equal(net.trunk[0].weight, Net(tasks).trunk[0].weight)


@pytest.mark.parametrize("spec", [*GRADIENT_METHODS, *LOSS_METHODS, *VARIANTS])
def test_every_method_sees_the_whole_batch(spec):
    train(spec, sums_of)


@pytest.mark.parametrize("spec", ESTIMATES)
def test_estimates_see_the_whole_batch(spec):
    train(spec, sums_of, tasks=5)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "upgrad:heads=plain"])
def test_every_engine(spec, parts, engine):
    train(spec, sums_of, steps=2, parts=parts, engine=engine)


def test_it_is_neither_a_mean_of_gramians_nor_a_step_each():
    """What the two ways that suggest themselves would give instead is something else."""
    net = Net()
    sums = sums_of(net, 0, "even")
    whole = gramian_of(losses_of(net, 0), net.shared)
    torch.testing.assert_close(sums.gramian().numpy(), whole, rtol=1e-12, atol=1e-15)
    of_parts = sum(4 * gramian_of(losses_of(net, 0, part), net.shared) for part in PARTS["even"]) / 2
    assert abs(of_parts - whole).max() > 0.1 * abs(whole).max()
    weights = accord.NashMTL(3).apply(sums).weights
    each = [accord.NashMTL(3).backward(losses_of(net, 0, part), net.trunk).weights for part in PARTS["even"]]
    assert float((sum(each) / 2 / 2 - weights).abs().max()) > 0.01 * float(weights.abs().max())


def test_the_operator():
    """Rows, products, Gramian, pull and heads are those of plain autograd on the whole batch."""
    net = Net()
    losses = losses_of(net, 0)
    rows = rows_of(losses, net.shared)
    sums = sums_of(net, 0)
    assert (sums.num_tasks, sums.batches, sums.engine) == (3, 3, "accumulated")
    assert [id(p) for p in sums.parameters] == [id(p) for p in net.shared]
    assert {id(p) for p in sums.heads} == {id(p) for p in net.heads.parameters()}
    close = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-14)
    w = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    close(torch.cat([block.flatten(1) for block in sums.rows()], 1), rows)
    close(sums.gramian(), rows @ rows.T)
    close(torch.cat([g.flatten() for g in sums.pull(w)]), w @ rows)
    for leaf, gradient in zip(sums.heads, sums.head_gradients(w), strict=True):
        close(gradient, torch.autograd.grad(losses, leaf, list(w), retain_graph=True)[0])
    close(sums.values, torch.stack(losses).detach())
    close(sums.cross_gramian(sums), rows @ rows.T)
    part = sums.restricted([1, 2])
    assert (len(part.parameters), part.heads) == (2, ())
    close(torch.cat([block.flatten(1) for block in part.rows()], 1), rows[:, 24:60])
    mixture = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
    close(sums.mixed(mixture).gramian(), mixture @ rows @ rows.T @ mixture.T)
    assert all(p.grad is None for p in net.parameters())


def test_gradients_are_added_to_what_is_there():
    net, other = Net(), Net()
    sum(losses_of(net, 4)).backward()
    sum(losses_of(other, 4)).backward()
    accord.NashMTL(3).apply(sums_of(net, 0))
    accord.NashMTL(3).backward(losses_of(other, 0), other.trunk)
    assert_same_grads(net, other, rtol=1e-10, atol=1e-12)


def test_the_gramian_can_be_looked_at_between_micro_batches():
    """What was asked for before the last micro-batch is not what it is after it."""
    net = Net()
    sums = accumulated(net.trunk)
    losses = [losses_of(net, 0, part) for part in PARTS["uneven"]]
    for n, found in enumerate(losses, 1):
        so_far = [sum(parts) for parts in zip(*losses[:n], strict=True)]
        expected = torch.from_numpy(gramian_of(so_far, net.shared))
        sums.include(found, retain_graph=True)
        torch.testing.assert_close(sums.gramian(), expected, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(sums.values, torch.stack(so_far).detach(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("engine", [sequential, batched], ids=["sequential", "batched"])
def test_parameters_and_heads_that_some_micro_batches_do_not_reach(engine):
    """A layer, a head and a task each take part in one micro-batch alone; what none reaches keeps no gradient."""

    def build():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            trunk = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("all", "first", "never")}).double()
            return nn.ModuleDict({"trunk": trunk, "heads": nn.ModuleList([nn.Linear(4, 1) for _ in range(2)])}).double()

    def losses(net, part):
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(part), dtype=torch.float64)
        z = net["trunk"]["all"](x).tanh()
        z = net["trunk"]["first"](z) if part == 0 else z
        found = [head(z).square().mean() for head in net["heads"]]
        return found if part == 0 else [found[0], 0.0 * found[0].detach() + net["heads"][1].bias.sum()]

    net, other = build(), build()
    sums = accumulated(net["trunk"], engine=engine)
    for part in (0, 1):
        sums.include(losses(net, part))
    accord.make("upgrad", 2).apply(sums)
    whole = [sum(both) for both in zip(losses(other, 0), losses(other, 1), strict=True)]
    accord.make("upgrad", 2).backward(whole, other["trunk"])
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == ("never" in name), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-11, atol=1e-13)


# ---------------------------------------------------------------------- tasks with samples of their own


def own_losses(net, batches):
    """Task k from the k-th part of the batch."""
    x, y = batches
    return [(net.heads[k](net.trunk(x[k]))[:, 0] - y[k]).square().mean() / 2 for k in range(3)]


@pytest.mark.parametrize("vectorize", [True, False], ids=["all at once", "in turn"])
@pytest.mark.parametrize("spec", ["nash-mtl", "upgrad:heads=plain", "graddrop", "moco", "alpha-fair:of=mgda", "ls"])
def test_disjoint_micro_batches(spec, vectorize):
    net, other = Net(), Net()
    ours, reference = accord.make(spec, tasks=3), accord.make(spec, tasks=3)

    def loss(model, batch, head):
        x, y = batch
        return (head(model(x))[:, 0] - y).square().mean() / 2

    for step in range(2):
        net.zero_grad()
        other.zero_grad()
        draw = torch.Generator().manual_seed(step)
        x, y = (torch.randn(2, 3, 5, *n, generator=draw, dtype=torch.float64) for n in ((4,), ()))
        sums = accumulated(net.trunk)
        for part in zip(x, y, strict=True):
            sums.include(disjoint(net.trunk, loss, part, heads=net.heads, vectorize=vectorize))
        whole = [a + b for a, b in zip(*(own_losses(other, part) for part in zip(x, y, strict=True)), strict=True)]
        compare(ours.apply(sums), reference.backward(whole, other.trunk), net, other)


def test_disjoint_and_shared_samples_together():
    """A Jacobian of any engine can be added, as long as its parameters are the same."""
    net, other = Net(), Net()
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 5, *n, generator=draw, dtype=torch.float64) for n in ((4,), ()))

    def loss(model, batch, head):
        return (head(model(batch[0]))[:, 0] - batch[1]).square().mean() / 2

    sums = accumulated(net.trunk)
    sums.include(disjoint(net.trunk, loss, (x, y), heads=net.heads))
    sums.include(batched(losses_of(net, 1), net.trunk))
    whole = [a + b for a, b in zip(own_losses(other, (x, y)), losses_of(other, 1), strict=True)]
    compare(accord.NashMTL(3).apply(sums), accord.NashMTL(3).backward(whole, other.trunk), net, other)


# ---------------------------------------------------------------------- loss scale


@pytest.mark.parametrize("engine", [sequential, batched], ids=["sequential", "batched"])
@pytest.mark.parametrize("spec", ["nash-mtl", "mgda:heads=weighted", "graddrop", "cagrad:max_norm=0.1", "ls"])
def test_a_loss_scale_is_in_the_gradients_alone(spec, engine):
    net, other = Net(), Net()
    scale = 2.0**12
    balance = accord.make(spec, tasks=3).apply(sums_of(net, 0, engine=engine, scale=scale))
    expected = accord.make(spec, tasks=3).apply(sequential(losses_of(other, 0), other.trunk))
    for p in net.parameters():
        p.grad /= scale
    compare(balance, expected, net, other)


def test_a_loop_with_a_scaler():
    """One finite step, one that the scaler skips because of its second micro-batch, and one after that."""
    net, other = Net().float(), Net().float()
    runs = []
    for model, spoiled in ((net, True), (other, False)):
        balancer = accord.NashMTL(3)
        optimizer, scaler = (
            torch.optim.SGD(model.parameters(), lr=0.02),
            torch.amp.GradScaler("cpu", init_scale=2.0**10),
        )
        states = []
        for step in (0, 1, 2) if spoiled else (0, 2):
            optimizer.zero_grad()
            sums = accumulated(model.trunk)
            for n, part in enumerate((slice(0, 4), slice(4, 8))):
                x, y = (t[part].float() for t in model._draw(step))
                z = model.trunk(x)
                losses = [(head(z)[:, 0] - y[:, k]).square().mean() / 2 for k, head in enumerate(model.heads)]
                if step == 1 and n == 1:
                    losses[2] = losses[2] * float("inf")
                sums.include(losses, scale=scaler.get_scale())
            balance = balancer.apply(sums)
            assert balance.outcome == ("skipped" if step == 1 else "solved")
            scaler.scale(torch.zeros(()))  # what makes a scaler know its scale, as any loop does once
            scaler.step(optimizer)
            scaler.update()
            states.append(str(balancer.state_dict()))
        runs.append((states, scaler.get_scale(), [p.detach().clone() for p in model.parameters()]))
    (states, scale, parameters), (expected, before, others) = runs
    assert states[0] == states[1] == expected[0]
    assert scale == before / 2
    for a, b in zip(parameters, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------- bad input


def refused(error, match, call, sums, expected):
    """The call raises, and the sums are as before."""
    with pytest.raises(error, match=match):
        call()
    torch.testing.assert_close(sums.gramian(), expected, rtol=1e-14, atol=0.0)


def test_micro_batches_that_do_not_fit():
    net, other = Net(), Net()
    sums = sums_of(net, 0)
    expected = sums.gramian()
    losses = losses_of(net, 1)
    try_ = partial(refused, EngineError, sums=sums, expected=expected)
    try_("micro-batch 4 has 2 tasks and 4 shared parameters at scale 1", lambda: sums.include(losses[:2]))
    try_("All must be of the same tasks, parameters and loss scale", lambda: sums.include(losses, scale=8.0))
    try_("All must be of the same", lambda: sums.include(sequential(losses_of(other, 1), other.trunk)))
    try_("All must be of the same", lambda: sums.include(dict(zip("abc", losses, strict=True))))
    try_("All must be of the same", lambda: sums.include(sequential(losses, net.trunk[0])))
    spoiled = [losses[0] * float("nan"), *losses[1:]]
    refused(NonFiniteError, "'0' = nan", lambda: sums.include(spoiled), sums, expected)
    refused(ShapeError, "a scalar is needed", lambda: sums.include([net.features(), *losses[1:]]), sums, expected)
    try_("none of the 3 losses reaches", lambda: sums.include(losses_of(other, 1)))
    freed = losses_of(net, 1)
    sum(freed).backward()
    net.zero_grad()
    try_("compute the losses anew", lambda: sums.include(freed))
    assert sums.batches == 3
    sums.include(losses)  # and it goes on
    assert sums.batches == 4


def test_nothing_was_added():
    net, balancer = Net(), accord.NashMTL(3)
    before = str(balancer.state_dict())
    for spec in ("nash-mtl", "ls", "graddrop"):
        with pytest.raises(EngineError, match=r"no micro-batch was added; call include\(losses\) for each first"):
            accord.make(spec, tasks=3).apply(accumulated(net.trunk))
    sums = accumulated(net.trunk)
    with pytest.raises(NonFiniteError):
        sums.include([loss * float("nan") for loss in losses_of(net, 0)])
    with pytest.raises(EngineError, match="no micro-batch was added"):
        balancer.apply(sums)
    assert str(balancer.state_dict()) == before
    assert all(p.grad is None for p in net.parameters())


def test_another_number_or_order_of_tasks_than_the_balancer_s():
    net = Net()
    named = accumulated(net.trunk)
    named.include(dict(zip("cab", losses_of(net, 0), strict=True)))
    assert named.names == ("c", "a", "b")
    with pytest.raises(ShapeError, match="3 losses were given, but the balancer was made for 2"):
        accord.NashMTL(2).apply(named)
    with pytest.raises(ShapeError, match=r"\['c', 'a', 'b'\], but the balancer's are \['a', 'b', 'c'\]"):
        accord.NashMTL(["a", "b", "c"]).apply(named)
    assert all(p.grad is None for p in net.parameters())
    assert accord.NashMTL(["c", "a", "b"]).apply(named).outcome == "solved"


def test_engines_that_do_not_fit():
    net = Net()
    with pytest.raises(OptionError, match=r"engine = 'sequential' is no function; give accord\.jacobian\.sequential"):
        accumulated(net.trunk, engine="sequential")
    z = net.features()
    with pytest.raises(EngineError, match=r"those at a representation.*give the parameters of the trunk"):
        accumulated(net.trunk).include(features(net.losses(0, z), z))
    for lean in (False, True):
        sums = accumulated(net.trunk, engine=partial(sequential, lean=lean, memory=600))
        with pytest.raises(AccordError, match=r"rows of 3 tasks take 1560 bytes .*allow more") as info:
            sums.include(losses_of(net, 0))
        assert ("use lean=true" in str(info.value)) == (not lean)


def test_a_generator_of_parameters_serves_every_micro_batch():
    net, other = Net(), Net()
    sums = accumulated(net.trunk.parameters())
    for part in PARTS["even"]:
        sums.include(losses_of(net, 0, part))
    accord.NashMTL(3).apply(sums)
    accord.NashMTL(3).backward(losses_of(other, 0), other.trunk)
    assert_same_grads(net, other, rtol=1e-10, atol=1e-12)
