"""Gradients on their way into ``.grad``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from accord.jacobian.collectives import like_leaf, local_part, sharded
from accord.jacobian.storage import Block


def weighted_sum(losses: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Σ_k w_k l_k, with a graph to the losses."""
    terms = (w.to(loss) * loss for w, loss in zip(weights, losses, strict=True) if w)
    return sum(terms, losses[0].new_zeros(()))


def all_finite(gradients: Iterable[Tensor | None]) -> bool:
    """Whether no number of them is NaN or infinite; one transfer for each device."""
    found: dict[torch.device, Tensor] = {}
    for gradient in gradients:
        if gradient is not None:
            here = local_part(gradient.detach())
            numbers = here.coalesce().values() if here.is_sparse else here
            fine = torch.isfinite(numbers).all()
            found[fine.device] = fine if fine.device not in found else found[fine.device] & fine
    return all(bool(fine) for fine in found.values())


def add_gradients(leaves: Sequence[Tensor], gradients: Sequence[Block], *, owned: bool = False) -> None:
    """Add gradients, one per leaf, to ``.grad``; None leaves a leaf alone.

    Args:
        leaves: Parameters.
        gradients: As many.
        owned: Whether each gradient has memory that is nobody else's. Autograd may hand one tensor to several
            parameters, or an expanded one, but ``.grad`` must own its memory.
    """
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            own = like_leaf(leaf, gradient.detach().to(leaf.device, leaf.dtype))
            if leaf.grad is None:
                leaf.grad = _laid_out(leaf, own, owned=owned or own.dtype != gradient.dtype)
            elif leaf.grad.layout is torch.strided or own.layout is not torch.strided:
                leaf.grad.add_(own)
            else:
                leaf.grad = own + leaf.grad  # dense added to sparse is dense


def _laid_out(leaf: Tensor, gradient: Tensor, *, owned: bool) -> Tensor:
    """A gradient in memory of its own, with the strides that a plain backward would give it: those of its leaf."""
    if gradient.layout is not torch.strided or sharded(leaf):
        return gradient if owned else gradient.clone()
    own = torch.empty_like(leaf, requires_grad=False)
    return gradient if owned and gradient.stride() == own.stride() else own.copy_(gradient)
