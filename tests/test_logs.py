"""Logs hold what the steps were, survive the end of the process at any byte, and say what is wrong with them."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import accord
from accord.diagnostics import Log, read_log
from accord.errors import (
    DataError,
    NumericalWarning,
    OptionError,
    ShapeError,
    StoreError,
    UnknownNameError,
)
from support.logged import NAMES, diagnosis, steps, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "run.jsonl"


# ---------------------------------------------------------------- what a line holds


@pytest.mark.parametrize("method", ["ls", "nash-mtl", "mgda", "graddrop", "moco", "nash-mtl:update_every=2"])
def test_a_line_holds_the_step(path, method):
    balances = list(steps(method))
    with Log(path) as log:
        for step, balance in enumerate(balances):
            log(balance, step)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line, balance in zip(lines, balances, strict=True):
        assert line["losses"] == dict(zip(NAMES, balance.losses.tolist(), strict=True))
        if method == "graddrop":
            assert line["weights"] is None
        else:
            assert line["weights"] == dict(zip(NAMES, balance.weights.tolist(), strict=True))
        assert (line["outcome"], line["residual"]) == (balance.outcome, balance.residual)
        assert ("cosines" in line) == ("norms" in line) == (balance.gramian is not None)
        if balance.gramian is not None:
            norms = balance.gramian.diagonal().sqrt()
            assert list(line["norms"].values()) == pytest.approx(norms.tolist(), rel=1e-12)
            cosine = balance.gramian[0, 2] / norms[0] / norms[2]
            assert line["cosines"]["seg"]["normal"] == pytest.approx(float(cosine), abs=5.1e-5)
            conflict = accord.metrics.conflict(balance.gramian)
            assert tuple(line["conflict"].values()) == pytest.approx(tuple(conflict))
            assert line["stationarity"] == accord.solvers.pareto_stationarity(balance.gramian)


def test_a_diagnosis_is_logged_beside_the_balance_of_its_step(path):
    found, balance = diagnosis(), next(iter(steps()))
    with Log(path) as log:
        log(balance, 0)
        log(found, 0)
        log(found, 10)
    read = read_log(path)
    assert [(r["kind"], r["step"]) for r in read] == [("balance", 0), ("diagnosis", 0), ("diagnosis", 10)]
    methods = read.records[1]["methods"]
    nash = found.methods["nash-mtl"]
    assert methods["nash-mtl"]["relative"] == dict(zip(NAMES, nash.relative.tolist(), strict=True))
    assert methods["nash-mtl"]["shares"] == dict(zip(NAMES, nash.shares.tolist(), strict=True))
    assert methods["graddrop"]["shares"] is None
    at, value = read.series("stationarity", kind="diagnosis")
    assert at.tolist() == [0, 10]
    assert value.tolist() == [found.stationarity] * 2


def test_every_n_th_step_and_chosen_tasks(path):
    with Log(path, every=2, tasks=["normal", "seg"]) as log:
        for step, balance in enumerate(steps(count=5)):
            log(balance, step)
    read = read_log(path)
    assert read.series("residual")[0].tolist() == [0, 2, 4]
    for record in read:
        assert list(record["losses"]) == list(record["weights"]) == list(record["norms"]) == ["normal", "seg"]
        assert list(record["cosines"]) == ["normal"]
        assert list(record["cosines"]["normal"]) == ["seg"]
    full = accord.metrics.conflict(balance.gramian)  # of all tasks, whatever is chosen
    assert read.records[-1]["conflict"]["share"] == full.share


@pytest.mark.filterwarnings("ignore:.*are not finite:accord.errors.NumericalWarning")
def test_what_is_not_finite_is_valid_json_and_comes_back(path):
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    losses = {"a": x[0] + 1, "b": (x[1] * 0).sqrt() + 1}  # finite, with an infinite slope
    balancer = accord.MGDA(["a", "b"])
    with Log(path) as log:
        log(balancer.backward({"a": x[0] + 1, "b": x[1] + 2}, x), 0)
        log(balancer.backward(losses, x), 1)

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines[1]["outcome"] == "skipped"
    assert lines[1]["norms"]["b"] == "NaN"
    assert "cosines" not in lines[1]
    at, values = read_log(path).series("norms", "b")
    assert at.tolist() == [0, 1]
    assert values[0] == 1.0
    assert np.isnan(values[1])
    assert values.dtype == np.float64


def test_tasks_may_have_any_names(path):
    x = torch.ones(3, requires_grad=True)
    names = ["NaN", 'a "quoted" one\n', "outcome", "日本"]
    losses = {name: (k + 1) * x[k % 3] ** 2 for k, name in enumerate(names)}
    with Log(path) as log:
        log(accord.MGDA(names).backward(losses, x), 0)
    read = read_log(path)
    assert read.tasks == tuple(names)
    assert [read.series("losses", name)[1].tolist() for name in names] == [[1.0], [2.0], [3.0], [4.0]]


# ---------------------------------------------------------------- reading


def test_series_of_one_task_of_two_and_of_none(path):
    balances = list(steps())
    with Log(path) as log:
        for step, balance in enumerate(balances):
            log(balance, 10 * step)
    read = read_log(path)
    assert len(read) == 3
    at, weights = read.series("weights", "depth")
    assert at.tolist() == [0, 10, 20]
    assert weights.tolist() == [b.weights[1].item() for b in balances]
    assert read.series("cosines", "normal", "seg")[1].tolist() == read.series("cosines", "seg", "normal")[1].tolist()
    assert read.series("outcome")[1].tolist() == ["solved"] * 3
    assert read.series("conflict", "share")[1].tolist() == [accord.metrics.conflict(b.gramian).share for b in balances]
    assert "3 records" in repr(read)


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (("losses", "dept"), "has no task 'dept'; did you mean 'depth'"),
        (("cosines", "seg", "norml"), "has no task 'norml'; did you mean 'normal'"),
        (("loses", "seg"), "no record has a field 'loses'; did you mean 'losses'"),
        (("conflict", "shares"), "has no part 'shares'; did you mean 'share'"),
        (("losses",), "has several values a step; name one of 'seg', 'depth', 'normal'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(path, ask, text):
    write(path, range(2))
    with pytest.raises(UnknownNameError, match=text):
        read_log(path).series(*ask)


def test_unknown_kinds_and_missing_files(path):
    with pytest.raises(DataError, match="No such file"):
        read_log(path)
    write(path, range(2))
    with pytest.raises(UnknownNameError, match="no record of kind 'diagnose'"):
        read_log(path).series("losses", "seg", kind="diagnose")


def test_an_unknown_task_in_a_log_is_named_at_the_first_step_whatever_is_written(path):
    balance = next(iter(steps()))
    with (
        Log(path, tasks=["seg", "dept"], every=100) as log,
        pytest.raises(UnknownNameError, match=r"tasks names 'dept'.*did you mean 'depth'"),
    ):
        log(balance, 1)
    assert path.read_bytes() == b""


# ---------------------------------------------------------------- damage, and going on


def test_cut_off_at_any_byte_the_lines_before_are_read_and_a_resumed_run_goes_on(path):
    write(path, range(3))
    data = path.read_bytes()
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    for cut in [*range(last, len(data), 37), len(data) - 2, len(data) - 1]:
        path.write_bytes(data[:cut])
        torn = cut not in (last, len(data) - 1)  # without its newline alone a line is whole
        for resumed in (False, True):
            if resumed:
                write(path, [3])
            if torn:
                with pytest.warns(NumericalWarning, match=rf"left out line 3 \({cut - last} bytes\)"):
                    read = read_log(path)
                assert len(read.damage) == 1
                assert ("cut off by what ended the run" in read.damage[0]) == (not resumed)
                assert "1 damaged lines" in repr(read)
            else:
                read = read_log(path)
                assert read.damage == ()
            expected = [0, 1] + [2] * (cut == len(data) - 1) + [3] * resumed
            assert read.series("residual")[0].tolist() == expected
        assert path.read_bytes().startswith(data[:cut])  # appended to, never changed


def test_a_killed_process_leaves_whole_lines(path):
    program = """
        import sys, torch, accord
        from accord.diagnostics import Log
        x = torch.ones(2, requires_grad=True)
        balancer, log = accord.MGDA(["a", "b"]), Log(sys.argv[1])
        for step in range(10**6):
            log(balancer.backward({"a": x[0] ** 2, "b": x[1] ** 2}, x), step)
            if step == 20:
                print("ready", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout.readline() == b"ready\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    read = read_log(path)
    assert read.damage == ()
    assert read.series("weights", "a")[0].tolist() == list(range(len(read)))
    assert len(read) > 20


def test_other_damage_is_named_line_by_line(path):
    write(path, range(6))
    lines = path.read_bytes().split(b"\n")
    lines[1], lines[2], lines[3], lines[4] = b'{"step": 1', b"[1, 2]", b'{"step": 3, "kind": "balance"}', b"\xff\xfe"
    path.write_bytes(b"\n".join(lines))
    with pytest.warns(NumericalWarning, match="and 1 more"):
        read = read_log(path)
    assert read.series("residual")[0].tolist() == [0, 5]
    assert [sentence.split(" (")[0] for sentence in read.damage] == ["line 2", "line 3", "line 4", "line 5"]
    assert "a list, not the record of a step" in read.damage[1]
    assert "'losses' is missing" in read.damage[2]


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(path):
    write(path, range(10))
    write(path, [6, 7])  # from the checkpoint before step 6; steps 8 and 9 never came again
    read = read_log(path)
    assert read.series("residual")[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert read.replaced == 4
    times = read.series("time")[1]
    assert (np.diff(times) > 0).all()
    write(path, [8])
    assert read_log(path).series("residual")[0].tolist() == list(range(9))


def test_a_diagnosis_after_the_run_replaces_no_step(path):
    write(path, range(10))
    with Log(path) as log:
        log(diagnosis(), 5)
        log(diagnosis(), 6)
    write(path, [])
    with Log(path) as log:
        log(diagnosis(), 5)
    read = read_log(path)
    assert read.series("residual")[0].tolist() == list(range(10))
    assert read.series("stationarity", kind="diagnosis")[0].tolist() == [5]
    write(path, [4])  # a run resumed there makes all later ones again
    assert {record["step"] for record in read_log(path)} == {0, 1, 2, 3, 4}


def test_two_open_logs_in_turn_lose_no_step(path):
    with Log(path) as one, Log(path) as other:
        for step, balance in enumerate(steps(count=5)):
            one(balance, step)
            other(diagnosis(), step)
    read = read_log(path)
    assert [(r["kind"], r["step"]) for r in read] == [(k, s) for s in range(5) for k in ("balance", "diagnosis")]


def test_of_an_estimate_no_norms_and_cosines_are_logged_and_of_a_silent_task_those_of_the_metrics(path):
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def opposed():
        return {"a": x[0], "b": -x[0], "c": 0 * x[1]}

    with Log(path) as log:
        exact = accord.MGDA(list("abc")).backward(opposed(), x)
        log(exact, 0)
        log(accord.MGDA(list("abc"), gramian_tasks=1).backward(opposed(), x), 1)
    first, second = read_log(path)
    assert tuple(first["conflict"].values()) == pytest.approx(tuple(accord.metrics.conflict(exact.gramian)))
    assert first["conflict"]["share"] == pytest.approx(1 / 3)
    assert not {"norms", "cosines", "conflict", "imbalance", "stationarity"} & set(second)


def test_a_step_that_is_logged_twice_counts_once_and_the_last_wins(path):
    one, two, *_ = steps()
    with Log(path) as log:
        log(one, 5)
        log(two, 5)
        log(one, 4)  # not a resumed run: the order within one opening is the user's
    read = read_log(path)
    assert sorted(zip(*read.series("losses", "seg"), strict=True)) == [
        (4, one.losses[0].item()),
        (5, two.losses[0].item()),
    ]
    assert read.replaced == 1


def test_a_full_disk_and_paths_that_cannot_be_written(tmp_path):
    balance = next(iter(steps()))
    with Log("/dev/full") as log, pytest.raises(StoreError, match="cannot write /dev/full: No space left on device"):
        log(balance, 0)
    with pytest.raises(StoreError, match="Is a directory"):
        Log(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="name a file in a folder"):
        Log(tmp_path / "file" / "run.jsonl")
    log = Log(tmp_path / "run.jsonl")
    log.close()
    log.close()
    with pytest.raises(StoreError, match="was closed"):
        log(balance, 0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: Log(), "nowhere to log"),
        (lambda p: Log(p, every=0), "every = 0"),
        (lambda p: Log(p, tasks="seg"), "not a list of one or more distinct names"),
        (lambda p: Log(p, tasks=["a", "a"]), "distinct"),
        (lambda p: Log(p)(next(iter(steps())), -1), "step = -1"),
        (lambda p: Log(p)(next(iter(steps())), 0.5), "step = 0.5"),
    ],
)
def test_mistakes_are_named(path, make, text):
    with pytest.raises(OptionError, match=text):
        make(path)


def test_losses_are_not_what_is_logged(path):
    with pytest.raises(ShapeError, match=r"got a dict; log what balancer\.backward"), Log(path) as log:
        log({"seg": 1.0}, 0)
