"""accord: exact gradient balancing for multi-task learning.

>>> import accord
>>> accord.make("nash-mtl", tasks=["seg", "depth"])
NashMTL(tasks=['seg', 'depth'])

Names are imported when they are first used, so that the command line starts without torch.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord import jacobian, metrics, solvers
    from accord.balancers import (
        DWA,
        IMTLG,
        LS,
        MGDA,
        RLW,
        SI,
        UW,
        Balance,
        Balancer,
        CAGrad,
        FairGrad,
        GradDrop,
        NashMTL,
        PCGrad,
        available,
        make,
        register,
    )

__version__ = metadata.version("accord")

__all__ = [
    "DWA",
    "IMTLG",
    "LS",
    "MGDA",
    "RLW",
    "SI",
    "UW",
    "Balance",
    "Balancer",
    "CAGrad",
    "FairGrad",
    "GradDrop",
    "NashMTL",
    "PCGrad",
    "available",
    "jacobian",
    "make",
    "metrics",
    "register",
    "solvers",
]

_MODULES = ("jacobian", "metrics", "solvers")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'accord' has no attribute {name!r}")
    value = import_module(f"accord.{name}") if name in _MODULES else getattr(import_module("accord.balancers"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
