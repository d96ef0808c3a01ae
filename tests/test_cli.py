"""The command line: what it prints, what it returns, and what it says when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from accord.bench import cli
from accord.bench.store import Store

SUPPORT = Path(__file__).parent / "support"
QUADRATIC = "quadratic:EXPERIMENT"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """In an empty folder, with the test experiment importable and a wide terminal."""
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def accord(capsys, *args):
    """Exit code, standard output and standard error of a command."""
    try:
        code = cli.main(list(args))
    except SystemExit as leave:
        code = leave.code
    out, err = capsys.readouterr()
    return code, out, err


def spawn(*args, **options):
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-m", "accord", *args]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


# Help


def test_alone_it_shows_its_verbs(capsys):
    code, out, _ = accord(capsys)
    assert code == 0
    for verb in cli.VERBS:
        assert verb in out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(capsys, verb):
    code, out, _ = accord(capsys, verb, "--help")
    assert code == 0
    assert "usage: accord " + verb in out


def test_a_wrong_verb_or_option_is_told(capsys):
    code, out, err = accord(capsys, "rnu")
    assert (code, out) == (2, "")
    assert "did you mean 'run'" in err
    code, _, err = accord(capsys, "run", "toy", "--sede", "1")
    assert code == 2
    assert "--sede" in err


def test_parsing_needs_no_heavy_import():
    program = "import sys, accord.bench.cli; print(*(m for m in sys.modules if m.count('.') == 0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"polars", "matplotlib", "torch_geometric", "rdkit"} & set(done.stdout.split())


# Run, report, plot


def test_run_ends_with_the_table_and_the_figures(capsys, tmp_path):
    code, out, err = accord(capsys, "run", QUADRATIC, "--preset", "smoke", "--methods", "stl", "ls", "nash-mtl")
    assert code == 0
    assert "Δm" in out
    assert out.index("stl") < out.index("ls  ") < out.index("nash-mtl")
    assert "figures in runs/figures/quadratic-smoke: delta-m.png, progress.png, weights.png, conflict.png" in out
    assert "nash-mtl seed 0: done" in err
    assert (tmp_path / "runs/figures/quadratic-smoke/delta-m.png").stat().st_size > 5000
    code, again, err = accord(capsys, "run", QUADRATIC, "--preset", "smoke", "--methods", "stl", "ls", "nash-mtl")
    assert (code, again) == (0, out)
    assert "4 runs, 4 of them done before" in err


def test_a_seed_given_twice_is_told_before_anything_runs(capsys):
    code, out, err = accord(capsys, "run", QUADRATIC, "--preset", "smoke", "--seeds", "0", "1", "0")
    assert (code, out) == (2, "")
    assert err.startswith("accord: seed 0 is given twice")
    assert "give each seed once" in err
    assert not Path("runs").exists()


def test_no_report_prints_nothing(capsys):
    arguments = ["--preset", "smoke", "--methods", "stl:task=left", "--seeds", "0", "1", "--store", "mine"]
    code, out, _ = accord(capsys, "run", QUADRATIC, *arguments, "--no-report")
    assert (code, out) == (0, "")
    assert len(list(Path("mine").rglob("result.json"))) == 2


def test_a_failed_run_shows_in_the_exit_code_and_in_the_report(capsys):
    code, out, err = accord(capsys, "run", QUADRATIC, "--preset", "broken", "--methods", "stl")
    assert code == 1
    assert "stl:task=left seed 0: failed after unit 2: DataError: unit 3 was told to fail" in out
    assert "1 of 2 runs failed" in err
    assert "Traceback" not in out + err


def test_report_writes_every_format(capsys, tmp_path):
    accord(capsys, "run", QUADRATIC, "--preset", "smoke", "--methods", "ls", "--no-report")
    common = ["report", QUADRATIC, "--preset", "smoke"]
    starts = {"table": "quadratic", "markdown": "## quadratic", "csv": "method,seeds,left/distance", "json": "{"}
    for form, start in starts.items():
        code, out, _ = accord(capsys, *common, "--format", form)
        assert code == 0
        assert out.lstrip().startswith(start)
        file = tmp_path / "deep" / f"report.{form}"
        code, nothing, _ = accord(capsys, *common, "--format", form, "--out", str(file))
        assert (code, nothing) == (0, "")
        if form != "table":
            assert file.read_text() == out
    assert json.loads((tmp_path / "deep/report.json").read_text())["rows"][0]["method"] == "ls"


def test_report_takes_the_methods_and_seeds_named(capsys):
    common = [QUADRATIC, "--preset", "smoke"]
    accord(capsys, "run", *common, "--methods", "stl", "ls", "uw", "--seeds", "0", "1", "--no-report")
    rows = {}
    for name, chosen in {
        "all": [],
        "two": ["--methods", "stl", "uw"],
        "one seed": ["--seeds", "1", "--methods", "ls"],
    }.items():
        code, out, _ = accord(capsys, "report", *common, "--format", "json", *chosen)
        assert code == 0
        rows[name] = {row["method"]: row for row in json.loads(out)["rows"]}
    assert list(rows["two"]) == ["stl", "uw"]
    assert rows["two"]["uw"]["delta_m"] == rows["all"]["uw"]["delta_m"]
    assert [row["seeds"] for row in rows["one seed"].values()] == [1]
    assert "name stl among the methods" in accord(capsys, "report", *common, "--methods", "ls")[1]
    assert accord(capsys, "run", *common, "--methods", "ls", "--seeds", "4", "--no-report")[0] == 0
    remedy = f"`accord run {QUADRATIC} --preset smoke --methods stl --seeds 4`"
    assert remedy in accord(capsys, "report", *common, "--seeds", "4")[1]
    for chosen, words in (
        (["--methods", "nash-mtl"], "has no runs of nash-mtl in quadratic, preset 'smoke'; it has ls, stl, uw"),
        (["--methods", "nash"], "did you mean 'nash-mtl'"),
        (["--seeds", "9"], "has no runs of seed 9"),
    ):
        code, out, err = accord(capsys, "report", *common, *chosen)
        assert (code, out) == (2, "")
        assert words in err


def test_a_damaged_run_does_not_hide_the_others(capsys):
    common = [QUADRATIC, "--preset", "smoke"]
    accord(capsys, "run", *common, "--methods", "ls", "uw", "--no-report")
    (file,) = Path("runs").rglob("uw/seed-0/metrics.jsonl")
    file.write_text("no record\n")
    code, out, _ = accord(capsys, "report", *common)
    assert code == 0  # as with runs that failed: the report is what was asked for
    assert "ls " in out
    assert f"uw seed 0: damaged: {file}, line 1" in out
    code, out, _ = accord(capsys, "plot", *common)
    assert code == 0
    assert "weights.png" in out


def test_plot_goes_where_it_is_told(capsys, tmp_path):
    accord(capsys, "run", QUADRATIC, "--preset", "smoke", "--methods", "ls", "--no-report")
    code, out, _ = accord(capsys, "plot", QUADRATIC, "--preset", "smoke", "--format", "svg", "--out", "drawn")
    assert code == 0
    assert "figures in drawn: weights.svg, conflict.svg" in out
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"weights.svg", "conflict.svg"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "tyo"], "unknown experiment 'tyo'; did you mean 'toy'"),
        (["run", "toy", "--preset", "labtop"], "did you mean 'laptop'"),
        (["run", "toy", "--methods", "nash"], "did you mean 'nash-mtl'"),
        (["run", "toy", "--methods", "cagrad:d=1"], "no option 'd'"),
        (["run", "nowhere.to:BE_FOUND"], "cannot import 'nowhere.to'"),
        (["run", "quadratic:EXPERIMENTS"], "has no 'EXPERIMENTS'"),
        (["run", "quadratic:TASKS"], "is a tuple, not an accord.bench.spec.Experiment"),
        (["report", "toy"], "no runs in runs/"),
        (["plot", "toy", "--store", "there"], "no runs in there/"),
        (["solve", "there.csv"], "cannot read the Gramian from there.csv"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_two(capsys, args, words):
    code, out, err = accord(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("accord: ")
    assert words in err
    assert not Path("runs").exists()


def test_an_interrupt_says_how_to_go_on():
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in the background
    process = spawn("run", QUADRATIC, "--preset", "slower", "--methods", "stl", "--jobs", "2", preexec_fn=default)
    for _ in range(400):
        if list(Path("runs").rglob("metrics.jsonl")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"the same command goes on" in err
    assert b"Traceback" not in err
    statuses = {run.status for run in Store("runs").runs("quadratic", 1, "slower")}
    assert statuses == {"unfinished"}


def test_a_reader_that_leaves_early_is_no_error(capsys):
    accord(capsys, "run", QUADRATIC, "--preset", "smoke", "--methods", "ls", "--no-report")
    with spawn("report", QUADRATIC, "--preset", "smoke", "--format", "markdown") as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == cli.BROKEN_PIPE


# List, solve, doctor


def test_list_shows_experiments_and_methods(capsys):
    code, out, _ = accord(capsys, "list")
    assert code == 0
    for word in ("toy", "smoke laptop paper", "solver=exact", "K backwards", "Navon et al.", "update_every", "stl"):
        assert word in out


def test_solve_reads_every_form_of_matrix(capsys, monkeypatch):
    gramian = np.array([[4.0, 0.0], [0.0, 1.0]])
    np.save("g.npy", gramian)
    Path("g.csv").write_text("4,0\n0,1\n")
    Path("g.txt").write_text("4 0\n\n 0 1")
    for file in ("g.npy", "g.csv", "g.txt"):
        code, out, _ = accord(capsys, "solve", file, "--format", "json")
        assert code == 0
        solution = json.loads(out)
        assert solution["weights"] == [0.5, 1.0]
        assert solution["outcome"] == "solved"
        assert solution["residual"] < 1e-12
    with Path("g.npy").open("rb") as file:
        process = spawn("solve", "-", stdin=file)
        out, _ = process.communicate()
    assert "nash-mtl: solved; residual" in out.decode()


def test_solve_takes_methods_and_options(capsys):
    Path("g.csv").write_text("4,1\n1,2\n")
    weights = {}
    for spec in ("fairgrad:alpha=1", "nash-mtl", "mgda", "cagrad:c=0.2", "imtl-g", "pcgrad"):
        code, out, _ = accord(capsys, "solve", "g.csv", "--method", spec, "--format", "json")
        assert code == 0
        weights[spec] = json.loads(out)["weights"]
    assert weights["fairgrad:alpha=1"] == pytest.approx(weights["nash-mtl"], rel=1e-9)


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("1,2\n3\n", "mgda", "rows have 1 or 2 numbers"),
        ("", "mgda", "rows have no numbers"),
        ("a,b\n", "mgda", "not a matrix of numbers"),
        ("1,2,3\n4,5,6\n", "mgda", "mgda"),
        ("1,nan\nnan,1\n", "mgda", "mgda"),
        ("1,0\n0,1\n", "mdga", "did you mean 'mgda'"),
        ("1,0\n0,1\n", "cagrad:d=1", "(it has c, rescale)"),
        ("1,0\n0,1\n", "pcgrad:order=[0,0]", "permutation"),
    ],
)
def test_solve_says_what_is_wrong(capsys, text, spec, words):
    Path("g.csv").write_text(text)
    code, out, err = accord(capsys, "solve", "g.csv", "--method", spec)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_solve_is_honest_where_there_is_no_solution(capsys):
    Path("g.csv").write_text("1,-1\n-1,1\n")
    code, out, _ = accord(capsys, "solve", "g.csv")
    assert code == 0
    assert "stationary" in out


def test_doctor_tells_versions_and_the_store(capsys):
    code, out, _ = accord(capsys, "doctor")
    assert code == 0
    assert "torch " in out
    assert "[bench]" in out
    assert "store" in out
    Path("bad").mkdir()
    Path("bad/store.json").write_text('{"format": 99}')
    code, out, _ = accord(capsys, "doctor", "--store", "bad")
    assert code == 1
    assert "format 99" in out
