"""Balancers by name: ``make("nash-mtl:update_every=25", tasks=3)``.

Names are kebab-case. Third parties register with the decorator, or with an entry point in the group
``accord.balancers`` whose name is the method's and whose value is the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

from accord.balancers.grammar import format_spec, parse_spec, suggest
from accord.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from accord.balancers.base import Balancer

ENTRY_POINT_GROUP = "accord.balancers"

__all__ = ["available", "balancer_class", "format_spec", "make", "parse_spec", "register", "suggest"]

Class = TypeVar("Class", bound="type[Balancer]")
_CLASSES: dict[str, type[Balancer]] = {}


def register(name: str) -> Callable[[Class], Class]:
    """Class decorator that makes a balancer available as ``make(name)``."""

    def decorate(cls: Class) -> Class:
        if name in _CLASSES:
            raise OptionError(f"register({name!r}): the name is taken by {_CLASSES[name].__qualname__}")
        cls.method = name
        _CLASSES[name] = cls
        return cls

    return decorate


def available() -> tuple[str, ...]:
    """Names of all registered balancers, built in and from entry points, in alphabetical order."""
    return tuple(sorted({*_CLASSES, *(point.name for point in _entry_points())}))


def balancer_class(name: str) -> type[Balancer]:
    """The class behind a method's name.

    Raises:
        UnknownNameError: No balancer has that name; the nearest names are suggested.
    """
    if name in _CLASSES:
        return _CLASSES[name]
    for point in _entry_points():
        if point.name == name:
            cls = point.load()
            cls.method = name
            return _CLASSES.setdefault(name, cls)
    if name == "stl":
        raise UnknownNameError(
            "method 'stl': single-task learning trains each task alone, so it has no balancer; "
            "it is a method of the experiments (`accord run EXPERIMENT --methods stl`)"
        )
    raise UnknownNameError(f"unknown method {name!r}{suggest(name, available())}")


def make(spec: str, tasks: int | Sequence[str], **options: Any) -> Balancer:
    """Build a balancer from its name, with options in the spec string or as keywords.

    Args:
        spec: ``"nash-mtl"`` or ``"nash-mtl:update_every=25,max_norm=None"``.
        tasks: The number of tasks or their names.
        **options: Further options of the method; they win over those in the spec string.

    Returns:
        The balancer.

    Raises:
        UnknownNameError: The method is not known.
        OptionError: The method has no such option, or its value is out of range.

    Example:
        >>> import accord
        >>> accord.make("cagrad:c=0.5", tasks=["seg", "depth"])
        CAGrad(tasks=['seg', 'depth'], c=0.5)
    """
    name, parsed = parse_spec(spec)
    cls = balancer_class(name)
    options = {**parsed, **options}
    allowed = [p for p in inspect.signature(cls).parameters if p != "tasks"]
    for option in options:
        if option not in allowed:
            raise OptionError(
                f"method {name!r} has no option {option!r} (its options: {', '.join(allowed) or 'none'})"
                f"{suggest(option, allowed, listing=False)}"
            )
    return cls(tasks, **options)


def _entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=ENTRY_POINT_GROUP)
