"""Micro-batches whose rows are added up before they are balanced, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from accord.errors import EngineError, OptionError
from accord.jacobian.base import Jacobian, Weights
from accord.jacobian.losses import Losses, Shared
from accord.jacobian.remedies import explained
from accord.jacobian.scaling import loss_scale
from accord.jacobian.sequential import SequentialJacobian, weighted
from accord.jacobian.storage import Block, Held, Rows, as_block


class Accumulated(Jacobian):
    """The sum of the Jacobians of several micro-batches: exact gradient accumulation.

    Each ``include`` differentiates one micro-batch and frees its graph; what stays is K rows of the shared parameters
    and each task's gradient of its head. As with plain accumulation, losses of n micro-batches are divided by n if they
    are means.

    Args:
        shared: The shared parameters.
        engine: What differentiates a micro-batch: ``accord.jacobian.sequential`` or any other.

    Examples:
        >>> import accord, torch
        >>> trunk, heads = torch.nn.Linear(3, 4), [torch.nn.Linear(4, 1) for _ in range(2)]
        >>> sums = accord.jacobian.accumulated(trunk)
        >>> for micro_batch in torch.randn(4, 8, 3):
        ...     z = trunk(micro_batch)
        ...     sums.include([head(z).square().mean() / 4 for head in heads])
        >>> accord.NashMTL(tasks=2).apply(sums).outcome
        'solved'
    """

    engine = "accumulated"

    def __init__(self, shared: Shared, *, engine: Callable[..., Jacobian] = SequentialJacobian) -> None:
        if not callable(engine):
            raise OptionError(
                f"jacobian.accumulated: engine = {engine!r} is no function; give accord.jacobian.sequential, "
                "accord.jacobian.batched or another that makes a Jacobian"
            )
        self.shared = list(shared) if not isinstance(shared, torch.nn.Module | Tensor | dict) else shared  # type: ignore
        self.build = engine
        self.batches = 0
        self._applied = False
        self.retain_graph = False
        self._head_rows: dict[int, dict[int, Tensor]] = {}
        self._leaves: dict[int, Tensor] = {}
        self._held: Held | None = None

    def include(self, losses: Losses | Jacobian, **options: Any) -> None:
        """Differentiate one micro-batch and add its rows.

        Args:
            losses: K scalars, or their Jacobian (of tasks with samples of their own).
            options: For the engine: ``scaler``, the loop's ``torch.amp.GradScaler``, ``reduce``, ...

        Raises:
            EngineError: It has another number of tasks, or other shared parameters, than those before.
        """
        if self._applied:
            raise EngineError(
                f"{self._caller}: these sums were applied already, and another step would add to them; make a new "
                "accord.jacobian.accumulated(shared) for each step"
            )
        if "scaler" in options:
            options["scale"] = loss_scale(self._caller, options.pop("scaler"))
        jacobian = losses if isinstance(losses, Jacobian) else self.build(losses, self.shared, **options)
        if not all(parameter.is_leaf for parameter in jacobian.parameters):
            raise EngineError(
                f"{self._caller}: the rows of micro-batch {self.batches + 1} are those at a representation, which is "
                "another one for each micro-batch; give the parameters of the trunk"
            )
        if self.batches == 0:
            self.names, self.parameters, self.reduce = jacobian.names, jacobian.parameters, jacobian.reduce
            self.parameter_names, self.scale, self.scaled = jacobian.parameter_names, jacobian.scale, jacobian.scaled
            self._tasks, self.values = jacobian.num_tasks, torch.zeros(jacobian.num_tasks, dtype=torch.float64)
            self._sums: list[Block] = [None] * len(self.parameters)
        if self.names != jacobian.names:
            raise EngineError(
                f"{self._caller}: the tasks of micro-batch {self.batches + 1} are {list(jacobian.names or ())}, those "
                f"before were {list(self.names or ())}. All must be of the same tasks, in one order"
            )
        ours = (self._tasks, [id(p) for p in self.parameters], self.scale)
        if ours != (jacobian.num_tasks, [id(p) for p in jacobian.parameters], jacobian.scale):
            raise EngineError(
                f"jacobian.accumulated: micro-batch {self.batches + 1} has {jacobian.num_tasks} tasks and "
                f"{len(jacobian.parameters)} shared parameters at scale {jacobian.scale:g}; those before had "
                f"{self._tasks}, {len(self.parameters)} and {self.scale:g}. All must be of the same tasks, parameters "
                "and loss scale"
            )
        with explained(self._caller):
            rows = jacobian.local_rows()
            heads = jacobian.head_rows()
        for leaf, mine in zip(jacobian.heads, heads, strict=True):
            self._leaves[id(leaf)] = leaf
            sums = self._head_rows.setdefault(id(leaf), {})
            for k, gradient in mine.items():
                sums[k] = _sum(sums.get(k), gradient)
        self._sums = [_sum(a, as_block(b)) for a, b in zip(self._sums, rows, strict=True)]
        self.values = self.values + jacobian.values
        self.batches += 1
        self._held = None  # what was asked for before this micro-batch

    @property
    def num_tasks(self) -> int:
        """K."""
        self._check()
        return self._tasks

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The leaves of all micro-batches' graphs that are not shared."""
        return tuple(self._leaves.values())

    @property
    def losses(self) -> tuple[Tensor, ...]:  # pyrefly: ignore[bad-override]
        """The losses summed over the micro-batches, without a graph."""
        self._check()
        return self.values.unbind()

    @property
    def extra_cost(self) -> float:
        """None: the rows are there."""
        return 0.0

    def restricted(self, indices: Sequence[int]) -> Jacobian:
        """The Jacobian with respect to some of the shared parameters."""
        part = super().restricted(indices)
        part._sums = [self._sums[i] for i in indices]  # type: ignore[attr-defined]
        return part

    def mixed(self, matrix: Tensor) -> Jacobian:
        """The Jacobian of combinations of the losses."""
        part = self._view()
        part._sums = [None if block is None else torch.tensordot(matrix.to(block), block, 1) for block in self._sums]
        part._tasks, part.names, part.values = len(matrix), None, matrix.double() @ self.values
        return part

    def check_reach(self) -> None:
        """Raise EngineError unless a micro-batch was added."""
        self._check()

    def _differentiate(self) -> list[Rows]:
        return list(self._sums)

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        """Add the weighted sums to ``.grad``."""
        self.held()  # there is no graph left to walk
        super().accumulate(weights, head_weights)
        self._applied = True

    def add(self, shared: Sequence[Block], heads: Sequence[Block]) -> None:
        """Add gradients, one per parameter, to ``.grad``."""
        super().add(shared, heads)
        self._applied = True

    def pull(self, weights: Weights) -> list[Block]:
        """Jᵀw from the sums."""
        self.held()
        return super().pull(weights)

    def _head_sum(self, weights: Tensor) -> list[Block]:
        return [weighted(self._head_rows[id(leaf)], weights) for leaf in self.heads]

    def _view(self) -> Any:
        view = super()._view()
        view._leaves, view._head_rows = {}, {}
        return view

    def _check(self) -> None:
        if self.batches == 0:
            raise EngineError("jacobian.accumulated: no micro-batch was added; call include(losses) for each first")


accumulated = Accumulated


def _sum(a: Tensor | None, b: Tensor | None) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return a + b
