"""The residual of each method's own definition, computed from the Gramian and the weights alone.

A certificate knows nothing of how the weights were found, so it checks accord's solvers and anyone else's.
All are relative and dimensionless; 0 is exact. One module a family of methods.
"""

from accord.solvers.certificates.alignment import alignment_residual, config_residual, imtl_g_spread
from accord.solvers.certificates.bargaining import ccp_gap, ccp_objective, fair_residual
from accord.solvers.certificates.cones import cone_residual, upgrad_residual
from accord.solvers.certificates.hull import cagrad_gap, mgda_gap
from accord.solvers.certificates.surgery import gradvac_residual, pcgrad_residual

__all__ = [
    "alignment_residual",
    "cagrad_gap",
    "ccp_gap",
    "ccp_objective",
    "cone_residual",
    "config_residual",
    "fair_residual",
    "gradvac_residual",
    "imtl_g_spread",
    "mgda_gap",
    "pcgrad_residual",
    "upgrad_residual",
]
