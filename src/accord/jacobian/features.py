"""The Jacobian at the shared representation: K products through the heads, one backward through the trunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from accord.errors import EngineError
from accord.jacobian.base import Jacobian
from accord.jacobian.batched import BatchedJacobian
from accord.jacobian.collectives import sharded
from accord.jacobian.losses import Losses, Shared, gather_features, head_leaves, hides, leaves_before
from accord.jacobian.reduce import MeanRows, Reduce, SumSamples, choose, gathered
from accord.jacobian.sequential import SequentialJacobian
from accord.jacobian.storage import Block
from accord.jacobian.watching import Watched, watched
from accord.jacobian.writing import add_gradients


class FeatureJacobian(Jacobian):
    """J at the features Z, shape (K, |Z|), instead of the parameters before them.

    The balanced gradient Σ_k w_k ∂l_k/∂Z then goes back through the trunk once, whatever K is. This is another
    problem than the one at the parameters, which its answer bounds: ‖Σ w_k ∇_θ l_k‖ ≤ ‖∂Z/∂θ‖ ‖Σ w_k ∇_Z l_k‖
    (MGDA-UB, Sener and Koltun, NeurIPS 2018, Section 3.3).

    Args:
        losses: K scalars.
        features: The representation that all tasks share: a tensor of any shape, several, or a module whose outputs
            are watched (``accord.watch``).
        retain_graph: Keep the graph for a later backward.

    Raises:
        EngineError: A feature is detached or computed from another one, or a parameter reaches a loss both through
            the features and past them, so that it is neither trunk nor head; or the trunk is sharded.
    """

    def _gather(self, shared: Any, caller: str) -> tuple[Tensor, ...]:
        if getattr(self, "lean", False):
            raise EngineError(
                f"{caller}: lean mode is of no use at a representation, whose rows are small; leave it away"
            )
        if isinstance(shared, nn.Module | Watched):
            shared = watched(shared, caller)
        return gather_features(shared, caller)

    def _names(self, shared: Shared) -> None:
        return None

    def _choose(self, reduce: Reduce | str, shared: Shared) -> Reduce:
        self._trunk = leaves_before(self.parameters)
        leaves = (*self._trunk, *head_leaves(self.losses, self.parameters))
        if any(map(sharded, leaves)) or gathered(leaves):
            raise EngineError(
                f"{self._caller}: parameters sharded by fully_shard need real backwards from the losses, which "
                "balancing at a representation does not make; give the parameters of the trunk as shared="
            )
        chosen = choose(reduce, shared, (), self._caller)
        return SumSamples(chosen.group) if type(chosen) is MeanRows else chosen

    def _targets(self) -> Sequence[Tensor]:
        return self._trunk

    def _find_heads(self) -> tuple[Tensor, ...]:
        heads = head_leaves(self.losses, self.parameters)
        trunk = {id(leaf) for leaf in leaves_before(self.parameters)}
        both = [tuple(head.shape) for head in heads if id(head) in trunk]
        if both:
            raise EngineError(
                f"jacobian.{self.engine}: {len(both)} parameters, the first of shape {both[0]}, reach the losses both "
                "through the features and past them; give every tensor through which the tasks use the trunk as "
                "features=[z1, z2, ...], or balance at the parameters with shared="
            )
        return heads

    def _averaged(self, gradients: list[Block], leaves: Sequence[Tensor]) -> list[Block]:
        if leaves is self.parameters:
            return gradients  # each process has the gradient at its own samples
        return super()._averaged(gradients, leaves)

    def _plain_backward(self, weights: Tensor) -> None:
        if self.reduce.size == 1:
            super()._plain_backward(weights)
            return
        leaves = (*self._trunk, *self.heads)
        gradients = self._averaged(self._product(weights, leaves, keep=self.retain_graph), leaves)
        add_gradients(leaves, gradients)

    def _write(self, shared: Sequence[Block], heads: Sequence[Block], *, owned: bool = False) -> None:
        reached = [(z, g) for z, g in zip(self.parameters, shared, strict=True) if g is not None]
        outputs, cotangents = [z for z, _ in reached], [g.to(z.dtype) for z, g in reached]
        gradients: list[Block] = []
        with self._explained(), hooks_seen(outputs):
            if self.reduce.size == 1 and hides(outputs):  # reentrant checkpoints know real backwards alone
                torch.autograd.backward(outputs, cotangents, retain_graph=self.retain_graph)
            else:
                found = torch.autograd.grad(
                    outputs, self._trunk, cotangents, retain_graph=self.retain_graph, allow_unused=True
                )
                gradients = self._averaged(list(found), self._trunk)
        add_gradients(self._trunk[: len(gradients)], gradients)  # nothing is written before nothing can fail
        add_gradients(self.heads, heads)

    def _unreached(self) -> EngineError:
        return EngineError(
            f"{self._caller}: none of the {self.num_tasks} losses reaches any of the {len(self.parameters)} features. "
            "Were the losses computed from these very tensors, and not inside a compiled function or a detached copy?"
        )

    def check_reach(self) -> None:
        """Raise EngineError unless some loss depends on some feature and no parameter is both trunk and head."""
        super().check_reach()
        _ = self.heads


@contextmanager
def hooks_seen(features: Sequence[Tensor]) -> Iterator[None]:
    """Hooks on the features stay silent: the rows have gone through them already."""
    own = [features_hooks for z in features if (features_hooks := z._backward_hooks)]
    before = [dict(hooks) for hooks in own]
    try:
        for hooks in own:
            hooks.clear()
        yield
    finally:
        for hooks, kept in zip(own, before, strict=True):
            hooks.update(kept)


class SequentialFeatures(FeatureJacobian, SequentialJacobian):
    """Feature-level rows, one task at a time."""

    engine = "features"


class BatchedFeatures(FeatureJacobian, BatchedJacobian):
    """Feature-level rows, all tasks in one vectorised product."""

    engine = "features (batched)"


def features(
    losses: Losses, features: Tensor | Iterable[Tensor] | nn.Module | Watched, *, retain_graph: bool = False
) -> FeatureJacobian:
    """The Jacobian of K losses at a shared representation; see ``FeatureJacobian``."""
    return SequentialFeatures(losses, features, retain_graph=retain_graph)  # pyrefly: ignore[bad-argument-type]
