"""Engines: the Jacobian of K losses with respect to shared parameters, as a linear operator."""

from accord.jacobian.base import Jacobian
from accord.jacobian.batched import BatchedJacobian, batched
from accord.jacobian.losses import Losses, Shared
from accord.jacobian.sequential import SequentialJacobian, sequential

ENGINES = {"sequential": SequentialJacobian, "batched": BatchedJacobian}
"""Engine by name."""

__all__ = [
    "ENGINES",
    "BatchedJacobian",
    "Jacobian",
    "Losses",
    "SequentialJacobian",
    "Shared",
    "batched",
    "sequential",
]
