"""Two losses of a point in the plane: one is flat, steep and non-convex by turns, the other ten times larger.

With θ = (x₁, x₂), c₁ = max(tanh(x₂/2), 0) and c₂ = max(tanh(−x₂/2), 0):

    f₁ = log max(|½(−x₁ − 7) − tanh(−x₂)|, 5e−6) + 6
    f₂ = log max(|½(−x₁ + 3) + tanh(−x₂) + 2|, 5e−6) + 6
    g₁ = ((−x₁ + 7)² + 0.1(−x₂ − 8)²)/10 − 20
    g₂ = ((−x₁ − 7)² + 0.1(−x₂ − 8)²)/10 − 20
    L₁ = 0.1 (c₁f₁ + c₂g₁),   L₂ = c₁f₂ + c₂g₂

This is the problem of CAGrad (arXiv:2110.14048) with the scale 0.1 that Nash-MTL (arXiv:2202.01017,
appendix B) puts on the first loss. The signs are those of the published code; the papers print a minus before
the second tanh.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = 0.1
STARTS = {"A": (-8.5, 7.5), "B": (0.0, 0.0), "C": (9.0, 9.0), "D": (-7.5, -0.5), "E": (9.0, -1.0)}
"""The five starting points of the published code."""

FRONT_X2 = -8.3552
"""The Pareto front is where both bowls are deepest in x₂, between their centres x₁ = −7 and 7."""


def losses(point: Tensor) -> tuple[Tensor, Tensor]:
    """L₁ and L₂.

    The gradient passes where a maximum is met exactly, as at the start (0, 0): torch's clamp stops it there
    in recent versions, and that start would never move.

    Args:
        point: Shape (…, 2).

    Returns:
        Two tensors of shape (…).
    """
    x1, x2 = point[..., 0], point[..., 1]
    f1 = torch.log(_at_least(torch.abs(0.5 * (-x1 - 7) - torch.tanh(-x2)), 5e-6)) + 6
    f2 = torch.log(_at_least(torch.abs(0.5 * (-x1 + 3) + torch.tanh(-x2) + 2), 5e-6)) + 6
    bowl = 0.1 * (-x2 - 8) ** 2
    g1 = ((-x1 + 7) ** 2 + bowl) / 10 - 20
    g2 = ((-x1 - 7) ** 2 + bowl) / 10 - 20
    c1 = _at_least(torch.tanh(0.5 * x2), 0.0)
    c2 = _at_least(torch.tanh(-0.5 * x2), 0.0)
    return SCALE * (c1 * f1 + c2 * g1), c1 * f2 + c2 * g2


def pareto_front(points: int = 201) -> tuple[Tensor, Tensor]:
    """Points (N, 2) of the Pareto front, from the best for L₂ to the best for L₁, and their losses (N, 2)."""
    x1 = torch.linspace(-7, 7, points, dtype=torch.float64)
    where = torch.stack([x1, torch.full_like(x1, FRONT_X2)], dim=1)  # (N, 2)
    return where, torch.stack(losses(where), dim=1)


def gap(reached: Tensor) -> Tensor:
    """Distance of losses (…, 2) from the front, as a share of its extent in each loss; 0.01 is one per cent."""
    _, front = pareto_front(2001)
    extent = front.amax(0) - front.amin(0)  # (2,)
    return (((reached[..., None, :] - front) / extent) ** 2).sum(-1).sqrt().amin(-1)


def _at_least(values: Tensor, low: float) -> Tensor:
    return torch.where(values >= low, values, values.new_tensor(low))
