"""The runner: grids are planned before they run, survive kills to the last bit, and tell failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accord.bench import rng
from accord.bench.runner import plan, run
from accord.bench.store import Store
from accord.bench.writing import load_checkpoint, locked
from accord.errors import OptionError, StoreError, UnknownNameError

SUPPORT = Path(__file__).parent / "support"
LEFT, RIGHT = "stl:task=left", "stl:task=right"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(SUPPORT)


@pytest.fixture
def experiment(importable):
    from quadratic import EXPERIMENT

    return EXPERIMENT


def contents(store, experiment, preset):
    """All numbers of a store, without wall-clock ones."""
    runs = Store(store).runs(experiment.name, experiment.version, preset)
    return {(str(r.key.method), r.key.seed): ([{**x, "seconds": 0} for x in r.records()], r.result()) for r in runs}


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


# Planning


def test_stl_stands_for_one_run_per_task(experiment):
    keys = plan(experiment, "smoke", ["stl", "ls"], [0, 1])
    assert [(str(key.method), key.seed) for key in keys] == [
        (method, seed) for seed in (0, 1) for method in (LEFT, RIGHT, "ls")
    ]


def test_a_method_asked_for_twice_is_one_run(experiment):
    assert len(plan(experiment, "smoke", ["stl", LEFT, "cagrad:c=0.4", "cagrad:c=.4"], [0])) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("smok", ["ls"], [0]), UnknownNameError, "did you mean 'smoke'"),
        (("smoke", ["nash-mlt"], [0]), UnknownNameError, "did you mean 'nash-mtl'"),
        (("smoke", ["ls", "cagrad:d=0.4"], [0]), OptionError, "has no option 'd'"),
        (("smoke", ["cagrad:c=-1"], [0]), OptionError, "c"),
        (("smoke", ["stl:task=lef"], [0]), UnknownNameError, "did you mean 'left'"),
        (("smoke", ["stl:tsk=left"], [0]), OptionError, "only option: task"),
        (("smoke", ["ls"], [-1]), OptionError, "non-negative"),
        (("smoke", ["ls"], [0.5]), OptionError, "non-negative integers"),
        (("smoke", ["ls"], [True]), OptionError, "non-negative integers"),
        (("smoke", ["ls"], [0, 1, 0]), OptionError, "seed 0 is given twice.*each seed once"),
        (("smoke", ["ls"], 3), OptionError, "seeds=3: give a list"),
        (("smoke", "ls", [0]), OptionError, r"give a list of them, as in methods=\['ls'\]"),
        (("smoke", [7], [0]), OptionError, "7 is no text"),
        (("smoke", [], [0]), OptionError, "nothing to run"),
    ],
)
def test_mistakes_are_told_before_anything_runs(experiment, tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        run(experiment, *arguments, store=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_jobs_must_be_positive(experiment, tmp_path):
    with pytest.raises(OptionError, match="jobs=0"):
        run(experiment, "smoke", store=tmp_path, jobs=0)


# Running


def test_done_runs_are_skipped_and_fresh_ones_are_not(experiment, tmp_path):
    assert statuses(run(experiment, "smoke", ["stl", "nash-mtl"], store=tmp_path)) == ["done"] * 3
    before = contents(tmp_path, experiment, "smoke")
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("result.json"))]
    assert statuses(run(experiment, "smoke", ["stl", "nash-mtl"], store=tmp_path)) == ["skipped"] * 3
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("result.json"))] == stamps
    assert statuses(run(experiment, "smoke", ["stl", "nash-mtl"], store=tmp_path, fresh=True)) == ["done"] * 3
    assert contents(tmp_path, experiment, "smoke") == before


def test_numbers_do_not_depend_on_jobs_order_or_the_global_generators(experiment, tmp_path):
    import torch

    methods = ["ls", "nash-mtl", "stl"]
    run(experiment, "smoke", methods, [0, 1], tmp_path / "one")
    state = rng.get_state()
    torch.manual_seed(99)
    run(experiment, "smoke", methods[::-1], [1, 0], tmp_path / "two", jobs=2)
    rng.set_state(state)
    assert contents(tmp_path / "one", experiment, "smoke") == contents(tmp_path / "two", experiment, "smoke")


def test_a_run_leaves_the_global_generators_and_threads_as_they_were(experiment, tmp_path):
    import torch

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(experiment, "smoke", [LEFT], store=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_all_methods_of_a_seed_see_the_same_data(experiment, tmp_path):
    run(experiment, "smoke", [LEFT, RIGHT], store=tmp_path)
    one, two = (load_checkpoint(path)["state"]["trial"]["generator"] for path in tmp_path.rglob("checkpoint.pt"))
    assert (one == two).all()


# Kills


def start(store, preset, methods, jobs=1, checkpoint_seconds=0.25):
    program = f"""
import signal
from quadratic import EXPERIMENT
from accord.bench.runner import run
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
    try:
        run(EXPERIMENT, {preset!r}, {methods!r}, [0], {str(store)!r}, jobs={jobs},
            checkpoint_seconds={checkpoint_seconds})
    except KeyboardInterrupt:
        raise SystemExit(130)
"""
    script = Path(store).with_suffix(".py")
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    return subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.PIPE)


def wait_for_units(store, count, process):
    """Until some run that has begun, and all others, have `count` records."""
    for _ in range(600):
        files = list(Path(store).rglob("metrics.jsonl"))
        if files and all(file.read_bytes().count(b"\n") >= count for file in files):
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    raise AssertionError("the runs do not advance")


def test_a_killed_run_resumes_to_the_same_bits(experiment, tmp_path):
    run(experiment, "slow", ["rlw"], store=tmp_path / "whole")
    for units in (2, 6):  # killed twice, before and after a checkpoint
        process = start(tmp_path / "killed", "slow", ["rlw"])
        wait_for_units(tmp_path / "killed", units, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (killed,) = Store(tmp_path / "killed").runs("quadratic", 1, "slow")
    assert killed.status == "unfinished"
    assert (killed.folder / "checkpoint.pt").exists()
    assert statuses(run(experiment, "slow", ["rlw"], store=tmp_path / "killed")) == ["done"]
    assert len(killed.info()["attempts"]) == 3
    whole, again = (contents(tmp_path / name, experiment, "slow") for name in ("whole", "killed"))
    assert again == whole


@pytest.mark.parametrize(("sign", "jobs"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_an_interrupt_stops_cleanly_and_leaves_no_failure(experiment, tmp_path, jobs, sign):
    process = start(tmp_path / "runs", "slow", [LEFT, RIGHT], jobs)
    wait_for_units(tmp_path / "runs", 2, process)
    process.send_signal(sign)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert not list(tmp_path.rglob("failure.json"))
    assert statuses(run(experiment, "slow", [LEFT, RIGHT], store=tmp_path / "runs")) == ["done", "done"]


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process = start(tmp_path / "runs", "slow", [LEFT, RIGHT], jobs=2)
    wait_for_units(tmp_path / "runs", 1, process)
    process.kill()
    process.communicate(timeout=20)  # stderr closes only when the last worker has gone
    time.sleep(0.1)
    for each in Store(tmp_path / "runs").runs("quadratic", 1, "slow"):
        assert each.status == "unfinished"
        with locked(each):
            pass


# Failures


def test_a_failure_is_recorded_and_the_others_go_on(experiment, tmp_path):
    outcomes = run(experiment, "broken", ["stl"], store=tmp_path)
    assert statuses(outcomes) == ["failed", "done"]
    assert outcomes[0].cause == "DataError: unit 3 was told to fail"
    left = Store(tmp_path).run(outcomes[0].key)
    assert left.failure()["unit"] == 2
    assert "in advance" in left.failure()["traceback"]
    # tried again from where it was, and only it
    assert statuses(run(experiment, "broken", ["stl"], store=tmp_path)) == ["failed", "skipped"]


def test_a_worker_that_is_killed_fails_its_run_alone(experiment, tmp_path):
    outcomes = run(experiment, "deadly", ["stl", "ls"], [0], tmp_path, jobs=2)
    assert statuses(outcomes) == ["failed", "done", "done"]
    assert "signal 9" in outcomes[0].cause
    assert Store(tmp_path).run(outcomes[0].key).failure()["unit"] == 2


def test_workers_that_die_at_once_are_replaced_until_all_runs_were_tried(experiment, tmp_path):
    outcomes = run(experiment, "stillborn", ["stl", "ls"], store=tmp_path, jobs=2)
    assert statuses(outcomes) == ["failed"] * 3
    assert {each.status for each in Store(tmp_path).runs("quadratic", 1, "stillborn")} == {"failed"}


def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "unguarded.py"
    call = f"run(EXPERIMENT, 'smoke', ['stl'], [0], {str(tmp_path / 'runs')!r}, jobs=2)"
    script.write_text(f"from quadratic import EXPERIMENT\nfrom accord.bench.runner import run\n{call}\n")
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "died before it took any work (exit code 1)" in done.stderr
    assert '`if __name__ == "__main__":`' in done.stderr


def test_a_run_that_another_process_trains_is_left_alone(experiment, tmp_path):
    run(experiment, "smoke", [RIGHT], store=tmp_path)
    (key,) = plan(experiment, "smoke", [LEFT], [0])
    with locked(Store(tmp_path).run(key)):
        outcomes = run(experiment, "smoke", ["stl"], store=tmp_path)
    assert statuses(outcomes) == ["elsewhere", "skipped"]
    assert "another process" in outcomes[0].cause


def test_a_damaged_checkpoint_is_stepped_over_with_a_note(experiment, tmp_path):
    run(experiment, "broken", [LEFT], store=tmp_path, checkpoint_seconds=0)
    (path,) = tmp_path.rglob("checkpoint.pt")
    path.write_bytes(path.read_bytes()[:100])
    (outcome,) = run(experiment, "broken", [LEFT], store=tmp_path, checkpoint_seconds=0)
    assert outcome.status == "failed"
    assert "damaged" in outcome.notes[0]
    assert "unit 1" in outcome.notes[0]


def test_a_preset_that_has_changed_is_refused_before_anything_runs(experiment, tmp_path):
    run(experiment, "smoke", [LEFT], store=tmp_path)
    from dataclasses import replace

    changed = replace(experiment, presets={"smoke": replace(experiment.presets["smoke"], lr=0.01)})
    with pytest.raises(StoreError, match=r"lr: 0\.05 then, 0\.01 now"):
        run(changed, "smoke", [RIGHT, LEFT], store=tmp_path)
    assert len(list(tmp_path.rglob("run.json"))) == 1
    assert statuses(run(changed, "smoke", [LEFT], store=tmp_path, fresh=True)) == ["done"]


def test_warnings_of_a_trial_are_kept_with_its_records(experiment, tmp_path):
    import warnings
    from dataclasses import replace

    def noisy(*arguments):
        trial = experiment.trial(*arguments)
        plain = trial.advance

        def advance():
            for _ in range(3):
                warnings.warn("mind the gap", UserWarning, stacklevel=1)
            return plain()

        trial.advance = advance
        return trial

    run(replace(experiment, trial=noisy), "smoke", [LEFT], store=tmp_path)
    (path,) = tmp_path.rglob("metrics.jsonl")
    record = json.loads(path.read_text().splitlines()[0])
    assert record["warnings"] == [{"category": "UserWarning", "message": "mind the gap", "count": 3}]


def test_a_trial_that_cannot_be_sent_to_a_worker_is_told(experiment, tmp_path):
    from dataclasses import replace

    from accord.errors import AccordError

    local = replace(experiment, trial=lambda *arguments: experiment.trial(*arguments))
    with pytest.raises(AccordError, match="jobs=1"):
        run(local, "smoke", ["stl"], store=tmp_path, jobs=2)
