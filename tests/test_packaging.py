"""The wheel and the sdist: what is in them, and what they do in a fresh environment, with and without extras."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import accord
from support.fresh import ROOT, Fresh, build, requirements

SOURCE = ROOT / "src" / "accord"

STEP = """\
import torch
import accord
from accord import testing

trunk, head = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)
losses = (head(trunk(torch.randn(16, 3))) - torch.tensor([1.0, -1.0])).square().mean(0)
balance = accord.NashMTL(tasks=2).backward(losses, shared=trunk)
assert balance.outcome == "solved" and balance.residual < 1e-10, balance
assert all(parameter.grad is not None for parameter in trunk.parameters())
testing.check_balancer("mgda")
print(accord.__version__, accord.__file__)
"""

WAVES = """\
import torch
import accord


class Waves(accord.Problem):
    tasks = {"size": {"error": "min"}, "sign": {"error": "min"}}
    epochs = 1

    def build(self):
        self.net, self.x = torch.nn.Linear(4, 2), torch.randn(60, 4)
        return accord.Training(self.net, torch.utils.data.DataLoader(range(60), batch_size=20), shared=self.net)

    def losses(self, chosen):
        y = self.net(self.x[chosen])
        return {"size": (y[:, 0] - 1).square().mean(), "sign": (y[:, 1] + 1).square().mean()}

    def evaluate(self):
        return {"size/error": 0.5, "sign/error": 0.25}
"""

WALK = """\
import importlib, json, pkgutil
import accord

found = {}
for module in pkgutil.walk_packages(accord.__path__, "accord.", onerror=lambda name: None):
    if module.name == "accord.__main__":
        continue
    try:
        importlib.import_module(module.name)
    except (ImportError, SystemExit) as error:
        found[module.name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that was built out of it."""
    wheel, sdist = build(ROOT, tmp_path_factory.mktemp("dist"))
    assert (wheel.suffix, sdist.suffixes[-2:]) == (".whl", [".tar", ".gz"])
    return sdist, wheel


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The folder of the sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built[0]) as archive:
        archive.extractall(folder, filter="data")
    (only,) = folder.iterdir()
    return only


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """An environment with ``pip install accord``."""
    return Fresh(tmp_path_factory.mktemp("bare") / "env", built[1])


@pytest.fixture(scope="module")
def bench(built, tmp_path_factory):
    """An environment with ``pip install 'accord[bench]'``."""
    return Fresh(tmp_path_factory.mktemp("bench") / "env", built[1], "bench")


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as files:
        return set(files.namelist())


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


# What is in them


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    ours = {
        f"accord/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    theirs = {name for name in names(built[1]) if ".dist-info/" not in name}
    assert theirs == ours


@pytest.mark.parametrize(
    "name",
    [
        "accord/py.typed",
        "accord/bench/data/files/toxcast40.npz",
        "accord/bench/data/files/toxcast40.LICENSE.txt",
        "accord/bench/data/files/care/mt50-roberta.json",
        "accord/bench/data/files/care/LICENSE.txt",
        "accord/bench/published/index.toml",
        "accord/bench/published/nash-mtl/table-6.toml",
    ],
)
def test_data_and_their_licences_are_in_it(built, name):
    assert name in names(built[1])


def test_the_licence_the_script_and_the_version_are_in_its_metadata(built):
    with zipfile.ZipFile(built[1]) as files:
        folder = f"accord-{accord.__version__}.dist-info"
        assert files.read(f"{folder}/licenses/LICENSE").decode() == (ROOT / "LICENSE").read_text()
        assert "accord = accord.bench.cli:main" in files.read(f"{folder}/entry_points.txt").decode()
        metadata = files.read(f"{folder}/METADATA").decode()
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert "Root-Is-Purelib: true" in zipfile.ZipFile(built[1]).read(f"{folder}/WHEEL").decode()


def test_without_extras_it_asks_for_torch_and_numpy_alone(built):
    plain = {requirement.name for requirement in requirements(built[1]) if requirement.marker is None}
    assert plain == {"torch", "numpy"}


def test_the_sdist_has_what_its_tests_and_its_documentation_need(unpacked):
    for name in ("pyproject.toml", "conftest.py", "Makefile", "constraints.txt", "LICENSE", "CONTRIBUTING.md"):
        assert (unpacked / name).is_file(), name
    for folder in ("src", "tests", "benchmarks", "docs", "examples"):
        ours = {
            path.relative_to(ROOT)
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not {"__pycache__", "_build"} & set(path.parts)
        }
        theirs = {path.relative_to(unpacked) for path in (unpacked / folder).rglob("*") if path.is_file()}
        assert theirs <= ours
        assert {path for path in ours if path.suffix in (".py", ".md", ".toml", ".npz", ".json")} <= theirs


def test_the_sdist_builds_the_wheel_that_the_checkout_builds(built, unpacked, tmp_path):
    (again,) = build(unpacked, tmp_path / "again", "--wheel")
    (checkout,) = build(ROOT, tmp_path / "checkout", "--wheel")
    assert again.read_bytes() == checkout.read_bytes() == built[1].read_bytes()


def test_tests_and_documentation_run_in_the_sdist(unpacked):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_metrics.py", "docs/index.md"]
    environment = os.environ | {"PYTHONPATH": str(unpacked / "src")}
    result = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert re.search(r"\d+ passed", done(result))


# Without extras


def test_in_the_bare_environment_nothing_else_is_to_be_had(bare):
    names = "tyro rich polars matplotlib scipy sklearn rdkit torch_geometric cvxpy pytest packaging"
    program = f"from importlib.util import find_spec; print(*(n for n in '{names}'.split() if find_spec(n)))"
    assert done(bare.run("python", "-c", program)).split() == []


def test_the_core_works_without_extras(bare):
    version, path = done(bare.run("python", "-W", "error", "-c", STEP)).split()
    assert version == accord.__version__
    assert Path(path).is_relative_to(bare.folder)


@pytest.mark.parametrize("command", [["accord"], ["python", "-m", "accord"], ["accord", "run", "toy"]])
def test_the_command_line_names_its_extra(bare, command):
    result = bare.run(*command)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "accord: the command line needs the package 'tyro': pip install 'accord[bench]'\n"


def test_compare_names_its_extra_before_it_trains(bare):
    (bare.home / "waves.py").write_text(WAVES)
    result = bare.run("python", "-c", "import accord, waves; accord.compare(waves.Waves(), ['ls'])")
    assert (result.returncode, result.stdout) == (1, "")
    assert "DependencyError: accord.compare needs the package 'rich': pip install 'accord[bench]'" in result.stderr


@pytest.mark.parametrize("extras", ["bare", "bench"])
def test_every_module_is_there_or_names_an_extra_that_brings_what_it_needs(extras, request, built):
    environment = request.getfixturevalue(extras)
    markers = [str(requirement.marker) for requirement in requirements(built[1])]
    offered = {extra for marker in markers for extra in re.findall(r"extra == ['\"](\w+)", marker)}
    failed = json.loads(done(environment.run("python", "-c", WALK)))
    told = "accord.bench.cli"  # which alone imports the verbs, and has told of tyro before
    behind = set(re.findall(r"^from (accord\.bench\.\w+_verb) import", (SOURCE / "bench/cli.py").read_text(), re.M))
    if extras == "bench":
        assert not {told, *behind} & set(failed)
    else:
        assert failed.pop(told) == ["SystemExit", "2"]
        failed = {name: error for name, error in failed.items() if name not in behind}
    assert "accord.bench.rl.environment" in failed  # it needs a simulator that neither has
    for name, (kind, text) in failed.items():
        assert kind == "DependencyError", f"{name}: {kind}: {text}"
        extra = re.search(r"pip install 'accord\[(\w+)\]'", text)
        assert extra, f"{name}: {text}"
        assert extra[1] in offered, f"{name}: there is no extra {extra[1]}"


# With the command line's extra


def test_the_module_is_the_script(bench):
    for command in (["--help"], ["--version"], ["solve", "--help"], ["run", "toy", "--sede", "1"]):
        script, module = bench.run("accord", *command), bench.run("python", "-m", "accord", *command)
        assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)
    assert done(bench.run("accord", "--version")) == f"accord {accord.__version__}\n"


def test_compare_runs_where_packages_are_links(bench):
    (bench.home / "waves.py").write_text(WAVES)
    table = done(bench.run("python", "-c", "import accord, waves; print(accord.compare(waves.Waves(), ['ls']))"))
    assert re.search(r"^\W*ls +0\.5", table, re.M), table


def test_an_experiment_runs_and_reports(bench):
    toy = ("toy", "--preset", "smoke", "--store", "runs")
    done(bench.run("accord", "run", *toy, "--methods", "nash-mtl", "--no-report"))
    assert "nash-mtl" in done(bench.run("python", "-m", "accord", "report", *toy))
    assert done(bench.run("python", "-m", "accord", "reproduce"))  # reads the published tables, which are data files


@pytest.mark.parametrize(("experiment", "extra"), [("qm9", "qm9"), ("toxcast40", "experiments"), ("mt10", "rl")])
def test_an_experiment_names_the_extra_that_it_lacks(bench, experiment, extra):
    result = bench.run("accord", "run", experiment, "--preset", "smoke", "--store", f"runs-{experiment}")
    assert result.returncode == 2
    assert f"pip install 'accord[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr
