"""accord.compare with a store: it knows its own problem again, and refuses one whose data or code have changed."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import accord
from accord.bench.compare import compare
from accord.bench.fingerprint import code_digest, describe
from accord.bench.report import to_json
from accord.errors import StoreError
from support.small_problem import Settings, Small
from support.stores import timeless

QUICK = Settings(epochs=2)


def data(comparison):
    """The table with every digit, without times."""
    return timeless(json.loads(to_json(comparison.report)))


def test_what_is_done_is_skipped_and_more_seeds_are_added(tmp_path):
    first = compare(Small(QUICK), ["ls", "uw"], [0], tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = compare(Small(QUICK), ["ls", "uw"], [0], tmp_path)
    assert data(again) == data(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == files
    more = compare(Small(QUICK), ["uw"], [0, 1], tmp_path)
    assert [(row.method, row.seeds) for row in more.report.rows] == [("uw", 2)]


def test_a_damaged_checkpoint_shows_in_the_notes(tmp_path):
    compare(Small(QUICK), ["ls"], store=tmp_path)
    (result,) = tmp_path.rglob("result.json")
    result.write_text("{")
    (note,) = compare(Small(QUICK), ["ls"], store=tmp_path).notes
    assert "result.json" in note


SOURCE = '''
import functools
import torch
from torch import nn
import accord

WIDTH = 4
def make():
    return Net()
class Net(nn.Sequential):
    """A network."""
    def __init__(self):
        super().__init__(nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2))
@functools.cache
def scale():
    return 1.0
class Mine(accord.Problem):
    tasks = {"a": {"m": "max"}, "b": {"m": "max"}}
    epochs = 1
    def __init__(self, rate=0.1):
        self.rate, self.data = rate, torch.ones(4, 3)
    def build(self):
        self.net = make()
        return accord.Training(self.net, [self.data], shared=self.net[0])
    def losses(self, batch):
        y = self.net(batch)
        return {"a": (y[:, 0] ** 2).mean() * scale(), "b": (y[:, 1] ** 2).mean()}
    def evaluate(self):
        return {"a/m": 1.0, "b/m": 2.0}
'''

CHANGES = {  # what is replaced by what, and whether old numbers would be wrong
    "nothing": ("", "", False),
    "a comment": ("    def losses", "    # losses\n    def losses", False),
    "a docstring": ('"""A network."""', '"""My network."""', False),
    "layout": ("= rate, torch.ones(4, 3)", "= (rate, torch.ones(4, 3))", False),
    "another class": ("class Mine", "class Other:\n    pass\nclass Mine", False),
    "the loss": ('(y[:, 0] ** 2)', '(y[:, 0] ** 4)', True),
    "a helper": ("return Net()", "return Net().double().float()", True),
    "the network": ("nn.Linear(WIDTH, 2)", "nn.Linear(WIDTH, 2, bias=False)", True),
    "a constant": ("WIDTH = 4", "WIDTH = 5", True),
    "a cached helper": ("return 1.0", "return 2.0", True),
    "epochs": ("epochs = 1", "epochs = 2", True),
    "a default": ("rate=0.1", "rate=0.2", True),
    "data": ("torch.ones(4, 3)", "torch.ones(4, 3) * 1.5", True),
}  # fmt: skip


def module(folder, text):
    """A module of that text, as if it had been edited between two programs."""
    folder.mkdir(exist_ok=True)
    path = folder / "mine.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("mine", path)
    made = importlib.util.module_from_spec(spec)
    sys.modules["mine"] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("change", CHANGES)
def test_a_store_refuses_a_problem_whose_settings_data_or_code_have_changed(tmp_path, change):
    old, new, matters = CHANGES[change]
    assert old in SOURCE
    store = tmp_path / "runs"
    first = compare(module(tmp_path / "old", SOURCE).Mine(), ["ls"], store=store)
    edited = module(tmp_path / "new", SOURCE.replace(old, new)).Mine()
    if not matters:
        assert data(compare(edited, ["ls"], store=store)) == data(first)
        return
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match=r"run mine given ls seed 0 in .* was made with other settings.*fresh"):
        compare(edited, ["uw", "ls"], store=store)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert compare(edited, ["ls"], store=store, fresh=True).report.rows[0].seeds == 1


def test_a_class_without_a_source_is_known_by_its_compiled_code():
    def made(text):
        names = {"accord": accord, "__name__": "__main__"}
        exec(compile(text.split("class Mine")[1].join(["class Mine", ""]), "<stdin>", "exec"), names)
        return code_digest(names["Mine"], accord.Problem)

    text = SOURCE.replace("class Mine", "class Mine", 1)
    assert made(text) == made(text.replace("    def losses", "    # comment\n    def losses"))
    assert made(text) != made(
        text.replace("** 2).mean(), ", "** 3).mean(), ").replace("(y[:, 1] ** 2)", "(y[:, 1] ** 3)")
    )
    assert made(text) != made(text.replace("epochs = 1", "epochs = 2"))


def test_settings_are_the_same_in_another_process(tmp_path):
    """No address, no order of a set, no draw of a hash."""
    text = SOURCE + textwrap.dedent("""
    import json, random, sys
    import numpy
    from pathlib import Path
    from torch.utils.data import DataLoader, TensorDataset
    from accord.bench.compare import experiment_of
    from accord.bench.runner import settings_of
    problem = Mine()
    problem.names, problem.thing, problem.function = {"a", "b", "c"}, object(), lambda x: x in {"p", "q"}
    problem.sets = TensorDataset(torch.arange(3)), [numpy.arange(3), numpy.float32(2), float("nan"), Path("x")]
    problem.loader, problem.random = DataLoader(problem.sets[0]), random.Random(1)
    problem.itself = problem
    problem.net = nn.Linear(2, 2).bfloat16()
    nn.init.ones_(problem.net.weight), nn.init.ones_(problem.net.bias)
    found = json.dumps(settings_of(experiment_of(problem).presets["given"]))
    if __name__ == "__main__":
        print(found)
    """)
    program = tmp_path / "mine.py"
    program.write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=True).stdout
    assert out == module(tmp_path, text).found + "\n"
    assert "0x" not in out


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (torch.ones(3), torch.ones(3, dtype=torch.float64)),
        (torch.ones(3), torch.tensor([1.0, 1.0, 1.0 + 1e-7])),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        ([1, 2], [2, 1]),
        ({"a": torch.ones(1)}, {"a": torch.zeros(1)}),
        (nn.Linear(2, 2), nn.Linear(2, 2)),
        (lambda x: x, lambda x: x + 1),
        (torch.utils.data.TensorDataset(torch.ones(2)), torch.utils.data.TensorDataset(torch.zeros(2))),
    ],
)
def test_different_values_have_different_descriptions(one, two):
    assert describe(one) == describe(one)
    assert describe(one) != describe(two)
