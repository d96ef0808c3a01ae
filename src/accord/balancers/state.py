"""Saved state on its way back into a balancer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with its tensors, nested ones too, on the CPU, wherever ``torch.load(map_location=…)`` put them.

    Lists are left alone: they hold what lies with the parameters.
    """
    return {key: _on_cpu(value) for key, value in state.items()}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    return on_cpu(value) if isinstance(value, Mapping) else value
