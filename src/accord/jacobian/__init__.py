"""Engines: the Jacobian of K losses with respect to shared parameters, as a linear operator."""

from accord.jacobian.accumulated import Accumulated, accumulated
from accord.jacobian.auto import auto, auto_features
from accord.jacobian.base import Jacobian
from accord.jacobian.batched import BatchedJacobian, batched
from accord.jacobian.compiled import CompiledLoss, compiled
from accord.jacobian.disjoint import DisjointJacobian, disjoint
from accord.jacobian.features import BatchedFeatures, FeatureJacobian, SequentialFeatures, features
from accord.jacobian.losses import Losses, Shared
from accord.jacobian.reduce import Local, MeanRows, Reduce, SumShards
from accord.jacobian.sequential import SequentialJacobian, sequential
from accord.jacobian.views import LossesOnly, ScaledJacobian
from accord.jacobian.watching import Watched, watch

ENGINES = {"sequential": SequentialJacobian, "batched": BatchedJacobian, "auto": auto}
"""Engine by name."""

FEATURE_ENGINES = {"sequential": SequentialFeatures, "batched": BatchedFeatures, "auto": auto_features}
"""Engine by name, for ``features=``."""

__all__ = [
    "ENGINES",
    "FEATURE_ENGINES",
    "Accumulated",
    "BatchedFeatures",
    "BatchedJacobian",
    "CompiledLoss",
    "DisjointJacobian",
    "FeatureJacobian",
    "Jacobian",
    "Local",
    "Losses",
    "LossesOnly",
    "MeanRows",
    "Reduce",
    "ScaledJacobian",
    "SequentialFeatures",
    "SequentialJacobian",
    "Shared",
    "SumShards",
    "Watched",
    "accumulated",
    "auto",
    "batched",
    "compiled",
    "disjoint",
    "features",
    "sequential",
    "watch",
]
