"""Data parallel training on 2 and 4 processes is training of one process on the joint batch."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import accord
from accord.jacobian import Local, collectives
from support.ddp import STEPS, K, Net, check, compare, data, gradients_apart, losses_of, part_of, plain
from support.processes import Failure

METHODS = accord.available()
WEIGHTED = [m for m in METHODS if accord.make(m, K).needs != "rows"]
ON_LOSSES = [m for m in METHODS if accord.make(m, K).needs == "losses"]
OWN = {"uw": 1e-6}  # on one process its scalar is computed in the float32 of its own parameters
ENGINES = ["sequential", "sequential:lean=true", "batched", "batched:lean=true", "auto"]


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
