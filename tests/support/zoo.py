"""Small multi-task models of every common kind, in float64, with the Jacobian that plain backward passes give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from support import zoo_graphs as graphs
from support import zoo_layers as layers
from support.zoo_layers import Problem


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: What is peculiar about the model.
        build: Makes it; every call gives equal parameters in new tensors.
        marks: ``"no_vmap"``: an operation has no batching rule. ``"reentrant"``: autograd refuses to differentiate
            it for part of the leaves. ``"sparse"``: a gradient is sparse.
        tolerance: Relative error between two ways to differentiate it.
    """

    name: str
    build: Callable[[], Problem]
    marks: frozenset[str] = field(default_factory=frozenset)
    tolerance: float = 1e-12


def problem(case: Case) -> Problem:
    """The case's model, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return case.build()


@cache
def jacobian_of(case: Case) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The reference: the model is built K times, and each copy has one loss's plain ``backward()``.

    Returns:
        Blocks (K, *shape) of the shared parameters and of the heads, read from ``.grad``; None where no task left any.
    """
    count = len(problem(case).losses())
    copies = [problem(case) for _ in range(count)]
    for k, copy in enumerate(copies):
        copy.losses()[k].backward()
    shared = zip(*(copy.parameters for copy in copies), strict=True)
    heads = zip(*(copy.heads for copy in copies), strict=True)
    return [_stacked(leaves) for leaves in shared], [_stacked(leaves) for leaves in heads]


def _stacked(leaves: Iterable[Tensor]) -> Tensor | None:
    """The ``.grad`` of one leaf in K copies of the model, shape (K, *shape)."""
    found = [(leaf, leaf.grad) for leaf in leaves]
    if all(grad is None for _, grad in found):
        return None
    return torch.stack([torch.zeros_like(leaf) if grad is None else grad.to_dense() for leaf, grad in found])


NO_VMAP, REENTRANT, SPARSE = frozenset({"no_vmap"}), frozenset({"reentrant"}), frozenset({"sparse"})

CASES = (
    Case("mlp", layers.mlp),
    Case("conv-batchnorm", lambda: layers.conv(True)),
    Case("conv-batchnorm-eval", lambda: layers.conv(False)),
    Case("groupnorm", layers.groupnorm),
    Case("dropout", layers.dropout),
    Case("lstm", lambda: layers.recurrent(nn.LSTM)),
    Case("gru", lambda: layers.recurrent(nn.GRU)),
    Case("attention", layers.attention),
    Case("transformer", layers.transformer),
    Case("embedding", lambda: layers.embedding(False)),
    Case("embedding-sparse", lambda: layers.embedding(True), SPARSE),
    Case("tied-trunk", graphs.tied_trunk),
    Case("tied-head", graphs.tied_head),
    Case("frozen", layers.frozen),
    Case("unused", layers.unused),
    Case("unreached-task", graphs.unreached_task),
    Case("two-trunks", graphs.two_trunks),
    Case("residual", graphs.residual),
    Case("checkpoint", lambda: graphs.checkpointed(False)),
    Case("checkpoint-dropout", lambda: graphs.checkpointed(False, p=0.5), NO_VMAP),
    Case("checkpoint-reentrant", lambda: graphs.checkpointed(True), REENTRANT),
    Case("lora", layers.lora),
    Case("reused", graphs.reused),
    Case("inplace", layers.inplace),
    Case("scalar", layers.scalar),
    Case("direct", graphs.direct),
    Case("noncontiguous", layers.noncontiguous),
    Case("hooks", graphs.hooks),
    Case("gradient-reversal", lambda: layers.function(layers.Reversal)),
    Case("unbatchable", lambda: layers.function(layers.Unbatchable), NO_VMAP),
    Case("fourier", layers.fourier),
    Case("weight-norm", layers.weight_norm),
    Case("heads-shared", graphs.heads_shared),
    Case("two-dtypes", graphs.two_dtypes, tolerance=1e-6),
    Case("forces", graphs.forces),
    Case("indexed", layers.indexed),
    Case("deep", lambda: graphs.deep(False)),
    Case("tied-far", graphs.tied_far),
    Case("deep-hooks", lambda: graphs.deep(True)),
    Case("node-hooks", graphs.node_hooks),
    Case("unet", graphs.unet),
    Case("densely-connected", graphs.dense),
    Case("many-outputs", layers.many_outputs),
    Case("spectral-layers", layers.spectral_layers),
    Case("changed-dtype", layers.changed_dtype, tolerance=1e-6),
    Case("early-exits", graphs.early_exits),
    Case("one-task", lambda: layers.sized(1)),
    Case("many-heads", lambda: layers.sized(20)),
)
"""The table."""
