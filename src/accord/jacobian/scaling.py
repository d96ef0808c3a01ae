"""The factor that mixed precision puts on losses."""

from __future__ import annotations

import math
from typing import Any

import torch

from accord.errors import OptionError


def loss_scale(caller: str, scaler: Any) -> float | None:
    """The factor that a ``torch.amp.GradScaler`` puts on losses now; None without one, or with one that is disabled.

    Raises:
        OptionError: It is something else.
    """
    if scaler is None:
        return None
    if not (hasattr(scaler, "get_scale") and hasattr(scaler, "is_enabled")):
        raise OptionError(f"{caller}: scaler is a {type(scaler).__name__}; give the torch.amp.GradScaler itself")
    if not scaler.is_enabled():
        return None
    if getattr(scaler, "_scale", 0) is None:  # made at the first scale(), as for any other loop
        scaler.scale(torch.zeros((), device=getattr(scaler, "_device", "cpu")))
    return float(scaler.get_scale())


def check_scale(caller: str, scale: object) -> float | None:
    """A loss scale as a positive number.

    Raises:
        OptionError: It is something else.
    """
    if scale is None:
        return None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not (math.isfinite(scale) and scale > 0):
        raise OptionError(
            f"{caller}: scale = {scale!r} is not a positive number; for a torch.amp.GradScaler give scaler= to what "
            "takes it, which also knows when the scaler is off"
        )
    return float(scale)
