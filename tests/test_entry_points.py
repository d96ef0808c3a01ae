"""A package of someone else's, built and installed, adds a method: it is listed, made, run and checked like our own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "accord-outside"
version = "1.0"

[project.entry-points."accord.balancers"]
inverse-norm = "outside:InverseNorm"
log-sum = "outside.losses:LogSum"
"""

GRAMIAN_METHOD = '''\
"""A balancer that lives outside accord."""

import numpy as np

from accord.balancers import GramianBalancer
from accord.solvers import Solution


class InverseNorm(GramianBalancer):
    """Inverse norm: every gradient divided by a power of its norm.

    Args:
        tasks: The number of tasks, or their names.
        power: The power.
        heads: ``"plain"`` or ``"weighted"``.
    """

    reference = "Nobody, 2026"

    def __init__(self, tasks, *, power=1.0, heads="plain"):
        super().__init__(tasks, heads=heads)
        self.power = power

    @property
    def homogeneity(self):
        return -self.power

    def solve(self, gramian):
        norms = np.sqrt(np.diagonal(gramian))
        weights = np.where(norms > 0, np.where(norms > 0, norms, 1.0) ** -self.power, 0.0)
        return Solution("inverse-norm", weights, 0.0, 0.0, "solved", zero_rows=tuple(np.flatnonzero(norms == 0)))
'''

LOSS_METHOD = '''\
"""A balancer on losses that lives outside accord, with a state that it forgets to save."""

import numpy as np

from accord.balancers import LossBalancer


class LogSum(LossBalancer):
    """Log-sum: the gradient of the logarithm of the sum of all losses so far."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self._total = 0.0

    def weigh(self, values):
        self._total += values.sum()
        return np.full(len(values), 1.0 / self._total)
'''

CHECK = """\
import sys
import accord
from accord.testing import check_balancer

assert {"inverse-norm", "log-sum"} < set(accord.available())
balancer = accord.make("inverse-norm:power=2", tasks=["a", "b"])
assert repr(balancer) == "InverseNorm(tasks=['a', 'b'], power=2)", balancer
assert type(balancer).method == "inverse-norm"
check_balancer("inverse-norm")
check_balancer("inverse-norm", power=0.5, heads="weighted")
try:
    check_balancer("log-sum")
except AssertionError as error:
    assert "log-sum fails the check 'resume'" in str(error), error
else:
    sys.exit("a balancer that forgets its state passed")
print("all as it should be")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the package was installed by pip, from its source and without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "outside").mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "outside" / "__init__.py").write_text(GRAMIAN_METHOD)
    (source / "outside" / "losses.py").write_text(LOSS_METHOD)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the package on its path, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "160"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_package_was_really_installed(site):
    assert list(site.glob("accord_outside-1.0.dist-info/RECORD"))
    assert list(site.glob("accord_outside-1.0.dist-info/entry_points.txt"))


def test_its_methods_are_listed(site):
    done = run(site, "-m", "accord", "list")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["inverse-norm"])
    assert all(word in line for word in ("gramian", "Nobody, 2026", "power=1.0"))
    assert any(line.split()[:1] == ["log-sum"] for line in done.stdout.splitlines())


def test_they_are_made_by_name_and_checked(site):
    done = run(site, "-W", "error", "-c", CHECK)
    assert done.stdout.strip() == "all as it should be", done.stdout + done.stderr


def test_a_name_near_it_is_suggested(site):
    done = run(site, "-c", "import accord\naccord.make('inverse-nrom', tasks=2)")
    assert "did you mean 'inverse-norm'" in done.stderr


def test_without_the_package_there_is_no_such_method():
    done = run(Path(), "-c", "import accord\nprint('inverse-norm' in accord.available())")
    assert done.stdout.split() == ["False"], done.stderr
