"""Frameworks are optional: what is missing is named together with the extra that brings it."""

from __future__ import annotations

from importlib.util import find_spec

from accord.errors import DependencyError


def require(extra: str, *packages: str) -> str:
    """The first of the packages that is installed; none of them is imported.

    Args:
        extra: The extra of accord that brings it, which is also the module's name.
        packages: Names of packages, any of which will do.

    Raises:
        DependencyError: None is installed.
    """
    for package in packages:
        if find_spec(package) is not None:
            return package
    raise DependencyError(
        f"accord.integrations.{extra} needs the package {' or '.join(packages)}: pip install 'accord[{extra}]'"
    )
