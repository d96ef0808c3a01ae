"""Balancers: a method's options and small state around a solver."""

from accord.balancers.adaptive import FAMO, GradNorm
from accord.balancers.alignment import IMTLG, AlignedMTL, ConFIG
from accord.balancers.bargaining import FairGrad, NashMTL
from accord.balancers.base import Balancer
from accord.balancers.cones import DualProj, UPGrad
from accord.balancers.elementwise import GradDrop
from accord.balancers.gramian import GramianBalancer
from accord.balancers.hull import MGDA, CAGrad
from accord.balancers.learned import IMTL, IMTLL, UW
from accord.balancers.losses import DWA, LS, RLW, SI, LossBalancer
from accord.balancers.registry import available, balancer_class, make, parse_spec, register
from accord.balancers.result import Balance, Decision
from accord.balancers.scalarizations import GLS, STCH
from accord.balancers.stochastic import MoDo, SDMGrad
from accord.balancers.surgery import GradVac, PCGrad
from accord.balancers.trackers import DBMTL, MoCo
from accord.balancers.wrappers import CRMOGM, AlphaFair

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
    "Decision",
    "DualProj",
    "FairGrad",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GramianBalancer",
    "LossBalancer",
    "MoCo",
    "MoDo",
    "NashMTL",
    "PCGrad",
    "SDMGrad",
    "UPGrad",
    "available",
    "balancer_class",
    "make",
    "parse_spec",
    "register",
]
