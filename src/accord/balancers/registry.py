"""Balancers by name: ``make("nash-mtl:update_every=25", tasks=3)``.

Names are kebab-case. Third parties register with the decorator, or with an entry point in the group
``accord.balancers`` whose name is the method's and whose value is the class.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from accord.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from accord.balancers.base import Balancer

ENTRY_POINT_GROUP = "accord.balancers"

_CLASSES: dict[str, type[Balancer]] = {}


def register(name: str) -> Callable[[type[Balancer]], type[Balancer]]:
    """Class decorator that makes a balancer available as ``make(name)``."""

    def decorate(cls: type[Balancer]) -> type[Balancer]:
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
                f"method {name!r} has no option {option!r}{suggest(option, allowed)}; "
                f"its options: {', '.join(allowed) or 'none'}"
            )
    return cls(tasks, **options)


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name:option=value,…"`` into the name and typed options.

    Values are Python literals (``25``, ``0.4``, ``None``, ``True``, ``[1, 2]``); all else is a string.

    Raises:
        OptionError: The text is not of that form.
    """
    name, colon, rest = text.strip().partition(":")
    name = name.strip().lower()
    if not name:
        raise OptionError(f"method spec {text!r}: no method name; write name or name:option=value")
    options: dict[str, Any] = {}
    for item in _split(rest) if colon else ():
        key, equals, value = item.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier() or not value:
            raise OptionError(f"method spec {text!r}: {item!r} is not of the form option=value")
        if key in options:
            raise OptionError(f"method spec {text!r}: option {key!r} is given twice")
        options[key] = _literal(value)
    return name, options


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """The canonical spec string: options in alphabetical order; ``parse_spec`` reads it back."""
    items = (f"{k}={v if isinstance(v, str) else repr(v)}" for k, v in sorted(options.items()))
    return f"{name}:{','.join(items)}" if options else name


def suggest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or the list of known names when nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(repr(n) for n in near)}?"
    return f"; known: {', '.join(known) or 'none'}"


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    items, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    return [*items, text[start:]]


def _literal(text: str) -> Any:
    """``text`` as a Python literal where it is one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def _entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=ENTRY_POINT_GROUP)
