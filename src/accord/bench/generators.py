"""Random generators of a problem's own, so that a resumed run draws what the uninterrupted one would have drawn.

The global generators are seeded before each epoch; a ``DataLoader`` with ``generator=``, or a data set with a NumPy
generator, goes on from where it is, and where it is belongs into the checkpoint.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accord.errors import StoreError

DEPTH = 6
MOST = 1000  # entries of a container that are looked into
KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def find(root: Any) -> dict[str, Any]:
    """The generators reachable from an object through attributes, lists, tuples and dicts, by where they are."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    rows = [("", root, 0)]
    while rows:
        where, value, depth = rows.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, KINDS):
            found[where] = value
        elif depth < DEPTH:
            rows.extend((f"{where}.{name}".lstrip("."), part, depth + 1) for name, part in _parts(value))
    return found


def states(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Their states, in types that ``torch.load(weights_only=True)`` accepts."""
    return {where: _state(generator) for where, generator in generators.items()}


def restore(generators: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Put generators into states from ``states``.

    Raises:
        StoreError: There are others now than when the states were saved.
    """
    if set(generators) != set(saved):
        raise StoreError(
            f"the checkpoint holds the states of the random generators {sorted(saved)}, but the problem now has "
            f"{sorted(generators)}: give --fresh (fresh=True) to run it anew"
        )
    for where, generator in generators.items():
        state = saved[where]
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, random.Random):
            generator.setstate(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _read(state)
        else:
            generator.set_state(_read(state))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object is made of; nothing for data and code."""
    if isinstance(value, Tensor | np.ndarray | type | str | bytes | torch.optim.Optimizer):
        return
    if isinstance(value, Mapping):
        if len(value) <= MOST:
            yield from ((str(key), part) for key, part in value.items() if isinstance(key, str | int))
    elif isinstance(value, list | tuple):
        if len(value) <= MOST:
            yield from ((str(i), part) for i, part in enumerate(value))
    elif isinstance(value, nn.Module):
        yield from ((name, part) for name, part in vars(value).items() if name not in ("_parameters", "_buffers"))
    elif hasattr(value, "__dict__") and not hasattr(value, "__code__") and type(value).__name__ != "module":
        yield from vars(value).items()


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return json.dumps(generator.bit_generator.state, default=np.ndarray.tolist)
    return json.dumps(generator.get_state(legacy=False), default=np.ndarray.tolist)


def _read(text: str) -> dict[str, Any]:
    """A NumPy state; its arrays were lists."""
    state = json.loads(text)
    inner = state["state"]
    for name, part in inner.items():
        if isinstance(part, list):
            inner[name] = np.array(part, dtype=np.uint64 if state["bit_generator"] != "MT19937" else np.uint32)
    if isinstance(state.get("buffer"), list):  # Philox
        state["buffer"] = np.array(state["buffer"], dtype=np.uint64)
    return state
