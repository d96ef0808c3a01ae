"""Under fire: killed at any moment, by the clock or at a call that writes, a store goes on to the same bits."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.fire import CALLS, PHASES, Fire
from support.stores import check_after_kill, numbers

SMALL = "support.small_problem:EXPERIMENT"
KILLS = {
    "toy": (["graddrop"], 8),
    "qm9": (["famo", "stl:task=mu"], 14),
    "multimnist": (["cagrad"], 10),
    "toxcast40": (["rlw"], 8),
    "nyuv2": (["nash-mtl"], 10),
    "cityscapes": (["dwa"], 12),
    "celeba": (["uw"], 8),
    "rooms": (["nash-mtl:update_every=2"], 12),
    SMALL: (["stl", "uw", "pcgrad:at=features"], 12),
    "support.quadratic:EXPERIMENT": (["rlw", "nash-mtl"], 6),
}
"""Methods and kills of each experiment, 100 in all, over methods with state, draws or parameters of their own."""


@pytest.fixture(scope="module")
def fire():
    server = Fire()
    yield server
    server.close()


def burn(fire, experiment, methods, kills, folder):
    """Kill and resume until there were so many kills; every store ends like the one that was left in peace."""
    whole = fire.train(experiment, methods, folder / "whole")
    assert set(whole["statuses"]) == {"done"}
    expected = numbers(folder / "whole", experiment)
    draw = random.Random(f"{experiment} {kills}")
    done = stores = 0
    while done < kills:
        store = folder / f"store-{stores}"
        for attempt in range(6):
            if done == kills:
                break
            if draw.random() < 0.3:
                kill = {"after": draw.uniform(0, whole["seconds"] / (attempt + 1))}
            else:
                kill = {"at": draw.randint(1, whole["calls"] // (attempt + 1)), "phase": draw.choice(PHASES)}
            told = fire.train(experiment, methods, store, **kill)
            if not told["killed"]:  # it was done before
                break
            done += 1
            check_after_kill(store, experiment)
        told = fire.train(experiment, methods, store)
        assert set(told["statuses"]) <= {"done", "skipped"}, told
        assert told["notes"] == []
        assert numbers(store, experiment) == expected
        stores += 1


@pytest.mark.parametrize("experiment", KILLS)
def test_runs_that_are_killed_go_on_to_the_same_bits(fire, tmp_path, experiment):
    methods, kills = KILLS[experiment]
    burn(fire, experiment, methods, kills // 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", KILLS)
def test_runs_that_are_killed_a_hundred_times_go_on_to_the_same_bits(fire, tmp_path, experiment):
    assert sum(kills for _, kills in KILLS.values()) == 100
    burn(fire, experiment, *KILLS[experiment], tmp_path)


def test_a_run_killed_at_each_of_its_calls_goes_on_to_the_same_bits(fire, tmp_path):
    whole = fire.train(SMALL, ["uw"], tmp_path / "whole", "short")
    expected = numbers(tmp_path / "whole", SMALL, "short")
    for at in range(1, whole["calls"] + 1):
        store = tmp_path / f"store-{at}"
        told = fire.train(SMALL, ["uw"], store, "short", at=at, phase=PHASES[at % 3])
        assert told["killed"] or PHASES[at % 3] == "half"  # after the last write there is none to be torn
        check_after_kill(store, SMALL, "short")
        told = fire.train(SMALL, ["uw"], store, "short")
        assert told["statuses"] in (["done"], ["skipped"])  # skipped if it was killed after result.json
        assert told["notes"] == []
        assert numbers(store, SMALL, "short") == expected


def test_a_kill_while_earlier_runs_are_discarded_loses_nothing_else(fire, tmp_path):
    fire.train(SMALL, ["ls", "uw"], tmp_path / "whole")
    expected = numbers(tmp_path / "whole", SMALL)
    statuses = set()
    for at in range(3, 15, 2):  # the first calls take the lock; then the old folder goes, file by file
        store = tmp_path / f"store-{at}"
        shutil.copytree(tmp_path / "whole", store)
        assert fire.train(SMALL, ["uw"], store, fresh=True, at=at, phase=PHASES[at % 3])["killed"]
        check_after_kill(store, SMALL)
        told = fire.train(SMALL, ["ls", "uw"], store)
        statuses.add(tuple(told["statuses"]))
        assert numbers(store, SMALL) == expected
    assert ("skipped", "done") in statuses


PARALLEL = """
import multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from accord.bench import experiments
from accord.bench.runner import run

def attack():
    while len(multiprocessing.active_children()) < 2 or not list(Path(sys.argv[1]).rglob("checkpoint.pt")):
        time.sleep(0.01)
    multiprocessing.active_children()[0].kill()
    while not list(Path(sys.argv[1]).rglob("failure.json")):
        time.sleep(0.01)
    print("a worker was killed", flush=True)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=attack, daemon=True).start()
    run(experiments.load(sys.argv[2]), "long", sys.argv[3:], [0], sys.argv[1], jobs=2, checkpoint_seconds=0.0)
"""


@pytest.mark.slow
def test_a_worker_and_then_its_parent_are_killed(fire, tmp_path):
    methods = ["famo", "uw", "dwa", "stl"]
    fire.train(SMALL, methods, tmp_path / "whole", "long")
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    command = [sys.executable, script, str(tmp_path / "runs"), SMALL, *methods]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "a worker was killed\n"
    (failure,) = tmp_path.rglob("failure.json")
    assert "its worker process died (signal 9: Killed" in failure.read_text()
    told = fire.train(SMALL, methods, tmp_path / "runs", "long")
    assert set(told["statuses"]) <= {"done", "skipped"}, told
    assert numbers(tmp_path / "runs", SMALL, "long") == numbers(tmp_path / "whole", SMALL, "long")


def test_the_kills_are_where_the_store_writes(fire, tmp_path):
    """Every call of the store is counted, or there would be moments that no kill has been tried at."""
    source = Path(sys.modules["accord.bench.files"].__file__).read_text()
    source += Path(sys.modules["accord.bench.writing"].__file__).read_text()
    used = {name for name in dir(os) if f"os.{name}(" in source}
    assert used - set(CALLS) <= {"close", "fstat", "getpid"}
