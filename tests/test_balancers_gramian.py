"""Balancers around the Gramian against their definitions on the rows themselves, over several steps of training."""

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

import accord
from accord import solvers
from accord.errors import NonFiniteError, OptionError, OptionWarning
from support.nets import Net, assert_same_grads, flat_grad, rows_of, side_by_side, write, write_heads

NAMES = ["a", "b", "c"]


def follow(balancer, weights_of, *, heads=None, steps=5, rtol=1e-6, tasks=3):
    """Train beside ``weights_of(rows, values)`` (K,), which sees the rows (K, P) and the losses (K,) as arrays."""
    plain = balancer.heads == "plain" if heads is None else heads == "plain"

    def reference(net, step):
        losses = net.losses(step)
        rows = rows_of(losses, net.shared)
        weights = np.asarray(weights_of(rows.numpy(), torch.stack(losses).detach().numpy()))
        write(net.shared, torch.from_numpy(weights) @ rows)
        write_heads(net, losses, np.ones(len(weights)) if plain else weights)

    def own(net, step):
        balancer.backward(net.losses(step), net.trunk)

    side_by_side(own, reference, steps=steps, rtol=rtol, atol=1e-8, tasks=tasks)


def least_norm(rows):
    """Weights of the point of least norm of the rows' convex hull, by pairwise Frank–Wolfe steps."""
    g = rows @ rows.T
    w = np.full(len(g), 1.0 / len(g))
    for _ in range(200_000):
        slope = g @ w
        away = int(np.where(w > 0, slope, -np.inf).argmax())
        toward = int(slope.argmin())
        if slope[away] - slope[toward] <= 1e-13 * np.trace(g):
            break
        along = np.zeros(len(g))
        along[toward], along[away] = 1.0, -1.0
        length = np.clip((slope[away] - slope[toward]) / (along @ g @ along), 0.0, w[away])
        w = np.maximum(w + length * along, 0.0)
    return w


# ---------------------------------------------------------------- MGDA


@pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("options", [{}, {"times_k": True}, {"heads": "plain"}])
def test_mgda_looks_for_the_least_norm_among_explicitly_normalised_gradients(normalization, options):
    def weights(rows, values):
        norms = np.linalg.norm(rows, axis=1)
        by = {"none": np.ones(3), "l2": norms, "loss": values, "loss+": values * norms}[normalization]
        return (3 if options.get("times_k") else 1) * least_norm(rows / by[:, None])

    follow(accord.MGDA(3, normalization=normalization, **options), weights, rtol=1e-5)


def test_mgda_with_l2_of_two_tasks_is_the_bisector_of_the_unit_gradients():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    balance = accord.MGDA(2, normalization="l2").backward([1 + 100 * x[0], 1 + 0.01 * x[1]], x)
    assert balance.weights.tolist() == [0.5, 0.5]
    assert not accord.MGDA(2, normalization="l2").descent
    assert accord.MGDA(2).descent


def test_mgda_s_normalisations_take_extreme_scales_zero_rows_and_refuse_bad_losses():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for normalization in ("l2", "loss", "loss+"):
        losses = [1e-200 + 1e-150 * x[0], 1e200 + 1e140 * x[1], 1 + 0 * x[2]]
        balance = accord.MGDA(3, normalization=normalization).backward(losses, x)
        norms = {"l2": [1, 1], "loss": [1e50, 1e-60], "loss+": [1e200, 1e-200]}[normalization]
        expected = [0.5, 0.5] if normalization == "l2" else [float(norms[0] < norms[1]), float(norms[1] < norms[0])]
        np.testing.assert_allclose(balance.weights.numpy(), [*expected, 0.0], atol=1e-12)
        losses = [2 + 0 * x[0], 3 + 0 * x[1]]
        assert accord.MGDA(2, normalization=normalization).backward(losses, x).outcome == "degenerate"
    for normalization in ("loss", "loss+"):
        with pytest.raises(NonFiniteError, match=rf"'b' = -1.*normalization='{normalization.replace('+', '[+]')}'"):
            accord.MGDA(["a", "b"], normalization=normalization).backward([1 + x[0], x[1] - 1], x)


# ---------------------------------------------------------------- Nash-MTL as published


@pytest.mark.parametrize("first_term", [True, False])
@pytest.mark.parametrize("ccp_steps", [1, 3, 20])
def test_nash_by_ccp_is_its_solver_started_from_the_last_weights(first_term, ccp_steps):
    start = [None]

    def weights(rows, values):
        solution = solvers.nash_ccp(rows @ rows.T, start[0], ccp_steps, first_term)
        start[0] = solution.weights
        return solution.weights

    follow(accord.NashMTL(3, solver="ccp", ccp_steps=ccp_steps, first_term=first_term), weights, rtol=1e-5)
    assert start[0] is not None


def test_the_first_term_of_ccp_makes_a_difference_when_the_start_is_a_good_one():
    found = []
    for first_term in (True, False):
        balancer, start = accord.NashMTL(3, solver="ccp", ccp_steps=2, first_term=first_term), None
        for step in range(4):
            net = Net()
            g = rows_of(net.losses(step), net.shared).numpy()
            start = solvers.nash_ccp(g @ g.T, start, 2, first_term).weights
            found.append(balancer.backward(net.losses(step), net.trunk).weights)
            np.testing.assert_allclose(found[-1], start, rtol=1e-6)
    assert not torch.allclose(found[1], found[5], rtol=0.1)


def test_ccp_tells_how_near_it_came_and_more_programs_come_nearer():
    net, residuals = Net(), []
    g = rows_of(net.losses(), net.shared).numpy()
    g = g @ g.T
    for steps in (1, 4, 20):
        balance = accord.NashMTL(NAMES, solver="ccp", ccp_steps=steps).backward(net.losses(), net.trunk)
        w = balance.weights.numpy()
        residuals.append(float(np.abs(w * (g @ w) - 1).max()))
        assert balance.residual == pytest.approx(residuals[-1], rel=1e-3, abs=1e-9)
        assert balance.outcome == ("solved" if balance.residual <= 1e-8 else "approximate")
        assert balance.outcome == "solved" or balance.cause
    assert residuals[0] > residuals[1] >= residuals[2] * 0.999
    assert not accord.NashMTL(3, solver="ccp").descent
    assert accord.NashMTL(3).descent


def test_the_warm_start_is_saved_and_forgotten_by_reset():
    def run(balancer, steps):
        return [balancer.backward(net.losses(s), net.trunk).weights for s in steps]

    net, options = Net(), {"solver": "ccp", "ccp_steps": 1}
    whole, half = accord.NashMTL(3, **options), accord.NashMTL(3, **options)
    expected, _ = run(whole, range(6)), run(half, range(3))
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    fresh = accord.NashMTL(3, **options)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    for a, b in zip(run(fresh, range(3, 6)), expected[3:], strict=True):
        assert torch.equal(a, b)
    cold = run(accord.NashMTL(3, **options), [3])[0]
    assert not torch.equal(cold, expected[3])  # the start matters with a single program
    whole.reset()
    assert torch.equal(run(whole, [3])[0], cold)


def test_a_failed_solve_does_not_become_the_start():
    balancer = accord.NashMTL(2, solver="ccp", ccp_steps=2)
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    balancer.backward([x.sum(), 2 * x[0]], x)
    before = balancer.state_dict()["_extra_state"]["start"]
    assert balancer.backward([x.sum(), -x.sum()], x).stationary
    assert torch.equal(balancer.state_dict()["_extra_state"]["start"], before)


def test_options_of_ccp_without_ccp_warn():
    for options in ({"ccp_steps": 3}, {"first_term": False}):
        with pytest.warns(OptionWarning, match="have no effect without solver='ccp'"):
            accord.NashMTL(2, **options)


# ---------------------------------------------------------------- PCGrad and GradVac


def recursion(rows, order, targets, observed):
    """Σ g'_i of the papers' loops, on the gradients themselves; the cosines met go to ``observed``."""
    total = np.zeros(rows.shape[1])
    for i, others in enumerate(order):
        g = rows[i].copy()
        for j in others:
            if i == j:
                continue
            phi = g @ rows[j] / np.linalg.norm(g) / np.linalg.norm(rows[j])
            wanted = targets[i, j]
            observed[i, j] = phi
            if phi < wanted:
                more = np.linalg.norm(g) * (wanted * math.sqrt(1 - phi**2) - phi * math.sqrt(1 - wanted**2))
                g = g + more / (np.linalg.norm(rows[j]) * math.sqrt(1 - wanted**2)) * rows[j]
        total += g
    return total


@pytest.mark.parametrize("name", ["pcgrad", "gradvac"])
@pytest.mark.parametrize("options", [{}, {"reduction": "mean", "seed": 5}, {"heads": "weighted"}])
@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_surgery_is_the_loop_of_the_paper_on_the_gradients(name, options, beta):
    options = options if name == "pcgrad" else {"beta": beta, **options}
    balancer, dealer = accord.make(name, tasks=4, **options), accord.make(name, tasks=4, **options)
    targets = np.zeros((4, 4))

    def weights(rows, values):
        observed = targets.copy()
        total = recursion(rows, dealer.draw_order(), targets, observed)
        if name == "gradvac":
            targets[:] = (1 - beta) * targets + beta * observed
        found = np.linalg.lstsq(rows.T, total, rcond=None)[0]
        return found / 4 if options.get("reduction") == "mean" else found

    follow(balancer, weights, steps=8, tasks=4)
    if name == "gradvac":
        assert np.abs(targets).max() > 0.005


def test_gradvac_begins_as_pcgrad_and_with_beta_zero_stays_it():
    still, pcgrad, moving = accord.GradVac(3, beta=0.0), accord.PCGrad(3), accord.GradVac(3, beta=1.0)
    seen = []
    for step in range(5):
        nets = [Net(seed=step) for _ in range(3)]
        for balancer, net in zip((still, pcgrad, moving), nets, strict=True):
            balancer.backward(net.losses(step), net.trunk)
        assert_same_grads(nets[0], nets[1], rtol=1e-7)
        seen.append(torch.allclose(flat_grad(nets[1].shared), flat_grad(nets[2].shared), rtol=1e-7))
    assert seen[0]
    assert not all(seen)


# ---------------------------------------------------------------- the rest, around their solvers


SOLVED = {
    "aligned-mtl": (accord.AlignedMTL, {}, solvers.aligned_mtl),
    "aligned-mtl median": (accord.AlignedMTL, {"scale": "median"}, lambda g: solvers.aligned_mtl(g, "median")),
    "aligned-mtl rmse": (accord.AlignedMTL, {"scale": "rmse"}, lambda g: solvers.aligned_mtl(g, "rmse")),
    "config": (accord.ConFIG, {}, solvers.config),
    "upgrad": (accord.UPGrad, {}, solvers.upgrad),
    "upgrad preference": (accord.UPGrad, {"preference": [1.0, 0.0, 3.0]}, lambda g: solvers.upgrad(g, [1.0, 0.0, 3.0])),
    "dualproj": (accord.DualProj, {}, solvers.dualproj),
    "dualproj preference": (accord.DualProj, {"preference": [2, 1, 0]}, lambda g: solvers.dualproj(g, [2, 1, 0])),
    "imtl-g": (accord.IMTLG, {}, solvers.imtl_g),
    "cagrad": (accord.CAGrad, {"c": 0.7, "rescale": 2}, lambda g: solvers.cagrad(g, 0.7, 2)),
    "fairgrad": (accord.FairGrad, {"alpha": 0.5}, lambda g: solvers.fairgrad(g, 0.5)),
    "nash-mtl": (accord.NashMTL, {}, solvers.nash),
}


@pytest.mark.parametrize("case", list(SOLVED))
@pytest.mark.parametrize("heads", ["plain", "weighted"])
def test_weights_are_the_solver_s_and_heads_as_told(case, heads):
    cls, options, solve = SOLVED[case]
    balancer = cls(3, heads=heads, **options)
    follow(balancer, lambda rows, values: solve(rows @ rows.T).weights, heads=heads, steps=4)
    assert balancer.equivariant == ("preference" not in case)


@pytest.mark.parametrize("name", ["mgda", "cagrad", "fairgrad"])
def test_times_k_multiplies_what_is_shared(name):
    a, b = Net(), Net()
    accord.make(name, tasks=3, heads="plain").backward(a.losses(), a.trunk)
    accord.make(name, tasks=3, heads="plain", times_k=True).backward(b.losses(), b.trunk)
    torch.testing.assert_close(3 * flat_grad(a.shared), flat_grad(b.shared))
    torch.testing.assert_close(a.heads[1].weight.grad, b.heads[1].weight.grad)


@pytest.mark.parametrize("name", ["aligned-mtl", "pcgrad", "gradvac"])
def test_the_mean_is_a_kth_of_the_sum(name):
    a, b = Net(), Net()
    accord.make(name, tasks=3).backward(a.losses(), a.trunk)
    accord.make(name, tasks=3, reduction="mean").backward(b.losses(), b.trunk)
    torch.testing.assert_close(flat_grad(a.shared), 3 * flat_grad(b.shared))


def test_aligned_gradients_are_orthogonal_and_of_one_length():
    """w = B1 with B = √s·V Λ^(−1/2) Vᵀ, straight from the singular values of J."""
    for scale, level in (("min", np.min), ("median", lambda v: np.sort(v)[1]), ("rmse", np.mean)):

        def weights(rows, values, level=level):
            u, sigma, _ = np.linalg.svd(rows, full_matrices=False)
            return u @ (u.T @ np.ones(3) * np.sqrt(level(sigma**2)) / sigma)

        follow(accord.AlignedMTL(3, scale=scale), weights, steps=4)


def test_config_has_equal_cosines_and_the_length_of_its_projections():
    def weights(rows, values):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        direction = np.linalg.pinv(units) @ np.ones(3)
        direction /= np.linalg.norm(direction)
        return np.linalg.lstsq(rows.T, (rows @ direction).sum() * direction, rcond=None)[0]

    follow(accord.ConFIG(3), weights)


def test_upgrad_and_dualproj_project_on_the_cone_that_hurts_nobody():
    """By Dykstra's alternating projections on the half-spaces, of each gradient and of their mean."""

    def project(rows, v):
        parts, x = np.zeros_like(rows), v.copy()
        for _ in range(4000):
            for k, row in enumerate(rows):
                y = x + parts[k]
                x = y - min(row @ y, 0.0) / (row @ row) * row
                parts[k] = y - x
        return x

    rows = np.array([[1.0, 0.0, 0.3], [-0.8, 0.5, 0.1], [0.2, -0.9, 0.4]])
    for name, expected in (
        ("upgrad", np.mean([project(rows, row) for row in rows], axis=0)),
        ("dualproj", project(rows, rows.mean(0))),
    ):
        x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        accord.make(name, tasks=3).backward(list(torch.from_numpy(rows) @ x + 1.0), x)
        np.testing.assert_allclose(x.grad, expected, atol=1e-8)
        assert (rows @ x.grad.numpy()).min() > -1e-10


# ---------------------------------------------------------------- options that all have


EVERY = ["nash-mtl", "fairgrad", "mgda", "cagrad", "upgrad", "dualproj", "aligned-mtl", "config", "imtl-g", "pcgrad"]
EVERY += ["gradvac", "imtl", "nash-mtl:solver=ccp"]


@pytest.mark.parametrize("spec", EVERY)
def test_between_two_solves_the_weights_are_the_last_ones_and_the_generator_rests(spec):
    balancer, solved = accord.make(spec, tasks=3, update_every=3), accord.make(spec, tasks=3)
    weights = []
    for step in range(7):
        net, other = Net(seed=step), Net(seed=step)
        balance = balancer.backward(net.losses(step), net.trunk)
        if step % 3 == 0:
            weights.append(solved.backward(other.losses(step), other.trunk).weights)
        torch.testing.assert_close(balance.weights, weights[-1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(flat_grad(net.shared), weights[-1] @ rows_of(other.losses(step), other.shared))
        assert (balance.outcome == "reused") == bool(step % 3)


@pytest.mark.parametrize("spec", EVERY)
def test_max_norm_bounds_the_shared_gradient_by_both_entries_at_solves_and_between(spec):
    kinds = [accord.make(spec, tasks=3, heads="weighted", max_norm=0.05, update_every=2) for _ in range(2)]
    for step in range(4):
        net, other = Net(), Net()
        balance = kinds[0].backward(net.losses(step), net.trunk)
        kinds[1](other.losses(step), other.trunk).backward()
        assert float(flat_grad(net.shared).norm()) == pytest.approx(0.05, rel=1e-6)
        torch.testing.assert_close(flat_grad(net.shared), flat_grad(other.shared), rtol=1e-6, atol=1e-10)
        assert balance.scale < 1


@pytest.mark.parametrize("spec", EVERY)
def test_a_task_without_a_shared_gradient_trains_its_head_whatever_heads_says(spec):
    for heads in ("plain", "weighted"):
        net = Net()
        losses = net.losses()
        losses[1] = net.heads[1](torch.ones(2, 5, dtype=torch.float64)).square().mean()
        expected = torch.autograd.grad(losses[1], net.heads[1].weight, retain_graph=True)[0]
        balance = accord.make(spec, tasks=NAMES, heads=heads).backward(losses, net.trunk)
        assert balance.weights[1] == 0
        assert "(b)" in balance.cause
        torch.testing.assert_close(net.heads[1].weight.grad, expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mgda:normalization=l3", "normalization = 'l3'.*did you mean"),
        ("mgda:times_k=2", "times_k = 2"),
        ("cagrad:times_k=yes", "times_k = 'yes'"),
        ("cagrad:c=inf", "c is infinite"),
        ("cagrad:rescale=0.5", r"rescale = 0\.5"),
        ("fairgrad:times_k=None", "times_k = None"),
        ("fairgrad:alpha=nan", "alpha = nan"),
        ("aligned-mtl:scale=max", "scale = 'max'"),
        ("aligned-mtl:reduction=none", "reduction = None"),
        ("upgrad:preference=[1, 2]", r"preference = \[1, 2\] has 2 numbers for 3 tasks"),
        ("upgrad:preference=[1, 2, -1]", "-1 is not a finite number"),
        ("dualproj:preference=x", "preference = 'x'"),
        ("gradvac:beta=2", "beta = 2"),
        ("gradvac:beta=-0.1", r"beta = -0\.1"),
        ("gradvac:seed=-1", "seed = -1"),
        ("gradvac:reduction=max", "reduction = 'max'"),
        ("nash-mtl:solver=exakt", "solver = 'exakt'.*did you mean 'exact'"),
        ("nash-mtl:ccp_steps=0", "ccp_steps = 0"),
        ("nash-mtl:ccp_steps=1.5", r"ccp_steps = 1\.5"),
        ("nash-mtl:first_term=1", "first_term = 1"),
        ("imtl-g:heads=both", "heads = 'both'"),
        ("config:max_norm=inf", "max_norm = inf"),
        ("config:update_every=True", "update_every = True"),
        ("graddrop:leak=True", "leak = True"),
        ("graddrop:leak=x", "leak = 'x'"),
    ],
)
def test_bad_options_are_named_with_their_values(spec, message):
    with pytest.raises(OptionError, match=message):
        accord.make(spec, tasks=3)


def test_a_preference_of_nothing_asks_for_nothing():
    for name in ("upgrad", "dualproj"):
        x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        balance = accord.make(name, tasks=2, preference=[0, 0]).backward([1 + x[0], 1 + x[1]], x)
        assert balance.weights.tolist() == [0.0, 0.0]
