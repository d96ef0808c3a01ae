"""``diagnose`` on all that may be given: models, losses, representations, odd sizes and types; and what it refuses."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import accord
from accord.diagnostics import costs, diagnose
from accord.errors import EngineError, NonFiniteError, OptionError, ShapeError, UnknownNameError
from support.ddp import Net as SpreadNet
from support.nets import Net, gramian_of, rows_of

NAMES = ["a", "b", "c"]


def named(losses):
    return dict(zip(NAMES, losses, strict=True))


# ---------------------------------------------------------------- which parameters


def test_of_a_whole_network_the_parameters_that_several_losses_reach_are_shared():
    net = Net()
    expected = gramian_of(net.losses(), net.shared)
    for model in (net, net.trunk, list(net.parameters()), dict(net.named_parameters()), iter(net.parameters())):
        found = diagnose(model, named(net.losses()), methods=())
        np.testing.assert_allclose(found.gramian, expected, rtol=1e-12)
        assert found.tensors == len(net.shared)
        assert found.size == sum(p.numel() for p in net.shared)
    said = str(diagnose(net, net.losses(), methods=()))
    assert "4 of 10 trainable parameter tensors are shared; 6 reached by one loss alone (heads) left out" in said
    assert "left out" not in str(diagnose(net.trunk, net.losses(), methods=()))


def test_shared_parameters_may_be_named_instead():
    net = Net()
    first = net.trunk[0]
    found = diagnose(net, net.losses(), shared=first, methods=())
    np.testing.assert_allclose(found.gramian, gramian_of(net.losses(), list(first.parameters())), rtol=1e-12)


def test_losses_in_one_tensor_count_all_of_the_model_and_say_so():
    net = Net()
    found = diagnose(net.trunk, torch.stack(net.losses()), methods=())
    np.testing.assert_allclose(found.gramian, gramian_of(net.losses(), net.shared), rtol=1e-12)
    whole = diagnose(net, torch.stack(net.losses()), methods=())
    assert whole.tensors == 10
    assert "every trainable parameter given counts as shared" in str(whole)


def test_frozen_parameters_do_not_count():
    net = Net()
    net.trunk[0].requires_grad_(False)
    found = diagnose(net, net.losses(), methods=())
    np.testing.assert_allclose(found.gramian, gramian_of(net.losses(), list(net.trunk[2].parameters())), rtol=1e-12)
    net.trunk.requires_grad_(False)
    with pytest.raises(EngineError, match="reached by one loss at most, so the tasks share none"):
        diagnose(net, net.losses())
    with pytest.raises(EngineError, match="frozen"):
        diagnose(net.trunk, net.losses())


@pytest.mark.parametrize("many", [False, True])
def test_features_are_balanced_at_the_representation(many):
    net = Net()
    z = net.features()
    losses = net.losses(features=z)
    expected = gramian_of(losses, [z])
    found = diagnose(net, losses, features=iter([z]) if many else z, methods=["ls", "mgda"])
    np.testing.assert_allclose(found.gramian, expected, rtol=1e-12)
    assert found.place == "representation"
    assert "representation" in str(found)
    assert found.cost.combine > 0
    accord.MGDA(3).backward(losses, features=z)
    assert all(p.grad is not None for p in net.parameters())


def test_a_watched_module_s_outputs_stay_for_the_step_that_follows():
    net = Net()
    watcher = accord.watch(net.trunk)
    for features in (net.trunk, watcher):
        losses = net.losses()
        found = diagnose(net, losses, features=features, methods=["mgda"])
        balance = accord.MGDA(3).backward(losses, features=features)
        np.testing.assert_allclose(found.methods["mgda"].weights, balance.weights, rtol=1e-12)
    watcher.close()
    with pytest.raises(EngineError, match="not watched"):
        diagnose(net, net.losses(), features=net.trunk)


def test_a_disjoint_jacobian_is_diagnosed_as_it_is_and_can_be_applied():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(4, 6, 3)
    jacobian = accord.jacobian.disjoint(model, lambda model, x: model(x).square().mean(), batches)
    found = diagnose(model, jacobian)
    losses = [model(x).square().mean() for x in batches]
    np.testing.assert_allclose(found.gramian, gramian_of(losses, list(model.parameters())), rtol=1e-4, atol=1e-8)
    assert found.cost is None
    assert "Cost" not in str(found)
    assert not found.not_run
    with pytest.raises(OptionError, match="leave shared="):
        diagnose(model, jacobian, shared=model[0])
    balance = accord.NashMTL(4).apply(jacobian)
    np.testing.assert_allclose(found.methods["nash-mtl"].weights, balance.weights, rtol=1e-12)


class Checkpointed(Net):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def features(self, step=0):
        x = self._draw(step)[0].requires_grad_()
        return checkpoint(self.trunk, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_networks(reentrant):
    net = Checkpointed(reentrant)
    expected = gramian_of(Net().losses(), Net().shared)
    if reentrant:
        with pytest.raises(EngineError, match=r"name them, for instance shared=model\.trunk"):
            diagnose(net, net.losses())
        found = diagnose(net, net.losses(), shared=net.trunk, methods=["nash-mtl"])
    else:
        found = diagnose(net, net.losses(), methods=["nash-mtl"])
    twin = Net()
    np.testing.assert_allclose(found.gramian, gramian_of(twin.losses(), twin.shared), rtol=1e-12)
    assert found.gramian.shape == expected.shape
    assert found.cost.backward > 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_buffers_that_a_checkpoint_moves_get_their_numbers_back(reentrant):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh())
    model = nn.ModuleDict({"trunk": trunk, "heads": nn.Linear(8, 3)})
    z = checkpoint(trunk, torch.randn(16, 5, requires_grad=True), use_reentrant=reentrant)
    losses = list(model["heads"](z).square().mean(0))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    diagnose(model, losses, shared=trunk, methods=["mgda"])
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
    accord.MGDA(3).backward(losses, trunk)  # the graph still stands
    assert trunk[1].num_batches_tracked > before["trunk.1.num_batches_tracked"]  # or nothing was tested


def test_on_several_processes_what_may_exchange_is_called_as_often_on_each(monkeypatch):
    calls = []
    net = Net()
    jacobian = accord.jacobian.sequential(net.losses(), net.trunk)
    monkeypatch.setattr(costs, "hides", lambda losses: True)
    monkeypatch.setattr(jacobian, "pull", lambda weights: calls.append(weights))
    for size, least in ((1, 3), (2, 2)):
        calls.clear()
        monkeypatch.setattr(jacobian, "reduce", SimpleNamespace(size=size))
        costs.time_backward(jacobian, "test")
        assert len(calls) >= least
    assert len(calls) == 2  # one for what is set up once, and one


# ---------------------------------------------------------------- sizes and types


def test_one_task():
    net = Net(tasks=1)
    found = diagnose(net.trunk, net.losses())
    assert found.pairs == ()
    assert found.conflicts == ()
    assert (found.stationarity, found.mean_cosine, found.imbalance) == pytest.approx((1.0, 1.0, 1.0))
    for preview in found.methods.values():
        assert preview.relative[0] == pytest.approx(-1.0)
    assert "nothing to balance" in str(found)
    assert diagnose(net, net.losses(), methods=()).tensors == 6  # its head too: nothing tells it from the trunk


def test_forty_tasks_are_shown_in_short():
    net = Net(tasks=40)
    losses = {f"task_{k}": loss for k, loss in enumerate(net.losses())}
    text = str(diagnose(net, losses))
    assert max(map(len, text.splitlines())) <= 121
    assert len(text.splitlines()) < 100
    assert "the 6 longest and the 6 shortest of 40" in text
    assert "of 780" in text


def test_gradients_that_are_zero_are_named_and_left_out():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = diagnose(x, {"up": x[0] + 1, "flat": 0 * x[0] + 1, "aside": 2 * x[1] - 0.1 * x[0]})
    assert found.silent == ("flat",)
    assert found.imbalance == pytest.approx(np.sqrt(4.01))
    assert len(found.pairs) == 1
    assert not np.isnan(found.cosines).any()
    assert all(preview.relative[1] == 0.0 and "flat" not in preview.rises for preview in found.methods.values())
    assert any("flat" in sentence for sentence in found.advice)
    nothing = diagnose(x, [0 * x[0] + 1, 0 * x[1] + 1])
    assert nothing.stationarity == 0.0
    assert {preview.length for preview in nothing.methods.values()} == {0.0}
    assert "nothing to balance" in str(nothing)


def test_half_precision_models():
    torch.manual_seed(0)
    net = Net().to(torch.bfloat16)
    x, y = torch.randn(8, 4, dtype=torch.bfloat16), torch.randn(8, 3, dtype=torch.bfloat16)
    losses = [(head(net.trunk(x))[:, 0] - y[:, k]).square().mean() for k, head in enumerate(net.heads)]
    found = diagnose(net, losses)
    rows = rows_of(losses, net.shared).double()
    np.testing.assert_allclose(found.gramian, rows @ rows.T, rtol=1e-12)
    assert found.dtype == "bfloat16"
    assert any("8 binary digits" in sentence for sentence in found.advice)
    assert not found.not_run


def test_a_task_at_a_right_angle_to_the_update_counts_as_the_worst_off():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found = diagnose(x, [x[0] + 1, x[1] + 1], methods=["ls:weights=[1,0]"])
    assert found.methods["ls:weights=[1,0]"].relative.tolist() == [-1.0, 0.0]
    assert found.methods["ls:weights=[1,0]"].worst == 0.0


def test_gradients_of_very_different_scales():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = diagnose(x, [1 + 1e10 * (x[0] + x[1]), 1 + 1e-10 * (x[0] - 0.5 * x[1])])
    assert found.cosines[0, 1] == pytest.approx(0.5 / np.sqrt(2 * 1.25))
    assert found.methods["nash-mtl"].worst < -0.1


# ---------------------------------------------------------------- what is refused


def test_a_loss_that_is_not_finite_is_named():
    net = Net()
    losses = named(net.losses())
    losses["b"] = losses["b"] * float("nan")
    with pytest.raises(NonFiniteError, match="'b' = nan"):
        diagnose(net, losses)


def test_a_gradient_that_is_not_finite_is_named_with_its_parameter():
    net = Net()
    losses = named(net.losses())
    losses["c"] = losses["c"] + (net.trunk[2].bias * 0).square().sum().sqrt()  # finite, with an infinite slope
    with pytest.raises(NonFiniteError, match=r"the gradient of 'c' .* first in parameter '2\.bias'"):
        diagnose(net.trunk, losses)
    for engine in ("sequential", "sequential:lean=true"):
        with pytest.raises(NonFiniteError, match="the gradient of 'c'"):
            diagnose(net.trunk, losses, engine=engine)
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NonFiniteError, match="their squares overflow"):
        diagnose(x, {"a": 1e200 * x[0], "b": x[0]})


def test_lean_mode_says_which_methods_it_cannot_ask():
    net = Net()
    found = diagnose(net, net.losses(), engine="sequential:lean=true")
    assert set(found.not_run) == {"graddrop", "moco", "db-mtl"}
    assert all("lean mode keeps none" in why for why in found.not_run.values())
    np.testing.assert_allclose(found.gramian, gramian_of(net.losses(), net.shared), rtol=1e-12)
    assert "Not asked" in str(found)


def test_methods_that_refuse_these_losses_say_why():
    net = Net()
    losses = named(net.losses())
    losses["a"] = losses["a"] - 100
    found = diagnose(net, losses)
    assert {"si", "gls", "stch", "famo"} <= set(found.not_run)
    assert "'a'" in found.not_run["si"]
    assert "nash-mtl" in found.methods


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda n: diagnose(n, n.losses(), methods=["nashmtl"]), UnknownNameError, "did you mean 'nash-mtl'"),
        (lambda n: diagnose(n, n.losses(), methods=["cagrad:d=1"]), OptionError, "no option 'd'"),
        (lambda n: diagnose(n, n.losses(), methods=[accord.MGDA(2)]), ShapeError, "give the losses of its tasks"),
        (lambda n: diagnose(n, named(n.losses()), methods=[accord.MGDA(["c", "b", "a"])]), ShapeError, "in its order"),
        (lambda n: diagnose(n, n.losses(), methods=[3]), OptionError, "holds a int"),
        (lambda n: diagnose(n, n.losses(), engine="fast"), UnknownNameError, "unknown engine"),
        (lambda n: diagnose(n, n.losses(), forward=-1), OptionError, "forward = -1"),
        (lambda n: diagnose(n, n.losses(), shared=n.trunk, features=n.features()), OptionError, "both were given"),
        (lambda n: diagnose(None, n.losses()), EngineError, "neither a model nor shared="),
        (lambda n: diagnose(n, sum(n.losses())), ShapeError, "Do not sum"),
        (lambda n: diagnose(n, [x.detach() for x in n.losses()]), EngineError, "does not require grad"),
        (lambda n: diagnose(nn.Linear(2, 2), n.losses()), EngineError, "none of the losses reaches any"),
        (lambda n: diagnose(n, []), ShapeError, "no losses"),
    ],
)
def test_mistakes_are_named_with_their_remedy(call, error, text):
    with pytest.raises(error, match=text):
        call(Net())


def test_a_graph_that_is_gone_is_an_error_with_a_remedy():
    net = Net()
    losses = net.losses()
    sum(losses).backward()
    with pytest.raises(EngineError, match="already freed"):
        diagnose(net.trunk, losses)


# ---------------------------------------------------------------- as text


def test_text_html_and_repr():
    net = Net()
    losses = {"<left>": net.losses()[0], "right": net.losses()[1]}
    found = diagnose(net.trunk, losses)
    text = str(found)
    sections = ["Losses and gradients", "Cosines of the gradients", "Conflicting pairs: ", "Measures"]
    sections += ["What each method would do here", "Cost of a step's parts", "What follows"]
    places = [text.index(section) for section in sections]
    assert places == sorted(places)
    assert "nash-mtl" in text
    page = found._repr_html_()
    assert "&lt;left&gt;" in page
    assert "<left>" not in page
    assert repr(found).startswith("Diagnosis(2 tasks, ")


# ---------------------------------------------------------------- several processes


def spread(rank_batches):
    """On one of several processes: the diagnosis of the joint batch, by all."""
    import torch.distributed as dist

    net = SpreadNet()
    model = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    x, y = rank_batches[dist.get_rank()]
    losses = losses_of(model.module, x, y)
    found = diagnose(model, losses, shared=net.trunk, methods=["nash-mtl", "graddrop"])
    return found.gramian, found.methods["nash-mtl"].weights, found.methods["graddrop"].change


def losses_of(net, x, y):
    z = net.trunk(x)
    return [(head(z)[:, 0] - y[:, k]).square().mean() for k, head in enumerate(net.heads)]


def test_several_processes_diagnose_the_joint_batch(pair):
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    batches = [(torch.randn(8, 5, **options), torch.randn(8, 3, **options)) for _ in range(2)]
    found = pair.run(spread, batches)
    net = SpreadNet()
    joint = losses_of(net, *(torch.cat(parts) for parts in zip(*batches, strict=True)))
    alone = diagnose(copy.deepcopy(net), joint, shared=net.trunk, methods=["nash-mtl", "graddrop"])
    for gramian, weights, change in found:
        np.testing.assert_allclose(gramian, alone.gramian, rtol=1e-10)
        np.testing.assert_allclose(weights, alone.methods["nash-mtl"].weights, rtol=1e-8)
        np.testing.assert_allclose(change, alone.methods["graddrop"].change, rtol=1e-8)
