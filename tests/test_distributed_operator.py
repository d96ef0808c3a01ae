"""The operator on several processes beside plain autograd; groups, saved state, loss scales."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import accord
from accord.errors import NumericalWarning
from accord.jacobian import Local, MeanRows, disjoint, sequential
from support.ddp import (
    STEPS,
    K,
    Net,
    apart,
    data,
    digest,
    flat,
    gradients_apart,
    losses_of,
    parallel,
    part_of,
    plain,
    train,
)
from support.processes import Processes

# ---------------------------------------------------------------------- the operator, against plain autograd


def operator(engine="sequential"):
    rank, size = dist.get_rank(), dist.get_world_size()
    net, w = Net(), [0.3, -2.0, 1.1]
    batch, other = data(0), data(1)
    rows = [rows_of(losses_of(net(x)[1], y), net) for x, y in (batch, other)]  # (K, P) of the joint batches
    ours = [
        sequential(losses_of(net(x)[1], y), net.trunk, lean=engine == "lean", retain_graph=True)
        for x, y in (part_of(b, rank, size) for b in (batch, other))
    ]
    (x, y), heads = batch, [p for head in net.heads for p in head.parameters()]
    head = torch.autograd.grad(sum(a * b for a, b in zip(w, losses_of(net(x)[1], y), strict=True)), heads)
    local = rows_of(losses_of(net(part_of(batch, rank, size)[0])[1], part_of(batch, rank, size)[1]), net)
    averaged = local @ local.T / size
    dist.all_reduce(averaged)
    wanted = rows[0] @ rows[0].T
    ids = {id(p): i for i, p in enumerate(ours[0].heads)}
    found_heads = ours[0].head_gradients(w)
    return {
        "gramian": apart(ours[0].gramian().flatten(), wanted.flatten()),
        "cross": apart(ours[0].cross_gramian(ours[1]).flatten(), (rows[0] @ rows[1].T).flatten()),
        "pull": apart(whole(ours[0].pull(w), net), torch.tensor(w, dtype=torch.float64) @ rows[0]),
        "rows": apart(whole(ours[0].rows(), net, K).flatten(), rows[0].flatten()),
        "norm": abs(ours[0].norm(ours[0].pull(w)) / float((torch.tensor(w, dtype=torch.float64) @ rows[0]).norm()) - 1),
        "values": apart(ours[0].values, torch.stack(losses_of(net(x)[1], y))),
        "heads": max(apart(found_heads[ids[id(p)]].flatten(), g.flatten()) for p, g in zip(heads, head, strict=True)),
    }, apart(averaged.flatten(), wanted.flatten())


def rows_of(losses, net):
    """J, shape (K, P), by plain autograd."""
    inputs = list(net.trunk.parameters())
    found = [
        torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True, allow_unused=True)
        for loss in losses
    ]
    return torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in found])


def whole(blocks, net, k=None):
    """Blocks as (P,), or (K, P); zeros where there is none."""
    shape = () if k is None else (k,)
    zeros = [
        b if b is not None else p.new_zeros(*shape, *p.shape)
        for b, p in zip(blocks, net.trunk.parameters(), strict=True)
    ]
    return torch.cat([b.reshape(*shape, -1) if b.numel() else b.reshape(*shape, 0) for b in zeros], -1)


@pytest.mark.parametrize("engine", ["kept", "lean"])
def test_the_operator_is_that_of_the_joint_batch(processes, engine):
    for figures, _ in processes.run(operator, engine):
        assert max(figures.values()) < 1e-12, figures


def test_the_mean_of_local_gramians_is_another_matrix(processes):
    assert all(error > 0.1 for _, error in processes.run(operator))


# ---------------------------------------------------------------------- groups


def in_subgroups():
    """Two pairs of processes, each with batches of its own."""
    rank = dist.get_rank()
    ours = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    joint = [data(100 * (rank // 2) + step) for step in range(STEPS)]
    parts = [part_of(batch, rank % 2, 2) for batch in joint]
    reference, _, wanted = train("nash-mtl", "shared", joint, wrap=plain, reduce=Local())
    net, _, _ = train("nash-mtl", "shared", parts, wrap=ddp_over(ours), reduce=MeanRows(ours))
    wrapped = Net()  # the trunk alone is in DDP and names its group itself
    wrapped.trunk = DistributedDataParallel(wrapped.trunk, process_group=ours, find_unused_parameters=True)
    (x, y), balancer = parts[0], accord.make("nash-mtl", K)
    balance = balancer.backward(
        losses_of([head(z)[:, 0] for z in [wrapped.trunk(x)] for head in wrapped.heads], y), wrapped.trunk
    )
    return {
        "given": apart(flat(net), flat(reference)),
        "found": apart(balance.weights, wanted[0][0]),
        "bits": digest(dict(net.named_parameters())),
    }


def ddp_over(group):
    return lambda net: DistributedDataParallel(net, process_group=group)


def test_two_groups_side_by_side():
    four = Processes(4)
    found = four.run(in_subgroups)
    four.close()
    assert max(max(f["given"], f["found"]) for f in found) < 1e-12
    assert [found[0]["bits"] == f["bits"] for f in found] == [True, True, False, False]
    assert found[2]["bits"] == found[3]["bits"]


def opted_out():
    rank, size = dist.get_rank(), dist.get_world_size()
    parts = [part_of(data(step), rank, size) for step in range(STEPS)]
    net, _, _ = train("nash-mtl", "shared", parts, wrap=plain, reduce=Local())
    return digest(dict(net.named_parameters()))


def alone(rank, size):
    """The same without any process group."""
    return train("nash-mtl", "shared", [part_of(data(step), rank, size) for step in range(STEPS)], wrap=plain)[0]


def test_local_keeps_every_process_to_itself(pair):
    assert pair.run(opted_out) == [digest(dict(alone(rank, 2).named_parameters())) for rank in range(2)]


# ---------------------------------------------------------------------- state, and loss scales

KEEPS = [
    "nash-mtl:update_every=2",
    "moco",
    "db-mtl",
    "famo",
    "gradnorm",
    "graddrop",
    "pcgrad",
    "dwa",
    "cr-mogm",
    "stch",
]


def first_half(spec):
    rank, size = dist.get_rank(), dist.get_world_size()
    net, balancer, _ = train(
        spec, "shared", [part_of(data(step), rank, size) for step in range(3)], wrap=parallel("shared")
    )
    return {name: p.detach() for name, p in net.state_dict().items()}, balancer.state_dict()


@pytest.mark.parametrize("spec", KEEPS)
def test_training_goes_on_with_another_number_of_processes(pair, spec):
    uninterrupted, _, _ = train(spec, "shared", [data(step) for step in range(6)], wrap=plain)
    model, state = pair.run(first_half, spec)[1]
    balancer = accord.make(spec, K)
    balancer.load_state_dict(state)
    net, _, _ = train(spec, "shared", [data(step) for step in range(3, 6)], wrap=loaded(model), balancer=balancer)
    assert apart(flat(net), flat(uninterrupted)) < 1e-10


def loaded(state):
    def wrap(net):
        net.load_state_dict(state)
        return net

    return wrap


def scaled(spec, overflow):
    """Gradients of one step with a GradScaler, unscaled; the last process's are infinite on request."""
    rank, size = dist.get_rank(), dist.get_world_size()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20 if overflow else 2.0**10)
    (net, balancer), (x, y) = (Net(), accord.make(spec, K)), part_of(data(0), rank, size)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = losses_of(net(x)[1], y)
    if overflow and rank == size - 1:
        losses[1] = losses[1] + Burst.apply(net.trunk.gain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # of the skipped step
        balance = balancer.backward(losses, net.trunk, scaler=scaler)
    scaler.unscale_(optimizer)
    gradients = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    scaler.step(optimizer)
    scaler.update()
    return gradients, balance.outcome, scaler.get_scale(), digest(dict(net.named_parameters()))


class Burst(torch.autograd.Function):
    """Nothing, with an infinite gradient."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, float("inf"))


@pytest.mark.parametrize("spec", ["nash-mtl", "ls", "moco", "nash-mtl:heads=plain"])
def test_a_loss_scale_changes_nothing(pair, spec):
    net, (x, y) = Net(), data(0)
    accord.make(spec, K).backward(losses_of(net(x)[1], y), net.trunk)
    wanted = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    for gradients, _, scale, _ in pair.run(scaled, spec, False):
        assert gradients_apart(gradients, wanted) < 1e-10
        assert scale == 2.0**10


@pytest.mark.parametrize("spec", ["nash-mtl", "ls", "moco"])
def test_an_overflow_on_one_process_skips_the_step_on_all(pair, spec):
    untouched = digest(dict(Net().named_parameters()))
    for _, outcome, scale, bits in pair.run(scaled, spec, True):
        assert outcome == "skipped"
        assert scale == 2.0**19  # halved: the scaler saw it
        assert bits == untouched


def a_part_in_turn():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.1)
    batches = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = disjoint(net, lambda model, batch: model(batch).square().mean(), batches, vectorize=False)
    return accord.make("mgda:gramian_part=0", 3).apply(jacobian).outcome


def test_a_part_of_the_rows_of_tasks_in_turn(pair):
    """A view leaves parameters out that the losses still reach."""
    assert set(pair.run(a_part_in_turn)) == {"approximate"}
