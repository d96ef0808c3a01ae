"""What torch's errors mean for those who balance gradients, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from accord.errors import EngineError

TORCH_ERRORS = (RuntimeError, NotImplementedError)

_REMEDIES = (
    (
        "second time",
        "the graph of these losses was already freed; compute the losses anew for each step, "
        "or pass retain_graph=True to what came before",
    ),
    (
        "donated buffers",
        "the compiled forward was told that its backward runs once, but it runs once a task; set "
        "torch._functorch.config.donated_buffer = False before the first call of the compiled model",
    ),
    (
        "use_reentrant=True",
        "reentrant activation checkpointing cannot be differentiated for part of the leaves; use engine='sequential' "
        "without lean=true, or torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
    ),
    (
        "modified by an inplace operation",
        "a tensor that the graph needs was changed in place after the losses were computed (an optimiser step?)",
    ),
    ("vmap", "an operation of this model cannot be vectorised over tasks; use engine='sequential'"),
    ("atching rule", "an operation of this model cannot be vectorised over tasks; use engine='sequential'"),
    ("Cannot access data pointer", "a compiled graph cannot be vectorised over tasks; use engine='sequential'"),
    ("functorch", "an operation of this model cannot be vectorised over tasks; use engine='sequential'"),
)


@contextmanager
def explained(caller: str) -> Iterator[None]:
    """Turn an autograd error into an EngineError that names the cause and the remedy."""
    try:
        yield
    except (EngineError, torch.OutOfMemoryError):  # explained already, or what callers catch to try a smaller batch
        raise
    except TORCH_ERRORS as error:
        raise EngineError(f"{caller}: {_remedy(str(error))} [torch: {error}]") from error


def _remedy(message: str) -> str:
    for part, remedy in _REMEDIES:
        if part in message:
            return remedy
    return "the losses could not be differentiated with respect to the shared parameters"
