"""accord.compare: the table is what the runs say, runs share nothing, and a store knows its own problem again."""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import accord
from accord.bench.compare import METHODS, compare, experiment_of
from accord.bench.report import to_json
from accord.bench.store import Store
from accord.errors import AccordError, DependencyError, OptionError, UnknownNameError
from support.small_problem import Settings, Small
from support.stores import timeless

QUICK = Settings(epochs=2)
EXAMPLE = Path(__file__).parent.parent / "examples" / "compare.py"


def data(comparison):
    """The table with every digit, without times."""
    return timeless(json.loads(to_json(comparison.report)))


def rows(comparison):
    return {row["method"]: row for row in data(comparison)["rows"]}


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where compare puts what is not kept."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# The table


def test_the_table_is_what_the_runs_say(tmp_path):
    found = compare(Small(QUICK), ["stl", "ls", "uw"], [0, 1, 2], tmp_path / "runs")
    assert [row.method for row in found.report.rows] == ["stl", "ls", "uw"]
    runs = list(Store(tmp_path / "runs").runs("small", 1, "given"))
    assert len(runs) == 3 * 4
    values = {}
    for run in runs:
        for name, value in run.result()["metrics"].items():
            values.setdefault(run.key.method.name, {}).setdefault(name, {})[run.key.seed] = value
    for row in found.report.rows:
        for name, value in row.metrics.items():
            samples = list(values[row.method][name].values())
            assert value.mean == pytest.approx(statistics.fmean(samples), rel=1e-12)
            assert value.error == pytest.approx(statistics.stdev(samples) / math.sqrt(3), rel=1e-12)
    base = {name: statistics.fmean(samples.values()) for name, samples in values["stl"].items()}
    sign = {"up/abs_err": 1, "down/abs_err": 1, "down/hits": -1}  # in percent, and a smaller one is better
    changes = [
        statistics.fmean(100 * sign[name] * (values["uw"][name][seed] - base[name]) / abs(base[name]) for name in sign)
        for seed in range(3)
    ]
    uw = next(row for row in found.report.rows if row.method == "uw")
    assert uw.delta_m.mean == pytest.approx(statistics.fmean(changes), rel=1e-9)
    assert "nash-mtl" not in str(found)
    assert "| uw |" in found.markdown
    assert found.frame["method"].to_list() == ["stl", "ls", "uw"]
    assert found.folder == tmp_path / "runs"


def test_without_a_store_nothing_is_left(temporary):
    found = compare(Small(QUICK), ["ls"])
    assert found.folder is None
    assert list(temporary.iterdir()) == []


def test_the_default_methods_train():
    assert [row.method for row in compare(Small(QUICK)).report.rows] == list(METHODS)


def test_without_stl_the_note_says_what_to_do_in_the_call():
    (note,) = compare(Small(QUICK), ["ls", "uw"]).report.notes
    assert "name stl among the methods" in note
    assert "accord run" not in note


def test_methods_and_seeds_may_be_any_iterable():
    found = compare(Small(QUICK), (m for m in ["ls", "mgda:at=features"]), range(2))
    assert {(row.method, row.seeds) for row in found.report.rows} == {("ls", 2), ("mgda:at=features", 2)}


# Runs share nothing


class Sharing(Small):
    """Holds all that a user may hold: a model made too early, a tensor and a list that training changes."""

    def __init__(self):
        super().__init__(QUICK)
        torch.manual_seed(4)
        self.early = nn.Linear(3, 3)
        self.scale, self.counts = torch.ones(()), [0]

    def build(self):
        training = super().build()
        self.net.left = nn.Sequential(self.early, nn.Linear(3, 6))
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        return accord.Training(self.net, training.batches, self.net.left, optimizer)

    def losses(self, batch):
        self.scale += 0.1
        self.counts[0] += 1
        return {task: loss * self.scale * self.counts[0] for task, loss in super().losses(batch).items()}

    def state_dict(self):
        return {**super().state_dict(), "scale": self.scale, "counts": self.counts}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.scale, self.counts = state["scale"], state["counts"]


def test_what_one_run_changes_no_other_sees():
    problem = Sharing()
    before = timeless(problem.early.state_dict())
    together = rows(compare(problem, ["ls", "uw", "dwa"], [0, 1]))
    for method in ("uw", "dwa"):
        alone = rows(compare(Sharing(), [method], [0, 1]))[method]
        assert {**alone, "mean_rank": 0} == {**together[method], "mean_rank": 0}
    assert timeless(problem.early.state_dict()) == before
    assert problem.counts == [0]
    assert float(problem.scale) == 1
    assert not hasattr(problem, "training")


def test_what_cannot_be_copied_is_named(tmp_path, temporary):
    problem = Small(QUICK)
    problem.rows = (row for row in range(3))
    with pytest.raises(OptionError, match=r"Small cannot be copied.*rows: .*generator.*make that in build\(\)"):
        compare(problem, ["ls"], store=tmp_path / "runs")
    assert not list(tmp_path.rglob("run.json"))
    with pytest.raises(OptionError):
        compare(problem, ["ls"])
    assert list(temporary.iterdir()) == []


# Several processes


@pytest.mark.slow
def test_two_processes_give_the_same_table(tmp_path):
    one = compare(Small(), ["stl", "uw", "mgda:at=features"], [0, 1], tmp_path / "one")
    two = compare(Small(), ["stl", "uw", "mgda:at=features"], [0, 1], tmp_path / "two", jobs=2)
    assert data(one) == data(two)


LOADER = """
import sys
import accord, torch
from support.small_problem import Settings, Small
from torch.utils.data import DataLoader

class Mine(Small):
    def build(self):
        training = super().build()
        loader = DataLoader(training.batches.dataset, 8, shuffle=True, num_workers=int(sys.argv[1]))
        return accord.Training(self.net, loader, training.shared, training.optimizer)

if __name__ == "__main__":
    problem = Mine(Settings(epochs=2, plateau=False))
    problem.data = torch.ones(3)
    found = accord.compare(problem, ["ls", "uw"], jobs=2)
    print([row.method for row in found.report.rows])
"""


def script(tmp_path, text, *arguments, prompt=False):
    """Run a program as a user would, or as one types it; its exit code, output and errors."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(["-c", text] if prompt else [path]), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_program_compares_its_own_class_in_two_processes_with_loaders_that_have_workers(tmp_path):
    code, out, err = script(tmp_path, LOADER, "1")
    assert (code, out) == (0, "['ls', 'uw']\n"), err


def test_a_class_that_workers_cannot_import_is_told_before_anything_is_trained(tmp_path):
    """As in a notebook: __main__ is no file."""
    code, _, err = script(tmp_path, LOADER, "0", prompt=True)
    assert code == 1
    assert "a worker process cannot read the run sent to it" in err
    assert "not in a notebook" in err
    assert "jobs=1" in err


def test_a_local_class_or_a_lambda_cannot_be_sent_and_the_message_says_so():
    class Local(Small):
        pass

    with pytest.raises(AccordError, match=r"cannot be sent to a worker process.*Local.*top level.*jobs=1"):
        compare(Local(QUICK), ["ls", "uw"], jobs=2)
    problem = Small(QUICK)
    problem.transform = lambda x: x
    assert len(compare(problem, ["ls", "uw"]).report.rows) == 2


# Failures


class Failing(Small):
    """Fails in its second epoch."""

    def losses(self, batch):
        if self.seen > 3:
            raise KeyError("my own mistake")
        return super().losses(batch)


def test_a_failure_is_told_with_its_place_and_the_others_are_kept(temporary):
    class Unlucky(Small):
        def build(self):
            self.unlucky = self.active == ("up",)
            return super().build()

        def losses(self, batch):
            if self.unlucky:
                raise KeyError("my own mistake")
            return super().losses(batch)

    with pytest.raises(AccordError) as told:
        compare(Unlucky(QUICK), ["stl", "ls"], [0, 1])
    text = str(told.value)
    assert text.startswith("compare: 2 of 6 runs are not done:\nstl:task=up seed 0, stl:task=up seed 1: KeyError: ")
    assert 'raise KeyError("my own mistake")' in text  # the line of the user's own code
    assert "test_compare.py" in text
    (kept,) = temporary.iterdir()
    assert told.value.__notes__ == [f"What is done is kept: compare(…, store='{kept}') goes on from there."]
    found = compare(Unlucky(QUICK), ["ls"], [0, 1], store=kept)
    assert found.report.rows[0].seeds == 2
    assert all(len(run.info()["attempts"]) == 1 for run in Store(kept).runs("small", 1, "given"))


def test_if_all_fail_nothing_is_kept_but_the_traceback_is_told(temporary):
    problem = Failing(QUICK)
    problem.seen = 10
    with pytest.raises(AccordError, match="my own mistake") as told:
        compare(problem, ["ls", "uw"])
    assert "ls seed 0, uw seed 0: KeyError" in str(told.value)
    assert "in losses" in str(told.value)
    assert list(temporary.iterdir()) == []


def test_an_interrupt_says_where_the_rest_is(temporary):
    class Stopped(Small):
        def build(self):
            if self.active == ("down",):
                raise KeyboardInterrupt
            return super().build()

    with pytest.raises(KeyboardInterrupt) as told:
        compare(Stopped(QUICK), ["stl"])
    (kept,) = temporary.iterdir()
    assert str(kept) in told.value.__notes__[0]


# Mistakes


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: compare(Small), OptionError, "got the class Small, not an accord.Problem: give an object of it"),
        (lambda: compare(nn.Linear(2, 2)), OptionError, "got a Linear, not an accord.Problem: derive a class"),
        (lambda: compare(Small(), "ls"), OptionError, "methods='ls': give a list of them, as in methods=['ls']"),
        (lambda: compare(Small(), [accord.LS]), OptionError, "name methods by their specs"),
        (lambda: compare(Small(), 3), OptionError, "methods=3: give a list"),
        (lambda: compare(Small(), []), OptionError, "no methods or no seeds"),
        (lambda: compare(Small(), ["nash-mlt"]), UnknownNameError, "did you mean 'nash-mtl'"),
        (lambda: compare(Small(), ["cagrad:d=1"]), OptionError, "has no option 'd'"),
        (lambda: compare(Small(), ["stl:task=upp"]), UnknownNameError, "did you mean 'up'"),
        (lambda: compare(Small(), ["ls"], [0, 0]), OptionError, "seed 0 is given twice"),
        (lambda: compare(Small(), ["ls"], 3), OptionError, "seeds=3: give a list"),
        (lambda: compare(Small(), ["ls"], [-1]), OptionError, "non-negative"),
        (lambda: compare(Small(), ["ls"], jobs=0), OptionError, "jobs=0"),
        (lambda: compare(Small(), ["ls"], jobs=1.5), OptionError, "jobs=1.5"),
    ],
)
def test_mistakes_in_the_call_are_told_and_leave_nothing(call, error, words, temporary):
    with pytest.raises(error, match=re.escape(words)):
        call()
    assert list(temporary.iterdir()) == []


def test_a_problem_without_tasks_is_told():
    class Bare(accord.Problem):
        epochs = 1
        build = losses = evaluate = lambda self: None

    with pytest.raises(OptionError, match="Bare has no tasks; write them into the class, as in"):
        compare(Bare())


@pytest.mark.parametrize(
    ("package", "statement"),
    [
        ("filelock", "accord.compare(problem, ['ls'])"),
        ("rich", "accord.compare(problem, ['ls'], show=True)"),
        ("rich", "print(accord.compare(problem, ['ls']))"),
        ("polars", "accord.compare(problem, ['ls']).frame"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package, statement):
    before = sys.modules.get(package)
    problem = Small(QUICK)
    try:
        sys.modules[package] = None
        with pytest.raises(DependencyError, match=rf"{package}.*accord\[bench\]"):
            exec(statement, {"accord": accord, "problem": problem})
    finally:
        if before is None:
            del sys.modules[package]
        else:
            sys.modules[package] = before


# The example


def test_the_example_is_short_and_says_what_it_should(tmp_path):
    lines = EXAMPLE.read_text().split('"""\n', 1)[1].strip().splitlines()
    assert len(lines) < 60
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("stl", "ls", "nash-mtl", "left", "right", "sum", "Δm"):
        assert word in done.stdout


def test_the_guide_shows_the_example():
    guide = (EXAMPLE.parent.parent / "docs/guides/your-own-model.md").read_text()
    shown = guide.split("```python\n", 1)[1].split("```", 1)[0]
    program = EXAMPLE.read_text().split('"""\n', 1)[1].strip()
    assert shown.strip() == program.replace('if __name__ == "__main__":\n    print(', "print(")


def test_the_summary_is_the_first_line_of_the_class():
    assert experiment_of(Failing(QUICK), ["ls"]).summary == "Fails in its second epoch."
