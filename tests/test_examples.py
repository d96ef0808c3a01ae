"""The examples run as their first lines say, on one process or two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
LAST = {
    "ddp.py": r"2 replicas with \d+ equal parameters",
    "fsdp2.py": r"2 processes with equal weights; this one holds (\d+) of the (\d+) shared parameters",
}
ALONE = {
    "lightning_module.py": (["--epochs", "3"], r"validation amplitude \d\.\d+ sign 0\.\d+; 96 steps, the last solved"),
    "lightning_module.py --manual": (["--epochs", "2"], r"validation .*; 64 steps, the last solved"),
    "accelerate_loop.py": (["--epochs", "3"], r"192 steps balanced, the last solved; saved and loaded"),
    "accelerate_loop.py --whole": (["--epochs", "3"], r"96 steps balanced, the last solved; saved and loaded"),
    "trainer.py": (["--epochs", "4"], r"right: topic (0\.9|1\.0)\d+, tags (0\.9|1\.0)\d+; 128 steps"),
    "reinforcement.py": ([], r"reached at the end:( \w+ (1\.00|0\.9\d),?){4}"),
}
"""Options that make it short, and its last line."""


def train(command: list[str]) -> tuple[list[str], str]:
    """The lines of the steps, and the last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    return steps, last


@pytest.mark.parametrize("name", ALONE)
def test_an_example_trains_on_one_process(name):
    (file, *given), (options, wanted) = name.split(), ALONE[name]
    steps, last = train([sys.executable, str(EXAMPLES / file), *given, *options])
    assert re.fullmatch(wanted, last), last
    told = [line for line in steps if line.startswith(("epoch", "step"))]
    better = [[float(x) for x in re.findall(r"(?:loss|reached) (\S+)", line)] for line in (told[0], told[-1])]
    sign = -1 if file == "reinforcement.py" else 1
    assert sign * sum(better[1]) < sign * sum(better[0])


@pytest.mark.parametrize("name", LAST)
def test_an_example_trains_on_two_processes(name):
    command = [sys.executable, "-W", "error::FutureWarning", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(EXAMPLES / name), "--steps", "25"]
    steps, last = train(command)
    losses = [[float(loss) for loss in re.findall(r"loss (\S+)", line)] for line in steps]
    assert len(losses) == 25  # one process alone prints
    assert sum(losses[-1]) < sum(losses[0])
    found = re.fullmatch(LAST[name], last)
    assert found, last
    if found.groups():
        assert 2 * int(found[1]) == int(found[2])
