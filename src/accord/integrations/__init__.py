"""Balancing inside other people's training loops: Lightning, Accelerate, the Trainer of transformers.

Each module needs its framework, and is imported when it is first named: ``accord.integrations.lightning`` without
Lightning is a ``DependencyError`` that names the extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord.integrations import accelerate, lightning, transformers

__all__ = ["accelerate", "lightning", "transformers"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'accord.integrations' has no attribute {name!r}")
    return import_module(f"accord.integrations.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
