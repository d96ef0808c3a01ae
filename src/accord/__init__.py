"""accord: exact gradient balancing for multi-task learning.

>>> import accord
>>> accord.make("nash-mtl", tasks=["seg", "depth"])
NashMTL(tasks=['seg', 'depth'])

Names are imported when they are first used, so that the command line starts without torch.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord import balancers, diagnostics, integrations, jacobian, metrics, solvers, testing
    from accord.balancers import (
        CRMOGM,
        DBMTL,
        DWA,
        FAMO,
        GLS,
        IMTL,
        IMTLG,
        IMTLL,
        LS,
        MGDA,
        RLW,
        SI,
        STCH,
        UW,
        AlignedMTL,
        AlphaFair,
        Balance,
        Balancer,
        CAGrad,
        ConFIG,
        DualProj,
        FairGrad,
        GradDrop,
        GradNorm,
        GradVac,
        MoCo,
        MoDo,
        NashMTL,
        PCGrad,
        SDMGrad,
        UPGrad,
        available,
        make,
        register,
    )
    from accord.bench.compare import compare
    from accord.bench.problem import Problem, Training
    from accord.diagnostics import Log, diagnose, read_log
    from accord.jacobian import watch

__version__ = metadata.version("accord")

__all__ = [
    "CRMOGM",
    "DBMTL",
    "DWA",
    "FAMO",
    "GLS",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "LS",
    "MGDA",
    "RLW",
    "SI",
    "STCH",
    "UW",
    "AlignedMTL",
    "AlphaFair",
    "Balance",
    "Balancer",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "FairGrad",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "Log",
    "MoCo",
    "MoDo",
    "NashMTL",
    "PCGrad",
    "Problem",
    "SDMGrad",
    "Training",
    "UPGrad",
    "available",
    "balancers",
    "compare",
    "diagnose",
    "diagnostics",
    "integrations",
    "jacobian",
    "make",
    "metrics",
    "read_log",
    "register",
    "solvers",
    "testing",
    "watch",
]

_HOMES = {
    "watch": "jacobian",
    "diagnose": "diagnostics",
    "Log": "diagnostics",
    "read_log": "diagnostics",
    "compare": "bench.compare",
    "Problem": "bench.problem",
    "Training": "bench.problem",
}
_MODULES = ("balancers", "diagnostics", "integrations", "jacobian", "metrics", "solvers", "testing")


if not TYPE_CHECKING:  # or a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'accord' has no attribute {name!r}")
        if name in _MODULES:
            value = import_module(f"accord.{name}")
        else:
            value = getattr(import_module(f"accord.{_HOMES.get(name, 'balancers')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
