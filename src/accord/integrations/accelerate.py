"""Accelerate: ``backward(accelerator, balancer, losses, ...)`` in the place of ``accelerator.backward(loss)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accord.balancers import Balance, Balancer
from accord.errors import EngineError, OptionError
from accord.integrations.deferred import Deferred
from accord.integrations.logs import scalars
from accord.integrations.packages import require
from accord.jacobian import Losses, Shared

if TYPE_CHECKING:
    from accelerate import Accelerator

require("accelerate", "accelerate")

REFUSED = {
    "DEEPSPEED": "DeepSpeed runs its own backward and keeps gradients in buffers of its own",
    "MEGATRON_LM": "Megatron-LM runs its own backward",
}
"""Kinds of ``accelerator.distributed_type`` under which gradients of tasks cannot be had."""


def backward(
    accelerator: Accelerator, balancer: Balancer, losses: Losses, shared: Shared | None = None, **options: Any
) -> Balance:
    """Balance the losses and add to ``.grad``, divided and scaled as ``accelerator.backward`` does with one loss.

    Under ``accelerator.accumulate`` each micro-batch is balanced by itself, and their gradients are averaged: with
    n micro-batches each is divided by n. To balance the whole batch, once, add up rows
    (``accord.jacobian.accumulated``).

    Args:
        accelerator: The ``Accelerator`` of the loop.
        balancer: The balancer; it needs no ``prepare``, unless it has parameters of its own to be trained.
        losses: K scalars: a dict by task name, a list, a tuple, or a tensor of shape (K,).
        shared: The shared parameters, as for ``Balancer.backward``.
        options: ``features``, ``heads``, ``engine``, ``second``, ``part`` and ``reduce`` of ``Balancer.backward``.

    Returns:
        The weights and their certificate; ``accelerator.log(scalars(balance))`` logs them.

    Raises:
        OptionError: It is no accelerator or no balancer, or an option is not one of these.
        EngineError: The accelerator trains with DeepSpeed or Megatron-LM.
        ShapeError, NonFiniteError: As in ``Balancer.backward``.

    Examples:
        >>> import accord, torch
        >>> from accelerate import Accelerator
        >>> from accord.integrations.accelerate import backward
        >>> accelerator, balancer = Accelerator(cpu=True), accord.NashMTL(tasks=2)
        >>> trunk, heads = accelerator.prepare(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> losses = (heads(trunk(torch.randn(8, 3))) - 1).square().mean(0)
        >>> backward(accelerator, balancer, losses, shared=trunk).outcome
        'solved'
    """
    kind = getattr(getattr(accelerator, "distributed_type", None), "name", None)
    if kind is None or not hasattr(accelerator, "backward"):
        raise OptionError(
            f"accelerate.backward: got a {type(accelerator).__name__} in the place of the accelerator; call "
            "backward(accelerator, balancer, losses, shared=...)"
        )
    if kind in REFUSED:
        raise EngineError(
            f"accelerate.backward: tasks cannot be balanced under {kind}: {REFUSED[kind]}; use DistributedDataParallel"
        )
    step = Deferred("accelerate.backward", balancer, losses, shared=shared, **options)
    accelerator.backward(step.loss)
    scaler = accelerator.scaler
    return step.run(scaled=scaler is not None and scaler.is_enabled())


__all__ = ["backward", "scalars"]
