"""The families of ``accord.testing.gramians`` under the name that the solvers' tests use."""

from accord.testing.gramians import FAMILIES, STATIONARY, gramian, jacobian

__all__ = ["FAMILIES", "STATIONARY", "gramian", "jacobian"]
