"""What the networks of multi-task soft actor-critic are made of: perceptrons, experts, encodings of the task.

All of it runs under ``torch.func.vmap``: a task is a one-hot row that is multiplied, never an index.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor, nn

from accord.balancers.registry import suggest
from accord.errors import DataError, OptionError

METADATA_FILE = "mt50-roberta.json"
METADATA_SHA256 = "1f58bf855762e4833c90fd5c2493423b7d97b7d5a1ff644b510da50962623197"
METADATA_SIZE = 768


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes, inputs first, with ReLU between them and none at the end."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Experts(nn.Module):
    """E linear layers side by side.

    Args:
        count: E.
        inputs: Numbers that an expert reads.
        outputs: Numbers that an expert gives.
        common: All experts read the same input (…, inputs), as in a first layer; otherwise each its own,
            (…, E, inputs).
    """

    def __init__(self, count: int, inputs: int, outputs: int, *, common: bool) -> None:
        super().__init__()
        self.common = common
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(count, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As ``nn.Linear`` draws its own: uniform between ±1/√inputs."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """The experts' outputs, (…, E, outputs)."""
        equation = "...i,eio->...eo" if self.common else "...ei,eio->...eo"
        return torch.einsum(equation, x, self.weight) + self.bias


class TaskEncoder(nn.Module):
    """A vector for each task, as in the published code of CARE (facebookresearch/mtrl).

    A table's row goes through ReLU and a perceptron of three layers. The table is learnt, one row of ``size`` numbers a
    task, drawn from N(0, 1); or it holds CARE's language metadata, which stay as they are, and a learnt 768 → 100 → 50
    (2 ``size`` and ``size`` units), ReLU after both, brings them to the same size. The published code applies ReLU to
    the metadata too, which takes their negative half away; so does this.

    Args:
        tasks: Their names.
        size: Width of everything, and of the encoding.
        metadata: ``"learned"`` or ``"roberta"``.
    """

    table: Tensor

    def __init__(self, tasks: Sequence[str], size: int, metadata: str) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if metadata == "roberta":
            self.register_buffer("table", task_metadata(tasks), persistent=False)  # (K, 768)
            self.project = nn.Sequential(perceptron(METADATA_SIZE, 2 * size, size), nn.ReLU())
        else:
            self.table = nn.Parameter(torch.randn(len(tasks), size))
        self.trunk = perceptron(size, size, size, size)

    def forward(self, task: Tensor) -> Tensor:
        """Encodings (…, size) of one-hot tasks (…, K)."""
        return self.trunk(self.project((task @ self.table).relu()))


def task_metadata(tasks: Sequence[str]) -> Tensor:
    """CARE's vector of each task, (K, 768), float32.

    Args:
        tasks: Names such as ``reach-v3``.

    Raises:
        OptionError: There is none for a task.
        DataError: The file that came with the package is missing or altered.
    """
    known = _metadata()
    for task in tasks:
        if task not in known:
            raise OptionError(
                f"metadata='roberta' describe the fifty tasks of Meta-World, and not {task!r}; any task can have "
                f"metadata='learned'{suggest(task, known, listing=False)}"
            )
    return torch.tensor([known[task] for task in tasks])


@functools.cache
def _metadata() -> dict[str, list[float]]:
    path = resources.files("accord.bench.data") / "files" / "care" / METADATA_FILE
    try:
        return parse_metadata(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(
            f"CARE's task metadata: {path}: {error.strerror or error}. Install the package again."
        ) from error


def parse_metadata(data: bytes, where: str) -> dict[str, list[float]]:
    """Vectors by task, with the tasks' current names.

    Args:
        data: What the file holds.
        where: Its path, for messages.

    Raises:
        DataError: It is not the file that came with the package.
    """
    if hashlib.sha256(data).hexdigest() != METADATA_SHA256:
        raise DataError(
            f"CARE's task metadata: {where} ({len(data):,} bytes) is not the file that came with this version: it was "
            "cut off or altered. Install the package again."
        )
    return {f"{name.removesuffix('-v1')}-v3": vector for name, vector in json.loads(data).items()}


def draw_as_published(module: nn.Module) -> None:
    """Draw a module's linear layers anew as facebookresearch/mtrl does: Xavier-uniform weights, biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | Experts):
            for weight in [layer.weight] if isinstance(layer, nn.Linear) else layer.weight.detach().unbind():
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(layer.bias)
