"""Training with parameters sharded by fully_shard is training of one process on the joint batch."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import accord
from accord.jacobian import Local, sequential
from support.processes import Failure

K, STEPS, BATCH = 3, 3, 16
METHODS = [m for m in accord.available() if accord.make(m, K).needs in ("gramian", "cross-gramian", "rows")]
WEIGHTED = ["nash-mtl", "mgda", "ls", "famo", "gradnorm"]


class Net(nn.Module):
    """Shapes that no number of processes divides, and a layer of one output: most shards of its bias are empty."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1), nn.Linear(1, 6))
            self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(K))
        self.double()

    def forward(self, x):
        z = self.trunk(x)
        return z, [head(z) for head in self.heads]  # (B, 1)


def data(step):
    """The joint batch of a step."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(BATCH, n, generator=generator, dtype=torch.float64) for n in (5, K)]


def losses_of(model, batch):
    x, y = batch
    outputs = model(x)[1]
    return [2.5 ** (k - 1) * (o.to(y) - y[:, k, None]).square().mean() + 0.01 * (k + 1) for k, o in enumerate(outputs)]


def shard(net, layout="trunk and root", mesh=None, **options):
    """Shard a network; the shared parameters and the heads as the optimiser has them."""
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    wrapped = {
        "trunk and root": [net.trunk, net],
        "root": [net],
        "layers": [*(m for m in net.modules() if isinstance(m, nn.Linear)), net],
        "trunk": [net.trunk],  # heads are whole on every process
    }
    for module in wrapped[layout]:
        fully_shard(module, mesh=mesh, **options)
    return list(net.trunk.parameters()), list(net.heads.parameters())


def train(spec, batches, *, net, shared, heads=None, mode="backward", balancer=None, **options):
    """A loop as users write it; the balancer and each step's weights."""
    balancer, seen = accord.make(spec, K) if balancer is None else balancer, []
    optimizer = torch.optim.SGD([*net.parameters(), *balancer.parameters()], lr=0.05)
    for batch in batches:
        optimizer.zero_grad()
        losses = losses_of(net, batch)
        more = {"second": losses_of(net, [batch[0].flip(1), batch[1]])} if balancer.needs == "cross-gramian" else {}
        if mode == "scalar":
            balancer(losses, shared, heads=heads, **options).backward()
        elif mode == "losses alone":
            balancer(losses, **options).backward()
        else:
            balancer.backward(losses, shared, heads=heads, **more, **options)
        seen.append(torch.from_numpy(balancer.last_weights()[0].copy()))
        optimizer.step()
        with torch.no_grad():
            balancer.after_step(losses_of(net, batch))
    return balancer, seen


def apart(a, b):
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return float((a - b).abs().max() / b.abs().max())


def whole(parameters):
    return torch.cat([joined(p.detach()).flatten() for p in parameters])


def joined(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def compare(spec, layout="trunk and root", mode="backward", mesh=None, **options):
    """How far sharded training is from one process that has the joint batches: weights, parameters, gradients."""
    rank, size = dist.get_rank(), dist.get_world_size()
    joint = [data(step) for step in range(STEPS)]
    parts = [[tensor.chunk(size)[rank] for tensor in batch] for batch in joint]
    one, sharded = Net(), Net()
    _, wanted = train(spec, joint, net=one, shared=list(one.trunk.parameters()), mode=mode, reduce=Local())
    shared, heads = shard(
        sharded, layout, mesh and init_device_mesh("cpu", mesh, mesh_dim_names=("replicas", "shards")), **options
    )
    _, found = train(spec, parts, net=sharded, shared=shared, heads=heads, mode=mode)
    return {
        "weights": max(apart(a, b) for a, b in zip(found, wanted, strict=True)),
        "parameters": apart(whole([*shared, *heads]), flat(one)),
        "gradients": max(
            apart(joined(p.grad), q.grad) for p, q in zip([*shared, *heads], one.parameters(), strict=True)
        ),
        "moved": apart(flat(one), flat(Net())),
    }


def check(found, tolerance=1e-9):
    for figures in found:
        assert figures.pop("moved") > 1e-4
        assert max(figures.values()) < tolerance, figures


@pytest.mark.parametrize("method", METHODS)
def test_every_method_that_looks_at_gradients(processes, method):
    check(processes.run(compare, method))


@pytest.mark.parametrize("layout", ["root", "layers", "trunk"])
@pytest.mark.parametrize("method", ["nash-mtl", "graddrop", "ls"])
def test_which_modules_are_wrapped_does_not_matter(processes, method, layout):
    check(processes.run(compare, method, layout))


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("options", ["", ":heads=plain", ":update_every=2", ":max_norm=0.05"])
def test_options_and_resharding(pair, options, reshard):
    check(pair.run(compare, f"nash-mtl{options}", reshard_after_forward=reshard))


@pytest.mark.parametrize("layout", ["trunk and root", "trunk"])
@pytest.mark.parametrize("method", ["nash-mtl", "moco", "graddrop", "ls"])
def test_hybrid_sharding(four, method, layout):
    check(four.run(compare, method, layout, mesh=(2, 2)))


@pytest.mark.parametrize("method", WEIGHTED)
def test_the_scalar_entry(pair, method):
    check(pair.run(compare, method, mode="scalar"))


def test_the_scalar_of_losses_alone(pair):
    check(pair.run(compare, "ls", mode="losses alone"))


def half_precision(spec):
    """Parameters in float32, computed with in bfloat16: weights against those of one process in float32."""
    rank, size = dist.get_rank(), dist.get_world_size()
    one, sharded = Net().float(), Net().float()
    batch = [tensor.float() for tensor in data(0)]
    reference = accord.make(spec, K).backward(losses_of(one, batch), one.trunk, reduce=Local())
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    shared, heads = shard(sharded, mp_policy=policy)
    part = [tensor.chunk(size)[rank] for tensor in batch]
    balance = accord.make(spec, K).backward(losses_of(sharded, part), shared, heads=heads)
    assert all(p.grad.dtype == torch.float32 for p in shared)
    return apart(balance.weights, reference.weights), apart(balance.losses, reference.losses)


@pytest.mark.parametrize("method", ["nash-mtl", "cagrad"])
def test_mixed_precision_stays_near(pair, method):
    for weights, losses in pair.run(half_precision, method):
        assert 0.0 < weights < 0.1
        assert 0.0 < losses < 0.05


def operator():
    """This process's parts of rows and gradients, against plain autograd on the joint batch."""
    rank, size = dist.get_rank(), dist.get_world_size()
    one, sharded, w = Net(), Net(), [0.3, -2.0, 1.1]
    shared, heads = shard(sharded)
    inputs = list(one.trunk.parameters())
    rows = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses_of(one, data(0))]
    flat = torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in rows])  # (K, P)
    part = [tensor.chunk(size)[rank] for tensor in data(0)]
    jacobian = sequential(losses_of(sharded, part), shared, heads=heads)
    mean_of_local = torch.autograd.grad(losses_of(one, part)[0], inputs)[0].square().sum()
    dist.all_reduce(mean_of_local)
    blocks = jacobian.rows()
    shards_apart = []
    for i, p in enumerate(shared):
        k = [jacobian.shard(i, gradients[i]) for gradients in rows]
        assert blocks[i].shape == (K, *p.to_local().shape)
        shards_apart += [float((a - b).abs().max()) for a, b in zip(blocks[i], k, strict=True) if a.numel()]
    direction = torch.tensor(w, dtype=torch.float64) @ flat
    return {
        "gramian": apart(jacobian.gramian(), flat @ flat.T),
        "rows": max(shards_apart, default=0.0),
        "norm": abs(jacobian.norm(jacobian.pull(w)) / float(direction.norm()) - 1),
        "traffic": 0.0 if 0 < jacobian.reduce.traffic < 2000 else 1.0,  # a few numbers, not the rows
    }, repr(jacobian.reduce)


def test_the_operator_is_that_of_the_joint_batch(processes):
    for figures, reduce in processes.run(operator):
        assert max(figures.values()) < 1e-12, figures
        assert reduce == f"SumShards(processes={processes.size})"


# ---------------------------------------------------------------------- state


def halves(spec, resumed_on=None):
    """Three steps, then as many from the saved state; or the saved state alone, for another number of processes."""
    rank, size = dist.get_rank(), dist.get_world_size()
    parts = [[tensor.chunk(size)[rank] for tensor in data(step)] for step in range(6)]
    net, other = Net(), Net()
    shared, heads = shard(net)
    balancer, _ = train(spec, parts[:3], net=net, shared=shared, heads=heads)
    state = balancer.state_dict()
    weights = {name: p.full_tensor() for name, p in net.state_dict().items()}
    other.load_state_dict(weights)
    shared, heads = shard(other)
    fresh = accord.make(spec, K)
    fresh.load_state_dict(state)
    train(spec, parts[3:], net=other, shared=shared, heads=heads, balancer=fresh)
    one = Net()
    train(spec, [data(step) for step in range(6)], net=one, shared=list(one.trunk.parameters()), reduce=Local())
    return apart(whole([*shared, *heads]), flat(one)), state


@pytest.mark.parametrize("spec", ["moco", "nash-mtl:update_every=2", "graddrop"])
def test_training_goes_on_from_saved_state(pair, spec):
    assert max(error for error, _ in pair.run(halves, spec)) < 1e-9


def resumed(state):
    net, balancer = Net(), accord.make("moco", K)
    shared, heads = shard(net)
    balancer.load_state_dict(state)
    batch = [tensor.chunk(dist.get_world_size())[dist.get_rank()] for tensor in data(3)]
    balancer.backward(losses_of(net, batch), shared, heads=heads)


def test_averages_of_shards_belong_to_one_number_of_processes(pair, four):
    _, state = pair.run(halves, "moco")[0]
    for failure in four.outcomes(resumed, state, together=True):
        assert "EngineError" in failure.kind
        assert "shard 1 of 2" in failure.text
        assert "of 4" in failure.text
        assert "one number of them" in failure.text
        assert failure.seconds < 10


# ---------------------------------------------------------------------- what cannot be


def wrong(case):
    net, balancer = Net(), accord.make("nash-mtl", K)
    shared, heads = shard(net)
    batch = [tensor.chunk(dist.get_world_size())[dist.get_rank()] for tensor in data(0)]
    z, outputs = net(batch[0])
    losses = [(o - batch[1][:, k, None]).square().mean() for k, o in enumerate(outputs)]
    options = {
        "heads missing": {"shared": shared},
        "trunk gathered": {"shared": list(net.trunk.parameters()), "heads": heads},
        "heads gathered": {"shared": shared, "heads": list(net.heads.parameters())},
        "features": {"features": z},
        "features, heads": {"features": z, "heads": heads},
        "lean": {"shared": shared, "heads": heads, "engine": "sequential:lean=true"},
        "batched": {"shared": shared, "heads": heads, "engine": "batched"},
    }[case]
    if case == "trunk gathered":  # what the module shows between a forward and its resharding
        net.trunk.unshard()
        options["shared"] = list(net.trunk.parameters())
    balancer.backward(losses, **options)


CASES = {
    "heads missing": "heads=model.heads",
    "trunk gathered": "right after fully_shard",
    "heads gathered": "right after fully_shard",
    "features": "give the parameters of the trunk as shared=",
    "features, heads": "give the parameters of the trunk as shared=",
    "lean": "leave lean away",
    "batched": "use engine='sequential'",
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_said_by_every_process(pair, case):
    for failure in pair.outcomes(wrong, case, together=True):
        assert isinstance(failure, Failure)
        assert "EngineError" in failure.kind, failure
        assert CASES[case] in failure.text
        assert failure.seconds < 10
