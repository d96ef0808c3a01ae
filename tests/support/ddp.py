"""A network on several processes and on one: trained side by side, and compared."""

import contextlib
import hashlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import accord
from accord.jacobian import Local, accumulated, collectives
from accord.jacobian.disjoint import disjoint

K, STEPS, BATCH = 3, 3, 16


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
