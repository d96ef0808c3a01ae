"""The store: whole files, one writer, damage found and named, full and read-only disks."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.bench import files
from accord.bench.spec import MethodSpec, RunKey
from accord.bench.store import Store, key_from_json, key_to_json, slug
from accord.bench.writing import load_checkpoint, locked, writing
from accord.errors import LockedError, StoreError

KEY = RunKey("toy", 1, "smoke", MethodSpec.parse("cagrad:c=0.5"), 3)
SETTINGS = {"lr": 0.1}


@pytest.fixture
def run(tmp_path):
    return Store(tmp_path / "runs", create=True).run(KEY)


def train(run, units, state=None, settings=SETTINGS):
    """Write `units` units with a checkpoint after each, without finishing."""
    with writing(run) as writer:
        writer.begin(settings, threads=1)
        done, _, _ = writer.load()
        for unit in range(done + 1, done + units + 1):
            writer.append({"unit": unit, "loss": 1 / unit})
            writer.checkpoint(unit, state or {"x": torch.arange(100.0) * unit})


# Names and keys


@given(st.text(min_size=1, max_size=200))
def test_slugs_are_safe_for_file_systems(spec):
    name = slug(spec)
    assert 0 < len(name) < 80
    assert not set(name) & set('/\\:*?"<>| \0')
    assert not name.startswith(".")


@given(st.lists(st.text(alphabet="aAb:=,._- 0", min_size=1, max_size=12), min_size=2, max_size=2, unique=True))
def test_slugs_differ_even_where_case_does_not_count(pair):
    first, second = (slug(spec).lower() for spec in pair)
    assert first != second


def test_slug_of_a_plain_name_is_the_name():
    assert slug("nash-mtl") == "nash-mtl"
    assert slug("cagrad:c=0.5").startswith("cagrad_c=0.5.")


def test_keys_survive_json(run):
    assert key_from_json(json.loads(json.dumps(key_to_json(KEY)))) == KEY


def test_a_run_is_found_again(run, tmp_path):
    train(run, 1)
    assert list(Store(tmp_path / "runs").runs("toy", 1, "smoke")) == [run]
    assert list(Store(tmp_path / "runs").runs("toy", 2, "smoke")) == []


def test_a_run_in_the_wrong_folder_is_refused(run, tmp_path):
    train(run, 1)
    shutil.copytree(run.folder, run.folder.with_name("seed-4"))
    with pytest.raises(StoreError, match=r"belongs in .*seed-3"):
        list(Store(tmp_path / "runs").runs("toy", 1, "smoke"))


# Versions


def test_a_store_that_is_not_there_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(StoreError, match="accord run toy"):
        Store(tmp_path / "nothing")


@pytest.mark.parametrize("marker", ['{"format": 99, "made_by": "accord 9.9"}', "[]", '{"made_by": "accord 9.9"}'])
def test_another_format_is_refused(tmp_path, marker):
    (tmp_path / "store.json").write_text(marker)
    with pytest.raises(StoreError, match=r"reads\s+format 1"):
        Store(tmp_path, create=True)
    assert (tmp_path / "store.json").read_text() == marker


def test_other_settings_under_the_same_name_are_refused(run):
    train(run, 1)
    with pytest.raises(StoreError, match=r"lr: 0\.1 then, 0\.2 now.*--fresh"):
        train(run, 1, settings={"lr": 0.2})


# Records


def test_status_follows_the_files(run):
    assert run.status == "absent"
    train(run, 1)
    assert run.status == "unfinished"
    with writing(run) as writer:
        writer.begin(SETTINGS, threads=1)
        writer.fail(ValueError("no luck"), 1, SETTINGS)
    assert run.status == "failed"
    assert run.failure()["message"] == "no luck"
    assert "ValueError" in run.failure()["traceback"]
    with writing(run) as writer:
        writer.begin(SETTINGS, threads=1)
        assert run.status == "unfinished"
        writer.finish({"metrics": {"L1/A": 1.0}})
    assert run.status == "done"
    assert run.result() == {"metrics": {"L1/A": 1.0}}
    assert len(run.info()["attempts"]) == 3


def test_the_last_record_of_a_unit_counts(run):
    with writing(run) as writer:
        writer.begin(SETTINGS, threads=1)
        for unit, loss in [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25)]:
            writer.append({"unit": unit, "loss": loss})
    assert [record["loss"] for record in run.records()] == [0.1, 0.25, 0.3]


def test_numbers_come_back_exactly_even_those_json_has_no_word_for(run):
    values = [0.1 + 0.2, 1e-320, float("inf"), -float("inf")]
    with writing(run) as writer:
        writer.begin(SETTINGS, threads=1)
        writer.append({"unit": 1, "values": values, "nan": float("nan")})
    (record,) = run.records()
    assert record["values"] == values
    assert record["nan"] != record["nan"]


def test_a_run_that_fails_before_it_begins_is_a_failed_run(run, tmp_path):
    with writing(run) as writer:
        writer.fail(ValueError("no luck"), 0, SETTINGS)
    assert run.status == "failed"
    assert list(Store(tmp_path / "runs").runs("toy", 1, "smoke")) == [run]
    train(run, 1)
    assert run.status == "unfinished"


@pytest.mark.parametrize("torn", ['{"unit": 2, "loss"', "\0\0\0\0"])
def test_a_torn_last_line_is_ignored_and_mended(run, torn):
    train(run, 1)
    path = run.folder / "metrics.jsonl"
    with path.open("a") as file:
        file.write(torn)
    assert [record["unit"] for record in run.records()] == [1]
    train(run, 1)
    assert [record["unit"] for record in run.records()] == [1, 2]
    assert path.read_text().count("\n") == 2


def test_damage_in_the_middle_is_named(run):
    train(run, 3)
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", lines[2], ""]))
    with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2"):
        run.records()


# Checkpoints


def test_a_checkpoint_comes_back(run):
    state = {"x": torch.randn(5), "n": [1, (2, 3)], "s": "text", "none": None}
    train(run, 2, state)
    with writing(run) as writer:
        unit, loaded, note = writer.load()
    assert (unit, note) == (2, "")
    assert torch.equal(loaded.pop("x"), state.pop("x"))
    assert loaded == state


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(run, damage):
    train(run, 3)
    path = run.folder / "checkpoint.pt"
    ruin(path, damage)
    with pytest.raises(StoreError, match=r"checkpoint\.pt is damaged"):
        load_checkpoint(path)
    with writing(run) as writer:
        writer.begin(SETTINGS, threads=1)
        unit, state, note = writer.load()
    assert unit == 2
    assert torch.equal(state["x"], torch.arange(100.0) * 2)
    assert "damaged" in note
    assert "unit 2" in note


def test_two_damaged_checkpoints_are_an_error_that_names_the_remedy(run):
    train(run, 3)
    ruin(run.folder / "checkpoint.pt", "flip")
    ruin(run.folder / "checkpoint.prev.pt", "cut")
    with writing(run) as writer, pytest.raises(StoreError, match=r"checkpoint\.pt.*--fresh"):
        writer.load()


def test_every_flipped_bit_of_the_weights_is_found(run):
    train(run, 1)
    path = run.folder / "checkpoint.pt"
    whole = path.read_bytes()
    middle = whole.index(torch.arange(100.0).numpy().tobytes())
    for offset in range(0, 400, 7):
        path.write_bytes(whole[: middle + offset] + bytes([whole[middle + offset] ^ 4]) + whole[middle + offset + 1 :])
        with pytest.raises(StoreError, match="damaged"):
            load_checkpoint(path)


def test_a_state_that_could_not_be_loaded_is_refused_at_once(run):
    with writing(run) as writer:
        writer.begin(SETTINGS, threads=1)
        with pytest.raises(StoreError, match="weights_only"):
            writer.checkpoint(1, {"x": object()})
    assert not (run.folder / "checkpoint.pt").exists()


def test_a_checkpoint_whose_records_are_gone_is_refused(run):
    train(run, 3)
    (run.folder / "metrics.jsonl").write_text('{"unit": 1}\n')
    with writing(run) as writer, pytest.raises(StoreError, match="lacks unit 2"):
        writer.load()


def test_fresh_discards_everything(run):
    train(run, 3)
    with writing(run, fresh=True) as writer:
        writer.begin({"lr": 7}, threads=1)
        assert writer.load() == (0, None, "")
    assert run.records() == []


# One writer


def test_a_second_writer_is_told(run):
    with writing(run), pytest.raises(LockedError, match="being trained by another process"), writing(run):
        pass


def test_a_writer_in_another_process_is_told_and_a_killed_one_holds_nothing(run):
    program = f"""
        import sys
        from accord.bench.store import Store, key_from_json
        from accord.bench.writing import writing
        run = Store({str(run.folder.parents[3])!r}).run(key_from_json({key_to_json(KEY)!r}))
        with writing(run):
            print("held", flush=True)
            sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError), locked(run):
            pass
    finally:
        other.kill()
        other.communicate()
    with locked(run):
        pass


# Disks that refuse


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG])
def test_a_refused_write_is_a_store_error_and_leaves_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "result.json"
    files.write_json(path, {"old": True})
    real = os.write

    def half_then_refuse(fd, data):
        if len(data) > 8:
            return real(fd, data[:8])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", half_then_refuse)
    with pytest.raises(StoreError, match=r"cannot write .*result\.json"):
        files.write_json(path, {"new": "x" * 100})
    assert files.read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_refused_line_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    lines = files.LineWriter(path)
    lines.append({"unit": 1})
    real = os.write

    def half_then_refuse(fd, data):
        if len(data) > 8:
            return real(fd, data[:8])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half_then_refuse)
    with pytest.raises(StoreError, match="disk is full"):
        lines.append({"unit": 2, "text": "x" * 100})
    monkeypatch.undo()
    lines.append({"unit": 3})
    lines.close()
    assert path.read_text() == '{"unit": 1}\n{"unit": 3}\n'


FILL = """
import os, sys, torch
from pathlib import Path
from accord.bench.spec import MethodSpec, RunKey
from accord.bench.store import Store
from accord.bench.writing import writing
from accord.errors import LockedError, StoreError

run = Store(sys.argv[1], create=True).run(RunKey("toy", 1, "smoke", MethodSpec("ls"), 0))
with writing(run) as writer:
    writer.begin({}, 1)
    unit = 0
    try:
        while unit < 1000:
            writer.append({"unit": unit + 1, "text": "x" * 2000})
            unit += 1
            writer.checkpoint(unit, {"x": torch.zeros(unit * 500)})
    except StoreError as error:
        print(error)
units = [record["unit"] for record in run.records()]
assert units == list(range(1, len(units) + 1)), units
assert not list(run.folder.glob(".*")), list(run.folder.glob(".*"))
assert (run.folder / "metrics.jsonl").read_bytes().endswith(b"\\n")
with writing(run) as writer:
    saved, state, note = writer.load()
assert not note
assert unit - 1 <= saved <= unit
assert len(state["x"]) == saved * 500
"""


def test_a_file_size_limit_is_met_with_whole_files(tmp_path):
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n" + FILL
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "runs")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ulimit" in done.stdout


def in_small_file_system(folder, script):
    """Run a shell script where `folder` is a file system of 256 kB of its own; skip where that is not allowed."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    folder.mkdir()
    probe = f"mount -t tmpfs -o size=256k none {folder}"
    if subprocess.run(["unshare", "-m", "sh", "-c", probe], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    command = ["unshare", "-m", "sh", "-c", f"{probe} && {script}"]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_full_disk_is_met_with_whole_files(tmp_path):
    program = tmp_path / "fill.py"
    program.write_text(FILL)
    done = in_small_file_system(tmp_path / "small", f"{sys.executable} {program} {tmp_path / 'small'}")
    assert done.returncode == 0, done.stderr
    assert "disk is full" in done.stdout


def test_a_read_only_disk_is_a_store_error(tmp_path):
    small = tmp_path / "small"
    program = f"from accord.bench.store import Store; Store('{small}/runs', create=True)"
    script = f'mount -o remount,ro {small} && {sys.executable} -c "{program}"'
    done = in_small_file_system(small, script)
    assert "StoreError" in done.stderr
    assert "read-only; name another folder with --store" in done.stderr


def ruin(path, damage):
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b"", "text": b"hello"}[damage]
    )
