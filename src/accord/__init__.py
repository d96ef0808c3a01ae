"""accord: exact gradient balancing for multi-task learning.

>>> import accord
>>> accord.make("nash-mtl", tasks=["seg", "depth"])
NashMTL(tasks=['seg', 'depth'])
"""

from importlib import metadata

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
