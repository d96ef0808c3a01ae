"""Modules whose outputs are the shared representation: watched by a forward hook, taken up by ``features=``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from accord.errors import EngineError


class Watched:
    """The outputs of a module since they were last taken.

    Every call of the module with gradients enabled adds its output's tensors: tensors, or tuples, lists and dicts of
    them. ``features=`` takes them, so that a step sees those of its own forward alone. A copy of the module, pickled
    ones too, is not watched.

    Args:
        module: The module; its class and its parameters stay as they are.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module_name = type(module).__name__
        self._outputs: list[Tensor] = []
        self._module: Callable[[], nn.Module | None] = ref(module)  # or the module would never be let go
        self._handle: Any = module.register_forward_hook(self._see)

    def take(self, caller: str) -> list[Tensor]:
        """The outputs, which are then forgotten here.

        Raises:
            EngineError: There is none.
        """
        outputs, self._outputs = self._outputs, []
        if self._module() is None:
            raise EngineError(
                f"{caller}: the {self.module_name} is no longer watched: it was closed, or this is a copy; call "
                "accord.watch(module) once before the forward"
            )
        if not outputs:
            raise EngineError(
                f"{caller}: the watched {self.module_name} has given no output that requires grad since the last step; "
                "call the model (with gradients enabled) before each backward(features=...), and watch the module that "
                "the losses go through"
            )
        return outputs

    def close(self) -> None:
        """Stop watching."""
        module = self._module()
        if module is None:
            return
        self._handle.remove()
        self._outputs, self._module = [], _nothing
        _WATCHED.pop(module, None)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        if torch.is_grad_enabled() and self._module() is module:
            self._outputs += [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]

    def __reduce__(self) -> tuple[Any, ...]:
        """In copies and pickles: one that watches nothing, without the outputs, which cannot be copied."""
        return _closed, (self.module_name,)

    def __repr__(self) -> str:
        return f"Watched({self.module_name})"


def _nothing() -> None:
    return None


def _closed(module_name: str) -> Watched:
    copy = Watched.__new__(Watched)
    copy.module_name, copy._outputs, copy._module = module_name, [], _nothing
    return copy


_WATCHED: WeakKeyDictionary[nn.Module, Watched] = WeakKeyDictionary()


def watch(module: nn.Module) -> Watched:
    """Watch a module's outputs, so that ``features=module`` (or what this returns) balances at them.

    Call it once, before the first forward. A module that is called several times in a step has all its outputs
    together as the representation.

    Args:
        module: The trunk, or its last shared layer.

    Returns:
        What to give as ``features=``; ``close()`` stops it.

    Raises:
        EngineError: It is not a module.

    Examples:
        >>> import accord
        >>> from torch import nn, randn
        >>> trunk, heads = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
        >>> features = accord.watch(trunk)
        >>> z = trunk(randn(5, 3))
        >>> balancer = accord.MGDA(tasks=2)
        >>> balance = balancer.backward([head(z).square().mean() for head in heads], features=features)
        >>> balance.outcome
        'solved'
    """
    if not isinstance(module, nn.Module):
        raise EngineError(f"accord.watch: got a {type(module).__name__}; give the module whose output all tasks share")
    if module not in _WATCHED:
        _WATCHED[module] = Watched(module)
    return _WATCHED[module]


def watched(features: nn.Module | Watched, caller: str) -> list[Tensor]:
    """The outputs of a watched module since the last step.

    Raises:
        EngineError: It is not watched, or has given none.
    """
    if isinstance(features, nn.Module):
        found = _WATCHED.get(features)
        if found is None:
            raise EngineError(
                f"{caller}: features is a {type(features).__name__} that is not watched, so its output is not known; "
                "call accord.watch(module) once before the forward, or give the output itself"
            )
        features = found
    return features.take(caller)
