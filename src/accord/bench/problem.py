"""A problem of one's own: a model, its batches, its losses and its metrics, to be trained with any method.

The experiments of this package that train a network on batches are problems as well, so that they and a user's
own go through one harness (``accord.bench.trial``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from accord.bench.spec import Metric, TaskSpec
from accord.errors import OptionError, StoreError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from accord.jacobian.losses import Shared

Direction = Literal["max", "min"]
Tasks = Sequence[TaskSpec] | Mapping[str, Mapping[str, Direction]]


@dataclass(frozen=True)
class Training:
    """What is trained: the value of ``Problem.build``.

    Attributes:
        model: All that is trained and saved; put into training mode for each epoch, into evaluation mode for metrics.
        batches: Iterated once an epoch, with the global random generators seeded by seed and epoch before: a
            ``DataLoader`` that shuffles, a list, or anything else that can be iterated again. Draws made when the epoch
            begins are the same for all methods; those between batches take turns with the draws of the model.
        shared: The shared parameters, as in ``Balancer.backward``: a module, parameters or named parameters, all of
            them in the model. What can be gone through only once, such as ``trunk.parameters()``, becomes a list.
        optimizer: Of all parameters of the model that require gradients; Adam at 1e-3 if None.
        schedule: Makes the learning-rate scheduler from the optimiser; stepped after each epoch, and if it is a
            ``ReduceLROnPlateau``, after each evaluation with the validation score.
        features: The module whose output is the shared representation, for methods ``at=features`` (MGDA-UB).
    """

    model: nn.Module
    batches: Iterable[Any]
    shared: Shared
    optimizer: Optimizer | None = None
    schedule: Callable[[Optimizer], Any] | None = None
    features: nn.Module | None = None

    def __post_init__(self) -> None:
        if isinstance(self.shared, Iterator):
            object.__setattr__(self, "shared", list(self.shared))


class Problem(ABC):
    """A model, its data, its losses and its metrics.

    Every run works on a copy of its own, on which ``build`` is called once and whose ``training`` is what ``build``
    returned; ``accord.compare`` copies everything an object holds (``copy.deepcopy``), so that no run sees what another
    has changed. Whatever changes during training must be part of the model, the optimiser or the scheduler, or a
    resumed run would not go on to the same numbers; else extend ``state_dict``. Random generators that the problem,
    its batches or its data sets hold as attributes are found and saved.

    Attributes:
        tasks: The tasks in order, each with its metrics: ``{"depth": {"abs_err": "min"}, …}``, where ``"max"`` and
            ``"min"`` say which way is better, or ``TaskSpec`` values, which have units too.
        epochs: Passes over the batches.
        name: Names the runs in a store and seeds all draws; by default the name of the class.
        eval_every: Epochs between evaluations; the last epoch always has one.
        average_last: The result is the mean of the metrics after each of so many last epochs; not with ``validate``.
        method_lr: Learning rate of a balancer's own parameters (UW), in the optimiser of the model.
        active: The tasks whose losses this run needs: all, or the one of single-task learning. Set before ``build``.
        training: What ``build`` returned.
    """

    tasks: Tasks
    epochs: int
    name: str = ""
    eval_every: int = 1
    average_last: int = 1
    method_lr: float = 0.025
    active: tuple[str, ...] = ()
    training: Training

    @abstractmethod
    def build(self) -> Training:
        """Make the model, the data and the optimiser.

        The global random generators are seeded before, by the seed alone: all methods start alike.
        """

    @abstractmethod
    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The losses of a batch, scalars by task; those that are not in ``active`` may be missing."""

    @abstractmethod
    def evaluate(self) -> Mapping[str, float]:
        """``{"task/metric": value}`` on the test set; metrics of tasks not in ``active`` may be missing.

        Called without gradients, with the model in evaluation mode and the global random generators seeded by the seed
        alone.
        """

    def validate(self) -> Mapping[str, float] | None:
        """The same on a validation set, to choose the epoch whose test metrics count; None: the last epoch counts."""
        return None

    def score(self, metrics: Mapping[str, float]) -> float:
        """A number, smaller for a better model, from the validation metrics.

        By default minus the mean of those that should be large and plus that of those that should be small, which is
        of use where all metrics are of one kind.
        """
        higher = {name: metric.higher_is_better for name, metric in metrics_of(task_specs(self.tasks))}
        return sum(-value if higher[name] else value for name, value in metrics.items()) / len(metrics)

    def details(self) -> Mapping[str, Any]:
        """What else the result should keep, as plain JSON data, such as the sizes of the data sets."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What changes during training and is in no module, optimiser or scheduler."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        if state:
            raise StoreError(f"{type(self).__name__}: state_dict() is not empty, so load_state_dict() must be written")


def task_specs(tasks: Tasks) -> tuple[TaskSpec, ...]:
    """The tasks of a problem as values.

    Raises:
        OptionError: There are none, one has no metrics or an odd name, or a metric is neither "max" nor "min".
    """
    if not isinstance(tasks, Mapping):
        if isinstance(tasks, str) or not isinstance(tasks, Sequence) or not all(isinstance(t, TaskSpec) for t in tasks):
            raise OptionError(
                f'problem: tasks={tasks!r}; write {{"depth": {{"abs_err": "min"}}, …}}: the metrics of each task, and '
                "which way is better"
            )
        specs = tuple(tasks)
    else:
        for task, metrics in tasks.items():
            if not isinstance(metrics, Mapping) or any(way not in ("max", "min") for way in metrics.values()):
                raise OptionError(
                    f"problem: tasks[{task!r}] is {metrics!r}; give each metric the way that is better, as in "
                    '{"accuracy": "max"} or {"error": "min"}'
                )
        specs = tuple(TaskSpec(t, tuple(Metric(m, way == "max") for m, way in ms.items())) for t, ms in tasks.items())
    if not specs or any(not spec.metrics for spec in specs):
        raise OptionError(f"problem: tasks={tasks!r}: there must be a task, and every task needs a metric")
    for what, names in [("tasks", [t.name for t in specs])] + [(f"metrics of {t.name}", _names(t)) for t in specs]:
        odd = [name for name in names if not isinstance(name, str) or not name.strip() or not name.isprintable()]
        odd += [name for name in names if what != "tasks" and "/" in str(name)]
        if odd:
            raise OptionError(
                f"problem: among the {what} is {odd[0]!r}: a name is a text that can be printed, and that of a metric "
                'has no "/", which stands between task and metric'
            )
        if len(set(names)) < len(names):
            raise OptionError(f"problem: the {what} {names} do not all have names of their own")
    return specs


def _names(task: TaskSpec) -> list[str]:
    return [metric.name for metric in task.metrics]


def metrics_of(tasks: Sequence[TaskSpec]) -> tuple[tuple[str, Metric], ...]:
    """All ``("task/metric", Metric)`` in order."""
    return tuple((f"{task.name}/{metric.name}", metric) for task in tasks for metric in task.metrics)
