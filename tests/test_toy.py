"""The toy: its losses and front against the definition, its runs against the end points on record."""

import math

import pytest
import torch

from accord.bench.experiments.toy import EXPERIMENT, Toy, ToyTrial, _Descent
from accord.bench.experiments.toy_problem import FRONT_X2, STARTS, gap, losses, pareto_front
from accord.bench.plots import draw
from accord.bench.runner import run
from accord.bench.spec import MethodSpec
from accord.bench.store import Store

TINY = Toy(iterations=60, lr=0.05, block=20, every=10)


def by_hand(x1, x2):
    """The definition, in plain Python."""
    f1 = math.log(max(abs(0.5 * (-x1 - 7) - math.tanh(-x2)), 5e-6)) + 6
    f2 = math.log(max(abs(0.5 * (-x1 + 3) + math.tanh(-x2) + 2), 5e-6)) + 6
    g1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    g2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    c1, c2 = max(math.tanh(0.5 * x2), 0), max(math.tanh(-0.5 * x2), 0)
    return 0.1 * (c1 * f1 + c2 * g1), c1 * f2 + c2 * g2


def points(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5) * 20


# The problem


def test_losses_are_those_of_the_definition():
    where = torch.cat([points(200), torch.tensor(list(STARTS.values()), dtype=torch.float64)])
    found = torch.stack(losses(where), 1)
    expected = torch.tensor([by_hand(*p) for p in where.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("start", "l1", "l2"),
    [("A", 0.655, 7.901), ("B", 0.0, 0.0), ("C", 0.794, 6.692), ("D", 0.039, -4.755), ("E", -0.883, 2.814)],
)
def test_losses_at_the_starts(start, l1, l2):
    found = [loss.item() for loss in losses(torch.tensor(STARTS[start], dtype=torch.float64))]
    assert found == pytest.approx([l1, l2], abs=6e-4)


def test_gradients_agree_with_finite_differences_away_from_kinks():
    where = points(300, seed=1)
    kinks = torch.stack([where[:, 1], 0.5 * (-where[:, 0] - 7) + torch.tanh(where[:, 1])]).abs().amin(0)
    other = (0.5 * (-where[:, 0] + 3) - torch.tanh(where[:, 1]) + 2).abs()
    where = where[(kinks > 0.05) & (other > 0.05)].requires_grad_()
    assert len(where) > 200
    assert torch.autograd.gradcheck(losses, where, eps=1e-6, atol=1e-5)


def test_the_start_on_the_kink_has_a_gradient():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for loss in losses(x):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert gradient.norm() > 0.1


def test_the_front_runs_from_one_best_to_the_other_and_nothing_beats_it():
    where, front = pareto_front()
    assert where[0].tolist() == [-7, FRONT_X2]
    assert where[-1].tolist() == [7, FRONT_X2]
    assert front[0].tolist() == pytest.approx([-0.0396, -20], abs=0.02)
    assert front[-1].tolist() == pytest.approx([-2, -0.396], abs=0.02)
    assert (front[1:, 0] < front[:-1, 0]).all()
    assert (front[1:, 1] > front[:-1, 1]).all()
    others = torch.stack(losses(points(20_000, seed=2)), 1)
    beaten = (others[:, None] < front[None] - 1e-3).all(-1)
    assert not beaten.any()


def test_both_losses_are_lowest_in_x2_near_the_front():
    where, _ = pareto_front(9)
    for k in range(2):
        slopes = []
        for offset in (-0.5, 0.5):  # each loss has its own x2 between -8.6 and -8
            beside = (where + torch.tensor([0.0, offset])).requires_grad_()
            slopes.append(torch.autograd.grad(losses(beside)[k].sum(), beside)[0][:, 1])
        assert (slopes[0] < 0).all()
        assert (slopes[1] > 0).all()


def test_the_gap_is_a_share_of_the_front():
    _, front = pareto_front(11)
    assert gap(front).max() < 1e-3
    extent = front.amax(0) - front.amin(0)
    assert gap(front[-1] + torch.tensor([0.0, 0.1]) * extent) == pytest.approx(0.1, rel=1e-3)


# Trials


@pytest.mark.parametrize("method", [*EXPERIMENT.methods, "stl:task=L1", "cagrad:update_every=3"])
def test_a_trial_goes_on_from_its_state_to_the_same_bits(method):
    spec = MethodSpec.parse(method)
    whole, first = ToyTrial(TINY, spec, 5), ToyTrial(TINY, spec, 5)
    records = [whole.advance() for _ in range(whole.length)]
    first.advance()
    second = ToyTrial(TINY, spec, 5)
    second.load_state_dict(first.state_dict())
    again = [second.advance() for _ in range(2)]
    for old, new in zip(records[1:], again, strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}
    assert second.result() == whole.result()


def test_starts_and_seeds_draw_their_own_numbers():
    trials = [ToyTrial(TINY, MethodSpec("rlw"), seed) for seed in (0, 1)]
    seeds = {descent.balancer.seed for trial in trials for descent in trial.descents}
    assert len(seeds) == 2 * len(STARTS)


def test_smoke_runs_and_draws_every_figure(tmp_path):
    outcomes = run(EXPERIMENT, "smoke", ["ls", "graddrop", "nash-mtl"], store=tmp_path)
    assert {outcome.status for outcome in outcomes} == {"done"}
    store = Store(tmp_path)
    nash = next(r for r in store.runs("toy", 1, "smoke") if r.key.method.name == "nash-mtl")
    assert max(nash.result()["gaps"]) < 0.1
    paths = draw(store, EXPERIMENT, "smoke", tmp_path / "figures")
    assert {path.name for path in paths} == {"weights.png", "conflict.png", "plane.png", "losses.png"}


def test_a_method_that_does_not_apply_is_a_recorded_failure(tmp_path):
    (outcome,) = run(EXPERIMENT, "smoke", ["si"], store=tmp_path)
    assert outcome.status == "failed"
    assert "is not positive" in outcome.cause


# End points of an independent float64 implementation of the published protocol, (L1, L2).
ON_RECORD = [
    ("nash-mtl", "A", (-1.014, -18.331)),
    ("nash-mtl", "B", (-1.509, -15.092)),
    ("nash-mtl", "C", (-1.833, -10.133)),
    ("fairgrad:max_norm=1.0", "B", (-1.894, -8.423)),
    ("mgda", "E", (-1.999, -0.412)),
    ("pcgrad", "D", (-0.829, -18.977)),
    ("imtl-g", "D", (-0.919, -18.688)),
    ("cagrad", "B", (-0.380, -19.828)),
    ("ls", "E", (-0.380, -19.828)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "start", "end"), ON_RECORD)
def test_the_published_protocol_ends_where_it_should(method, start, end):
    preset = EXPERIMENT.presets["paper"]
    descent = _Descent(preset, MethodSpec.parse(method), 0, start)
    for _ in range(preset.iterations):
        descent.step()
    found = torch.tensor(descent.probe()[0][2:])
    extent = torch.tensor([2.0, 20.0])  # of the front
    assert ((found - torch.tensor(end)) / extent).abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ls", "pcgrad", "cagrad"])
def test_some_methods_do_not_arrive_from_start_c(method):
    preset = EXPERIMENT.presets["paper"]
    descent = _Descent(preset, MethodSpec(method), 0, "C")
    for _ in range(preset.iterations):
        descent.step()
    assert gap(torch.tensor(descent.probe()[0][2:], dtype=torch.float64)) > 0.2
