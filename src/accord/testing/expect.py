"""What the contract's checks say when something is not as it should be.

Functions and no ``assert``, so that the suite also holds under ``python -O``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.balancers import Balancer


def require(condition: object, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def close(found: Any, wanted: Any, what: str, *, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    """Require numbers, tensors or lists of them to agree to within rounding; NaN equals NaN."""
    torch.testing.assert_close(
        found, wanted, rtol=rtol, atol=atol, equal_nan=True, msg=lambda details: f"{what}: {details}"
    )


def same(found: Any, wanted: Any, what: str, *, ignore: Sequence[str] = ()) -> None:
    """Require nested dicts, lists, tensors and numbers to be equal bit for bit; NaN equals NaN.

    Args:
        found: What there is.
        wanted: What there should be.
        what: What it is.
        ignore: Keys of dicts that are left out.
    """
    if isinstance(wanted, Mapping):
        keys, others = set(wanted) - set(ignore), set(found) - set(ignore)
        require(keys == others, f"{what} has the entries {sorted(others)}, not {sorted(keys)}")
        for key in keys:
            same(found[key], wanted[key], f"{what}, entry {key!r}", ignore=ignore)
    elif isinstance(wanted, Tensor):
        require(isinstance(found, Tensor), f"{what} is a {type(found).__name__}, not a tensor")
        require(
            found.dtype == wanted.dtype and found.shape == wanted.shape and _equal(found, wanted),
            f"{what} differs: {_shown(found)} in the place of {_shown(wanted)}",
        )
    elif isinstance(wanted, (list, tuple)):
        require(len(found) == len(wanted), f"{what} has {len(found)} entries, not {len(wanted)}")
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            same(a, b, f"{what}, number {i}", ignore=ignore)
    elif isinstance(wanted, np.ndarray):
        require(np.array_equal(found, wanted, equal_nan=True), f"{what} differs: {found!r} in the place of {wanted!r}")
    else:
        equal = not isinstance(found, Tensor) and (found == wanted or (found != found and wanted != wanted))
        require(equal, f"{what} is {found!r} in the place of {wanted!r}")


def same_state(found: Balancer, wanted: Balancer, what: str) -> None:
    """Require two balancers' ``state_dict`` to be equal bit for bit."""
    same(found.state_dict(), wanted.state_dict(), f"the state of {what}")


def finite(tensors: Sequence[Tensor | None], what: str) -> None:
    """Require all numbers of all tensors to be finite, where there is a tensor."""
    for tensor in tensors:
        require(tensor is None or bool(torch.isfinite(tensor).all()), f"{what} is not finite: {tensor}")


def refused(call: Callable[[], object], errors: type[Exception] | tuple[type[Exception], ...], what: str) -> None:
    """Require a call to raise one of these errors."""
    wanted = " or ".join(error.__name__ for error in (errors if isinstance(errors, tuple) else (errors,)))
    try:
        call()
    except errors:
        return
    except Exception as error:
        raise AssertionError(f"{what} should raise {wanted}, but raised {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} should raise {wanted}, but raised nothing")


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or (a.is_floating_point() and torch.equal(a.isnan(), b.isnan()) and _filled(a, b))


def _filled(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _shown(tensor: Tensor) -> str:
    flat = tensor.detach().flatten()
    return f"{flat[:6].tolist()}{' …' if flat.numel() > 6 else ''} ({tensor.dtype}, shape {tuple(tensor.shape)})"
