"""From what a training loop gives to a Jacobian: engines by name, loss scale, processes."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from accord.balancers.grammar import parse_spec, suggest
from accord.errors import AccordError, OptionError, UnknownNameError
from accord.jacobian import ENGINES, FEATURE_ENGINES, Jacobian, Losses, Reduce, Shared, Watched
from accord.jacobian.reduce import choose
from accord.jacobian.scaling import loss_scale

Engine = str | Callable[..., Jacobian]
Features = Tensor | Iterable[Tensor] | nn.Module | Watched
ELSEWHERE = {
    "disjoint": "make accord.jacobian.disjoint(model, loss_fn, batches) and give it to balancer.apply",
    "accumulated": "make accord.jacobian.accumulated(shared), include(losses) and give it to balancer.apply",
    "features": "give the representation as features=",
}
"""What else is called an engine, and how it is used."""
OWN_OPTIONS = ("lean", "memory", "chunk_size")
"""Options that an engine may have beside those that every Jacobian has."""


def build_jacobian(
    name: str,
    losses: Losses,
    shared: Shared | None,
    features: Features | None,
    *,
    engine: Engine,
    heads: Shared | None = None,
    scaler: Any = None,
    reduce: Reduce | str = "auto",
    retain_graph: bool = False,
) -> Jacobian:
    """The Jacobian of losses with respect to ``shared``, or at ``features``.

    Raises:
        OptionError: Neither or both of shared and features, or an option that the engine does not have.
        UnknownNameError: An engine of that name is not known.
    """
    if (shared is None) == (features is None):
        raise OptionError(
            f"{name}: give one of shared= (the shared parameters) and features= (the shared representation); "
            + ("neither was given" if shared is None else "both were given")
        )
    build, options = _engine(engine, ENGINES if features is None else FEATURE_ENGINES)
    if heads is not None:
        options["heads"] = heads
    if retain_graph:
        options["retain_graph"] = True
    scale = loss_scale(name, scaler)
    if scale is not None:
        options["scale"] = scale
    if not (isinstance(reduce, str) and reduce == "auto"):
        options["reduce"] = reduce
    return build(losses, shared if features is None else features, **options)


def report(error: AccordError, name: str, shared: Any, reduce: Reduce | str) -> None:
    """Raise an error on all processes, where the others are about to agree on their losses."""
    choose(reduce, shared, (), name).agree(name, error)


def fingerprint(state: Mapping[str, Any]) -> int:
    """A number that differs where balancers draw or count differently.

    Only text, whole numbers and generator states count: the last bits of weights may differ between machines.
    """
    code = 0
    for key, value in sorted(state.items(), key=lambda item: item[0]):
        if isinstance(value, Mapping):
            code = zlib.crc32(str(fingerprint(value)).encode(), code)
        elif isinstance(value, Tensor) and value.dtype == torch.uint8:
            code = zlib.crc32(value.cpu().numpy().tobytes(), code)
        elif isinstance(value, str | int | bool):
            code = zlib.crc32(f"{key}={value}".encode(), code)
    return code


def _engine(
    engine: Engine, table: Mapping[str, Callable[..., Jacobian]]
) -> tuple[Callable[..., Jacobian], dict[str, Any]]:
    if callable(engine):
        return engine, {}
    name, options = parse_spec(str(engine))
    if name in ELSEWHERE:
        raise UnknownNameError(f"engine {name!r} is not one for losses: {ELSEWHERE[name]}")
    if name not in table:
        raise UnknownNameError(f"unknown engine {name!r}{suggest(name, list(table))}")
    build = table[name]
    known = [option for option in OWN_OPTIONS if option in inspect.signature(build).parameters]
    for option in options:
        if option not in known:
            raise OptionError(
                f"engine {str(engine)!r}: {name} has no option {option!r}{suggest(option, known)}; "
                "options stand after a colon, as in 'sequential:lean=true'"
            )
    return build, options
