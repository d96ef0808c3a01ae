"""What a balancer must do, as a suite that anyone can run on theirs; and Gramians that break solvers.

``check_balancer("my-method")`` runs the whole contract and raises an AssertionError that names what fails. ``CHECKS``
are its parts, by name, each a function of a ``Row``. ``gramians`` is NumPy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from accord.testing import gramians
    from accord.testing.contract import Row, check_balancer

    CHECKS: dict[str, Callable[[Row], None]]

__all__ = ["CHECKS", "Row", "check_balancer", "gramians"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'accord.testing' has no attribute {name!r}")
    if name == "gramians":
        return import_module("accord.testing.gramians")
    contract = import_module("accord.testing.contract")
    value = contract.checks() if name == "CHECKS" else getattr(contract, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
