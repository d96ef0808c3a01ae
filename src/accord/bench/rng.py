"""The process-wide random generators of a trial: seeded before it is built, saved with it.

Trials should draw from generators of their own; dropout and third-party code do not, so a run that is
killed and resumed is the same only if these go with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from accord.errors import StoreError


def seed(value: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - the legacy generator is the one that others draw from
    torch.manual_seed(value)


@contextmanager
def isolated(value: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside the block; restore them after it."""
    before = get_state()
    seed(value)
    try:
        yield
    finally:
        set_state(before)


def get_state() -> dict[str, Any]:
    """The state of all global generators, in types that ``torch.load(weights_only=True)`` accepts."""
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "pos": legacy["state"]["pos"],
            "has_gauss": legacy["has_gauss"],
            "gauss": legacy["gauss"],
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_state(state: dict[str, Any]) -> None:
    """Put all global generators into a state from ``get_state``.

    Raises:
        StoreError: The state was saved on a machine with more GPUs than this one has.
    """
    random.setstate(state["python"])
    legacy = state["numpy"]
    keys = legacy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, legacy["pos"], legacy["has_gauss"], legacy["gauss"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) > torch.cuda.device_count():
        raise StoreError(
            f"the checkpoint holds the random states of {len(state['cuda'])} GPUs, but this machine has "
            f"{torch.cuda.device_count()}: resume it where it ran, or begin anew with --fresh (fresh=True)"
        )
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
