"""The example of the diagnostics runs, logs every step, and reads its log."""

import os
import subprocess
import sys
from pathlib import Path

from accord.diagnostics import read_log

EXAMPLE = Path(__file__).parent.parent / "examples" / "diagnostics.py"


def test_the_example_diagnoses_trains_and_logs(tmp_path):
    log = tmp_path / "run.jsonl"
    command = [sys.executable, str(EXAMPLE), "--steps", "30", "--log", str(log)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split("After training")
    for text in (before, after):
        assert "What each method would do here" in text
        assert "nash-mtl" in text
    read = read_log(log)
    assert len(read) == 30
    total = sum(read.series("losses", task)[1] for task in read.tasks)
    assert total[-5:].mean() < total[:5].mean()
