"""``features=``: balancing at the shared representation, with one backward through the trunk."""

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord import solvers
from accord.errors import EngineError, NonFiniteError, OptionError, ShapeError, UnknownNameError
from accord.jacobian import FEATURE_ENGINES, features
from support.nets import (
    Branched,
    Net,
    assert_same_grads,
    counted,
    flat_grad,
    gramian_of,
    rows_of,
    side_by_side,
    through_the_trunk,
    write_heads,
)

ENGINES = sorted(FEATURE_ENGINES)
SOLVED = {
    "nash-mtl": solvers.nash,
    "fairgrad": lambda g: solvers.fairgrad(g, 2),
    "fairgrad:alpha=0.5,heads=weighted": lambda g: solvers.fairgrad(g, 0.5),
    "mgda": solvers.mgda,
    "cagrad": lambda g: solvers.cagrad(g, 0.4),
    "imtl-g": solvers.imtl_g,
    "upgrad": solvers.upgrad,
    "dualproj": solvers.dualproj,
    "aligned-mtl": solvers.aligned_mtl,
    "config": solvers.config,
}
STATEFUL = ["pcgrad", "gradvac", "modo", "sdmgrad", "gradnorm", "imtl", "alpha-fair:of=nash-mtl", "db-mtl:beta=0"]
ROWS = ["graddrop", "moco", "db-mtl"]
ALL = [*SOLVED, *STATEFUL, "cr-mogm", *ROWS, "ls", "si", "uw", "rlw", "famo:max_norm=0.01", "nash-mtl:max_norm=0.5"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("spec", list(SOLVED))
def test_weights_are_the_solver_s_on_the_feature_gramian(spec, engine):
    net, other = Net(), Net()
    z = net.features()
    losses = net.losses(features=z)
    solution = SOLVED[spec](gramian_of(losses, [z]))
    expected = through_the_trunk(losses, [z], solution.weights, net.shared)
    balancer = accord.make(spec, tasks=3)
    y = other.features()
    balance = balancer.backward(other.losses(features=y), features=y, engine=engine)
    np.testing.assert_allclose(balance.weights, solution.weights, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(balance.gramian, gramian_of(losses, [z]), rtol=1e-10, atol=1e-15)
    assert balance.solved
    torch.testing.assert_close(flat_grad(other.shared), expected, rtol=1e-6, atol=1e-10)
    plain = np.ones(3) if balancer.heads == "plain" else solution.weights
    write_heads(net, losses, plain)
    for p, q in zip(net.heads.parameters(), other.heads.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-10)
    at_parameters = accord.make(spec, tasks=3).backward(net.losses(), net.trunk).weights
    assert not torch.allclose(balance.weights, at_parameters, rtol=1e-3)  # another problem


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_one_backward_through_the_trunk_whatever_k(spec, engine, tasks):
    net, balancer = Net(tasks), accord.make(spec, tasks=tasks)
    counts = counted(net.shared)
    for step in range(3):
        z = net.features(step)
        balancer.backward(net.losses(step, z), features=z, engine=engine)
        balancer.after_step(net.losses(step))
        assert counts == [step + 1] * len(counts)


@pytest.mark.parametrize("spec", [s for s in ALL if s not in ROWS])
def test_the_trunk_s_gradient_is_the_weighted_sum_back_through_it(spec):
    net, balancer = Net(), accord.make(spec, tasks=3)
    for step in range(3):
        net.zero_grad()
        z = net.features(step)
        balance = balancer.backward(net.losses(step, z), features=z)
        balancer.after_step(net.losses(step))
        y = net.features(step)
        weights = balance.scale * balance.weights
        expected = through_the_trunk(net.losses(step, y), [y], weights, net.shared)
        torch.testing.assert_close(flat_grad(net.shared), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_graddrop_drops_at_the_representation_as_in_its_paper(engine):
    net, other = Net(), Net()
    z, y = net.features(), other.features()
    rows = rows_of(other.losses(features=y), [y]).reshape(3, *y.shape)
    accord.GradDrop(3, seed=4).backward(net.losses(features=z), features=z, engine=engine)
    # the masks that the same seed draws: recovered from a balancer on the features as if they were the parameters
    leaf = torch.zeros_like(z, requires_grad=True)
    accord.GradDrop(3, seed=4).backward([(row * leaf).sum() for row in rows], leaf)
    kept = leaf.grad
    assert ((kept >= 0) | (kept == rows.clamp(max=0).sum(0))).all()
    direction = torch.cat([g.flatten() for g in torch.autograd.grad(y, other.shared, kept)])
    torch.testing.assert_close(flat_grad(net.shared), direction)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("spec", ["nash-mtl", "cagrad", "graddrop", "moco", "ls", "db-mtl"])
def test_several_features_of_any_shape(spec, engine):
    net, other = Branched(), Branched()
    counts = counted(net.shared)
    one, two = net.features()
    balance = accord.make(spec, tasks=3).backward(net.losses(one, two), features=[one, two], engine=engine)
    assert counts == [1] * len(counts)
    z = other.features()
    losses = other.losses(*z)
    g = gramian_of(losses, z)
    if spec == "ls":
        sum(losses).backward()
        assert_same_grads(net, other)
        return
    np.testing.assert_allclose(balance.gramian, g, rtol=1e-10, atol=1e-15)
    if spec in SOLVED:
        expected = through_the_trunk(losses, z, SOLVED[spec](g).weights, other.shared)
        torch.testing.assert_close(flat_grad(net.shared), expected, rtol=1e-6, atol=1e-10)
    fresh = Branched()
    again = fresh.features()
    given = (f for f in (*again, again[0]))  # a generator, one of them twice
    accord.make(spec, tasks=3).backward(fresh.losses(*again), features=given, engine=engine)
    assert_same_grads(net, fresh)


def test_features_that_are_parts_of_one_tensor():
    """Outputs of one operation, and a view: each is a feature of its own."""
    trunk, heads = nn.Linear(3, 8).double(), [nn.Linear(4, 1).double() for _ in range(2)]
    x = torch.ones(5, 3, dtype=torch.float64)

    def losses(z):
        return [heads[0](z[0]).square().mean(), (heads[1](z[1]) - 1).square().mean()]

    z = trunk(x).chunk(2, dim=1)
    g = gramian_of(losses(z), z)
    assert g[0, 1] == 0
    balance = accord.NashMTL(2).backward(losses(z), features=z)
    np.testing.assert_allclose(balance.weights, 1 / np.sqrt(np.diag(g)))
    h = trunk(x)
    z = (h[:, :4], h[:, 4:])
    np.testing.assert_allclose(accord.NashMTL(2).backward(losses(z), features=z).weights, 1 / np.sqrt(np.diag(g)))


@pytest.mark.parametrize("spec", ["nash-mtl", "cagrad", "fairgrad:max_norm=0.2", "pcgrad", "imtl"])
@pytest.mark.parametrize("engine", ENGINES)
def test_update_every_walks_heads_and_trunk_once_between_solves(spec, engine):
    net, balancer = Net(), accord.make(spec, tasks=3, update_every=3)
    trunk, at_z = counted(net.shared), []
    weights, outcomes = [], []
    for step in range(5):
        net.zero_grad()
        z = net.features(step)
        z.register_hook(lambda g: at_z.append(g.shape))
        balance = balancer.backward(net.losses(step, z), features=z, engine=engine)
        weights.append(balance.weights)
        outcomes.append(balance.outcome)
        assert trunk == [1] * len(trunk)
        # K products through the heads at a solve (or a batch of them), one between; what goes on through the trunk has
        # met the hook already
        assert len(at_z) == (1 if step % 3 or engine == "batched" else 3)
        y = net.features(step)
        expected = through_the_trunk(net.losses(step, y), [y], balance.scale * balance.weights, net.shared)
        torch.testing.assert_close(flat_grad(net.shared), expected, rtol=1e-6, atol=1e-9)
        trunk[:], at_z[:] = [0] * len(trunk), []
    assert [o == "reused" for o in outcomes] == [False, True, True, False, True]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize("spec", [s for s in ALL if s not in ROWS])
def test_the_scalar_entry_balances_there_too(spec):
    net, other = Net(), Net()
    balancer = accord.make(spec, tasks=3)
    z, y = net.features(), other.features()
    loss = balancer(net.losses(features=z), features=z)
    assert all(p.grad is None for p in net.parameters())
    loss.backward()
    balance = accord.make(spec, tasks=3).backward(other.losses(features=y), features=y)
    torch.testing.assert_close(flat_grad(net.shared), flat_grad(other.shared), rtol=1e-6, atol=1e-10)
    losses = other.losses()
    write_heads(other, losses, balance.scale * balance.weights)  # heads are always weighted here
    for p, q in zip(net.heads.parameters(), other.heads.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-10)


def test_the_scalar_entry_refuses_methods_that_mix_rows():
    net = Net()
    z = net.features()
    for spec in ROWS:
        with pytest.raises(OptionError, match="no weighted loss"):
            accord.make(spec, tasks=3)(net.losses(features=z), features=z)


@pytest.mark.parametrize("spec", ["nash-mtl", "mgda", "graddrop", "ls", "nash-mtl:max_norm=0.3"])
def test_gradients_accumulate_over_micro_batches(spec):
    net, balancer = Net(), accord.make(spec, tasks=3)
    parts, reference = [], accord.make(spec, tasks=3)
    for step in range(3):
        z = net.features(step)
        balancer.backward(net.losses(step, z), features=z)
        part = Net()
        y = part.features(step)
        reference.backward(part.losses(step, y), features=y)
        parts.append(part)
    for i, p in enumerate(net.parameters()):
        torch.testing.assert_close(p.grad, sum(list(part.parameters())[i].grad for part in parts))


@pytest.mark.parametrize("spec", ["nash-mtl", "pcgrad", "moco", "gradvac", "graddrop", "cr-mogm:of=cagrad"])
def test_both_engines_train_alike(spec):
    a, b = accord.make(spec, tasks=3), accord.make(spec, tasks=3)

    def loop(balancer, engine):
        def step_of(net, step):
            z = net.features(step)
            balancer.backward(net.losses(step, z), features=z, engine=engine)

        return step_of

    side_by_side(loop(a, "sequential"), loop(b, "batched"), steps=5, rtol=1e-7, atol=1e-9)
    own, other = accord.make(spec, tasks=3), accord.make(spec, tasks=3)
    side_by_side(loop(own, "sequential"), loop(other, features), steps=3)  # an engine given as a function


def test_max_norm_clips_at_the_representation():
    net, other = Net(), Net()
    z, y = net.features(), other.features()
    balance = accord.NashMTL(3, max_norm=0.5).backward(net.losses(features=z), features=z)
    accord.NashMTL(3).backward(other.losses(features=y), features=y)
    assert balance.scale == pytest.approx(0.5 / 3**0.5)
    torch.testing.assert_close(flat_grad(net.shared), balance.scale * flat_grad(other.shared))


def test_mgda_s_upper_bound_holds():
    """‖Σ w_k ∇_θ l_k‖ ≤ ‖∂z/∂θ‖ ‖Σ w_k ∇_z l_k‖ for any weights, and the min-norm point at z bounds that at θ."""
    net = Net()
    z = net.features()
    losses = net.losses(features=z)
    at_z, at_shared = rows_of(losses, [z]), rows_of(losses, net.shared)
    jacobian = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(v, net.shared, retain_graph=True)]) for v in z.flatten()]
    )
    norm = torch.linalg.matrix_norm(jacobian, 2)
    balance = accord.MGDA(3).backward(losses, features=z)
    bound = float(norm * (balance.weights @ at_z).norm())
    assert float(flat_grad(net.shared).norm()) <= bound * (1 + 1e-9)
    least = solvers.mgda((at_shared @ at_shared.T).numpy()).weights
    assert float((torch.from_numpy(least) @ at_shared).norm()) <= bound * (1 + 1e-9)


def test_a_representation_that_is_a_leaf_receives_the_balanced_gradient():
    net = Net()
    z = net.features().detach().requires_grad_()  # a frozen trunk's output, to be trained itself
    losses = net.losses(features=z)
    solution = solvers.nash(gramian_of(losses, [z]))
    rows = rows_of(losses, [z])
    accord.NashMTL(3).backward(losses, features=z)
    torch.testing.assert_close(z.grad.flatten(), torch.from_numpy(solution.weights) @ rows, rtol=1e-6, atol=1e-10)
    accord.NashMTL(3).backward(net.losses(features=z), features=z)
    torch.testing.assert_close(z.grad.flatten(), 2 * torch.from_numpy(solution.weights) @ rows, rtol=1e-6, atol=1e-10)


def test_a_task_that_does_not_use_the_representation_trains_its_head():
    net = Net()
    z = net.features()
    losses = net.losses(features=z)
    losses[1] = net.heads[1](torch.ones(2, 5, dtype=torch.float64)).square().mean()
    balance = accord.NashMTL(["a", "b", "c"]).backward(losses, features=z)
    assert balance.weights[1] == 0
    assert "(b)" in balance.cause
    assert net.heads[1].weight.grad.abs().sum() > 0


# ---------------------------------------------------------------- bad input


def refused(net, losses, error, message, **how):
    for spec in ("nash-mtl", "ls", "graddrop"):
        for engine in ENGINES:
            balancer = accord.make(spec, tasks=len(losses))
            before = str(balancer.state_dict())
            with pytest.raises(error, match=message):
                balancer.backward(losses, engine=engine, **how)
            assert str(balancer.state_dict()) == before
    assert all(p.grad is None for p in net.parameters())


def test_shared_and_features_are_one_or_the_other():
    net = Net()
    z = net.features()
    losses = net.losses(features=z)
    refused(net, losses, OptionError, "both were given", shared=net.trunk, features=z)
    refused(net, losses, OptionError, "neither was given")
    with pytest.raises(OptionError, match="neither was given"):
        accord.NashMTL(3)(losses)
    with pytest.raises(OptionError, match="both were given"):
        accord.NashMTL(3)(losses, net.trunk, features=z)
    with pytest.raises(UnknownNameError, match="did you mean 'batched'"):
        accord.NashMTL(3).backward(losses, features=z, engine="batch")


def test_features_that_carry_no_gradient():
    net = Net()
    z = net.features()
    cut = z.detach()
    message = r"shape \(8, 5\) that does not require grad: it was detached"
    refused(net, net.losses(features=z), EngineError, message, features=cut)
    refused(net, net.losses(features=z), EngineError, "does not require grad", features=[z, cut])
    for bad in (3.0, [], [1, 2], "z", {"z": 1}):
        refused(net, net.losses(features=z), EngineError, "give the shared representation", features=bad)
    refused(net, net.losses(features=z), EngineError, "complex", features=torch.complex(z, z))


def test_features_that_no_loss_reaches():
    net = Net()
    z = net.features()
    refused(net, net.losses(features=net.features()), EngineError, "none of the 3 losses reaches", features=z)
    refused(net, net.losses(features=z.detach()), EngineError, "none of the 3 losses reaches", features=z)


def test_features_computed_from_one_another():
    net = Net()
    h = net.trunk[1](net.trunk[0](torch.ones(8, 4, dtype=torch.float64)))
    z = net.trunk[2](h)
    for pair in ([h, z], [z, h]):
        refused(net, net.losses(features=z), EngineError, "computed from another one of them", features=pair)
    leaf = torch.ones(8, 5, dtype=torch.float64, requires_grad=True)
    doubled = 2 * leaf
    for pair in ([leaf, doubled], [doubled, leaf]):
        losses = net.losses(features=doubled)
        refused(net, losses, EngineError, "computed from another one of them", features=pair)


def test_parameters_that_reach_a_loss_both_ways():
    net = Net()
    z = net.features()
    losses = net.losses(features=z)
    losses[2] = losses[2] + 0.1 * net.trunk[0].weight.square().sum()
    message = r"1 parameters, the first of shape \(6, 4\), reach the losses both through the features and past them"
    refused(net, losses, EngineError, message, features=z)
    h = net.trunk[1](net.trunk[0](torch.ones(8, 4, dtype=torch.float64)))
    z = net.trunk[2](h)
    losses = net.losses(features=z)
    losses[0] = losses[0] + h.square().mean()  # one task taps an earlier layer
    refused(net, losses, EngineError, "both through the features and past them", features=z)
    with pytest.raises(EngineError, match="both through"):
        accord.NashMTL(3)(losses, features=z)
    z = net.features()
    view = z[:, :3]  # the losses use the whole
    refused(net, net.losses(features=z), EngineError, "reaches|both through", features=view)


def test_losses_are_checked_as_ever():
    net = Net()
    z = net.features()
    losses = net.losses(features=z)
    refused(net, [losses[0], losses[1] * float("nan")], NonFiniteError, "nan", features=z)
    refused(net, [losses[0].detach(), losses[1]], EngineError, "require grad", features=z)
    with pytest.raises(ShapeError, match="2 losses were given"):
        accord.NashMTL(3).backward(losses[:2], features=z)
    accord.NashMTL(3).backward(losses, features=z)
    with pytest.raises(EngineError, match="anew"):
        accord.NashMTL(3).backward(losses, features=z)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_trunk_s_graph_is_freed_by_the_step(engine):
    net = Net()
    z = net.features()
    accord.MGDA(2).backward([z.square().mean(), (z - 1).square().mean()], features=z, engine=engine)
    with pytest.raises(RuntimeError, match="second time"):
        z.sum().backward()
