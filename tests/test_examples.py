"""The examples run as their first lines say, on two processes."""

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


@pytest.mark.parametrize("name", LAST)
def test_an_example_trains_on_two_processes(name):
    command = [sys.executable, "-W", "error::FutureWarning", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(EXAMPLES / name), "--steps", "25"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    losses = [[float(loss) for loss in re.findall(r"loss (\S+)", line)] for line in steps]
    assert len(losses) == 25  # one process alone prints
    assert sum(losses[-1]) < sum(losses[0])
    found = re.fullmatch(LAST[name], last)
    assert found, last
    if found.groups():
        assert 2 * int(found[1]) == int(found[2])
