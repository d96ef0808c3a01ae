"""What importing accord loads: the cause of what it costs, which `python -m benchmarks.import_time` measures."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from support.fresh import ROOT, closure

SOURCE = ROOT / "src" / "accord"
EXTRA = {"rich", "tyro", "polars", "matplotlib", "scipy", "sklearn", "torch_geometric", "rdkit", "gymnasium"}

PROGRAM = """\
import sys, json
{before}
before = set(sys.modules)
{asked}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded(asked: str, before: str = "import torch, numpy.typing") -> set[str]:
    """The modules that a statement loads in a process of its own, beyond those that another one has."""
    program = [sys.executable, "-c", PROGRAM.format(asked=asked, before=before)]
    return set(json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout))


def packages(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)


def test_importing_it_loads_one_module():
    assert loaded("import accord") == {"accord"}


def test_importing_it_does_not_load_torch():
    assert packages(loaded("import accord", before="")) == {"accord"}


@pytest.mark.parametrize(
    "asked",
    [
        "import accord; accord.NashMTL(tasks=3)",
        "import accord; accord.make('cagrad:c=0.5', tasks=['a', 'b'])",
        "import accord; accord.jacobian.disjoint, accord.metrics.delta_m, accord.testing.check_balancer",
    ],
)
def test_the_core_loads_itself_alone_beyond_torch_and_numpy(asked):
    modules = loaded(asked)
    assert packages(modules) == {"accord"}
    assert not any(name.startswith("accord.bench") for name in modules)


def test_solvers_load_numpy_alone():
    modules = loaded("from accord import solvers; assert solvers.nash([[2.0, 1.0], [1.0, 2.0]]).solved", before="")
    assert packages(modules) == {"accord", "numpy"}


def test_compare_loads_its_packages_when_it_is_called():
    assert not packages(loaded("import accord; accord.compare, accord.Problem")) & EXTRA


def test_the_command_line_starts_without_torch():
    asked = "from accord.bench import cli\ntry: cli.main(['--version'])\nexcept SystemExit: pass"
    program = [sys.executable, "-c", f"import sys\n{asked}\nprint(*sys.modules)"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "polars", "matplotlib", "scipy"} & set(done.stdout.split())


def test_every_package_that_is_imported_is_asked_for():
    """By the package or one of its extras, or comes with what they ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [wanted for extra, wanted in project["optional-dependencies"].items() if extra not in ("dev", "docs")]
    offered = set(closure(map(Requirement, itertools.chain(project["dependencies"], *extras))))
    homes = metadata.packages_distributions()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"accord"}:
                distributions = {re.sub(r"[-_.]+", "-", home).lower() for home in homes.get(name, [])}
                assert distributions & offered, f"{path.relative_to(ROOT)} imports {name}, which nothing asks for"
