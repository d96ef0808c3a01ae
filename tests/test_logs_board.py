"""Logs in TensorBoard, read back with TensorBoard; and by several processes."""

import importlib
import sys

import numpy as np
import pytest

import accord
from accord.diagnostics import Log, read_log
from accord.errors import DependencyError, StoreError
from support.logged import NAMES, diagnosis, steps, write
from support.nets import Net


def events(folder):
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder), size_guidance={accumulator.SCALARS: 0})
    read.Reload()
    return read


def curve(read, tag):
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_has_the_same_numbers(tmp_path):
    path = tmp_path / "run.jsonl"
    balances = list(steps())
    with Log(path, tensorboard=tmp_path / "board") as log:
        for step, balance in enumerate(balances):
            log(balance, step)
        found = diagnosis()
        log(found, 2)
    read, lines = events(tmp_path / "board"), read_log(path)
    tags = set(read.Tags()["scalars"])
    for field in ("losses", "weights", "norms"):
        for task in NAMES:
            at, values = lines.series(field, task)
            assert curve(read, f"{field}/{task}") == list(zip(at, values.astype(np.float32), strict=True))
    drawn = [value for _, value in curve(read, "cosines/seg/normal")]
    assert drawn == pytest.approx(lines.series("cosines", "seg", "normal")[1].tolist(), rel=1e-6)
    assert {"conflict/share", "balance/residual", "balance/stationarity", "diagnosis/losses/seg"} <= tags
    assert curve(read, "diagnosis/worst/nash-mtl") == [(2, pytest.approx(found.methods["nash-mtl"].worst, rel=1e-6))]
    texts = read.Tensors("balance/outcome/text_summary")
    assert [(t.step, t.tensor_proto.string_val[0]) for t in texts] == [(0, b"solved")]  # where it changes


def test_tensorboard_alone_and_resumed(tmp_path):
    write(None, range(10), tensorboard=tmp_path)
    write(None, [6, 7], tensorboard=tmp_path)
    assert [step for step, _ in curve(events(tmp_path), "losses/seg")] == list(range(8))


def test_a_closed_log_takes_no_more(tmp_path):
    log = Log(tensorboard=tmp_path)
    balance = next(iter(steps()))
    log(balance, 0)
    log.close()
    files = list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="was closed; make a new Log"):
        log(balance, 1)
    assert list(tmp_path.iterdir()) == files


def test_many_tasks_have_no_curve_a_pair(tmp_path):
    net = Net(tasks=12)
    balance = accord.MGDA(12).backward(net.losses(), net.trunk)
    for chosen, pairs in ((None, 0), (["0", "5", "11"], 3)):
        folder = tmp_path / str(pairs)
        with Log(tensorboard=folder, tasks=chosen) as log:
            log(balance, 0)
        tags = events(folder).Tags()["scalars"]
        assert sum(tag.startswith("cosines/") for tag in tags) == pairs
        assert "conflict/share" in tags


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(DependencyError, match=r"pip install 'accord\[tensorboard\]'"):
        Log(tensorboard=tmp_path)
    with Log(tmp_path / "run.jsonl") as log:
        log(next(iter(steps())), 0)
    assert len(read_log(tmp_path / "run.jsonl")) == 1


# ---------------------------------------------------------------- several processes


def log_on_rank(path):
    with Log(path) as log:
        for step, balance in enumerate(steps()):
            log(balance, step)


def test_rank_0_alone_writes(tmp_path, pair):
    path = tmp_path / "run.jsonl"
    pair.run(log_on_rank, path)
    read = read_log(path)
    assert read.series("residual")[0].tolist() == [0, 1, 2]
    assert read.replaced == 0
