"""Built distributions, and fresh environments into which pip installs them: with what an extra names, and no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def build(source: Path, target: Path, *kinds: str) -> list[Path]:
    """Build ``source`` as whoever publishes it would, without a network.

    Args:
        source: A folder with a pyproject.toml.
        target: Where the files go; what is there already is not returned.
        kinds: ``"--sdist"``, ``"--wheel"``; none for both, the wheel out of the sdist.

    Returns:
        The new files, sorted by name.
    """
    before = set(target.iterdir()) if target.exists() else set()
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(target), str(source)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(set(target.iterdir()) - before)


def requirements(wheel: Path) -> list[Requirement]:
    """What the wheel asks for, those of its extras included, as its metadata say."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(files.read(name).decode())
    return [Requirement(text) for text in message.get_all("Requires-Dist", [])]


def closure(wanted: Iterable[Requirement], extras: Iterable[str] = ()) -> dict[str, metadata.Distribution]:
    """The distributions of this environment that the requirements lead to, by normalised name.

    A requirement on accord itself, as one extra names another, stands for what that extra asks for.

    Raises:
        AssertionError: One of them is not installed here.
    """
    wanted, found = list(wanted), {}
    todo = [(requirement, tuple(extras)) for requirement in wanted]
    seen = set()
    while todo:
        requirement, asked = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *asked)):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        if name == "accord":
            todo += [(own, tuple(requirement.extras)) for own in wanted]
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise AssertionError(f"{requirement} is asked for and not installed here") from None
        todo += [(Requirement(text), tuple(requirement.extras)) for text in found[name].requires or ()]
    return found


class Fresh:
    """A new virtual environment with a wheel of accord, installed by pip, and nothing that it did not ask for.

    Torch and the like are gigabytes, so they are not installed anew: the distributions that the wheel and its extras
    lead to are linked from the environment of the tests, their metadata with them. Pip sees them as installed, and
    without an index it fails where one is missing.

    Args:
        folder: Where it goes.
        wheel: The built wheel.
        extras: Such as ``"bench"``.
    """

    def __init__(self, folder: Path, wheel: Path, *extras: str) -> None:
        venv.create(folder, symlinks=True)
        self.folder, self.home = folder, folder.parent
        self.site = next(folder.glob("lib/python*/site-packages"))
        for distribution in closure(requirements(wheel), extras).values():
            self._link(distribution)
        asked = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
        options = ["--no-index", "--quiet", "--no-compile"]
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", *options, asked]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """A command of this environment, outside the checkout; the first word may be a script of accord's or python."""
        path = self.folder / "bin" / command[0]
        settings = {"cwd": self.home, "env": _environment(), "capture_output": True, "text": True, "check": False}
        return subprocess.run([str(path), *command[1:]], **(settings | options))

    def _link(self, distribution: metadata.Distribution) -> None:
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = self.site / name
            if not link.exists():  # a namespace that two distributions share is linked whole, once
                link.symlink_to(distribution.locate_file(name))


def _environment() -> dict[str, str]:
    """Of the processes: no paths or settings of Python or pip that the outside has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "COV_"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "COLUMNS": "160"}
