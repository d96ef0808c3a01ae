"""Which commit of a checkout is running: read from its .git folder, so that git need not be installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
PATIENCE = 10.0  # seconds for git, which is slow on a cold or remote disk


def checkout(package: Path = PACKAGE) -> Path | None:
    """The root of the checkout that a package runs from; None where it is installed.

    The repository around a virtual environment is somebody else's, so the package must be its ``src/accord``.
    """
    root = package.parents[1]
    return root if package == root / "src" / package.name and (root / ".git").exists() else None


@cache
def commit(package: Path = PACKAGE) -> str | None:
    """The hash of the commit that is checked out; None where there is no checkout, or its files cannot be read."""
    root = checkout(package)
    if root is None:
        return None
    try:
        return _head(root / ".git")
    except (OSError, UnicodeDecodeError):
        return None


@cache
def modified(package: Path = PACKAGE) -> bool | None:
    """Whether the package's files differ from the commit; None where git, which alone can tell, is not there."""
    root, git = checkout(package), shutil.which("git")
    if root is None or git is None:
        return None
    command = [git, "-C", str(root), "status", "--porcelain", "--", str(package)]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking must not write
    try:
        told = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if told.returncode else bool(told.stdout.strip())


def _head(git: Path) -> str | None:
    """What HEAD points to, in a checkout or in a linked working tree."""
    if git.is_file():
        git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    common = git
    if (git / "commondir").exists():
        common = git / (git / "commondir").read_text(encoding="utf-8").strip()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    for _ in range(5):  # a branch may be the name of another one
        if not head.startswith("ref:"):
            return head if HASH.fullmatch(head) else None
        name = head.removeprefix("ref:").strip()
        loose = next((place / name for place in (git, common) if (place / name).is_file()), None)
        head = loose.read_text(encoding="utf-8").strip() if loose else _packed(common / "packed-refs", name)
    return None


def _packed(path: Path, name: str) -> str:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            value, _, ref = line.partition(" ")
            if ref == name:
                return value
    return ""
