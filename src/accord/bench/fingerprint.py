"""What tells one problem from another of the same name: its settings, its data and the text of its code.

A store must not mix numbers of two problems, and must know its own again in another process: so nothing here depends
on addresses, on comments or on the order of a set.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import sys
import sysconfig
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

LONG = 200  # characters of JSON text, above which a hash stands for it
DEPTH = 8
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages, wherever they are


def describe(value: Any) -> Any:
    """A value as plain JSON data that is equal for equal values; long ones as a hash."""
    plain = _plain(value, 0, {})
    text = json.dumps(plain, sort_keys=True)
    return plain if len(text) <= LONG else f"{type(value).__name__} #{_hash(text)}"


def code_digest(cls: type, stop: type) -> str:
    """A hash of the code of a class: its text, that of its bases below ``stop``, and that of what they use.

    What they use is the functions, classes and plain constants of the user's own modules that the code names; installed
    packages are not looked into. Comments, docstrings and layout do not count.
    """
    texts: dict[str, str] = {}
    _collect(cls, set(stop.__mro__), texts, always=True)
    return _hash(json.dumps(texts, sort_keys=True))


def _plain(value: Any, depth: int, seen: dict[int, str]) -> Any:
    """``describe``, where ``seen`` are the values above this one, and the arrays that have a hash already."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # NaN is not equal to itself
    if isinstance(value, enum.Enum | PurePath | torch.dtype | torch.device | complex | bytes):
        return str(value)
    if isinstance(value, np.generic):
        return _plain(value.item(), depth, seen)
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Tensor | np.ndarray):
        return seen.setdefault(id(value), _array(value))
    if isinstance(value, type | FunctionType | functools.partial):
        texts: dict[str, str] = {}
        _collect(value, set(), texts)
        return f"{getattr(value, '__qualname__', 'partial')} #{_hash(json.dumps(texts, sort_keys=True))}"
    name = type(value).__qualname__
    if depth == DEPTH:
        return name
    seen = {**seen, id(value): name}
    if isinstance(value, Mapping):
        return {str(key): _plain(part, depth + 1, seen) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, depth + 1, seen) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_plain(part, depth + 1, seen), sort_keys=True) for part in value)
    return {"type": name, **{str(k): _plain(v, depth + 1, seen) for k, v in _attributes(value).items()}}


def _attributes(value: Any) -> Mapping[str, Any]:
    """What an object consists of; nothing for those of installed packages, whose insides are not settings."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    known = isinstance(value, SimpleNamespace | Namespace | Dataset | nn.Module) or _ours(type(value))
    return getattr(value, "__dict__", {}) if known else {}


def _array(value: Tensor | np.ndarray) -> str:
    """Shape, type and a hash of the content."""
    if isinstance(value, Tensor):
        data = (value if value.layout == torch.strided else value.to_dense()).detach().cpu().contiguous()
        return f"{tuple(data.shape)} {data.dtype} #{_hash(data.flatten().view(torch.uint8).numpy())}"
    data = np.ascontiguousarray(value)
    content = repr(data.tolist()) if data.dtype.hasobject else data.reshape(-1).view(np.uint8)
    return f"{value.shape} {data.dtype} #{_hash(content)}"


def _collect(value: Any, stop: set[type], texts: dict[str, str], always: bool = False) -> None:
    """Add the text of a class or function, and of what it uses, if it is the user's or ``always``."""
    if isinstance(value, functools.partial):
        texts[f"partial {len(texts)}"] = json.dumps(_plain([value.args, value.keywords], 1, {}), sort_keys=True)
        value = value.func
    value = inspect.unwrap(value) if callable(value) else value
    if not always and not _ours(value):
        return
    key = _name(value)
    if key in texts:
        return
    if isinstance(value, type):
        texts[key] = _text(value)
        for base in value.__mro__[1:]:
            if base not in stop:
                _collect(base, stop, texts)
        functions = [function for member in vars(value).values() for function in _functions(member)]
    elif isinstance(value, FunctionType):
        texts[key] = _text(value)
        functions = [value]
    else:
        return
    for function in functions:
        for name, used in _used(function):
            if isinstance(used, bool | int | float | str | bytes | tuple | None):
                texts[f"{key} uses {name}"] = repr(used)
            elif (isinstance(used, type) and used not in stop) or _is_function(used):
                _collect(used, stop, texts)


def _is_function(value: Any) -> bool:
    return isinstance(value, FunctionType | functools.partial) or hasattr(value, "__wrapped__")


def _functions(member: Any) -> Iterator[FunctionType]:
    """The plain functions in a class's member: of methods, properties, and nested classes."""
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    if isinstance(member, property):
        yield from (f for f in (member.fget, member.fset) if isinstance(f, FunctionType))
    elif isinstance(member, type):
        yield from (function for part in vars(member).values() for function in _functions(part))
    elif callable(member) and isinstance(inspect.unwrap(member), FunctionType):
        yield inspect.unwrap(member)


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Global names, and names of enclosing functions, that a function's code mentions, with their values."""
    names: dict[str, None] = {}
    for code in _codes(function.__code__):
        names.update(dict.fromkeys(code.co_names))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            if _our_file(getattr(value, "__file__", None), value.__name__):
                yield from ((f"{name}.{part}", getattr(value, part)) for part in names if hasattr(value, part))
        elif name in function.__globals__:
            yield name, value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _name(value: Any) -> str:
    """Where a class or function is, alike for a program that is run and one that is imported."""
    file = getattr(sys.modules.get(value.__module__), "__file__", None)
    return f"{Path(file).stem if file else ''}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _ours(value: Any) -> bool:
    name = getattr(value, "__module__", None) or ""
    return _our_file(getattr(sys.modules.get(name), "__file__", None), name)


def _our_file(file: str | None, module: str) -> bool:
    """Whether a module is the user's, not of Python, of an installed package or of accord."""
    if module in ("__main__", "__mp_main__"):
        return True
    if file is None or module.split(".")[0] == "accord":
        return False
    # resolved or not: a package may be a link from its environment, or be in the user's or the system's site
    return not any(
        INSTALLED & set(path.parts) or any(path.is_relative_to(place) for place in _places())
        for path in (Path(file).absolute(), Path(file).resolve())
    )


@functools.cache
def _places() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple({Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _text(value: Any) -> str:
    """The source without comments and docstrings; where there is none, as at a prompt, the compiled code.

    The lines of a lambda may hold others too, so that it counts as having none.
    """
    try:
        if value.__name__ == "<lambda>":
            raise OSError
        source = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        constants = {}
        if isinstance(value, type):
            constants = {n: _plain(v, 0, {}) for n, v in vars(value).items() if not callable(v) and n[:2] != "__"}
        return repr([constants, *(_compiled(function.__code__) for function in _functions(value))])
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _compiled(code: CodeType) -> Any:
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_compiled(constant))
        else:  # the order of a set of texts differs from process to process
            constants.append(sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant))
    return [code.co_name, code.co_code.hex(), code.co_names, constants]


def _hash(content: Any) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]
