"""The networks of multi-task soft actor-critic: sizes, shapes, gradients of K tasks at once, what a task reaches."""

import copy
import dataclasses
import itertools
import json
import math
from importlib import resources

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, relu

from accord.bench.rl.encoders import METADATA_FILE, Experts, parse_metadata, task_metadata
from accord.bench.rl.networks import NAMES, NetworkSettings, make_network
from accord.bench.rl.tasks import MT10, MT50
from accord.errors import DataError, OptionError, ShapeError
from accord.jacobian import disjoint

STATE, ACTION, K, B = 39, 4, 3, 6
TASKS = MT10[:K]
SMALL = {"widths": (16, 12), "encoding": 8, "experts": 3, "modules": 3}
VARIANTS = {
    "mlp": {},
    "mlp, told nothing": {"task_id": False},
    "task-encoder": {},
    "multi-head": {},
    "multi-head, told nothing": {"task_id": False},
    "soft-modular": {},
    "soft-modular, 4 layers": {"layers": 4},
    "care": {},
    "care, roberta": {"metadata": "roberta"},
}


def settings(variant, **changes):
    return NetworkSettings(name=variant.split(",")[0], **{**SMALL, **VARIANTS[variant], **changes})


def build(which, action, outputs, *, tasks=TASKS, seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make_network(which, state=STATE, action=action, outputs=outputs, tasks=tasks)
    return made.to(dtype)


def draw(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def one_hot(dtype=torch.float64):
    return torch.eye(K, dtype=dtype)


# ---------------------------------------------------------------------- sizes and shapes


def dense(*sizes):
    return sum(a * b + b for a, b in itertools.pairwise(sizes))


ENCODER = 10 * 50 + dense(50, 50, 50, 50)
ROUTING = dense(50, 400) + dense(400, 16)
MIXTURE = 4 * dense(39, 50, 50) + dense(50, 50, 50, 4) + ENCODER
PUBLISHED = {
    "mlp": (340_008, 338_801),
    "task-encoder": (ENCODER + dense(89, 400, 400, 400, 8), ENCODER + dense(93, 400, 400, 400, 1)),
    "multi-head": (
        dense(39, 400, 400, 400, 400) + 10 * dense(400, 400, 8),
        dense(43, 400, 400, 400, 400) + 10 * dense(400, 400, 1),
    ),
    "soft-modular": (
        dense(39, 50, 50, 50) + ENCODER + ROUTING + 4 * dense(50, 400, 8),
        dense(39, 50, 50, 50) + ENCODER + dense(54, 50) + ROUTING + 4 * dense(50, 400, 1),
    ),
    "care": (MIXTURE + dense(100, 400, 400, 400, 8), MIXTURE + dense(104, 400, 400, 400, 1)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_published_sizes(name):
    which = NetworkSettings(name=name, task_id=False)
    for action, outputs, expected in zip((0, 4), (8, 1), PUBLISHED[name], strict=True):
        made = make_network(which, state=STATE, action=action, outputs=outputs, tasks=MT10)
        assert sum(p.numel() for p in made.parameters()) == expected
        assert len(made.heads) == (10 if name == "multi-head" else 0)


def test_the_task_id_is_an_input_of_k_numbers_unless_there_is_one_task():
    for name in ("mlp", "multi-head"):
        for tasks, more in ((MT10, 10), (MT10[:1], 0)):
            sizes = [
                sum(p.numel() for p in build(NetworkSettings(name, task_id=told), 0, 8, tasks=tasks).parameters())
                for told in (False, True)
            ]
            assert sizes[1] - sizes[0] == 400 * more


def test_language_metadata_are_frozen_and_projected_from_768_to_100_to_50():
    learned, roberta = (
        build(NetworkSettings("care", metadata=each), 0, 8, tasks=MT10) for each in ("learned", "roberta")
    )
    count = [sum(p.numel() for p in made.parameters()) for made in (learned, roberta)]
    assert count[1] - count[0] == dense(768, 100, 50) - 10 * 50
    assert roberta.encode_task.table.shape == (10, 768)
    assert not isinstance(roberta.encode_task.table, nn.Parameter)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("critic", [False, True])
def test_shapes_with_any_leading_axes(variant, critic):
    network = build(settings(variant), ACTION if critic else 0, 5)
    together = None
    for leading, task in (((), one_hot()[1]), ((B,), one_hot()[1]), ((B,), one_hot()[1:2]), ((2, B), one_hot()[1])):
        state, action = draw(*leading, STATE), draw(*leading, ACTION, seed=2) if critic else None
        head = network.heads[1] if len(network.heads) else None
        assert network(state, action, task, head).shape == (*leading, 5)
    state, action = draw(K, B, STATE), draw(K, B, ACTION, seed=2) if critic else None
    together = network(state, action, one_hot()[:, None])
    assert together.shape == (K, B, 5)
    for k in range(K):  # slice k is what task k gives by itself
        head = network.heads[k] if len(network.heads) else None
        alone = network(state[k], None if action is None else action[k], one_hot()[k], head)
        torch.testing.assert_close(together[k], alone, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------- gradients of K tasks at once


def critic_loss(network, batch, head=None):
    values = network(batch["state"], batch["action"], batch["task"], head)[..., 0]
    return (values - batch["target"]).square().mean()


def actor_loss(models, batch, head=None):
    own = (None, None) if head is None else (head["actor"], head["critic"])
    mean, log_std = models["actor"](batch["state"], None, batch["task"], own[0]).chunk(2, dim=-1)
    log_std = log_std.clamp(-20, 2)
    action = (mean + log_std.exp() * batch["noise"]).tanh()
    value = models["critic"](batch["state"], action, batch["task"], own[1])[..., 0]
    return (-0.3 * log_std.sum(-1) - value).mean()


def problem(variant, kind, dtype=torch.float64):
    """Model, loss, batches with a task axis, heads."""
    critic = build(settings(variant), ACTION, 1, seed=1, dtype=dtype)
    batches = {
        "state": draw(K, B, STATE, dtype=dtype),
        "action": draw(K, B, ACTION, seed=2, dtype=dtype),
        "noise": draw(K, B, ACTION, seed=3, dtype=dtype),
        "target": draw(K, B, seed=4, dtype=dtype),
        "task": one_hot(dtype)[:, None],
    }
    if kind == "critic":
        return critic, critic_loss, batches, critic.heads if len(critic.heads) else None
    models = nn.ModuleDict({"actor": build(settings(variant), 0, 2 * ACTION, dtype=dtype), "critic": critic})
    critic.requires_grad_(False)
    pairs = zip(models["actor"].heads, critic.heads, strict=True)
    heads = [nn.ModuleDict({"actor": a, "critic": c}) for a, c in pairs]
    return models, actor_loss, batches, nn.ModuleList(heads) if heads else None


def one_by_one(model, loss, batches, heads):
    """Each task's gradients by a backward of its own; None where a parameter is not reached."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for k in range(K):
        value = loss(model, {name: each[k] for name, each in batches.items()}, heads[k] if heads else None)
        rows.append(dict(zip(leaves, torch.autograd.grad(value, leaves, allow_unused=True), strict=True)))
    return rows


def assert_near(ours, theirs, relative):
    assert (ours - theirs).norm() <= relative * theirs.norm()


@pytest.mark.parametrize("kind", ["critic", "actor"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_all_tasks_at_once_equal_k_backwards(variant, kind):
    for dtype, relative in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        model, loss, batches, heads = problem(variant, kind, dtype)
        rows = one_by_one(model, loss, batches, heads)
        jacobian = disjoint(model, loss, batches, heads=heads)
        assert jacobian.vectorized
        found = jacobian.rows()
        assert any(block is not None for block in found)
        whole = []
        for parameter, block in zip(jacobian.parameters, found, strict=True):
            theirs = torch.stack([torch.zeros_like(parameter) if r[parameter] is None else r[parameter] for r in rows])
            ours = torch.zeros_like(theirs) if block is None else torch.stack([*block])
            whole.append((ours.flatten(1), theirs.flatten(1)))
        ours, theirs = (torch.cat(parts, dim=1) for parts in zip(*whole, strict=True))
        for k in range(K):
            assert theirs[k].any()
            assert_near(ours[k], theirs[k], relative)
        weights = torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64)
        jacobian.accumulate(weights, weights)
        for parameter in rows[0]:
            parts = [w * r[parameter] for w, r in zip(weights.to(dtype), rows, strict=True) if r[parameter] is not None]
            if parts and parameter.grad is not None:
                # ten times: of one parameter, such as a bias, the samples' parts may cancel
                assert (parameter.grad - sum(parts)).norm() <= 10 * relative * sum(part.norm() for part in parts)
            else:
                assert not parts
                assert parameter.grad is None or not parameter.grad.any()


@pytest.mark.parametrize("kind", ["critic", "actor"])
def test_a_head_hears_of_its_own_task_alone(kind):
    def gradients(change):
        model, loss, batches, heads = problem("multi-head", kind)
        batches["state"][1] += change
        jacobian = disjoint(model, loss, batches, heads=heads)
        jacobian.accumulate(torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, 2.0, 3.0]))
        network = model if kind == "critic" else model["actor"]
        rows = one_by_one(model, loss, batches, heads)
        for k, head in enumerate(network.heads):  # with the head's weight, not the shared parameters'
            for parameter in head.parameters():
                torch.testing.assert_close(parameter.grad, (k + 1) * rows[k][parameter])
        shared = torch.cat([p.grad.flatten() for p in network.trunk.parameters()])
        return shared, [torch.cat([p.grad.flatten() for p in head.parameters()]) for head in network.heads]

    (trunk, heads), (moved, other) = gradients(0.0), gradients(0.5)
    assert not torch.allclose(trunk, moved)
    assert not torch.allclose(heads[1], other[1])
    torch.testing.assert_close(heads[0], other[0])
    torch.testing.assert_close(heads[2], other[2])


def test_a_task_moves_its_own_row_of_the_table_alone():
    for name in ("task-encoder", "soft-modular", "care"):
        network = build(settings(name), ACTION, 1)
        network(draw(B, STATE), draw(B, ACTION, seed=2), one_hot()[1]).sum().backward()
        moved = network.encode_task.table.grad.abs().sum(1)
        assert moved[1] > 0
        assert moved[0] == moved[2] == 0


# ---------------------------------------------------------------------- mixtures, against plain loops


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("critic", [False, True])
def test_soft_modularization_equals_its_equations_in_loops(layers, critic):
    network = build(settings("soft-modular", layers=layers), ACTION if critic else 0, 5)
    state, action, task = draw(STATE), draw(ACTION, seed=2) if critic else None, one_hot()[2]
    n, body = SMALL["modules"], network.body
    x = network.encode_state(state)
    x = network.project(torch.cat([x, action])) if critic else x
    u = linear(x * network.encode_task(task), body.before_routing.weight, body.before_routing.bias)
    given = [linear(x, body.layers[0].weight[i].T, body.layers[0].bias[i]) for i in range(n)]
    logits = body.down[0](relu(u))
    for level in range(1, layers):
        weights = [[torch.exp(logits[n * i + j]) for j in range(n)] for i in range(n)]
        read = [sum(weights[i][j] / sum(weights[i]) * relu(given[j]) for j in range(n)) for i in range(n)]
        given = [linear(read[i], body.layers[level].weight[i].T, body.layers[level].bias[i]) for i in range(n)]
        if level < layers - 1:
            logits = body.down[level](relu(body.up[level - 1](logits) * u))
    torch.testing.assert_close(network(state, action, task), sum(given) / n, rtol=1e-10, atol=1e-12)
    routing = network.routing(draw(K, B, STATE), draw(K, B, ACTION) if critic else None, one_hot()[:, None])
    assert [tuple(each.shape) for each in routing] == [(K, B, n, n)] * (layers - 1)
    for each in routing:
        assert (each > 0).all()
        torch.testing.assert_close(each.sum(-1), torch.ones(K, B, n, dtype=torch.float64))
        assert each.std((0, 1)).min() > 0  # it depends on the sample


@pytest.mark.parametrize("metadata", ["learned", "roberta"])
def test_care_equals_its_mixture_in_loops(metadata):
    network = build(settings("care", metadata=metadata), ACTION, 1)
    state, action = draw(STATE), draw(ACTION, seed=2)
    encoding = network.encode_task.table[1].relu()
    encoding = network.encode_task.trunk(network.encode_task.project(encoding))
    scores = network.encode_state.score(encoding).exp()
    first, _, second = network.encode_state.encoders
    mixture = 0
    for e in range(SMALL["experts"]):
        hidden = relu(linear(state, first.weight[e].T, first.bias[e]))
        mixture = mixture + scores[e] / scores.sum() * linear(hidden, second.weight[e].T, second.bias[e])
    expected = network.body(torch.cat([mixture, encoding, action]))
    torch.testing.assert_close(network(state, action, one_hot()[1]), expected, rtol=1e-10, atol=1e-12)
    attention = network.attention(one_hot())
    assert attention.shape == (K, SMALL["experts"])
    torch.testing.assert_close(attention.sum(-1), torch.ones(K, dtype=torch.float64))
    assert not torch.allclose(attention[0], attention[1], rtol=1e-6)


# ---------------------------------------------------------------------- first values, copies


@pytest.mark.parametrize("name", NAMES)
def test_first_values_are_xaviers_or_torchs_and_repeat_with_the_seed(name):
    made, again, other = (build(NetworkSettings(name, encoding=40), 4, 1, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))
    plain = build(NetworkSettings(name, encoding=40, initial="torch"), 4, 1)
    for network, xavier in ((made, True), (plain, False)):
        for layer in network.modules():
            if isinstance(layer, nn.Linear | Experts):
                weight = layer.weight.detach()
                inputs, outputs = weight.shape[-2:] if isinstance(layer, Experts) else weight.T.shape
                bound = math.sqrt(6 / (inputs + outputs)) if xavier else 1 / math.sqrt(inputs)
                assert 0.9 * bound < weight.abs().max() <= bound * (1 + 1e-6)
                assert bool(layer.bias.any()) is not xavier
    experts = [layer.weight for layer in made.modules() if isinstance(layer, Experts)]
    assert all(not torch.equal(each[0], each[1]) for each in experts)


@pytest.mark.parametrize("variant", ["multi-head", "care, roberta"])
def test_copies_and_saved_states_compute_the_same(variant):
    network, other = build(settings(variant), ACTION, 1), build(settings(variant), ACTION, 1, seed=5)
    batch = (draw(K, B, STATE), draw(K, B, ACTION, seed=2), one_hot()[:, None])
    assert not torch.equal(network(*batch), other(*batch))
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(*batch), network(*batch), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(network)(*batch), network(*batch), rtol=0, atol=0)
    assert "encode_task.table" not in build(settings("care, roberta"), 0, 8).state_dict()  # it comes with the package


# ---------------------------------------------------------------------- metadata


def shipped():
    return (resources.files("accord.bench.data") / "files" / "care" / METADATA_FILE).read_bytes()


def test_metadata_are_looked_up_by_the_tasks_current_names():
    raw = json.loads(shipped())
    assert {name.replace("-v1", "-v3") for name in raw} == set(MT50)
    order = (MT10[3], MT50[0], MT10[0])
    found = task_metadata(order)
    assert found.shape == (3, 768)
    assert found.isfinite().all()
    for row, name in zip(found, order, strict=True):
        assert torch.equal(row, torch.tensor(raw[name.replace("-v3", "-v1")]))
    assert torch.corrcoef(task_metadata(MT10).double()).min() > 0.998  # as the docstring says


def test_altered_metadata_are_refused():
    data = shipped()
    for bad in (data[:-10], data.replace(b"0.04", b"0.05", 1)):
        with pytest.raises(DataError, match=r"here\.json \([\d,]+ bytes\).*cut off or altered.*Install"):
            parse_metadata(bad, "here.json")


def test_a_task_without_metadata_is_named_with_the_nearest():
    which = settings("care, roberta")
    with pytest.raises(OptionError, match=r"roberta.*'reech-v3'.*'learned'; did you mean 'reach-v3'"):
        make_network(which, state=STATE, action=0, outputs=8, tasks=["push-v3", "reech-v3"])
    build(dataclasses.replace(which, metadata="learned"), 0, 8, tasks=["push-v3", "reech-v3"])


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "multihead"}, r"name='multihead'.*did you mean 'multi-head'"),
        ({"name": "xyz"}, r"known: mlp, task-encoder, multi-head, soft-modular, care"),
        ({"metadata": "robert"}, r"metadata='robert'.*did you mean 'roberta'"),
        ({"initial": "xavir"}, r"initial='xavir'.*did you mean 'xavier'"),
        ({"widths": ()}, r"widths=\(\) must be one or more positive"),
        ({"widths": (16, 0)}, r"widths=\(16, 0\)"),
        ({"encoding": 0}, r"encoding=0 must be 1 or more"),
        ({"experts": 0}, r"experts=0"),
        ({"modules": -1}, r"modules=-1"),
        ({"layers": 1}, r"layers=1 must be 2 or more"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(OptionError, match=message):
        make_network(NetworkSettings(**changes), state=STATE, action=0, outputs=8, tasks=TASKS)


@pytest.mark.parametrize("tasks", [(), ("reach-v3", "reach-v3")])
def test_bad_tasks_are_named(tasks):
    with pytest.raises(OptionError, match="one or more names, each once"):
        make_network(NetworkSettings(), state=STATE, action=0, outputs=8, tasks=tasks)


def test_sizes_that_do_not_fit_are_told():
    actor, critic = build(settings("care"), 0, 8), build(settings("care"), ACTION, 1)
    state, action, task = draw(B, STATE), draw(B, ACTION), one_hot()[0]
    for network, given in (
        (actor, (state[:, 1:], None, task)),
        (actor, (state, action, task)),
        (critic, (state, None, task)),
        (critic, (state, action[:, 1:], task)),
        (critic, (state, action, task[1:])),
    ):
        with pytest.raises(ShapeError, match=r"'care' was made for state \(…, 39\).*it got state \(6, 3[89]\)"):
            network(*given)
    heads = build(settings("multi-head"), 0, 8)
    for wrong in (state, draw(K, STATE), draw(K + 1, B, STATE)):
        with pytest.raises(ShapeError, match=r"3 heads: state \(.*give head=network\.heads\[k\]"):
            heads(wrong, None, task)
