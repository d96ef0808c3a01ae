"""Soft actor-critic for K tasks, each with samples of its own (Haarnoja et al., 2018, with a temperature per task).

The critic's K losses and the actor's K losses are each balanced, by a balancer of their own; the temperatures are not.
All rows of a Jacobian cost one backward pass, because task k's loss depends on task k's samples alone
(``accord.jacobian.disjoint``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from accord.balancers.base import Balancer
from accord.balancers.result import Balance
from accord.bench.rl.networks import Network, NetworkSettings, make_network
from accord.errors import NonFiniteError, OptionError
from accord.jacobian import compiled, disjoint

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class SACSettings:
    """Everything about the learner.

    Attributes:
        network: Of the actor and both critics.
        batch: Samples a task and update.
        discount: γ.
        averaging: τ, the share of the critic that goes into its target at each update.
        lr: Learning rate of the three Adam optimisers.
        adam_eps: Their ε.
        clip: Largest norm of the actor's and of the critic's gradient; None for any.
        temperature: α at the beginning.
        temperatures: ``"per-task"``, or ``"shared"`` as in CAGrad's code, where one α serves all.
        target_entropy: What α is steered towards, in nats; −4 is minus the number of actions.
        log_std: Bounds of the logarithm of the policy's standard deviation.
        log_std_form: ``"clamp"`` cuts the network's output off at the bounds; ``"tanh"`` squashes it between them, as
            the code of CARE does, from −9 at an output of 0.
        compile: Have ``torch.compile`` make programs of the critic's targets and of all tasks' gradients (needs a C++
            compiler; rows differ by rounding).
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    batch: int = 128
    discount: float = 0.99
    averaging: float = 0.005
    lr: float = 3e-4
    adam_eps: float = 1e-8
    clip: float | None = None
    temperature: float = 1.0
    temperatures: str = "per-task"
    target_entropy: float = -4.0
    log_std: tuple[float, float] = (-20.0, 2.0)
    log_std_form: str = "clamp"
    compile: bool = False


class Actor(nn.Module):
    """A policy: a Gaussian, squashed by tanh, whose mean and log-deviation the network gives."""

    def __init__(self, network: Network, log_std: tuple[float, float] = (-20.0, 2.0), form: str = "clamp") -> None:
        super().__init__()
        if form not in ("clamp", "tanh"):
            raise OptionError(f"log_std_form={form!r} must be 'clamp' or 'tanh'")
        self.network, self.log_std, self.form = network, log_std, form

    def forward(self, state: Tensor, task: Tensor, head: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation before squashing, (…, 4) each."""
        mean, log_std = self.network(state, None, task, head).chunk(2, dim=-1)
        low, high = self.log_std
        return mean, log_std.clamp(low, high) if self.form == "clamp" else low + (high - low) / 2 * (log_std.tanh() + 1)

    def sample(
        self, state: Tensor, task: Tensor, noise: Tensor, head: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """An action (…, 4) in (−1, 1) from standard normal noise (…, 4), and its log-density (…)."""
        mean, log_std = self(state, task, head)
        raw = mean + log_std.exp() * noise
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squashing = 2 * (math.log(2) - raw - softplus(-2 * raw))  # log(1 − tanh²), without cancellation
        return raw.tanh(), (density - squashing).sum(-1)


class Critic(nn.Module):
    """Two action values from two networks; the smaller one is believed."""

    def __init__(self, first: Network, second: Network) -> None:
        super().__init__()
        self.networks = nn.ModuleList([first, second])

    def forward(self, state: Tensor, action: Tensor, task: Tensor, head: Any = None) -> Tensor:
        """Values (2, …)."""
        heads = (None, None) if head is None else head
        return torch.stack(
            [net(state, action, task, own)[..., 0] for net, own in zip(self.networks, heads, strict=True)]
        )


class Agent(nn.Module):
    """Actor, critic, the critic's slow copy, and temperatures.

    Attributes:
        task: The tasks' one-hot codes, (K, 1, K).
    """

    def __init__(self, settings: SACSettings, tasks: Sequence[str], state: int, action: int) -> None:
        super().__init__()
        if settings.temperatures not in ("per-task", "shared"):
            raise OptionError(f"temperatures={settings.temperatures!r} must be 'per-task' or 'shared'")

        def network(inputs: int, outputs: int) -> Network:
            return make_network(settings.network, state=state, action=inputs, outputs=outputs, tasks=tasks)

        self.actor = Actor(network(0, 2 * action), settings.log_std, settings.log_std_form)
        self.critic = Critic(network(action, 1), network(action, 1))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        count = len(tasks) if settings.temperatures == "per-task" else 1
        self.log_alpha = nn.Parameter(torch.full((count,), math.log(settings.temperature)))
        self.register_buffer("task", torch.eye(len(tasks))[:, None, :], persistent=False)
        self.tasks = tuple(tasks)

    @property
    def alpha(self) -> Tensor:
        """Temperatures (K,), without a graph."""
        return self.log_alpha.detach().exp().expand(len(self.tasks))

    @torch.no_grad()
    def act(self, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """One action a task, (K, 4), from states (K, 39); without noise the mean's, as in evaluation."""
        states = states[:, None]
        if noise is None:
            return self.actor(states, self.task)[0].tanh()[:, 0]
        return self.actor.sample(states, self.task, noise[:, None])[0][:, 0]


def critic_loss(critic: Critic, batch: Batch, head: nn.Module | None = None) -> Tensor:
    """One task's loss: (Q₁ − y)² + (Q₂ − y)², a mean over its samples."""
    values = critic(batch["state"], batch["action"], batch["task"], head)
    return (values - batch["target"]).square().sum(0).mean()


def actor_loss(agent: Any, batch: Batch, head: Any = None) -> Tensor:
    """One task's loss: α log π(a|s) − min(Q₁, Q₂)(s, a) with a from the policy, a mean over its samples."""
    own = (None, None) if head is None else (head["actor"], head["critic"])
    action, density = agent["actor"].sample(batch["state"], batch["task"], batch["noise"], own[0])
    values = agent["critic"](batch["state"], action, batch["task"], own[1])
    return (batch["alpha"] * density - values.amin(0)).mean()


@torch.no_grad()
def targets(agent: Agent, batch: Batch, noise: Tensor, discount: float) -> Tensor:
    """The critic's targets r + γ (min(Q̄₁, Q̄₂)(s', a') − α log π(a'|s')), (K, B).

    Episodes end by truncation alone, so that every next state has a value.
    """
    action, density = agent.actor.sample(batch["after"], agent.task, noise)
    values = agent.target(batch["after"], action, agent.task).amin(0)
    return batch["reward"] + discount * (values - agent.alpha[:, None] * density)


class Update(NamedTuple):
    """What one update did.

    Attributes:
        critic: The critic's balance, with its K losses.
        actor: The actor's.
        entropy: Of the policy, −log π, a mean over samples, (K,).
    """

    critic: Balance
    actor: Balance
    entropy: Tensor


class Learner:
    """Updates an agent from batches.

    Args:
        agent: What learns.
        settings: How.
        critic: The balancer of the critic's losses.
        actor: The balancer of the actor's losses, another one.
        generator: Of the policy's noise.
    """

    def __init__(
        self, agent: Agent, settings: SACSettings, critic: Balancer, actor: Balancer, generator: torch.Generator
    ) -> None:
        if critic is actor:
            raise OptionError(
                "soft actor-critic needs two balancers: one's state says nothing about the other's losses"
            )
        self.agent, self.settings, self.generator = agent, settings, generator
        self.balancers = {"critic": critic, "actor": actor}
        self.policy = nn.ModuleDict({"actor": agent.actor, "critic": agent.critic})
        self.heads = _heads(agent)
        self.optimizers = {
            "critic": self._adam(agent.critic, critic),
            "actor": self._adam(agent.actor, actor),
            "temperature": torch.optim.Adam([agent.log_alpha], lr=settings.lr, eps=settings.adam_eps),
        }
        self._targets = torch.compile(targets) if settings.compile else targets
        self._losses = {"critic": critic_loss, "actor": actor_loss}
        if settings.compile:
            self._losses = {name: compiled(loss) for name, loss in self._losses.items()}

    def update(self, batch: Batch) -> Update:
        """One step of the critic, the actor, the temperatures and the target.

        Args:
            batch: ``state`` and ``after`` (K, B, 39), ``action`` (K, B, 4), ``reward`` (K, B).

        Raises:
            NonFiniteError: A loss is not finite; it is named, and networks and balancers are as before.
        """
        agent, settings = self.agent, self.settings
        batch = dict(batch, task=agent.task)
        shape = batch["action"].shape
        batch["target"] = self._targets(agent, batch, self._noise(shape), settings.discount)
        critic = self._step("critic", agent.critic, batch)
        batch |= {"noise": self._noise(shape), "alpha": agent.alpha}
        with torch.no_grad():
            entropy = -agent.actor.sample(batch["state"], agent.task, batch["noise"])[1].mean(1)  # (K,)
        with frozen(agent.critic):
            actor = self._step("actor", self.policy, batch)
        self._step_temperatures(entropy)
        with torch.no_grad():
            for slow, quick in zip(agent.target.parameters(), agent.critic.parameters(), strict=True):
                slow.lerp_(quick, settings.averaging)
        return Update(critic, actor, entropy)

    def state_dict(self) -> dict[str, Any]:
        """Agent, optimisers, balancers and generator."""
        return {
            "agent": self.agent.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "balancers": {name: balancer.state_dict() for name, balancer in self.balancers.items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.agent.load_state_dict(state["agent"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, balancer in self.balancers.items():
            balancer.load_state_dict(state["balancers"][name])
        self.generator.set_state(state["generator"])

    def _step(self, name: str, model: nn.Module, batch: Batch) -> Balance:
        """Balance one network's K losses and step its optimiser."""
        optimizer, balancer, loss = self.optimizers[name], self.balancers[name], self._losses[name]
        kept = {key: batch[key] for key in _USED[name]}

        def jacobian() -> Any:
            return disjoint(model, loss, kept, heads=self.heads[name], tasks=balancer.tasks)

        optimizer.zero_grad()
        try:
            balance = balancer.apply(jacobian())
        except NonFiniteError as error:
            raise NonFiniteError(f"{name}: {error}; networks and balancer are as they were") from error
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], self.settings.clip
            )
        optimizer.step()
        balancer.after_step(lambda: jacobian().losses)
        return balance

    def _step_temperatures(self, entropy: Tensor) -> None:
        """Raise α where the policy has less entropy than it should, lower it where it has more."""
        optimizer = self.optimizers["temperature"]
        optimizer.zero_grad()
        alpha = self.agent.log_alpha.exp()
        (alpha * (entropy - self.settings.target_entropy)).sum().backward()
        optimizer.step()

    def _adam(self, model: nn.Module, balancer: Balancer) -> torch.optim.Adam:
        own = list(balancer.parameters())
        parameters, settings = [*model.parameters(), *own], self.settings
        return torch.optim.Adam(parameters, lr=settings.lr, eps=settings.adam_eps, fused=True)

    def _noise(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)


_USED = {"critic": ("state", "action", "target", "task"), "actor": ("state", "noise", "alpha", "task")}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters that get no gradients inside the block."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _heads(agent: Agent) -> dict[str, nn.ModuleList | None]:
    """Each task's own modules, for both losses; None where all is shared."""
    actor, critics = agent.actor.network.heads, [network.heads for network in agent.critic.networks]
    if not len(actor):
        return {"critic": None, "actor": None}
    pairs = nn.ModuleList([nn.ModuleList(pair) for pair in zip(*critics, strict=True)])
    both = nn.ModuleList([nn.ModuleDict({"actor": a, "critic": c}) for a, c in zip(actor, pairs, strict=True)])
    return {"critic": pairs, "actor": both}
