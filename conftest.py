"""Examples are tests: docstrings, and every code block and command of the README and the docs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

ROOT = Path(__file__).parent
TOO_LONG = re.compile(r"\b(laptop|paper|rerun|pip|apt|torchrun)\b|accord run qm9|--jobs")
STAND_INS = {
    "make run": "make run PRESET=smoke JOBS=2 STORE={folder}/runs",  # the same rule on a small preset
    "make test": "make test PYTEST_ARGS='--collect-only -q -p no:xdist'",  # the same rule; it is what runs now
}


def run_console(example: Example) -> None:
    """Run each ``$ command`` of a console block in a folder of its own; make's in the checkout."""
    folder = example.namespace["folder"]
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    for line in example.parsed.splitlines():
        if not line.startswith("$ "):
            continue
        command = line.removeprefix("$ ")
        assert not TOO_LONG.search(command), f"{command}: not for the tests; put it into a text block"
        if command.startswith("make") and Path(sys.prefix) != ROOT / ".venv":
            continue  # make would build another environment than the one under test
        command = (
            STAND_INS.get(command, command).format(folder=shlex.quote(str(folder))) if "make" in command else command
        )
        where = ROOT if command.startswith("make") else folder
        done = subprocess.run(
            command, shell=True, cwd=where, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands of a document."""
    return tmp_path_factory.mktemp("document")


documents = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("console", run_console)],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    fixtures=["folder"],
)
docstrings = Sybil(parsers=[DocTestParser()], patterns=["src/accord/*.py", "src/accord/**/*.py"])

pytest_collect_file = (documents + docstrings).pytest()
