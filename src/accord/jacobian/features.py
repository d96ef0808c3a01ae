"""The Jacobian at the shared representation: K products through the heads, one backward through the trunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from accord.errors import EngineError
from accord.jacobian.base import Block, Jacobian
from accord.jacobian.batched import BatchedJacobian
from accord.jacobian.losses import Losses, gather_features, head_leaves, leaves_before
from accord.jacobian.sequential import SequentialJacobian


class FeatureJacobian(Jacobian):
    """J at the features Z, shape (K, |Z|), instead of the parameters before them.

    The balanced gradient Σ_k w_k ∂l_k/∂Z then goes back through the trunk once, whatever K is. This is another
    problem than the one at the parameters, which its answer bounds: ‖Σ w_k ∇_θ l_k‖ ≤ ‖∂Z/∂θ‖ ‖Σ w_k ∇_Z l_k‖
    (MGDA-UB, Sener and Koltun, NeurIPS 2018, Section 3.3).

    Args:
        losses: K scalars.
        features: The representation that all tasks share: a tensor of any shape, or several.
        retain_graph: Keep the graph for a later backward.

    Raises:
        EngineError: A feature is detached or computed from another one, or a parameter reaches a loss both through
            the features and past them, so that it is neither trunk nor head.
    """

    parameters: tuple[Tensor, ...]

    def _gather(self, shared: Tensor | Iterable[Tensor], caller: str) -> tuple[Tensor, ...]:  # pyrefly: ignore[bad-override]
        return gather_features(shared, caller)

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

    def _add_shared(self, gradients: Sequence[Block]) -> None:
        reached = [(z, g) for z, g in zip(self.parameters, gradients, strict=True) if g is not None]
        with self._explained():
            torch.autograd.backward(
                [z for z, _ in reached], [g.to(z.dtype) for z, g in reached], retain_graph=self.retain_graph
            )

    def check_reach(self) -> None:
        """Raise EngineError unless some loss depends on some feature and no parameter is both trunk and head."""
        super().check_reach()
        _ = self.heads


class SequentialFeatures(FeatureJacobian, SequentialJacobian):
    """Feature-level rows, one task at a time."""

    engine = "features"


class BatchedFeatures(FeatureJacobian, BatchedJacobian):
    """Feature-level rows, all tasks in one vectorised product."""

    engine = "features (batched)"


def features(losses: Losses, features: Tensor | Iterable[Tensor], *, retain_graph: bool = False) -> FeatureJacobian:
    """The Jacobian of K losses at a shared representation; see ``FeatureJacobian``."""
    return SequentialFeatures(losses, features, retain_graph=retain_graph)  # pyrefly: ignore[bad-argument-type]
