"""Balancers: a method's options and small state around a solver."""

from accord.balancers.base import Balancer
from accord.balancers.elementwise import GradDrop
from accord.balancers.gramian import IMTLG, MGDA, CAGrad, FairGrad, GramianBalancer, NashMTL, PCGrad
from accord.balancers.losses import DWA, LS, RLW, SI, UW, LossBalancer
from accord.balancers.registry import available, balancer_class, make, parse_spec, register
from accord.balancers.result import Balance, Decision

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
    "Decision",
    "FairGrad",
    "GradDrop",
    "GramianBalancer",
    "LossBalancer",
    "NashMTL",
    "PCGrad",
    "available",
    "balancer_class",
    "make",
    "parse_spec",
    "register",
]
