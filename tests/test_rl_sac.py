"""Soft actor-critic for K tasks: its losses, their Jacobians, who gets which gradient, and what a NaN leaves behind."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import accord
from accord.bench.experiments.mt import METHODS
from accord.bench.rl.networks import NAMES, NetworkSettings
from accord.bench.rl.options import actor_method, settings_of
from accord.bench.rl.sac import Actor, Agent, Learner, SACSettings, actor_loss, critic_loss, frozen, targets
from accord.bench.spec import MethodSpec
from accord.errors import NonFiniteError, OptionError, UnknownNameError
from accord.jacobian import disjoint

TASKS = ("reach-v3", "push-v3", "door-open-v3")
K, B, STATE, ACTION = 3, 5, 6, 2
SETTINGS = SACSettings(network=NetworkSettings(widths=(7, 7)), batch=B)


def small(name: str, **given) -> SACSettings:
    return replace(SETTINGS, network=replace(SETTINGS.network, name=name, encoding=4, experts=2, modules=2), **given)


def agent_of(settings: SACSettings = SETTINGS, dtype=torch.float64) -> Agent:
    torch.manual_seed(0)
    return Agent(settings, TASKS, STATE, ACTION).to(dtype)


def batch_of(dtype=torch.float64, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    draws = {name: torch.randn(K, B, STATE, dtype=dtype) for name in ("state", "after")}
    return draws | {
        "action": torch.rand(K, B, ACTION, dtype=dtype) * 2 - 1,
        "reward": torch.randn(K, B, dtype=dtype) * torch.tensor([1.0, 10.0, 100.0], dtype=dtype)[:, None],
    }


def learner_of(method: str = "nash-mtl", settings: SACSettings = SETTINGS, dtype=torch.float64) -> Learner:
    spec = MethodSpec.parse(method)
    balancers = {"critic": accord.make(str(spec), TASKS), "actor": accord.make(str(actor_method(spec)), TASKS)}
    return Learner(agent_of(settings, dtype), settings, generator=torch.Generator().manual_seed(2), **balancers)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------ the losses


def test_the_log_density_is_that_of_a_squashed_gaussian():
    agent, batch = agent_of(), batch_of()
    noise = torch.randn(K, B, ACTION)
    action, density = agent.actor.sample(batch["state"], agent.task, noise)
    mean, log_std = agent.actor(batch["state"], agent.task)
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(density, squashed.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)
    assert action.abs().max() < 1


def test_the_density_stays_finite_where_tanh_is_flat():
    class Constant(nn.Module):
        heads = nn.ModuleList()

        def forward(self, state, action, task, head):
            return torch.tensor([40.0, 1.0]).expand(*state.shape[:-1], 2)

    _, density = Actor(Constant(), (-20.0, 2.0)).sample(torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(4, 1))
    assert density.isfinite().all()
    assert density[0] == pytest.approx(-0.5 * math.log(2 * math.pi) - 1 - 2 * (math.log(2) - 40), rel=1e-9)


@pytest.mark.parametrize(("form", "low", "high"), [("clamp", -20, 2), ("tanh", -20, 2)])
def test_log_deviations_stay_within_their_bounds(form, low, high):
    agent = agent_of(replace(SETTINGS, log_std_form=form))
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.mul_(50)
    _, log_std = agent.actor(batch_of()["state"], agent.task)
    assert log_std.min() >= low
    assert log_std.max() <= high


def test_targets_bootstrap_from_the_smaller_value_less_the_entropy_term():
    agent, batch, noise = agent_of(), batch_of(), torch.randn(K, B, ACTION)
    with torch.no_grad():
        agent.log_alpha.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    found = targets(agent, batch, noise, 0.9)
    for k in range(K):
        action, density = agent.actor.sample(batch["after"][k], agent.task[k], noise[k])
        first, second = agent.target(batch["after"][k], action, agent.task[k])
        slow = batch["reward"][k] + 0.9 * (torch.minimum(first, second) - math.exp(k - 1) * density)
        torch.testing.assert_close(found[k], slow.detach())
    assert not found.requires_grad


# ------------------------------------------------------------------ K rows for one backward


def both_losses(learner: Learner, batch: dict) -> dict[str, tuple]:
    agent = learner.agent
    batch = dict(batch, task=agent.task, alpha=agent.alpha, noise=torch.randn(K, B, ACTION))
    batch["target"] = targets(agent, batch, torch.randn(K, B, ACTION), 0.99)
    keep = {"critic": ("state", "action", "target", "task"), "actor": ("state", "noise", "alpha", "task")}
    return {
        "critic": (agent.critic, critic_loss, {name: batch[name] for name in keep["critic"]}),
        "actor": (learner.policy, actor_loss, {name: batch[name] for name in keep["actor"]}),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["critic", "actor"])
def test_rows_are_those_of_k_separate_backwards(name, part):
    learner = learner_of(settings=small(name))
    model, loss, batch = both_losses(learner, batch_of())[part]
    heads = learner.heads[part]
    with frozen(learner.agent.critic) if part == "actor" else torch.enable_grad():
        jacobian = disjoint(model, loss, batch, heads=heads, tasks=TASKS)
        shared = list(jacobian.parameters)
        found = jacobian.gramian()
        rows = []
        for k in range(K):
            own = {key: value[k] for key, value in batch.items()}
            arguments = (model, own) if heads is None else (model, own, heads[k])
            gradients = torch.autograd.grad(loss(*arguments), shared, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in gradients]))
    slow = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(torch.as_tensor(found), slow, rtol=1e-9, atol=1e-12)


def test_the_balanced_update_of_the_trunk_is_the_weighted_sum_of_rows():
    learner = learner_of("fairgrad", replace(SETTINGS, lr=0.0))
    batch = batch_of()
    before = copy.deepcopy(learner.generator.get_state())
    update = learner.update(batch)
    learner.generator.set_state(before)
    agent = learner.agent
    full = dict(batch, task=agent.task)
    full["target"] = targets(agent, full, torch.randn(K, B, ACTION, generator=learner.generator), 0.99)
    losses = [critic_loss(agent.critic, {name: t[k] for name, t in full.items()}) for k in range(K)]
    expected = torch.autograd.grad(
        sum(w * loss for w, loss in zip(update.critic.weights, losses, strict=True)), agent.critic.parameters()
    )
    for parameter, gradient in zip(agent.critic.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", ["ls", "nash-mtl", "cagrad"])
def test_a_heads_gradient_reaches_only_its_task(method):
    """Change one task's samples: the other heads' gradients stay, its own and the trunk's do not."""

    def gradients(batch):
        learner = learner_of(method, small("multi-head", lr=0.0))
        learner.update(batch)
        found = {"trunk": [p.grad for p in learner.agent.critic.parameters()]}
        for part in ("critic", "actor"):
            for k, head in enumerate(learner.heads[part]):
                found[part, k] = [p.grad.clone() for p in head.parameters() if p.grad is not None and p.grad.any()]
        return found

    batch = batch_of()
    changed = dict(batch, reward=batch["reward"].clone())
    changed["reward"][1] += 5.0
    one, two = gradients(batch), gradients(changed)
    for k in (0, 2):
        scale = [b.norm() / a.norm() for a, b in zip(one["critic", k], two["critic", k], strict=True)]
        for a, b, factor in zip(one["critic", k], two["critic", k], scale, strict=True):
            torch.testing.assert_close(b, a * factor, rtol=1e-8, atol=1e-12)  # weights scale a head as a whole
    assert any(not torch.allclose(a, b) for a, b in zip(one["critic", 1], two["critic", 1], strict=True))
    assert any(not torch.allclose(a, b) for a, b in zip(one["trunk"], two["trunk"], strict=True))


# ------------------------------------------------------------------ the update


@pytest.mark.parametrize(
    "spec", [method for method in METHODS if method != "stl"] + ["uw", "mgda", "imtl-g", "graddrop"]
)
def test_every_row_of_the_table_updates_all_networks(spec):
    method, found = settings_of(MethodSpec.parse(spec), SETTINGS)
    learner = learner_of(str(method), small(found.network.name), torch.float64)
    before = copy.deepcopy(learner.agent.state_dict())
    update = learner.update(batch_of())
    after = learner.agent.state_dict()
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"actor", "critic", "target", "log_alpha"}
    assert all(value.isfinite().all() for value in after.values())
    assert update.entropy.shape == (K,)


def test_targets_follow_slowly():
    learner = learner_of()
    before = copy.deepcopy(learner.agent.target.state_dict())
    learner.update(batch_of())
    for name, value in learner.agent.target.state_dict().items():
        expected = 0.995 * before[name] + 0.005 * learner.agent.critic.state_dict()[name]
        torch.testing.assert_close(value, expected)


def test_a_temperature_rises_where_entropy_is_wanted():
    for wanted, sign in ((100.0, 1), (-100.0, -1)):
        learner = learner_of(settings=replace(SETTINGS, target_entropy=wanted))
        before = learner.agent.alpha.clone()
        learner.update(batch_of())
        assert ((learner.agent.alpha - before).sign() == sign).all()


def test_one_temperature_can_serve_all():
    agent = agent_of(replace(SETTINGS, temperatures="shared", temperature=0.5))
    assert agent.log_alpha.shape == (1,)
    assert agent.alpha.tolist() == pytest.approx([0.5] * K)


def test_acting_is_deterministic_without_noise_and_uses_the_tasks_own_head():
    agent = agent_of(small("multi-head"))
    states = torch.randn(K, STATE)
    actions = agent.act(states)
    assert actions.shape == (K, ACTION)
    for k in range(K):
        alone = agent.actor(states[k : k + 1], agent.task[k], agent.actor.network.heads[k])[0].tanh()[0]
        torch.testing.assert_close(actions[k], alone)
    assert torch.equal(actions, agent.act(states))
    assert not torch.equal(actions, agent.act(states, torch.ones(K, ACTION)))


@pytest.mark.parametrize("method", ["nash-mtl", "famo", "nash-mtl:update_every=3", "ls:reduction=sum"][:3])
def test_going_on_from_a_state_is_going_on(method):
    one = learner_of(method)
    for seed in range(2):
        one.update(batch_of(seed=seed))
    two = learner_of(method)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for seed in range(2, 5):
        one.update(batch_of(seed=seed))
        two.update(batch_of(seed=seed))
    for name, value in one.agent.state_dict().items():
        assert torch.equal(value, two.agent.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_compiled_learner_computes_the_same():
    one, two = learner_of(), learner_of(settings=replace(SETTINGS, compile=True))
    for seed in range(3):
        one.update(batch_of(seed=seed))
        two.update(batch_of(seed=seed))
    for name, value in one.agent.state_dict().items():
        torch.testing.assert_close(two.agent.state_dict()[name], value, rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("method", ["ls", "nash-mtl", "famo"])
def test_a_nan_is_named_and_leaves_networks_and_balancers_as_they_were(method):
    learner = learner_of(method)
    learner.update(batch_of())
    before = copy.deepcopy(learner.state_dict())
    batch = batch_of(seed=3)
    batch["reward"][1, 2] = float("nan")
    with pytest.raises(NonFiniteError, match=r"critic: .*'?push-v3'?.*as they were"):
        learner.update(batch)
    after = learner.state_dict()
    for name, value in before["agent"].items():
        assert torch.equal(value, after["agent"][name]), name
    assert str(before["balancers"]) == str(after["balancers"])
    learner.update(batch_of(seed=3))  # and training can go on


def test_one_balancer_for_both_is_refused():
    balancer = accord.make("nash-mtl", TASKS)
    with pytest.raises(OptionError, match="two balancers"):
        Learner(agent_of(), SETTINGS, balancer, balancer, torch.Generator())


def test_wrong_settings_are_named():
    with pytest.raises(OptionError, match=r"temperatures='each' must be 'per-task' or 'shared'"):
        agent_of(replace(SETTINGS, temperatures="each"))
    with pytest.raises(OptionError, match="log_std_form='exp'"):
        agent_of(replace(SETTINGS, log_std_form="exp"))
    with pytest.raises(UnknownNameError, match=r"no network 'multihead'.*multi-head"):
        settings_of(MethodSpec.parse("ls:net=multihead"), SETTINGS)
    with pytest.raises(OptionError, match="compile=2 must be True or False"):
        settings_of(MethodSpec.parse("ls:compile=2"), SETTINGS)


def test_methods_that_need_positive_losses_balance_the_critic_alone():
    assert str(actor_method(MethodSpec.parse("famo"))) == "ls"
    assert str(actor_method(MethodSpec.parse("cagrad:c=0.9"))) == "cagrad:c=0.9"
