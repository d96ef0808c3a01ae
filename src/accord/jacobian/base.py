"""The Jacobian of K losses as a linear operator; how its rows are stored is nobody else's business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from accord.errors import EngineError, ShapeError
from accord.jacobian.losses import Losses, Shared, gather_losses, gather_shared, head_leaves, reaches

Weights = Tensor | np.ndarray | Sequence[float]
"""One number a task, shape (K,)."""

Block = Tensor | None
"""The rows of one parameter, shape (K, *parameter.shape), or None where no loss reaches it."""


class Jacobian(ABC):
    """J, shape (K, P): row k is the gradient of loss k with respect to the shared parameters.

    Nothing is differentiated until it is asked for. ``gramian()`` and ``rows()`` cost K vector-Jacobian products,
    once; ``pull(weights)`` combines the stored rows, or, when there are none, costs a single product.

    Args:
        losses: K scalars as a dict, list, tuple or tensor of shape (K,).
        shared: The shared parameters as a module, parameters or named parameters. The graph's other leaves are
            heads: ``heads``.
        retain_graph: Keep the graph for a later backward.

    Attributes:
        num_tasks: K.
        names: Names of the tasks, when the losses came as a dict.
        values: The losses, shape (K,), float64 on the CPU.
        parameters: The trainable shared parameters.
        heads: All other leaves of the losses' graph.
        second: The Jacobian of a second, independent batch, for methods that use one.
    """

    engine = "jacobian"
    second: Jacobian | None = None

    def __init__(self, losses: Losses, shared: Shared, *, retain_graph: bool = False) -> None:
        caller = f"jacobian.{self.engine}"
        gathered = gather_losses(losses, caller)
        self.losses = gathered.tensors
        self.names = gathered.names
        self.values = gathered.values
        self.parameters: tuple[Tensor, ...] = self._gather(shared, caller)
        self.retain_graph = retain_graph
        self._heads: tuple[Tensor, ...] | None = None
        self._rows: list[Block] | None = None
        self._reached = False

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

    def rows(self) -> list[Block]:
        """One block per shared parameter: shape (K, *parameter.shape), or None where no loss reaches it.

        Raises:
            EngineError: The graph cannot be differentiated by this engine, or no loss reaches any shared parameter.
        """
        if self._rows is None:
            self.check_reach()
            with self._explained():
                self._rows = self._differentiate()
        return self._rows

    def gramian(self) -> Tensor:
        """G = JJᵀ, shape (K, K), on the CPU.

        Accumulated parameter by parameter in float64 (float32 on devices without it), because nearly parallel
        gradients differ only in the last digits of float32.
        """
        rows = self.rows()
        return inner_products(rows, rows, self.num_tasks)

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
        return inner_products(self.rows(), other.rows(), self.num_tasks)

    def pull(self, weights: Weights) -> list[Block]:
        """Jᵀw, one tensor per shared parameter, None where no loss reaches it.

        Args:
            weights: Shape (K,).
        """
        w = self._weights(weights)
        if self._rows is None:
            return self._product(w, self.parameters, keep=True)
        return [None if block is None else _combined(block, w) for block in self._rows]

    def head_gradients(self, weights: Weights) -> list[Block]:
        """Σ_k w_k ∇l_k for the leaves in ``heads``, None where no loss reaches one."""
        return self._product(self._weights(weights), self.heads, keep=self.retain_graph) if self.heads else []

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        """Add Jᵀw to the shared parameters' ``.grad`` and the heads' weighted gradients to theirs.

        Without stored rows and with equal weights this is one ordinary backward, hooks included.
        """
        w, h = self._weights(weights), self._weights(head_weights)
        if self._rows is None:
            self.check_reach()
        if self._rows is None and torch.equal(w, h):
            with self._explained():
                torch.autograd.backward(self.losses, self._cotangents(w), retain_graph=self.retain_graph)
            return
        shared = self.pull(w)
        heads = self.head_gradients(h)
        self.add(shared, heads)

    def add(self, shared: Sequence[Block], heads: Sequence[Block]) -> None:
        """Add gradients, one per parameter, to ``.grad``; None leaves a parameter alone."""
        self._add_shared(shared)
        add_gradients(self.heads, heads)

    def check_reach(self) -> None:
        """Raise EngineError unless some loss depends on some shared parameter; the graph is walked once."""
        if self._reached:
            return
        if not self._reaches():
            raise EngineError(
                f"jacobian.{self.engine}: none of the {self.num_tasks} losses reaches any of the "
                f"{len(self.parameters)} shared parameters. Is the right module given as shared, and was the "
                "representation detached?"
            )
        self._reached = True

    def _gather(self, shared: Shared, caller: str) -> tuple[Tensor, ...]:
        """What the rows are taken with respect to."""
        return gather_shared(shared, caller)

    def _find_heads(self) -> tuple[Tensor, ...]:
        return head_leaves(self.losses, self.parameters)

    def _reaches(self) -> bool:
        return reaches(self.losses, self.parameters)

    def _add_shared(self, gradients: Sequence[Block]) -> None:
        add_gradients(self.parameters, gradients)

    @abstractmethod
    def _differentiate(self) -> list[Block]:
        """Compute the rows: K vector-Jacobian products."""

    def _product(self, weights: Tensor, inputs: Sequence[Tensor], *, keep: bool) -> list[Block]:
        """Σ_k w_k ∂l_k/∂inputs in one backward."""
        with self._explained():
            gradients = torch.autograd.grad(
                self.losses, list(inputs), self._cotangents(weights), retain_graph=keep, allow_unused=True
            )
        return list(gradients)

    def _cotangents(self, weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(w.to(loss) for w, loss in zip(weights, self.losses, strict=True))

    def _weights(self, weights: Weights) -> Tensor:
        w = torch.as_tensor(weights, dtype=torch.float64)
        if w.shape != (self.num_tasks,):
            raise ShapeError(
                f"jacobian.{self.engine}: weights of shape {tuple(w.shape)} for {self.num_tasks} tasks; "
                f"shape ({self.num_tasks},) is needed"
            )
        return w

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an autograd error into an EngineError that names the cause and the remedy."""
        try:
            yield
        except _TORCH_ERRORS as error:
            raise EngineError(f"jacobian.{self.engine}: {_remedy(str(error))} [torch: {error}]") from error


def add_gradients(leaves: Sequence[Tensor], gradients: Sequence[Block]) -> None:
    """Add gradients, one per leaf, to ``.grad``; None leaves a leaf alone."""
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            gradient = gradient.detach().to(leaf.device, leaf.dtype)
            # autograd may hand one tensor to several parameters, or an expanded one: .grad must own its memory
            leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad.add_(gradient)


_TORCH_ERRORS = (RuntimeError, NotImplementedError)

_REMEDIES = (
    (
        "second time",
        "the graph of these losses was already freed; compute the losses anew for each step, "
        "or pass retain_graph=True to what came before",
    ),
    (
        "Checkpointing is not compatible",
        "reentrant activation checkpointing cannot be differentiated for part of the leaves; "
        "use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
    ),
    (
        "modified by an inplace operation",
        "a tensor that the graph needs was changed in place after the losses were computed (an optimiser step?)",
    ),
    ("vmap", "an operation of this model cannot be vectorised over tasks; use engine='sequential'"),
    ("atching rule", "an operation of this model cannot be vectorised over tasks; use engine='sequential'"),
)


def _remedy(message: str) -> str:
    for part, remedy in _REMEDIES:
        if part in message:
            return remedy
    return "the losses could not be differentiated with respect to the shared parameters"


def inner_products(left: Sequence[Block], right: Sequence[Block], k: int) -> Tensor:
    """Σ_p L_p R_pᵀ, shape (K, K), float64 on the CPU (accumulated in float32 where a device has no float64)."""
    total: Tensor | None = None
    for a, b in zip(left, right, strict=True):
        if a is not None and b is not None:
            dtype = torch.float32 if a.device.type == "mps" else torch.float64
            flat = a.reshape(k, -1).to(dtype=dtype)  # (K, n)
            other = flat if b is a else b.reshape(k, -1).to(dtype=dtype)
            part = flat @ other.T
            total = part if total is None else total + part.to(total.device)
    return torch.zeros(k, k, dtype=torch.float64) if total is None else total.cpu().double()


def _combined(block: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k block[k] in at least float32, shape of the parameter."""
    dtype = torch.promote_types(block.dtype, torch.float32)
    w = weights.to(device=block.device, dtype=dtype)
    return (w @ block.reshape(len(w), -1).to(dtype)).reshape(block.shape[1:])
