"""A user's type checker sees the types of the installed wheel: right uses pass, and each wrong use is an error."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.fresh import ROOT, Fresh, build

USES = ROOT / "tests" / "support" / "typed_uses.py"

BEFORE = """\
import torch

import accord
from accord import solvers

balancer = accord.MGDA(tasks=2)
losses = [torch.ones(()), torch.ones(())]
"""

WRONG = {
    "accord.NashMTL(tasks=3.5)": "bad-argument-type",
    "accord.NashMTL(tasks=3, update_evry=2)": "unexpected-keyword",
    'accord.NashMTL(tasks=3, update_every="often")': "bad-argument-type",
    'accord.FairGrad(tasks=3, alpha="two")': "bad-argument-type",
    'accord.CAGrad(3, heads="sometimes")': "bad-argument-type",
    'accord.make(["nash-mtl"], tasks=3)': "bad-argument-type",
    "accord.register(3)": "bad-argument-type",
    "accord.Nash(tasks=3)": "missing-attribute",
    "balancer.backward(3)": "bad-argument-type",
    "balancer.backward(losses, shard=[])": "unexpected-keyword",
    "balancer.backward(losses).wights": "missing-attribute",
    "balancer.apply([1.0, 2.0])": "bad-argument-type",
    "accord.jacobian.disjoint(3, print, losses)": "bad-argument-type",
    "solvers.nash(gram=1)": "unexpected-keyword",
    "solvers.nash([[1.0]]).weight": "missing-attribute",
    'accord.compare("nash-mtl")': "bad-argument-type",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """With the wheel and no extras."""
    (wheel,) = build(ROOT, tmp_path_factory.mktemp("dist"), "--wheel")
    return Fresh(tmp_path_factory.mktemp("fresh") / "env", wheel)


def pyrefly(environment: Fresh, folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The checker over a user's module, as that environment has its packages."""
    (folder / "pyrefly.toml").write_text(f'python-interpreter-path = "{environment.python}"\n')
    (folder / "mine.py").write_text(text)
    command = [str(Path(sys.executable).parent / "pyrefly"), "check", "--output-format", "min-text", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def errors(result: subprocess.CompletedProcess[str]) -> dict[int, set[str]]:
    """Their kinds, by line."""
    found: dict[int, set[str]] = {}
    for line, kind in re.findall(r"^ERROR mine\.py:(\d+):.*\[([\w-]+)\]", result.stdout, re.M):
        found.setdefault(int(line), set()).add(kind)
    assert bool(found) == bool(result.returncode), result.stdout + result.stderr
    return found


def test_the_checker_reads_the_installed_package(environment, tmp_path):
    assert (environment.site / "accord" / "py.typed").is_file()
    text = 'import accord\n\nreveal_type(accord.make("ls", tasks=2))\nreveal_type(accord.solvers.nash)\n'
    result = pyrefly(environment, tmp_path, text, "--min-severity=info")
    assert "revealed type: Balancer" in result.stdout, result.stdout + result.stderr
    assert "-> Solution" in result.stdout


def test_typical_uses_pass(environment, tmp_path):
    assert errors(pyrefly(environment, tmp_path, USES.read_text())) == {}


def test_typical_uses_run(environment):
    """So that what the checker passes is code that works."""
    result = environment.run("python", "-W", "error", str(USES))
    assert result.returncode == 0, result.stderr


def test_each_wrong_use_is_an_error(environment, tmp_path):
    found = errors(pyrefly(environment, tmp_path, BEFORE + "\n".join(WRONG) + "\n"))
    first = BEFORE.count("\n") + 1
    for number, (use, kind) in enumerate(WRONG.items(), first):
        assert kind in found.get(number, set()), f"{use}: {found.get(number, 'no error')}"
    assert set(found) == set(range(first, first + len(WRONG)))  # and nothing else is
