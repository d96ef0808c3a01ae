"""What the engines that walk the graph of the losses have in common: lean mode, and a budget of memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from accord.errors import EngineError, OptionError
from accord.jacobian.base import Jacobian
from accord.jacobian.collectives import sharded
from accord.jacobian.losses import Losses, Shared, hides
from accord.jacobian.reduce import Reduce
from accord.jacobian.segments import Cotangents, streamed_gramian
from accord.jacobian.storage import nbytes


def check_memory(memory: object, caller: str) -> None:
    """Raise OptionError unless a budget is None or a positive number of bytes."""
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or not memory > 0):
        raise OptionError(f"{caller}: memory = {memory!r} is not a positive number of bytes")


class WalkingJacobian(Jacobian):
    """A Jacobian by vector-Jacobian products on the graph of the losses.

    Args:
        losses: K scalars.
        shared: The shared parameters.
        lean: Keep no rows: the Gramian is added up segment by segment of the graph, and the weighted gradient costs
            one more backward, so that the memory is that of K rows of one segment in place of K rows of all.
        memory: Bytes that rows, and in lean mode cotangents, may take at a time. In lean mode rows that do not fit are
            made several times; otherwise they must all fit.
        heads: As in ``Jacobian``.
        retain_graph: As in ``Jacobian``.
        scale: As in ``Jacobian``.
        reduce: As in ``Jacobian``.

    Raises:
        OptionError: ``memory`` is not a positive number.
        EngineError: ``memory`` does not hold the rows, or the graph cannot be walked in lean mode.
    """

    def __init__(
        self,
        losses: Losses,
        shared: Shared,
        *,
        lean: bool = False,
        memory: float | None = None,
        heads: Shared | None = None,
        retain_graph: bool = False,
        scale: float | None = None,
        reduce: Reduce | str = "auto",
    ) -> None:
        caller = self._caller
        if not isinstance(lean, bool):
            raise OptionError(f"{caller}: lean = {lean!r} is neither True nor False")
        check_memory(memory, caller)
        self.lean, self.memory = lean, memory
        self._gramian: Tensor | None = None
        self._by_backward: bool | None = None
        super().__init__(losses, shared, heads=heads, retain_graph=retain_graph, scale=scale, reduce=reduce)

    @property
    def label(self) -> str:
        """The engine's name, with what was asked of it."""
        return f"{self.engine}, lean" if self.lean else self.engine

    @property
    def extra_cost(self) -> float:
        """K vector-Jacobian products in place of one, and in lean mode one more."""
        return 2.0 * (self.num_tasks - 1 + self.lean) / 3.0

    def gramian(self) -> Tensor:
        """G = JJᵀ, shape (K, K); in lean mode without the rows."""
        if not self.lean or self._held is not None:
            return super().gramian()
        if self._gramian is None:
            self.check_reach()
            if self.by_backward:
                raise EngineError(
                    f"{self._caller}: lean mode walks the graph in segments, which reentrant activation checkpointing "
                    "and sharded parameters do not allow; leave lean away, or checkpoint with use_reentrant=False"
                )
            with self._explained():
                part = streamed_gramian(
                    self.losses,
                    self.parameters,
                    self._vjp,
                    self.reduce,
                    scale=self.scale,
                    memory=self.memory,
                    caller=self._caller,
                )
            self._gramian = self.reduce.total(part) / self.scale**2
        return self._gramian

    def _facts(self) -> dict[str, int]:
        return {**super()._facts(), "lean": int(self.lean), "memory": int(self.memory or 0)}

    @property
    def by_backward(self) -> bool:
        """Whether parts of the graph are hidden from all but a real backward: checkpoints, sharded parameters."""
        if self._by_backward is None:
            self._by_backward = any(map(sharded, self.parameters)) or hides(self.losses, self.parameters)
        return self._by_backward

    def _view(self) -> Any:
        view = super()._view()
        view._gramian = None
        return view

    def _fits(self, in_flight: int = 0) -> int:
        """Bytes of memory left beside the rows of all tasks, and ``in_flight`` tasks' more.

        Raises:
            EngineError: There are none.
        """
        row = nbytes(self._local(self.parameters))
        free = (float("inf") if self.memory is None else self.memory) - row * (self.num_tasks + in_flight)
        if free < 0:
            raise EngineError(
                f"{self._caller}: the rows of {self.num_tasks} tasks take {row * (self.num_tasks + in_flight)} bytes "
                f"({row} each), but memory = {self.memory:.0f}; "
                + ("allow more" if self.lean else "use lean=true, which keeps none, or allow more")
            )
        return int(free) if self.memory is not None else 0

    @abstractmethod
    def _vjp(
        self, outputs: Sequence[Any], cotangents: Cotangents, inputs: Sequence[Any], tasks: range
    ) -> list[list[Tensor | None]]:
        """For each of the inputs its gradients, one a task; the graph is kept."""
