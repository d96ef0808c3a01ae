"""Engines: the Jacobian of K losses with respect to shared parameters, as a linear operator."""

from accord.jacobian.base import Jacobian
from accord.jacobian.batched import BatchedJacobian, batched
from accord.jacobian.features import BatchedFeatures, FeatureJacobian, SequentialFeatures, features
from accord.jacobian.losses import Losses, Shared
from accord.jacobian.sequential import SequentialJacobian, sequential
from accord.jacobian.views import LossesOnly, ScaledJacobian

ENGINES = {"sequential": SequentialJacobian, "batched": BatchedJacobian}
"""Engine by name."""

FEATURE_ENGINES = {"sequential": SequentialFeatures, "batched": BatchedFeatures}
"""Engine by name, for ``features=``."""

__all__ = [
    "ENGINES",
    "FEATURE_ENGINES",
    "BatchedFeatures",
    "BatchedJacobian",
    "FeatureJacobian",
    "Jacobian",
    "Losses",
    "LossesOnly",
    "ScaledJacobian",
    "SequentialFeatures",
    "SequentialJacobian",
    "Shared",
    "batched",
    "features",
    "sequential",
]
