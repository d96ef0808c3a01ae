"""Disks that refuse, damaged files: a run is told with its file, cause and remedy, and the others are intact."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from accord.bench import runner
from accord.bench.report import summarise
from accord.bench.runner import run
from accord.bench.store import Store
from accord.bench.workers import run_here
from support.fire import Fire
from support.small_problem import EXPERIMENT
from support.stores import numbers

SMALL = "support.small_problem:EXPERIMENT"
METHODS = ["ls", "uw", "rlw"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store that was left in peace."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder) == [("done", "", ())] * 3
    return folder


@pytest.fixture
def store(whole, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "runs"))


@pytest.fixture(scope="module")
def fire():
    server = Fire()
    yield server
    server.close()


def train(store, methods=METHODS, **options):
    outcomes = run(EXPERIMENT, "smoke", methods, [0], store, checkpoint_seconds=0.0, **options)
    return [(outcome.status, outcome.cause, outcome.notes) for outcome in outcomes]


def folder(store, method="uw"):
    return store / "small-v1/smoke" / method / "seed-0"


def unfinish(store, method="uw", units=5):
    """Put a run back to where it was after some units, with the checkpoint before as well."""
    place = folder(store, method)
    (place / "result.json").unlink()
    lines = (place / "metrics.jsonl").read_text().splitlines(keepends=True)
    shutil.rmtree(place.parent)
    stop = StopAfter(units)
    with pytest.raises(KeyboardInterrupt):
        train(store, [method], progress=stop)
    assert (place / "metrics.jsonl").read_text().count("\n") == units < len(lines)
    return place


class StopAfter:
    """A listener that stops the runs as Ctrl-C would."""

    def __init__(self, units):
        self.units = units

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def planned(self, runs, done):
        pass

    def advanced(self, key, unit, length):
        if unit == self.units:
            raise KeyboardInterrupt

    def ended(self, outcome):
        pass


class Hostile:
    """What runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def hostile_checkpoint(path, mark):
    """A checkpoint, whole by its checksums, that would make a folder."""
    torch.save({"unit": 3, "state": {"trial": Hostile(mark)}}, path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


# Checkpoints


def test_the_hostile_checkpoint_of_these_tests_is_one(tmp_path):
    hostile_checkpoint(tmp_path / "x.pt", tmp_path / "mark")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "mark").exists()
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "other")))
    pickle.loads((tmp_path / "y.pt").read_bytes())
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize("form", ["archive", "bare pickle"])
def test_a_hostile_checkpoint_is_never_run(whole, store, tmp_path, form):
    place, mark = unfinish(store), tmp_path / "mark"
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        if form == "archive":
            hostile_checkpoint(place / name, mark)
        else:
            (place / name).write_bytes(pickle.dumps(Hostile(mark)))
    outcomes = train(store)
    assert [status for status, *_ in outcomes] == ["skipped", "failed", "skipped"]
    assert str(place / "checkpoint.pt") in outcomes[1][1]
    assert "damaged" in outcomes[1][1]
    assert "give --fresh" in outcomes[1][1]
    if form == "archive":
        assert "nothing of it was run" in outcomes[1][1]
    assert not mark.exists()
    assert [status for status, *_ in train(store, fresh=True)] == ["done"] * 3
    assert numbers(store, EXPERIMENT) == numbers(whole, EXPERIMENT)


def test_a_hostile_newest_checkpoint_is_put_aside_and_the_one_before_goes_on(whole, store, tmp_path):
    place, mark = unfinish(store), tmp_path / "mark"
    hostile_checkpoint(place / "checkpoint.pt", mark)
    outcomes = train(store)
    assert [status for status, *_ in outcomes] == ["skipped", "done", "skipped"]
    (note,) = outcomes[1][2]
    assert "nothing of it was run" in note
    assert "going on from the one before, unit 3" in note
    assert not mark.exists()
    assert numbers(store, EXPERIMENT) == numbers(whole, EXPERIMENT)


def test_a_damaged_checkpoint_does_not_push_out_the_whole_one(store):
    place = unfinish(store)
    (place / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt):
        train(store, ["uw"], progress=StopAfter(3))  # as early as can be: nothing new was saved
    assert (place / "checkpoint.damaged.pt").read_bytes() == b"damaged"
    assert not (place / "checkpoint.pt").exists()
    assert train(store) == [("skipped", "", ()), ("done", "", ()), ("skipped", "", ())]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_checkpoint_is_stepped_over_to_the_same_numbers(whole, store, damage):
    place = unfinish(store)
    data = bytearray((place / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 16
    (place / "checkpoint.pt").write_bytes(data if damage == "flip" else data[: len(data) // 3])
    outcomes = train(store)
    assert "is damaged" in outcomes[1][2][0]
    assert numbers(store, EXPERIMENT) == numbers(whole, EXPERIMENT)


# Records and results


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metrics": 3}', "\0\0\0"])
def test_a_damaged_result_is_told_and_made_again_from_the_checkpoint(whole, store, text):
    (folder(store) / "result.json").write_text(text)
    report = summarise(Store(store), EXPERIMENT, "smoke")
    assert len(report.left_out) == 1
    assert re.search(r"uw/seed-0/result\.json.*made anew from the checkpoint", report.left_out[0])
    assert "uw" not in [row.method for row in report.rows]
    outcomes = train(store)
    assert [status for status, *_ in outcomes] == ["skipped", "done", "skipped"]
    assert "result.json" in outcomes[1][2][0]
    assert "which is done now" in outcomes[1][2][0]
    assert numbers(store, EXPERIMENT) == numbers(whole, EXPERIMENT)
    assert len(Store(store).run(key_of(store)).info()["attempts"]) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 3, "attempts": []}'])
def test_a_damaged_description_fails_its_run_alone(whole, store, text):
    (folder(store) / "run.json").write_text(text)
    outcomes = train(store)
    assert [status for status, *_ in outcomes] == ["skipped", "failed", "skipped"]
    assert "run.json" in outcomes[1][1]
    assert "--fresh" in outcomes[1][1]
    train(store, ["uw"], fresh=True)
    assert numbers(store, EXPERIMENT) == numbers(whole, EXPERIMENT)


def test_a_damaged_description_does_not_stop_others_from_being_put_in_order(store, monkeypatch):
    """With several processes the store is looked through, for what took longest."""
    (folder(store) / "run.json").write_text("{")
    monkeypatch.setattr(runner, "run_parallel", lambda jobs, _, advanced, ended: run_here(jobs, advanced, ended))
    assert [status for status, *_ in train(store, ["famo", "dwa"], jobs=2)] == ["done", "done"]


@pytest.mark.parametrize("line", ["{broken", "17", '{"loss": 1}', '{"unit": "2"}'])
def test_a_damaged_record_fails_its_run_alone(store, line):
    place = unfinish(store)
    lines = (place / "metrics.jsonl").read_text().splitlines()
    (place / "metrics.jsonl").write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    outcomes = train(store)
    assert [status for status, *_ in outcomes] == ["skipped", "failed", "skipped"]
    assert "metrics.jsonl, line 2" in outcomes[1][1]
    assert "--fresh" in outcomes[1][1]
    assert [status for status, *_ in train(store, fresh=True)] == ["done"] * 3


def test_warnings_of_making_a_trial_are_not_told_again_after_a_resume(tmp_path):
    def warned(*arguments):
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        return EXPERIMENT.trial(*arguments)

    noisy = replace(EXPERIMENT, trial=warned)
    run(noisy, "smoke", ["uw"], store=tmp_path / "whole", checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(noisy, "smoke", ["uw"], store=tmp_path / "runs", checkpoint_seconds=0.0, progress=StopAfter(3))
    run(noisy, "smoke", ["uw"], store=tmp_path / "runs", checkpoint_seconds=0.0)
    found = numbers(tmp_path / "runs", EXPERIMENT)
    assert found == numbers(tmp_path / "whole", EXPERIMENT)
    assert "mind the gap" in str(found)


# Disks


def test_files_that_may_not_grow_fail_their_runs_and_go_on_later(whole, fire, tmp_path):
    limit = max(path.stat().st_size for path in whole.rglob("checkpoint.pt")) - 100
    told = fire.train(SMALL, METHODS, tmp_path, limit=limit)
    sizes = {method: (folder(whole, method) / "checkpoint.pt").stat().st_size for method in METHODS}
    assert told["statuses"] == ["done" if sizes[method] <= limit else "failed" for method in METHODS]
    assert "failed" in told["statuses"]
    assert "done" in told["statuses"]
    for note in told["notes"]:
        assert "checkpoint.pt: File too large" in note
        assert "ulimit -f" in note
    assert set(fire.train(SMALL, METHODS, tmp_path)["statuses"]) == {"done", "skipped"}
    assert numbers(tmp_path, EXPERIMENT) == numbers(whole, EXPERIMENT)


def test_a_folder_without_rights_fails_its_run_alone(whole, fire):
    store = Path(tempfile.mkdtemp(prefix="fire-"))  # not tmp_path, into which only its owner can look
    try:
        shutil.copytree(whole, store, dirs_exist_ok=True)
        (folder(store, "ls") / "result.json").unlink()
        (folder(store, "uw") / "result.json").unlink()
        for path in [store, *store.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
        folder(store).chmod(0o555)
        told = fire.train(SMALL, METHODS, store, nobody=True)
        assert told["statuses"] == ["done", "failed", "skipped"]
        (note,) = told["notes"]
        assert str(folder(store)) in note
        assert "permission denied; name a folder that is yours with --store" in note
        folder(store).chmod(0o000)
        told = fire.train(SMALL, METHODS, store, nobody=True)
        assert told["statuses"] == ["skipped", "failed", "skipped"]
        assert "permission denied" in told["notes"][0]
        folder(store).chmod(0o777)
        assert fire.train(SMALL, METHODS, store)["statuses"] == ["skipped", "done", "skipped"]
        assert numbers(store, EXPERIMENT) == numbers(whole, EXPERIMENT)
    finally:
        for path in store.rglob("seed-0"):
            path.chmod(0o777)
        shutil.rmtree(store)


def test_a_file_in_the_place_of_a_folder_fails_its_run_alone(tmp_path):
    folder(tmp_path).parent.mkdir(parents=True)
    folder(tmp_path).write_text("in the way")
    outcomes = train(tmp_path)
    assert [status for status, *_ in outcomes] == ["done", "failed", "done"]
    assert str(folder(tmp_path)) in outcomes[1][1]
    assert folder(tmp_path).read_text() == "in the way"


FILL = """
import shutil, sys
from pathlib import Path
from support.small_problem import EXPERIMENT
from accord.bench.runner import run

store = Path(sys.argv[1])
outcomes = run(EXPERIMENT, "smoke", ["ls", "uw", "rlw"], [0], store, checkpoint_seconds=0.0)
print([outcome.status for outcome in outcomes])
print([outcome.cause for outcome in outcomes if outcome.cause])
(store / "ballast").unlink()  # make room
outcomes = run(EXPERIMENT, "smoke", ["ls", "uw", "rlw"], [0], store, checkpoint_seconds=0.0)
print([outcome.status for outcome in outcomes])
shutil.copytree(store, sys.argv[2])
"""


def test_a_full_disk_fails_its_runs_and_leaves_the_others(whole, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    used = sum(path.stat().st_size for path in (whole / "small-v1/smoke/ls").rglob("*"))
    size, ballast = 1024, 1024 - 3 * used // 1024  # KiB: room for one run and the copies it makes, not for three
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size={size}k none {small}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    program = tmp_path / "fill.py"
    program.write_text(FILL)
    fill = f"head -c {ballast}k /dev/zero > {small}/ballast"
    script = f"{mount} && {fill} && {sys.executable} {program} {small} {tmp_path / 'copy'}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, causes, second = done.stdout.splitlines()
    assert first.startswith("['done'"), done.stdout
    assert "failed" in first
    assert "disk is full; free some space and give the same command again" in causes
    assert "failed" not in second
    assert numbers(tmp_path / "copy", EXPERIMENT) == numbers(whole, EXPERIMENT)


def key_of(store, method="uw"):
    (found,) = (each.key for each in Store(store).runs("small", 1, "smoke") if str(each.key.method) == method)
    return found
