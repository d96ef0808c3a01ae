"""Pure solvers: a Gramian (K, K) in, weights (K,) and a certificate out. NumPy float64, no state."""

from collections.abc import Callable

from accord.solvers.certificates import (
    cagrad_gap,
    fair_residual,
    imtl_g_spread,
    mgda_gap,
    pcgrad_residual,
)
from accord.solvers.fair import fairgrad, nash
from accord.solvers.minnorm import cagrad, mgda, pareto_stationarity
from accord.solvers.solution import Outcome, Solution
from accord.solvers.surgery import imtl_g, pcgrad

SOLVERS: dict[str, Callable[..., Solution]] = {
    "nash-mtl": nash,
    "fairgrad": fairgrad,
    "mgda": mgda,
    "cagrad": cagrad,
    "imtl-g": imtl_g,
    "pcgrad": pcgrad,
}
"""Solver by method name."""

__all__ = [
    "SOLVERS",
    "Outcome",
    "Solution",
    "cagrad",
    "cagrad_gap",
    "fair_residual",
    "fairgrad",
    "imtl_g",
    "imtl_g_spread",
    "mgda",
    "mgda_gap",
    "nash",
    "pareto_stationarity",
    "pcgrad",
    "pcgrad_residual",
]
