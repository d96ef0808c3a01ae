"""The Jacobian of K losses as a linear operator; how its rows are stored is nobody else's business."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.errors import AccordError, EngineError, ShapeError
from accord.jacobian.collectives import checksum, local_part, sharded
from accord.jacobian.losses import (
    Losses,
    Shared,
    check_finite,
    gather_losses,
    gather_shared,
    head_leaves,
    parameter_names,
    reaches,
)
from accord.jacobian.measures import Measures
from accord.jacobian.reduce import Reduce, choose, refuse_gathered
from accord.jacobian.remedies import explained
from accord.jacobian.scaling import check_scale
from accord.jacobian.storage import Block, Held, Rows
from accord.jacobian.writing import add_gradients, weighted_sum

Weights = Tensor | np.ndarray | Sequence[float]
"""One number a task, shape (K,)."""


class Jacobian(Measures, ABC):
    """J, shape (K, P): row k is the gradient of loss k with respect to the shared parameters.

    Nothing is differentiated until it is asked for. ``gramian()`` and ``rows()`` cost K vector-Jacobian products,
    once; ``pull(weights)`` combines the stored rows, or, when there are none, costs a single product.

    Args:
        losses: K scalars as a dict, list, tuple or tensor of shape (K,).
        shared: The shared parameters as a module, parameters or named parameters. The graph's other leaves are
            heads: ``heads``.
        heads: All other leaves, where they cannot be found in the graph, as under ``fully_shard``.
        retain_graph: Keep the graph for a later backward.
        scale: The factor that a ``GradScaler`` puts on losses: gradients are computed and written times it, everything
            else is without it. With it, losses need not be finite.
        reduce: How the gradients of several processes become those of the joint batch: ``"auto"`` (from how the model
            is held), or ``Local()``, ``MeanRows()``, ``SumShards()``.

    Attributes:
        num_tasks: K.
        names: Names of the tasks, when the losses came as a dict.
        values: The losses, shape (K,), float64 on the CPU; the mean over the processes.
        parameters: The trainable shared parameters.
        parameter_names: Their names, where ``shared`` had names.
        heads: All other leaves of the losses' graph.
        second: The Jacobian of a second, independent batch, for methods that use one.
        part: Given a function that draws a random part of a batch, the Jacobian of the losses on it, for methods that
            estimate.
        why: Why this engine, where it was chosen.
    """

    engine = "jacobian"
    second: Jacobian | None = None
    part: Callable[[Callable[[Any], Any]], Jacobian] | None = None
    parameter_names: tuple[str, ...] | None = None
    why = ""
    scaled = False
    _given: tuple[Tensor, ...] | None = None
    _stamp: Any = None
    _partial = False
    wanted = "rows"
    """What the method will ask for, ``"rows"`` or ``"losses"`` alone, for engines that compute losses themselves."""

    def __init__(
        self,
        losses: Losses,
        shared: Shared,
        *,
        heads: Shared | None = None,
        retain_graph: bool = False,
        scale: float | None = None,
        reduce: Reduce | str = "auto",
    ) -> None:
        caller = self._caller
        self.retain_graph = retain_graph
        self.scaled, self.scale = scale is not None, check_scale(caller, scale) or 1.0
        self._heads: tuple[Tensor, ...] | None = None
        self._held: Held | None = None
        self._reached = False
        error: AccordError | None = None
        values = torch.zeros(0)
        facts: dict[str, int] = {}
        try:
            gathered = gather_losses(losses, caller)
            self.losses, self.names, values = gathered.tensors, gathered.names, gathered.values
            shared = list(shared) if isinstance(shared, Iterator) else shared  # type: ignore[assignment]
            self.parameters: tuple[Tensor, ...] = self._gather(shared, caller)
            self.parameter_names = self._names(shared)
            self._given = None if heads is None else gather_shared(heads, f"{caller}, heads")
            refuse_gathered(self._given or (), caller)
            facts = self._facts()
            self.reduce = self._choose(reduce, shared)
            if self.reduce.size > 1:
                self.check_reach()
        except AccordError as caught:
            error = caught
            self.reduce = getattr(self, "reduce", None) or choose(reduce, shared, (), caller)
        self.reduce.agree(caller, error, **facts)  # what fails on one process fails on all
        self.values = self.reduce.mean(values)
        if not self.scaled:
            check_finite(self.values, self.names, caller)

    @property
    def label(self) -> str:
        """The engine's name, with what was asked of it."""
        return self.engine

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.losses)

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The leaves of the losses' graph that are not shared."""
        if self._heads is None:
            self._heads = self._find_heads()
        return self._heads

    @property
    def extra_cost(self) -> float:
        """What a step with ``gramian()`` costs beyond a plain one, in plain steps, a backward being two forwards."""
        return 2.0 * (self.num_tasks - 1) / 3.0

    # ------------------------------------------------------------------ the operator

    def rows(self) -> list[Block]:
        """One block per shared parameter: shape (K, *parameter.shape), or None where no loss reaches it.

        Of sharded parameters it is this process's shard; otherwise the rows of the joint batch.

        Raises:
            EngineError: The graph cannot be differentiated by this engine, or no loss reaches any shared parameter.
        """
        blocks = self.held().blocks()
        return self._unscaled(blocks)

    def gramian(self) -> Tensor:
        """G = JJᵀ, shape (K, K), on the CPU, accumulated in float64 (float32 on devices without it)."""
        held = self.held()
        return self.reduce.total(held.products(held)) / self.scale**2

    def cross_gramian(self, other: Jacobian) -> Tensor:
        """J₁J₂ᵀ, shape (K, K), on the CPU: entry (i, j) is the product of this gradient i and the other's gradient j.

        With the losses of two independent batches it estimates the Gramian of the expected gradients without the
        bias that the noise of a single batch puts on its diagonal.

        Args:
            other: The Jacobian of as many losses with respect to the same parameters.

        Raises:
            EngineError: It is that of other parameters or of another number of losses.
        """
        if [id(p) for p in self.parameters] != [id(p) for p in other.parameters] or other.num_tasks != self.num_tasks:
            raise EngineError(
                f"jacobian.{self.engine}: the cross-Gramian needs two Jacobians of as many losses with respect to the "
                f"same parameters, got {self.num_tasks} losses and {len(self.parameters)} parameters beside "
                f"{other.num_tasks} and {len(other.parameters)}"
            )
        return self.reduce.total(self.held().products(other.held())) / (self.scale * other.scale)

    def pull(self, weights: Weights) -> list[Block]:
        """Jᵀw, one tensor per shared parameter, None where no loss reaches it.

        Args:
            weights: Shape (K,).
        """
        w = self._weights(weights)
        self.check_fresh()
        if self._held is not None:
            return self._held.combined(w / self.scale)
        return self._unscaled(self._averaged(self._product(w, self.parameters, keep=True), self.parameters))

    def head_gradients(self, weights: Weights) -> list[Block]:
        """Σ_k w_k ∇l_k for the leaves in ``heads``, None where no loss reaches one."""
        return self._unscaled(self._averaged(self._head_sum(self._weights(weights)), self.heads))

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        """Add Jᵀw to the shared parameters' ``.grad`` and the heads' weighted gradients to theirs.

        Without stored rows and with equal weights this is one ordinary backward, hooks included, unless gradients of
        several processes must be averaged.
        """
        w, h = self._weights(weights), self._weights(head_weights)
        self.check_fresh()
        if self._held is not None:
            heads = self._averaged(self._head_sum(h), self.heads)
            self._write(self._held.combined(w), heads, owned=True)
            return
        self.check_reach()
        if self._partial or not torch.equal(w, h):
            shared = self._averaged(self._product(w, self.parameters, keep=True), self.parameters)
            self._write(shared, self._averaged(self._head_sum(h), self.heads))
        else:
            self._plain_backward(w)

    def add(self, shared: Sequence[Block], heads: Sequence[Block]) -> None:
        """Add gradients, one per parameter, to ``.grad`` (times ``scale``); None leaves a parameter alone."""
        self.check_fresh()
        if self.scale != 1.0:
            shared, heads = ([None if g is None else g * self.scale for g in found] for found in (shared, heads))
        self._write(shared, heads)

    def restricted(self, indices: Sequence[int]) -> Jacobian:
        """The Jacobian of the same losses with respect to some of the shared parameters; the graph is kept.

        Args:
            indices: Which, as positions in ``parameters``.
        """
        part = self._view()
        part.parameters, part._reached = tuple(self.parameters[i] for i in indices), False
        if self.parameter_names is not None:
            part.parameter_names = tuple(self.parameter_names[i] for i in indices)
        return part

    def mixed(self, matrix: Tensor) -> Jacobian:
        """The Jacobian of combinations of the losses; the graph is kept.

        Args:
            matrix: Shape (M, K): row m has the coefficients of combination m.
        """
        part = self._view()
        with torch.enable_grad():
            part.losses = tuple(weighted_sum(self.losses, row) for row in matrix)
        part.values = matrix.double() @ self.values
        part.names = None
        return part

    def check_reach(self) -> None:
        """Raise EngineError unless some loss depends on some shared parameter; the graph is walked once."""
        if self._reached:
            return
        if not self._reaches():
            raise self._unreached()
        self._reached = True

    def check_fresh(self) -> None:
        """Raise EngineError if the parameters have changed since the rows were made."""
        if self._held is not None and self._stamp is not None and self._stamp != self._versions():
            raise EngineError(
                f"{self._caller}: the shared parameters have changed since these rows were made (an optimiser step?), "
                "so they are the gradients of another model; make a new Jacobian for each step"
            )

    def _versions(self) -> list[int]:
        return [parameter._version for parameter in self.parameters]

    def held(self) -> Held:
        """This process's part of the rows, times ``scale``, computed once."""
        if self._held is None:
            rows = self.reduce.attempt(self._caller, self.local_rows)
            self._stamp = self._versions()
            self._held = self.reduce.hold(rows, self.num_tasks, self._local(self.parameters))
        return self._held

    def local_rows(self) -> list[Rows]:
        """The rows on this process's batch alone, times ``scale``."""
        self.check_reach()
        with self._explained():
            rows = self._differentiate()
        if all(row is None for row in rows):  # where only the backward tells
            self._reached = False
            raise self._unreached()
        return rows

    def head_rows(self) -> list[dict[int, Tensor]]:
        """For each head the gradients of the tasks that reach it, on this process's batch, times ``scale``."""
        rows: list[dict[int, Tensor]] = [{} for _ in self.heads]
        for k, loss in enumerate(self.losses if rows else ()):
            with self._explained():
                cotangent = loss.new_full((), self.scale)
                found = torch.autograd.grad(loss, self.heads, cotangent, retain_graph=True, allow_unused=True)
            for row, gradient in zip(rows, found, strict=True):
                if gradient is not None:
                    row[k] = gradient
        return rows

    # ------------------------------------------------------------------ what an engine implements

    @abstractmethod
    def _differentiate(self) -> list[Rows]:
        """Compute this process's rows, times ``scale``: K vector-Jacobian products."""

    def _gather(self, shared: Shared, caller: str) -> tuple[Tensor, ...]:
        """What the rows are taken with respect to."""
        return gather_shared(shared, caller)

    def _facts(self) -> dict[str, int]:
        """What must be the same on all processes."""
        return {"tasks": self.num_tasks, "shared_tensors": len(self.parameters), "scale": checksum(repr(self.scale))}

    def _names(self, shared: Shared) -> tuple[str, ...] | None:
        return parameter_names(shared)

    def _choose(self, reduce: Reduce | str, shared: Shared) -> Reduce:
        return choose(reduce, shared, self.parameters, self._caller)

    def _find_heads(self) -> tuple[Tensor, ...]:
        found, given = head_leaves(self.losses, self.parameters), self._given
        hidden = any(map(sharded, self.parameters))
        if hidden:  # fully_shard computes with other tensors than the parameters, and puts gradients back itself
            missed = len(found) - len(self.parameters) if given is None else 0
        else:
            missed = 0 if given is None else len({id(leaf) for leaf in found} - {id(leaf) for leaf in given})
        if missed > 0:
            raise EngineError(
                f"{self._caller}: {missed} leaves of the losses' graph are neither shared parameters nor in heads"
                + (", which cannot be found by themselves where parameters are sharded" if hidden else "")
                + "; give all parameters that are not shared as heads=, for instance heads=model.heads"
            )
        return found if given is None else given

    def _reaches(self) -> bool:
        return any(map(sharded, self.parameters)) or reaches(self.losses, self.parameters)

    def _head_sum(self, weights: Tensor) -> list[Block]:
        """Σ_k w_k ∇l_k for the heads, times ``scale``, on this process's batch."""
        return self._product(weights, self.heads, keep=self.retain_graph) if self.heads else []

    def _product(self, weights: Tensor, inputs: Sequence[Tensor], *, keep: bool) -> list[Block]:
        """Σ_k w_k ∂l_k/∂inputs, times ``scale``, in one backward."""
        with self._explained():
            gradients = torch.autograd.grad(
                self.losses, list(inputs), self._cotangents(weights), retain_graph=keep, allow_unused=True
            )
        return list(gradients)

    def _plain_backward(self, weights: Tensor) -> None:
        """Add the gradient of Σ_k w_k l_k to every leaf's ``.grad``."""
        leaves = (*self.parameters, *self.heads)
        if self.reduce.size == 1 or all(map(sharded, leaves)):  # heads that are not sharded are averaged below
            with self._explained():
                torch.autograd.backward(self.losses, self._cotangents(weights), retain_graph=self.retain_graph)
            return
        gradients = self._averaged(self._product(weights, leaves, keep=self.retain_graph), leaves)
        self._write(gradients[: len(self.parameters)], gradients[len(self.parameters) :])

    def _write(self, shared: Sequence[Block], heads: Sequence[Block], *, owned: bool = False) -> None:
        """Add gradients, times ``scale`` already, to ``.grad``; ``owned`` is said of the shared ones."""
        add_gradients(self.parameters, shared, owned=owned)
        add_gradients(self.heads, heads)

    @property
    def _caller(self) -> str:
        return f"jacobian.{self.engine}"

    def _view(self) -> Any:
        view = copy.copy(self)
        view._held, view._heads, view._reached, view.retain_graph = None, (), True, True
        view._partial = True  # a plain backward would write to what the view leaves out
        return view

    def _averaged(self, gradients: list[Block], leaves: Sequence[Tensor]) -> list[Block]:
        return self.reduce.average(gradients, leaves)  # without leaves too: other processes may have some

    def _unscaled(self, gradients: list[Block]) -> list[Block]:
        if self.scale == 1.0:
            return gradients
        return [
            None if g is None else g.to(torch.promote_types(g.dtype, torch.float32)) / self.scale for g in gradients
        ]

    def _local(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [local_part(tensor.detach()) for tensor in tensors]

    def _cotangents(self, weights: Tensor) -> tuple[Tensor, ...]:
        return tuple((w * self.scale).to(loss) for w, loss in zip(weights, self.losses, strict=True))

    def _weights(self, weights: Weights) -> Tensor:
        w = torch.as_tensor(weights, dtype=torch.float64)
        if w.shape != (self.num_tasks,):
            raise ShapeError(
                f"{self._caller}: weights of shape {tuple(w.shape)} for {self.num_tasks} tasks; give one number a task"
            )
        return w

    def _unreached(self) -> EngineError:
        return EngineError(
            f"{self._caller}: none of the {self.num_tasks} losses reaches any of the {len(self.parameters)} shared "
            "parameters. Is the right module given as shared, and was the representation detached?"
        )

    def _explained(self) -> Any:
        return explained(self._caller)
