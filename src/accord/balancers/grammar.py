"""The text form of a method and its options, ``name:option=value,option=value``, and what to say about a wrong name."""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from accord.errors import OptionError

WORDS = {"none": None, "true": True, "false": False, "inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name:option=value,…"`` into the name and typed options.

    Values are Python literals (``25``, ``0.4``, ``None``, ``True``, ``[1, 2]``) or ``inf``; all else is a string. One
    with commas stands in quotes: ``"alpha-fair:of='cagrad:c=0.5,rescale=1'"``.

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
    items = (f"{k}={v if _is_word(v) else repr(v)}" for k, v in sorted(options.items()))
    return f"{name}:{','.join(items)}" if options else name


def suggest(name: str, known: Iterable[str], *, listing: bool = True) -> str:
    """``"; did you mean 'x'?"``, or, with ``listing``, the known names when nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(repr(n) for n in near)}?"
    return f"; known: {', '.join(known) or 'none'}" if listing else ""


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes.

    Raises:
        OptionError: A quote or a bracket is not closed.
    """
    items, depth, start, quote, escaped = [], 0, 0, "", False
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0 and not quote:
            items.append(text[start:i])
            start = i + 1
    if quote or depth:
        what = "quote" if quote else "bracket"
        raise OptionError(f"method spec …{text!r}: a {what} is not closed, or closed without being opened")
    return [*items, text[start:]]


def _literal(text: str) -> Any:
    """``text`` as a Python literal where it is one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return WORDS.get(text.lower(), text)


def _is_word(value: Any) -> bool:
    """Whether a value is a string that reads back as itself without quotes."""
    return (
        isinstance(value, str)
        and not set(value) & set(" \t\n,'\"\\()[]{}")
        and value != ""
        and _literal(value) is value
    )
