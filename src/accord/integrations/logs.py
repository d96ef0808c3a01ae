"""What a step has to say to a log, under the same names in every framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from accord.balancers import Balance
from accord.balancers.grammar import suggest
from accord.errors import OptionError, UnknownNameError
from accord.metrics import conflict

STATISTICS = ("conflict/share", "conflict/mean_cosine", "conflict/min_cosine", "residual")
GROUPS = ("loss", "weight", "conflict")


def scalars(balance: Balance, names: Iterable[str] | None = None) -> dict[str, float]:
    """The numbers of a balanced step by name, for any logger.

    ``loss/TASK`` and ``weight/TASK`` for each task, ``conflict/share`` (of task pairs whose gradients have a negative
    cosine), ``conflict/mean_cosine``, ``conflict/min_cosine`` and ``residual``. A step that does not have one, such as
    the cosines where no Gramian was computed, leaves it out.

    Args:
        balance: What ``backward`` returned.
        names: Which of them; a name before a slash is all after it (``"weight"``). All by default.

    Raises:
        UnknownNameError: A name is none of them, for instance that of an unknown task.
        OptionError: The names are one string.

    Examples:
        >>> import accord, torch
        >>> from accord.integrations.logs import scalars
        >>> trunk, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        >>> losses = (head(trunk(torch.ones(5, 3))) - torch.ones(2)).square().mean(0)
        >>> balance = accord.LS(tasks=["size", "sign"]).backward({"size": losses[0], "sign": losses[1]}, trunk)
        >>> scalars(balance, ["weight"])
        {'weight/size': 1.0, 'weight/sign': 1.0}
    """
    found = {f"loss/{task}": loss for task, loss in zip(balance.tasks, balance.losses.tolist(), strict=True)}
    weights = {f"weight/{task}": weight for task, weight in zip(balance.tasks, balance.weights.tolist(), strict=True)}
    found |= {name: weight for name, weight in weights.items() if np.isfinite(weight)}  # GradDrop has none
    if balance.gramian is not None and bool(balance.gramian.isfinite().all()):
        found |= {f"conflict/{name}": value for name, value in conflict(balance.gramian)._asdict().items()}
    if balance.residual is not None:
        found["residual"] = balance.residual
    if names is None:
        return found
    names = names if isinstance(names, str) else list(names)
    check_names(names, balance.tasks)
    return {key: value for key, value in found.items() if any(key == n or key.startswith(f"{n}/") for n in names)}


def check_names(names: Sequence[str], tasks: Sequence[str] | None) -> None:
    """Raise UnknownNameError unless these are names, or groups of names, of ``scalars``; OptionError for one string.

    Without tasks, whose names the first losses may bring, ``loss/`` and ``weight/`` of any are let through.
    """
    if isinstance(names, str):
        raise OptionError(f"log: {names!r} is one string; give a list of names: [{names!r}]")
    known = [*GROUPS, *STATISTICS, *(f"{kind}/{task}" for kind in ("loss", "weight") for task in tasks or ())]
    for name in names:
        if name not in known and not (tasks is None and name.startswith(("loss/", "weight/"))):
            raise UnknownNameError(f"log: {name!r} is not logged by a balanced step{suggest(name, known)}")


class Means:
    """The mean of each number over the steps that had it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one step's."""
        for name, value in values.items():
            sum_, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (sum_ + value, count + 1)

    def take(self) -> dict[str, float]:
        """The means since the last time."""
        sums, self._sums = self._sums, {}
        return {name: sum_ / count for name, (sum_, count) in sums.items()}
