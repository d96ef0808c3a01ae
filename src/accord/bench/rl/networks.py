"""The networks of multi-task soft actor-critic, one class for each way to tell tasks apart.

Sizes and initial values are those of facebookresearch/mtrl, the code behind the published tables of CARE, CAGrad,
Nash-MTL, FAMO and FairGrad, unless a docstring says otherwise. There one task encoder, and one encoder of the state,
serve the actor and both critics, and learn from the critic's loss. Here each network has its own, which learns from the
losses of that network: the actor's and the critic's are balanced apart from each other, so neither has parameters of
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from accord.balancers.registry import suggest
from accord.bench.rl.encoders import TaskEncoder, draw_as_published, perceptron
from accord.bench.rl.modular import MixedEncoders, SoftModules
from accord.errors import OptionError, ShapeError


@dataclass(frozen=True)
class NetworkSettings:
    """Everything about one network; defaults are the lineage's, but for ``task_id``.

    Attributes:
        name: ``"mlp"``, ``"task-encoder"``, ``"multi-head"``, ``"soft-modular"`` or ``"care"``.
        widths: Units of the hidden layers. A multi-head trunk has one layer more, as wide as the last; soft
            modularization uses the last alone.
        task_id: Append the one-hot task to the state (mlp, and the trunk of multi-head). False in the lineage, whose
            networks are not told the task; True in Meta-World+. With one task nothing is appended.
        metadata: What a task encoder starts from: ``"learned"`` vectors, or ``"roberta"``, CARE's language metadata.
        encoding: Width of the encoders of state and task.
        experts: Encoders that CARE mixes: 4 in its code's command, 6 in its paper.
        modules: Modules a layer of soft modularization.
        layers: Layers of soft modularization; its paper has 2 or 4.
        initial: ``"xavier"``, uniform with biases of zero, as in the lineage; ``"torch"``, PyTorch's default.
    """

    name: str = "mlp"
    widths: tuple[int, ...] = (400, 400, 400)
    task_id: bool = True
    metadata: str = "learned"
    encoding: int = 50
    experts: int = 4
    modules: int = 4
    layers: int = 2
    initial: str = "xavier"


class Network(nn.Module):
    """A function of state, action and task.

    Attributes:
        heads: K modules of one structure, each for one task; empty where the whole network is shared.
    """

    def __init__(self, settings: NetworkSettings, state: int, action: int, tasks: int) -> None:
        super().__init__()
        self.settings, self.heads = settings, nn.ModuleList()
        self._expected = f"state (…, {state}), {f'action (…, {action})' if action else 'no action'}, task (…, {tasks})"
        self._sizes = (state, action or None, tasks)

    def forward(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None = None) -> Tensor:
        """The outputs (…, outputs).

        Args:
            state: (…, 39).
            action: (…, 4) for a critic, None for an actor.
            task: One-hot, (…, K); it is broadcast over the state's leading axes.
            head: The task's module of ``heads``. Without it a network with heads needs a task axis in front, state
                (K, …, 39), and applies head k to slice k.

        Raises:
            ShapeError: The sizes are not those that the network was made for, or no head can be chosen.
        """
        if (state.shape[-1], None if action is None else action.shape[-1], task.shape[-1]) != self._sizes:
            seen = "no action" if action is None else f"action {tuple(action.shape)}"
            raise ShapeError(
                f"network {self.settings.name!r} was made for {self._expected}; it got state {tuple(state.shape)}, "
                f"{seen}, task {tuple(task.shape)}"
            )
        return self._outputs(state, action, task, head)

    def _outputs(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None) -> Tensor:
        raise NotImplementedError


class Perceptron(Network):
    """One network for all tasks; the task's one-hot code is an input, or is not.

    Without it, 39 → 400 → 400 → 400 → 8 (340,008 parameters), this is the MTL SAC of the published tables, and the
    network of PCGrad, CAGrad, Nash-MTL, FAMO and FairGrad there. With one task it is that of single-task SAC.
    """

    def __init__(self, settings: NetworkSettings, state: int, action: int, outputs: int, tasks: Sequence[str]) -> None:
        super().__init__(settings, state, action, len(tasks))
        self.told = settings.task_id and len(tasks) > 1
        self.body = perceptron(state + (len(tasks) if self.told else 0) + action, *settings.widths, outputs)

    def _outputs(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None) -> Tensor:
        return self.body(_joined(state, task if self.told else None, action))


class TaskEncoded(Network):
    """MTL SAC + TE: a perceptron that reads the state and a learnt encoding of the task."""

    def __init__(self, settings: NetworkSettings, state: int, action: int, outputs: int, tasks: Sequence[str]) -> None:
        super().__init__(settings, state, action, len(tasks))
        self.encode_task = TaskEncoder(tasks, settings.encoding, settings.metadata)
        self.body = perceptron(state + settings.encoding + action, *settings.widths, outputs)

    def _outputs(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None) -> Tensor:
        return self.body(_joined(state, self.encode_task(task), action))


class MultiHead(Network):
    """MH SAC: a trunk for all tasks, 39 → 400 → 400 → 400 → 400, and a head of two layers for each, 400 → 400 → 8.

    The published code runs every head on every sample and masks the result; here a head sees its own task's samples.
    """

    def __init__(self, settings: NetworkSettings, state: int, action: int, outputs: int, tasks: Sequence[str]) -> None:
        super().__init__(settings, state, action, len(tasks))
        self.told, last = settings.task_id and len(tasks) > 1, settings.widths[-1]
        trunk = perceptron(state + (len(tasks) if self.told else 0) + action, *settings.widths, last)
        self.trunk = nn.Sequential(trunk, nn.ReLU())
        self.heads.extend(perceptron(last, last, outputs) for _ in tasks)

    def _outputs(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None) -> Tensor:
        if head is None and (state.ndim < 3 or len(state) != len(self.heads)):
            raise ShapeError(
                f"network 'multi-head' has {len(self.heads)} heads: state {tuple(state.shape)} needs a task axis of "
                "that length in front, (K, samples, numbers), or give head=network.heads[k] for samples of task k"
            )
        z = self.trunk(_joined(state, task if self.told else None, action))
        if head is not None:
            return head(z)
        return torch.stack([own(z[k]) for k, own in enumerate(self.heads)])


class SoftModular(Network):
    """Soft modularization: an encoder of the state, 39 → 50 → 50 → 50, then ``SoftModules`` routed by state and task.

    A critic's encoded state and action, 54 numbers, are first brought to the 50 of the task's encoding.
    """

    def __init__(self, settings: NetworkSettings, state: int, action: int, outputs: int, tasks: Sequence[str]) -> None:
        super().__init__(settings, state, action, len(tasks))
        size = settings.encoding
        self.encode_task = TaskEncoder(tasks, size, settings.metadata)
        self.encode_state = perceptron(state, size, size, size)
        self.project = nn.Linear(size + action, size) if action else nn.Identity()
        self.body = SoftModules(size, settings.widths[-1], outputs, settings.modules, settings.layers)

    def _outputs(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None) -> Tensor:
        return self.body(self._inputs(state, action), self.encode_task(task))

    def routing(self, state: Tensor, action: Tensor | None, task: Tensor) -> list[Tensor]:
        """The weights between each layer and the next, (…, n, n), rows of which sum to one."""
        return self.body.routing(self._inputs(state, action), self.encode_task(task))

    def _inputs(self, state: Tensor, action: Tensor | None) -> Tensor:
        return self.project(_joined(self.encode_state(state), None, action))


class Care(Network):
    """CARE: a mixture of state encoders, and the task's encoding beside it, go through the perceptron of MTL SAC.

    The published metadata of MT10's tasks are almost alike: any two of the ten vectors have a correlation above 0.998.
    So ``metadata="learned"`` is the default here; ``"roberta"`` is the published variant.
    """

    def __init__(self, settings: NetworkSettings, state: int, action: int, outputs: int, tasks: Sequence[str]) -> None:
        super().__init__(settings, state, action, len(tasks))
        size = settings.encoding
        self.encode_task = TaskEncoder(tasks, size, settings.metadata)
        self.encode_state = MixedEncoders(state, size, settings.experts)
        self.body = perceptron(2 * size + action, *settings.widths, outputs)

    def _outputs(self, state: Tensor, action: Tensor | None, task: Tensor, head: nn.Module | None) -> Tensor:
        encoding = self.encode_task(task)
        return self.body(_joined(self.encode_state(state, encoding), encoding, action))

    def attention(self, task: Tensor) -> Tensor:
        """The encoders' weights for one-hot tasks (…, K): (…, E), which sum to one."""
        return self.encode_state.attention(self.encode_task(task))


NETWORKS: dict[str, type[Any]] = {
    "mlp": Perceptron,
    "task-encoder": TaskEncoded,
    "multi-head": MultiHead,
    "soft-modular": SoftModular,
    "care": Care,
}
"""By the names of the settings; all are made with (settings, state, action, outputs, tasks)."""

NAMES = tuple(NETWORKS)


def make_network(settings: NetworkSettings, *, state: int, action: int, outputs: int, tasks: Sequence[str]) -> Network:
    """A network with parameters drawn from torch's global generator.

    Args:
        settings: Which, and how large.
        state: Numbers in a state.
        action: Numbers in an action; 0 for an actor.
        outputs: Numbers that it gives.
        tasks: The tasks' names, in the order of their one-hot codes.

    Raises:
        OptionError: A setting is out of range or not known, or there are no metadata for a task.
        DataError: The file of metadata is missing or altered.
    """
    _check(settings, tasks)
    made = NETWORKS[settings.name](settings, state, action, outputs, tasks)
    if settings.initial == "xavier":
        draw_as_published(made)
    return made


def _joined(first: Tensor, task: Tensor | None, action: Tensor | None) -> Tensor:
    """(…, all numbers): state, task, action, as far as they are there; the task is broadcast."""
    parts = [first]
    if task is not None:
        parts.append(task.expand(*first.shape[:-1], -1))
    if action is not None:
        parts.append(action)
    return torch.cat(parts, dim=-1) if len(parts) > 1 else first


def _check(settings: NetworkSettings, tasks: Sequence[str]) -> None:
    if settings.name not in NETWORKS:
        raise OptionError(f"network name={settings.name!r} is not known{suggest(settings.name, NETWORKS)}")
    for field, known in (("metadata", ("learned", "roberta")), ("initial", ("xavier", "torch"))):
        value = getattr(settings, field)
        if value not in known:
            raise OptionError(f"network {field}={value!r} is not known{suggest(value, known)}")
    if not settings.widths or min(settings.widths) < 1:
        raise OptionError(f"network widths={settings.widths!r} must be one or more positive numbers")
    for field, least in (("encoding", 1), ("experts", 1), ("modules", 1), ("layers", 2)):
        if getattr(settings, field) < least:
            raise OptionError(f"network {field}={getattr(settings, field)!r} must be {least} or more")
    if not tasks or len(set(tasks)) < len(tasks):
        raise OptionError(f"network tasks={list(tasks)!r} must be one or more names, each once")
