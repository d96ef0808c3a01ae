"""Data parallel training on 2 and 4 processes is training of one process on the joint batch."""

import contextlib
import hashlib
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import accord
from accord.errors import NumericalWarning
from accord.jacobian import Local, MeanRows, accumulated, collectives, sequential
from accord.jacobian.disjoint import disjoint
from support.processes import Failure, Processes

K, STEPS, BATCH = 3, 3, 16
METHODS = accord.available()
WEIGHTED = [m for m in METHODS if accord.make(m, K).needs != "rows"]
ON_LOSSES = [m for m in METHODS if accord.make(m, K).needs == "losses"]
OWN = {"uw": 1e-6}  # on one process its scalar is computed in the float32 of its own parameters
ENGINES = ["sequential", "sequential:lean=true", "batched", "batched:lean=true", "auto"]


@pytest.fixture(scope="module", params=[2, 4])
def processes(request):
    group = Processes(request.param)
    yield group
    group.close()


@pytest.fixture(scope="module")
def pair():
    group = Processes(2)
    yield group
    group.close()


class Trunk(nn.Module):
    """Has a number, an empty parameter, one that no loss reaches, and two that only some batches reach."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.extra = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 6)
        self.gain, self.never = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.ones(2))
        self.empty = nn.Parameter(torch.ones(0, 6))

    def forward(self, x, extra=False):
        z = self.second(self.first(x).tanh()) * self.gain + self.empty.sum(0)  # (B, 6)
        return z + self.extra(z) if extra else z


class Net(nn.Module):
    """The trunk and K heads; ``extra`` takes the parts that not every batch reaches."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk, self.spare = Trunk(), nn.Linear(6, 1)
            self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(K))
        self.to(dtype)

    def forward(self, x, extra=False):
        z = self.trunk(x, extra)
        found = [head(z)[:, 0] for head in self.heads]
        return z, [found[0] + self.spare(z)[:, 0], *found[1:]] if extra else found


def data(step, dtype=torch.float64):
    """The joint batch of a step."""
    generator = torch.Generator().manual_seed(step)
    x, y = (torch.randn(BATCH, n, generator=generator, dtype=torch.float64) for n in (5, K))
    return x.to(dtype), y.to(torch.promote_types(dtype, torch.float32))


def part_of(batch, rank, size):
    return [tensor.chunk(size)[rank] for tensor in batch]


def losses_of(outputs, y):
    return [2.5 ** (k - 1) * (o.to(y) - y[:, k]).square().mean() + 0.01 * (k + 1) for k, o in enumerate(outputs)]


def digest(value):
    """A text that differs where any bit does."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().flatten()
        value = [str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""]
    elif isinstance(value, dict):
        value = [(key, digest(item)) for key, item in sorted(value.items())]
    elif isinstance(value, list | tuple):
        value = [digest(item) for item in value]
    return hashlib.sha256(repr(value).encode()).hexdigest()


def apart(a, b):
    """The largest difference over the largest number; GradDrop's weights are NaN on both sides."""
    assert a.shape == b.shape
    assert torch.equal(a.isnan(), b.isnan())
    a, b = a.detach().double().nan_to_num(), b.detach().double().nan_to_num()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if len(a) else 0.0


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def disjoint_losses(net, batch):
    return (torch.stack(net(batch["x"])[1])[0] - batch["y"]).square().mean() * batch["factor"] + 0.01


def gradients_of(mode, model, net, balancer, batch, options):
    """One step in one of the ways there are; the balance, where there is one."""
    x, y = batch
    if mode == "accumulated":
        sums = accumulated(net.trunk)
        for some, target in zip(x.chunk(2), y.chunk(2), strict=True):
            with model.no_sync() if model is not net else contextlib.nullcontext():
                sums.include([loss / 2 for loss in losses_of(model(some)[1], target)], **options)
        return balancer.apply(sums)
    if mode == "disjoint":
        tasks = {"x": torch.stack([x + k for k in range(K)]), "y": y.T, "factor": 1.0 + torch.arange(K)}
        return balancer.apply(disjoint(net, disjoint_losses, tasks, shared=net.trunk, **options))
    if balancer.needs == "cross-gramian" and mode == "shared":
        options = {**options, "second": losses_of(model(x.flip(1))[1], y)}
    z, outputs = model(x)
    losses = losses_of(outputs, y)
    if mode == "scalar":
        balancer(losses, net.trunk, **options).backward()
        return None
    if mode == "losses alone":
        balancer(losses, **options).backward()
        return None
    where = {"features": z if mode == "features" else net.trunk} if mode in ("features", "watch") else {}
    return balancer.backward(losses, **(where or {"shared": net.trunk}), **options)


def train(spec, mode, batches, *, wrap, dtype=torch.float64, balancer=None, **options):
    """A loop as users write it; the network, the balancer, and the weights and gradients of each step."""
    net, balancer = Net(dtype), accord.make(spec, K) if balancer is None else balancer
    model = wrap(net)
    if mode == "watch":
        accord.watch(net.trunk)
    optimizer = torch.optim.SGD([*net.parameters(), *balancer.parameters()], lr=0.05)
    seen = []
    for batch in batches:
        optimizer.zero_grad()
        balance = gradients_of(mode, model, net, balancer, batch, dict(options))
        weights = torch.from_numpy(balancer.last_weights()[0].copy()) if balance is None else balance.weights
        seen.append((weights, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}))
        optimizer.step()
        with torch.no_grad():
            balancer.after_step(losses_of(net(batch[0])[1], batch[1]))
    return net, balancer, seen


def plain(net):
    return net


def parallel(mode):
    """Only DDP's own backward needs to be told of parameters that no loss reaches."""
    unused = mode in ("scalar", "losses alone")
    return lambda net: DistributedDataParallel(net, find_unused_parameters=unused)


def compare(spec, mode="shared", dtype=torch.float64, wrap=None, bucket=None, **options):
    """How far processes with a part of each batch each are from one that has all of it."""
    rank, size = dist.get_rank(), dist.get_world_size()
    joint = [data(step, dtype) for step in range(STEPS)]
    reference, _, wanted = train(spec, mode, joint, wrap=plain, dtype=dtype, reduce=Local(), **options)
    parts = [part_of(batch, rank, size) for batch in joint]
    before = collectives.BUCKET_BYTES
    collectives.BUCKET_BYTES = bucket or before
    try:
        net, balancer, seen = train(spec, mode, parts, wrap=wrap or parallel(mode), dtype=dtype, **options)
    finally:
        collectives.BUCKET_BYTES = before
    return {
        "weights": max(apart(a, b) for (a, _), (b, _) in zip(seen, wanted, strict=True)),
        "gradients": max(gradients_apart(a, b) for (_, a), (_, b) in zip(seen, wanted, strict=True)),
        "parameters": apart(flat(net), flat(reference)),
        "moved": apart(flat(net.trunk), flat(Net(dtype).trunk)),
        "bits": digest(dict(net.named_parameters())),
        "state": digest(balancer.state_dict()),
    }


def gradients_apart(a, b):
    """Over all parameters, and the same ones have a gradient at all."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return apart(torch.cat([g.flatten() for g in a.values()]), torch.cat([g.flatten() for g in b.values()]))


def check(found, tolerance, *, same_state=True):
    for figures in found:
        far = {name: figures[name] for name in ("weights", "gradients", "parameters") if figures[name] > tolerance}
        assert not far
        assert figures["moved"] > 1e-4
    assert len({figures["bits"] for figures in found}) == 1  # replicas are equal to the last bit
    assert same_state == (len({figures["state"] for figures in found}) == 1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_as_one_process_does(processes, method):
    check(processes.run(compare, method), 1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_single_precision(pair, method):
    check(pair.run(compare, method, dtype=torch.float32), 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["nash-mtl", "mgda", "graddrop", "moco", "ls"])
def test_every_engine(pair, method, engine):
    check(pair.run(compare, method, engine=engine), 1e-10)


OPTIONS = ["heads=plain", "heads=weighted", "max_norm=0.05", "update_every=2", "update_every=auto", "gramian_ema=0.5"]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("engine", ["sequential", "sequential:lean=true"])
def test_options_of_gramian_methods(pair, options, engine):
    check(pair.run(compare, f"nash-mtl:{options}", engine=engine), 1e-10)


@pytest.mark.parametrize("options", ["gramian_part=first", "gramian_tasks=1"])
def test_estimates_from_some_rows(pair, options):
    check(pair.run(compare, f"nash-mtl:{options}"), 1e-10)


@pytest.mark.parametrize("method", WEIGHTED)
def test_the_scalar_whose_gradients_ddp_averages_itself(pair, method):
    check(pair.run(compare, method, "scalar"), OWN.get(method, 1e-10))


@pytest.mark.parametrize("method", ON_LOSSES)
def test_the_scalar_of_losses_alone(pair, method):
    check(pair.run(compare, method, "losses alone"), OWN.get(method, 1e-10))


AT_FEATURES = ["mgda", "nash-mtl:max_norm=0.05", "imtl", "ls", "modo", "moco", "db-mtl"]  # GradDrop draws per sample


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("method", AT_FEATURES)
def test_at_the_features(pair, method, engine):
    own = method in ("moco", "db-mtl")  # their averages are of each process's own samples
    check(pair.run(compare, method, "features", engine=engine), 1e-10, same_state=not own)


def test_at_the_features_of_four(processes):
    check(processes.run(compare, "nash-mtl", "features"), 1e-10)
    check(processes.run(compare, "nash-mtl", "watch"), 1e-10)


@pytest.mark.parametrize(
    "method", ["nash-mtl", "nash-mtl:max_norm=0.05", "mgda:update_every=2", "graddrop", "ls", "uw"]
)
@pytest.mark.parametrize("mode", ["accumulated", "disjoint"])
def test_micro_batches_and_tasks_with_samples_of_their_own(pair, mode, method):
    check(pair.run(compare, method, mode), 1e-10)


@pytest.mark.parametrize("bucket", [1, 300, 1500])
@pytest.mark.parametrize("engine", ["sequential", "batched:lean=true"])
def test_buckets_smaller_than_one_parameter_and_smaller_than_all(pair, bucket, engine):
    check(pair.run(compare, "nash-mtl", engine=engine, bucket=bucket), 1e-10)


def finding_unused(net):
    return DistributedDataParallel(net, find_unused_parameters=True)


def static(net):
    return DistributedDataParallel(net, static_graph=True)


@pytest.mark.parametrize("wrap", [plain, finding_unused, static], ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("method", ["nash-mtl", "ls", "moco"])
def test_ways_to_hold_the_model(pair, method, wrap):
    check(pair.run(compare, method, wrap=wrap), 1e-10)


@pytest.mark.parametrize("method", ["nash-mtl", "ls", "moco", "graddrop"])
def test_half_precision_stays_near_and_replicas_equal(pair, method):
    check(pair.run(compare, method, dtype=torch.bfloat16), 0.05 if method != "graddrop" else 0.5)


# ---------------------------------------------------------------------- what only some batches reach


def uneven(method, engine="sequential", bucket=None, told=True):
    """The first process alone reaches two parameters of the trunk and one head."""
    rank, size = dist.get_rank(), dist.get_world_size()
    collectives.BUCKET_BYTES, before = bucket or collectives.BUCKET_BYTES, collectives.BUCKET_BYTES
    joint, ours = Net(), Net()
    balancers = accord.make(method, K), accord.make(method, K)
    heads = [*ours.heads.parameters(), *ours.spare.parameters()] if told else None
    try:
        for step in range(STEPS):
            batch = data(step)
            parts = [losses_of(joint(x, extra=r == 0)[1], y) for r in range(size) for x, y in [part_of(batch, r, size)]]
            balancers[0].backward(
                [sum(losses) / size for losses in zip(*parts, strict=True)], joint.trunk, reduce=Local()
            )
            x, y = part_of(batch, rank, size)
            balancers[1].backward(losses_of(ours(x, extra=rank == 0)[1], y), ours.trunk, heads=heads, engine=engine)
            for net in (joint, ours):
                torch.optim.SGD(net.parameters(), lr=0.05).step()
    finally:
        collectives.BUCKET_BYTES = before
    wanted, found = ({n: p.grad for n, p in net.named_parameters() if p.grad is not None} for net in (joint, ours))
    assert "trunk.extra.weight" in found
    assert "spare.weight" in found
    assert "trunk.never" not in found
    return gradients_apart(found, wanted)


@pytest.mark.parametrize("bucket", [None, 300, 600])
@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("method", ["nash-mtl", "nash-mtl:heads=plain", "ls", "graddrop", "moco"])
def test_parameters_that_one_batch_alone_reaches(pair, method, engine, bucket):
    assert max(pair.run(uneven, method, engine, bucket)) < 1e-12


def test_parameters_that_one_batch_of_four_reaches(processes):
    assert max(processes.run(uneven, "nash-mtl")) < 1e-12


REFUSED = [("nash-mtl", "sequential", False), ("ls", "sequential", False), ("nash-mtl", "sequential:lean=true", True)]


@pytest.mark.parametrize(("method", "engine", "told"), REFUSED)
def test_graphs_that_do_not_show_the_same_parameters_are_refused(pair, method, engine, told):
    for found in pair.outcomes(uneven, method, engine, told=told, together=True):
        assert isinstance(found, Failure)
        assert "EngineError" in found.kind
        assert "heads=model.heads" in found.text or "same work" in found.text
        assert found.seconds < 10  # at once, not when the group's patience ends


def expert(route):
    """Each process sends its batch through another one of two heads of equal shape."""
    net, (x, y) = Net(), data(0)
    outputs = net(x)[1]
    outputs[0] = net.heads[dist.get_rank() if route else 0](net.trunk(x))[:, 0]
    accord.make("ls", K).backward(losses_of([outputs[0], outputs[0], outputs[2]], y), net.trunk)


def test_heads_of_one_shape_are_not_taken_for_each_other(pair):
    assert pair.run(expert, False) == [None, None]
    assert all("EngineError" in found.kind for found in pair.outcomes(expert, True, together=True))


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
