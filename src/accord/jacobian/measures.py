"""What can be asked of the rows and gradients of a Jacobian, however they are spread over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from accord.jacobian.collectives import shard_like
from accord.jacobian.reduce import Reduce
from accord.jacobian.storage import Block, inner_products
from accord.jacobian.writing import all_finite


class Measures:
    """Measures of a Jacobian, as a part of its class."""

    parameters: tuple[Tensor, ...]
    reduce: Reduce
    if TYPE_CHECKING:

        @property
        def num_tasks(self) -> int:
            """K."""
            ...

        @property
        def heads(self) -> tuple[Tensor, ...]:
            """The leaves that are not shared."""
            ...

    def products(self, left: Sequence[Block], right: Sequence[Block]) -> Tensor:
        """LRᵀ, shape (K, K), of two sets of rows like ``rows()``."""
        part = inner_products(left, right, self.num_tasks)
        return self.reduce.total(part) if self.reduce.parts else part

    def norm(self, gradient: Sequence[Block]) -> float:
        """The Euclidean norm of a gradient like ``pull(weights)``."""
        squares = [block.double().square().sum().cpu() for block in gradient if block is not None]
        square = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
        return float((self.reduce.total(square) if self.reduce.parts else square).sqrt())

    def shape(self, index: int) -> torch.Size:
        """The shape of a shared parameter, whole."""
        return self.parameters[index].shape

    def shard(self, index: int, whole: Tensor) -> Tensor:
        """What of a tensor, shaped like a shared parameter, belongs to this process's rows."""
        return shard_like(self.parameters[index], whole)

    def finite(self) -> bool:
        """Whether ``.grad`` of all that a step writes to is finite, on every process."""
        here = all_finite(leaf.grad for leaf in (*self._targets(), *self.heads))
        return bool(self.reduce.mean(torch.tensor([float(here)], dtype=torch.float64)) == 1.0)

    def _targets(self) -> Sequence[Tensor]:
        """The leaves beside the heads that a step writes to."""
        return self.parameters
