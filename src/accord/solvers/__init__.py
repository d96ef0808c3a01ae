"""Pure solvers: a Gramian (K, K) in, weights (K,) and a certificate out. NumPy float64, no state."""

from collections.abc import Callable

from accord.solvers.ccp import ccp_program, nash_ccp
from accord.solvers.certificates import (
    alignment_residual,
    cagrad_gap,
    ccp_gap,
    ccp_objective,
    cone_residual,
    config_residual,
    fair_residual,
    gradvac_residual,
    imtl_g_spread,
    mgda_gap,
    pcgrad_residual,
    upgrad_residual,
)
from accord.solvers.cone import cone_projections, dualproj, upgrad
from accord.solvers.fair import fairgrad, nash
from accord.solvers.minnorm import cagrad, mgda, pareto_stationarity
from accord.solvers.simplex import descend_on_simplex, project_on_simplex
from accord.solvers.solution import Outcome, Solution
from accord.solvers.spectral import aligned_mtl, config
from accord.solvers.surgery import imtl_g, pcgrad
from accord.solvers.vaccine import gradvac, vaccinate

SOLVERS: dict[str, Callable[..., Solution]] = {
    "nash-mtl": nash,
    "fairgrad": fairgrad,
    "mgda": mgda,
    "cagrad": cagrad,
    "upgrad": upgrad,
    "dualproj": dualproj,
    "imtl-g": imtl_g,
    "aligned-mtl": aligned_mtl,
    "config": config,
    "pcgrad": pcgrad,
    "gradvac": gradvac,
}
"""Solver by method name."""

__all__ = [
    "SOLVERS",
    "Outcome",
    "Solution",
    "aligned_mtl",
    "alignment_residual",
    "cagrad",
    "cagrad_gap",
    "ccp_gap",
    "ccp_objective",
    "ccp_program",
    "cone_projections",
    "cone_residual",
    "config",
    "config_residual",
    "descend_on_simplex",
    "dualproj",
    "fair_residual",
    "fairgrad",
    "gradvac",
    "gradvac_residual",
    "imtl_g",
    "imtl_g_spread",
    "mgda",
    "mgda_gap",
    "nash",
    "nash_ccp",
    "pareto_stationarity",
    "pcgrad",
    "pcgrad_residual",
    "project_on_simplex",
    "upgrad",
    "upgrad_residual",
    "vaccinate",
]
