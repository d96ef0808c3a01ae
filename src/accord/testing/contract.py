"""The contract of all balancers: what it is checked on, the table of checks, and the one call that runs them all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from typing import Any

from accord.balancers import Balancer, balancer_class, make, parse_spec
from accord.balancers.grammar import format_spec

TASKS = ("a", "b", "c")

_MODULES = ("writing", "arithmetic", "promises", "state", "conduct")
_CHECKS: dict[str, Callable[[Row], None]] = {}


class Row:
    """One row of the contract's table: a method, and the options to check it with.

    Args:
        method: The name of a registered method, a spec with options, or a class.
        **options: Its options. One whose value depends on the number of tasks is given as a function of that number,
            such as ``weights=lambda k: [1.0] * k``.
    """

    def __init__(self, method: str | type[Balancer], **options: Any) -> None:
        name, parsed = parse_spec(method) if isinstance(method, str) else (method.__name__, {})
        self.name = name
        self.options: Mapping[str, Any] = {**parsed, **options}
        self.cls: type[Balancer] = balancer_class(name) if isinstance(method, str) else method
        self._registered = isinstance(method, str)

    def make(self, tasks: int | Sequence[str] = TASKS, **changes: Any) -> Balancer:
        """A fresh balancer.

        Args:
            tasks: The number of tasks, or their names.
            **changes: Options in place of the row's.
        """
        count = tasks if isinstance(tasks, int) else len(tasks) if isinstance(tasks, Sequence) else 0
        options = {**{key: v(count) if callable(v) else v for key, v in self.options.items()}, **changes}
        return make(self.name, tasks, **options) if self._registered else self.cls(tasks, **options)

    def takes(self, option: str) -> bool:
        """Whether the method has an option of that name."""
        return option in inspect.signature(self.cls).parameters

    def __str__(self) -> str:
        return format_spec(self.name, {key: "(K)" if callable(v) else v for key, v in self.options.items()})

    def __repr__(self) -> str:
        return f"Row({str(self)!r})"


def check(function: Callable[[Row], None]) -> Callable[[Row], None]:
    """Put a check into the table under its own name; whatever it raises becomes an AssertionError that names it."""

    @wraps(function)
    def checked(row: Row) -> None:
        try:
            function(row)
        except Exception as error:
            what = (inspect.getdoc(function) or "").partition("\n")[0]
            said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{row} fails the check {function.__name__!r}. {what} But: {said}") from error

    _CHECKS[function.__name__] = checked
    return checked


def checks() -> dict[str, Callable[[Row], None]]:
    """All checks by name, in the order in which they are run."""
    for module in _MODULES:
        import_module(f"accord.testing.{module}")
    return _CHECKS


def check_balancer(method: str | type[Balancer], **options: Any) -> None:
    """Run the whole contract on one balancer; a few seconds.

    The checks are those of ``accord.testing.CHECKS``, for use with pytest one by one:
    ``@pytest.mark.parametrize("name", CHECKS)``, then ``CHECKS[name](Row("nash-mtl", update_every=3))``.

    Args:
        method: The name of a registered method, a spec with options, or a class. One that cannot be found by its
            name, such as a class made inside a function, is not pickled.
        **options: Its options; one that depends on the number of tasks is given as a function of that number.

    Raises:
        AssertionError: The balancer breaks the contract; all checks that fail are named.
        UnknownNameError: No method has that name.

    Example:
        >>> from accord.testing import check_balancer
        >>> check_balancer("cagrad", c=0.5)
    """
    row = Row(method, **options)
    failed: list[AssertionError] = []
    for run in checks().values():
        try:
            run(row)
        except AssertionError as error:
            failed.append(error)
    if failed:
        raise AssertionError("\n".join(str(error) for error in failed)) from failed[0]
