"""Balancers that mix the gradients coordinate by coordinate, so that no weights describe them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Decision, Heads
from accord.balancers.gramian import skip_unless_finite
from accord.balancers.options import check_between, check_choice
from accord.balancers.randomness import Seeded
from accord.balancers.registry import register
from accord.jacobian import Jacobian

SEEDS = 2**62


@register("graddrop")
class GradDrop(Seeded):
    """GradDrop: at each coordinate keep only the gradients of one sign, drawn with the odds of their sizes.

    With P = ½(1 + Σg/Σ|g|) and U uniform, the positive parts are kept where P > U, else the negative ones, and
    summed. The paper does this to the gradients of an activation; here, as in the code of the CAGrad and FairGrad
    experiments, to those of the shared parameters. Heads take their own gradients.

    Args:
        tasks: The number of tasks, or their names.
        leak: How much of the dropped gradients to keep, between 0 and 1.
        reduction: ``"sum"`` or ``"mean"`` over the tasks.
        seed: Of the balancer's own generator.
        heads: ``"plain"`` only: there are no weights.

    References:
        Chen et al., "Just Pick a Sign", NeurIPS 2020, arXiv:2010.06808.
    """

    needs = "rows"
    reference = "Chen et al., NeurIPS 2020"

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        leak: float = 0.0,
        reduction: str = "sum",
        seed: int = 0,
        heads: Heads = "plain",
    ) -> None:
        super().__init__(tasks)
        check_between(leak, "leak", "GradDrop", 0.0, 1.0)
        check_choice(reduction, ("sum", "mean"), "reduction", "GradDrop")
        check_choice(heads, ("plain",), "heads", "GradDrop")
        self.leak = leak
        self.reduction = reduction
        self.heads = heads
        self.seed_with(seed)

    def decide(self, jacobian: Jacobian) -> Decision:
        """Draw the signs and mix the rows."""
        gramian = jacobian.gramian()
        skipped = skip_unless_finite(self, gramian)
        if skipped is not None:
            return skipped
        with self._generator.draw() as generator:
            seed = int(torch.randint(SEEDS, (), generator=generator))
        streams: dict[torch.device, torch.Generator] = {}
        divisor = self.num_tasks if self.reduction == "mean" else 1
        directions: list[Tensor | None] = []
        for i, block in enumerate(jacobian.rows()):
            if block is None:
                directions.append(None)
                continue
            if block.device not in streams:
                streams[block.device] = torch.Generator(block.device).manual_seed(seed)
            # drawn for the whole parameter and then cut, so that shards see what one process would
            draw = torch.rand(jacobian.shape(i), generator=streams[block.device], device=block.device)
            directions.append(drop_signs(block, self.leak, jacobian.shard(i, draw)) / divisor)
        nowhere = np.full(self.num_tasks, np.nan)
        return Decision(nowhere, np.ones(self.num_tasks), gramian, directions=directions)

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Ones: no weights describe the method, so in eval mode it is the plain sum."""
        return np.ones(self.num_tasks), np.ones(self.num_tasks)


def drop_signs(rows: Tensor, leak: float, draw: Tensor) -> Tensor:
    """One sign a coordinate.

    Args:
        rows: Shape (K, *shape).
        leak: Share of the dropped parts that stays.
        draw: Uniform numbers, shape (*shape).

    Returns:
        Shape (*shape).
    """
    size = rows.abs().sum(0)
    purity = 0.5 * (1.0 + rows.sum(0) / torch.where(size > 0, size, torch.ones_like(size)))
    positive = purity > draw
    kept = torch.where(positive, rows.clamp(min=0), rows.clamp(max=0)).sum(0)
    return kept if leak == 0 else leak * rows.sum(0) + (1.0 - leak) * kept
