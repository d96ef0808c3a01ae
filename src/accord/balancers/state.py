"""What a balancer remembers: saved, taken up again, moved with the parent module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from accord.errors import ShapeError

STATE_VERSION = 2


class Stateful(nn.Module):
    """A module whose state lies outside its buffers, in float64 on the CPU, and goes through ``state_dict``."""

    method: ClassVar[str] = ""
    tasks: tuple[str, ...]
    named: bool
    steps: int
    _weights: np.ndarray | None

    def own_state(self) -> dict[str, Any]:
        """State beyond the last weights, as tensors and plain numbers."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``own_state`` gave."""

    def snapshot(self) -> dict[str, Any]:
        """State to return to when a step fails."""
        return self.get_extra_state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a ``snapshot``."""
        self.set_extra_state(state)

    def get_extra_state(self) -> dict[str, Any]:
        """All state, for ``state_dict``."""
        weights = None if self._weights is None else torch.from_numpy(self._weights.copy())
        return {
            "version": STATE_VERSION,
            "method": self.method,
            "tasks": list(self.tasks),
            "named": self.named,
            "steps": self.steps,
            "weights": weights,
            **self.own_state(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take up state from ``state_dict``.

        Raises:
            ShapeError: It is that of another method, of other tasks, or of another version of accord.
        """
        if state.get("version") != STATE_VERSION or state.get("method") != self.method:
            raise ShapeError(
                f"{type(self).__name__}: the saved state is that of {state.get('method')!r} in state version "
                f"{state.get('version')}, not of {self.method!r} in version {STATE_VERSION}"
            )
        tasks = tuple(state["tasks"])
        if len(tasks) != self.num_tasks or (self.named and state["named"] and tasks != self.tasks):
            raise ShapeError(
                f"{type(self).__name__}: the saved state is for tasks {list(tasks)}, not {list(self.tasks)}"
            )
        if state["named"]:
            self.tasks, self.named = tasks, True
        self.steps = int(state["steps"])
        weights = state["weights"]
        self._weights = None if weights is None else weights.cpu().numpy().copy()
        self.load_own_state(on_cpu(state))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Stateful:
        """Follow the parent's device, never its dtype: parameters of the method stay in float32."""
        for parameter in self._parameters.values():
            if parameter is not None:
                device = fn(torch.empty(0, dtype=parameter.dtype, device=parameter.device)).device
                parameter.data = parameter.data.to(device)
                if parameter.grad is not None:
                    parameter.grad.data = parameter.grad.data.to(device)
        for child in self.children() if recurse else ():
            child._apply(fn)
        return self


def on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with its tensors, nested ones too, on the CPU, wherever ``torch.load(map_location=…)`` put them.

    Lists are left alone: they hold what lies with the parameters.
    """
    return {key: _on_cpu(value) for key, value in state.items()}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    return on_cpu(value) if isinstance(value, Mapping) else value
