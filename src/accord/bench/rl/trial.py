"""The run of soft actor-critic on several tasks: steps, updates, evaluations, and all that a resume needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from accord.bench.balancing import make_balancer
from accord.bench.rl.options import actor_method, settings_of
from accord.bench.rl.replay import Replay
from accord.bench.rl.rewards import RewardScale
from accord.bench.rl.sac import Agent, Learner, SACSettings
from accord.bench.rl.tasks import ACTION, STATE, Goals, RewardVersion
from accord.bench.spec import MethodSpec, derive_seed
from accord.bench.tally import Tally
from accord.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from accord.bench.rl.vector import Environments


@dataclass(frozen=True)
class SACPreset:
    """Every setting. A step is one of every task.

    Attributes:
        tasks: Full names.
        sac: The learner's settings.
        steps: In all; the last episode is gone through to its end.
        random_steps: Steps with uniform actions at the beginning, without updates.
        first_updates: Updates at once when those are over (the published code has 1,500); then one a step.
        horizon: Steps an episode.
        goals: Goals a task, drawn anew for each seed; evaluation has the same ones.
        rewards: Meta-World's version of the rewards.
        reward_scale: ``"raw"``, ``"deviation"`` or ``"standardised"``; see ``accord.bench.rl.rewards``.
        replay: Transitions kept a task.
        eval_every: Steps between evaluations, a multiple of the horizon.
        eval_episodes: Episodes a task and evaluation.
        processes: Step each task in a process of its own, beside the learner.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """

    tasks: tuple[str, ...]
    sac: SACSettings = field(default_factory=SACSettings)
    steps: int = 2_000_000
    random_steps: int = 1_500
    first_updates: int = 0
    horizon: int = 150
    goals: int = 1
    rewards: RewardVersion = "v2"
    reward_scale: str = "deviation"
    replay: int = 100_000
    eval_every: int = 30_000
    eval_episodes: int = 1
    processes: bool = True
    device: str = "cpu"


class SACTrial:
    """One method on a preset's tasks; a unit is what lies between two evaluations.

    All methods of one seed have the same goals, initial networks and first random steps. ``stl`` trains on one task.
    A checkpoint lies between two episodes, where an environment has no state but the episode's number.

    Args:
        preset: The settings.
        method: ``stl`` with ``task=``, or a balancer; with ``net=`` for another network than the preset's.
        seed: Of all of this.

    Raises:
        OptionError: A setting is out of range.
        UnknownNameError: ``stl`` names no task, or ``net=`` no network.
    """

    def __init__(self, preset: SACPreset, method: MethodSpec, seed: int) -> None:
        check_preset(preset)
        method, self.settings = settings_of(method, preset.sac)
        self.preset, self.seed = preset, seed
        self.tasks = _tasks(preset, method)
        if method.name == "stl":
            method = MethodSpec("ls")
        self.length = -(-preset.steps // preset.eval_every)
        self.device = torch.device(_device(preset.device))
        torch.manual_seed(self._seed("networks"))
        agent = Agent(self.settings, self.tasks, STATE, ACTION).to(self.device)
        self.methods = {"critic": method, "actor": actor_method(method)}
        balancers = {part: make_balancer(spec, self.tasks, self._seed(part)) for part, spec in self.methods.items()}
        noise = torch.Generator(self.device).manual_seed(self._seed("noise"))
        self.agent, self.learner = agent, Learner(agent, self.settings, **balancers, generator=noise)
        self.explore = torch.Generator().manual_seed(self._seed("explore"))
        self.draws = np.random.default_rng(self._seed("draws"))
        self.replay = Replay(len(self.tasks), min(preset.replay, preset.steps), STATE, ACTION)
        self.scale = RewardScale(preset.reward_scale, len(self.tasks))
        self.environments: Environments | None = None
        self.step, self.episode, self.updates = 0, 0, 0
        self.seconds = {"updates": 0.0, "steps": 0.0}
        self.last: dict[str, Any] = {}

    @property
    def goals(self) -> Goals:
        """Of training and evaluation."""
        return Goals(self._seed("goals"), self.preset.goals)

    def advance(self) -> dict[str, Any]:
        """Train up to the next evaluation, and evaluate."""
        tallies = {name: Tally(self.tasks) for name in ("critic", "actor")}
        begin, updates, before = time.perf_counter(), self.updates, self.step
        solved: list[np.ndarray] = []
        end = min(self.step + self.preset.eval_every, self.preset.steps)
        while self.step < end:
            solved.append(self._episode(tallies))
        taken = time.perf_counter() - begin
        self.seconds["steps"] += taken
        record = tallies["critic"].record() if self.updates > updates else {"steps": 0, "seconds": 0.0}
        self.seconds["updates"] += record["seconds"]
        if self.updates > updates:
            actor = tallies["actor"].record()
            record["actor"] = {key: actor[key] for key in ("train_loss", "weights", "conflict", "residual", "outcomes")}
        evaluated = self.evaluate()
        self.last = evaluated
        return record | {
            "env_steps": self.step * len(self.tasks),
            "env_steps_per_s": (self.step - before) * len(self.tasks) / taken,
            "updates_per_s": (self.updates - updates) / taken,
            "peak_rss_bytes": _peak_memory(),
            "alpha": self.agent.alpha.tolist(),
            "train_success": np.mean(solved, axis=0).tolist(),
            "returns": evaluated["returns"],
            "metrics": evaluated["metrics"],
        }

    def evaluate(self) -> dict[str, Any]:
        """Episodes of the deterministic policy: success at any step and returns, means for each task."""
        environments = self._environments()
        solved, returns = [], []
        for episode in range(self.preset.eval_episodes):
            observations = environments.reset("evaluate", episode)
            reached = np.zeros(len(self.tasks), bool)
            total, ended = np.zeros(len(self.tasks)), False
            while not ended:
                states = torch.from_numpy(observations).to(self.device)
                stepped = environments.step(self.agent.act(states).cpu().numpy())
                observations, ended = stepped.observations, stepped.ended
                reached |= stepped.successes
                total += stepped.rewards
            solved.append(reached)
            returns.append(total)
        success = np.mean(solved, axis=0).tolist()
        return {
            "metrics": {f"{task}/success": value for task, value in zip(self.tasks, success, strict=True)},
            "returns": np.mean(returns, axis=0).tolist(),
        }

    def result(self) -> dict[str, Any]:
        """The last evaluation, and what the run cost; the environments are closed."""
        self.close()
        return {
            **self.last,
            "steps": self.updates,
            "balancers": {part: str(method) for part, method in self.methods.items()},
            "seconds_per_step": self.seconds["updates"] / max(1, self.updates),
            "env_steps": self.step * len(self.tasks),
            "env_steps_per_s": self.step * len(self.tasks) / max(1e-9, self.seconds["steps"]),
            "updates_per_s": self.updates / max(1e-9, self.seconds["steps"]),
            "replay_bytes": self.replay.nbytes,
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, balancers, replay, generators and counters; environments have no state here."""
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "scale": self.scale.state_dict(),
            "explore": self.explore.get_state(),
            "draws": self.draws.bit_generator.state,
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.scale.load_state_dict(state["scale"])
        self.explore.set_state(state["explore"])
        self.draws.bit_generator.state = state["draws"]
        for name in _PROGRESS:
            setattr(self, name, state["progress"][name])

    def close(self) -> None:
        """End the environments' processes."""
        if self.environments is not None:
            self.environments.close()
            self.environments = None

    def _episode(self, tallies: dict[str, Tally]) -> np.ndarray:
        """One episode of every task with its updates; which tasks were solved, (K,)."""
        preset, environments = self.preset, self._environments()
        observations, ended = environments.reset("train", self.episode), False
        solved = np.zeros(len(self.tasks), bool)
        while not ended:
            actions = self._actions(observations)
            environments.start(actions)
            if self.step >= preset.random_steps and self.replay.size:
                first = preset.first_updates if self.step == preset.random_steps else 0
                for _ in range(max(1, first)):
                    self._update(tallies)
            stepped = environments.finish()
            rewards = self.scale.collected(stepped.rewards)
            self.replay.add(observations, actions, rewards, stepped.observations)
            observations, ended = stepped.observations, stepped.ended
            solved |= stepped.successes
            self.step += 1
        self.episode += 1
        return solved

    def _actions(self, observations: np.ndarray) -> np.ndarray:
        """(K, 4), uniform at first, then from the policy."""
        shape = (len(self.tasks), ACTION)
        if self.step < self.preset.random_steps:
            return self.draws.uniform(-1, 1, shape).astype(np.float32)
        noise = torch.randn(shape, generator=self.explore).to(self.device)
        return self.agent.act(torch.from_numpy(observations).to(self.device), noise).cpu().numpy()

    def _update(self, tallies: dict[str, Tally]) -> None:
        begin = time.perf_counter()
        self.scale.look(self.replay, self.step)
        batch = self.replay.sample(self.settings.batch, self.draws)
        batch["reward"] = self.scale.sampled(batch["reward"])
        update = self.learner.update({name: tensor.to(self.device) for name, tensor in batch.items()})
        taken = time.perf_counter() - begin
        tallies["critic"].add(list(update.critic.losses), update.critic, taken)
        tallies["actor"].add(list(update.actor.losses), update.actor, 0.0)
        self.updates += 1

    def _environments(self) -> Environments:
        if self.environments is None:
            from accord.bench.rl.vector import Environments  # metaworld is not needed to describe a run

            preset, both = self.preset, {"train": self.goals, "evaluate": self.goals}
            self.environments = Environments(self.tasks, both, preset.horizon, preset.rewards, preset.processes)
        return self.environments

    def _seed(self, what: str) -> int:
        return derive_seed("mt", self.seed, what)


_PROGRESS = ("step", "episode", "updates", "seconds", "last")


def check_preset(preset: SACPreset) -> None:
    """Raise OptionError where settings contradict each other."""
    if preset.eval_every % preset.horizon:
        raise OptionError(
            f"eval_every={preset.eval_every} is not a multiple of horizon={preset.horizon}: evaluations and "
            "checkpoints lie between episodes"
        )
    for name in ("steps", "horizon", "goals", "replay", "eval_every", "eval_episodes"):
        if getattr(preset, name) < 1:
            raise OptionError(f"{name}={getattr(preset, name)} must be 1 or more")


def _tasks(preset: SACPreset, method: MethodSpec) -> tuple[str, ...]:
    if method.name != "stl":
        return preset.tasks
    task = method.options.get("task")
    if task not in preset.tasks:
        raise UnknownNameError(
            f"method {str(method)!r} names no task; write stl:task=NAME with one of {list(preset.tasks)}"
        )
    return (str(task),)


def _peak_memory() -> int | None:
    """The most memory that this process ever had in use; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
