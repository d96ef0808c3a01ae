"""Imitation on MT10: goals of its own, losses and scales by hand, resume, all methods, the tables."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("metaworld")

from accord.bench import experiments
from accord.bench.experiments import imitation_table
from accord.bench.experiments.imitation_table import side_by_side
from accord.bench.experiments.mt10_imitation import EXPERIMENT, PRESETS, SPREAD, figures, prepare, remarks
from accord.bench.report import summarise
from accord.bench.rl import imitation
from accord.bench.rl.demonstrations import load
from accord.bench.rl.environment import TaskEnvironment
from accord.bench.rl.imitation import DATA, Policy, loss_scales
from accord.bench.rl.tasks import MT10
from accord.bench.runner import run
from accord.bench.spec import MethodSpec
from accord.bench.store import Store
from accord.errors import DependencyError, OptionError, UnknownNameError

TASKS = ("reach-v3", "drawer-close-v3", "window-open-v3")
TINY = dataclasses.replace(PRESETS["smoke"], tasks=TASKS, steps=4, unit=2, demonstration_steps=20, horizon=10)

LARGE = pytest.mark.filterwarnings("ignore:Constant")  # the experts warn of actions above 1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(folder))
        yield folder


def trial(method="ls", seed=0, **changes):
    return EXPERIMENT.trial(dataclasses.replace(TINY, **changes), MethodSpec.parse(method), seed)


def timeless(value):
    """Without what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith("seconds")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


# The problem


def test_a_missing_metaworld_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "metaworld"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r"'metaworld.*pip install 'accord\[rl\]'"):
        prepare(TINY)
    with pytest.raises(DependencyError, match=r"accord\[rl\]"):
        trial()


def test_it_is_registered_and_says_what_it_is():
    assert experiments.load("mt10-imitation") is EXPERIMENT
    assert [task.name for task in EXPERIMENT.tasks] == list(MT10)
    assert "not reinforcement learning" in EXPERIMENT.summary
    assert DATA.endswith("not reinforcement learning")
    assert PRESETS["laptop-spread"] == dataclasses.replace(PRESETS["laptop"], spread=SPREAD)


@pytest.mark.parametrize("task", TASKS)
def test_goals_of_the_evaluation_are_in_no_demonstration(task):
    goals = trial().problem._goals
    env = TaskEnvironment(task, {"evaluate": goals, "demonstrate": TINY.recipe().goals()}, 10)
    ours, theirs = (np.array(env._goals[purpose]) for purpose in ("evaluate", "demonstrate"))
    assert np.abs(ours[:, None] - theirs).max(-1).min() > 1e-6
    env.close()
    assert trial(seed=1).problem._goals != goals
    assert trial("stl:task=reach-v3").problem._goals == goals


def test_losses_are_scaled_errors_and_states_are_standardised():
    one = trial("ls", spread=100.0, batch=5)
    problem = one.problem
    assert sorted(problem._scales.tolist()) == pytest.approx([0.1, 1.0, 10.0])
    torch.manual_seed(3)
    x, y = next(iter(one.training.batches))
    assert x.shape == (3, 5, 42)
    assert (x[..., 39:] == torch.eye(3)[:, None]).all()
    losses = problem.losses((x, y))
    for k, task in enumerate(TASKS):
        by_hand = torch.nn.functional.mse_loss(one.model(x[k]), y[k]) * problem._scales[k]
        assert losses[task].item() == pytest.approx(by_hand.item(), rel=1e-6)
    states = np.concatenate([load(task, TINY.recipe()).states[0] for task in TASKS]).astype(float)
    moves = states.std(0) > 1e-3
    inputs = problem._sets.train[0][..., :39].flatten(0, 1).double()
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std(0, correction=0)[moves], 1, atol=1e-5)
    back = inputs.numpy() * problem._sets.deviation + problem._sets.mean
    np.testing.assert_allclose(back, states, atol=1e-5)


def test_scales_are_evenly_spread_and_assigned_by_the_seed():
    scales = loss_scales(10, 1000.0).double()
    np.testing.assert_allclose(scales[1:] / scales[:-1], 1000 ** (1 / 9), rtol=1e-5)
    assert scales[-1] / scales[0] == pytest.approx(1000, rel=1e-5)
    assert scales.log().sum() == pytest.approx(0, abs=1e-5)
    assert (loss_scales(10, 1.0) == 1).all()
    kept = [trial("ls", seed, spread=1000.0).problem.details()["loss_scales"] for seed in range(6)]
    assert all(sorted(each.values()) == sorted(kept[0].values()) for each in kept)
    assert len({tuple(each.values()) for each in kept}) > 1
    equal, spread = trial("ls"), trial("nash-mtl", spread=1000.0)  # the scales apart, all is the same
    assert all(torch.equal(p, q) for p, q in zip(equal.model.parameters(), spread.model.parameters(), strict=True))
    assert equal.problem._goals == spread.problem._goals


def test_numpy_does_what_torch_does():
    one = trial("ls")
    one.advance()
    problem = one.problem
    states = np.concatenate([load(task, TINY.recipe()).states.reshape(-1, 39) for task in TASKS])
    for column, task in enumerate(TASKS):
        standardised = (states.astype(float) - problem._sets.mean) / problem._sets.deviation
        tasks = np.eye(len(TASKS))[[column]].repeat(len(states), 0)
        inputs = torch.from_numpy(np.concatenate([standardised, tasks], 1))
        with torch.no_grad():
            wanted = one.model.double()(inputs).clamp(-1, 1).numpy()
        policy = problem.policy(task)
        np.testing.assert_allclose(np.stack([policy(state) for state in states]), wanted, atol=1e-6)
    huge = Policy(torch.nn.Sequential(torch.nn.Linear(42, 4)), problem._sets, 0)
    huge.layers[0][1] += np.array([50.0, -50.0, 50.0, -50.0])
    np.testing.assert_array_equal(huge(states[0]), [1, -1, 1, -1])


@LARGE
@torch.no_grad()
def test_success_counts_what_the_policy_solves(monkeypatch):
    from metaworld.policies import ENV_POLICY_MAP

    one = trial("stl:task=reach-v3", episodes=2, horizon=60)
    expert = ENV_POLICY_MAP["reach-v3"]()

    class Expert:
        def __init__(self, *_):
            pass

        def __call__(self, state):
            return np.clip(expert.get_action(state), -1, 1).astype(np.float32)

    monkeypatch.setattr(imitation, "Policy", Expert)
    assert one.problem.evaluate()["reach-v3/success"] == 1.0
    monkeypatch.setattr(Expert, "__call__", lambda self, state: np.zeros(4, np.float32))
    assert one.problem.evaluate()["reach-v3/success"] == 0.0


@pytest.mark.parametrize("method", [m for m in EXPERIMENT.methods if m != "stl"])
def test_every_method_runs_and_records_plain_data(method):
    one = trial(method, spread=1000.0)
    records = [one.advance() for _ in range(one.length)]
    result = one.result()
    json.dumps([records, result], allow_nan=False)
    assert "metrics" not in records[0]
    assert set(records[1]["metrics"]) == {f"{task}/{metric}" for task in TASKS for metric in ("success", "mse")}
    assert result["data"] == DATA
    assert result["steps"] == 4


@pytest.mark.parametrize("method", ["uw", "graddrop", "nash-mtl", "stl:task=drawer-close-v3"])
def test_a_resumed_run_equals_an_uninterrupted_one(method):
    straight = trial(method, spread=1000.0)
    wanted = [straight.advance() for _ in range(2)]
    first = trial(method, spread=1000.0)
    first.advance()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = trial(method, spread=1000.0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.manual_seed(99)  # the global generator does not matter
    assert timeless(second.advance()) == timeless(wanted[1])
    assert timeless(second.result()) == timeless(straight.result())


def test_a_task_alone_sees_the_same_samples():
    both, alone = trial("ls"), trial("stl:task=drawer-close-v3")
    batches = []
    for one in (both, alone):
        torch.manual_seed(5)
        batches.append(list(one.training.batches))
    for (x, y), (own, labels) in zip(*batches, strict=True):
        assert torch.equal(x[[1]], own)
        assert torch.equal(y[[1]], labels)
    assert all(torch.equal(p, q) for p, q in zip(both.model.parameters(), alone.model.parameters(), strict=True))


def test_training_lowers_the_error_on_held_out_demonstrations():
    before, after = trial("ls", steps=2, unit=2), trial("ls", steps=300, unit=300, lr=3e-3)
    records = [one.advance()["metrics"] for one in (before, after)]
    means = [np.mean([value for name, value in found.items() if name.endswith("mse")]) for found in records]
    assert means[1] < 0.5 * means[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spread": 0.5}, "spread=0.5 is the largest loss scale over the smallest"),
        ({"spread": float("inf")}, "spread=inf"),
        ({"held_out": 2}, "held_out=2 must be 1 or more, and fewer than demonstrations=2"),
        ({"held_out": 0}, "held_out=0"),
        ({"steps": 5}, "steps=5 must be a multiple of unit=2"),
        ({"batch": 0}, "batch=0 must be positive"),
        ({"episodes": 0}, "episodes=0 must be positive"),
        ({"lr": float("nan")}, "lr=nan must be positive"),
        ({"widths": ()}, r"widths=\(\) must name a hidden layer"),
        ({"tasks": ("reach",)}, "must be full names"),
        ({"tasks": ("reach-v3", "reach-v3")}, "named twice"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        trial(**changes)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("nash-mtl:colour=red", "colour"),
        ("nash-mtl:at=features", "features"),
        ("nash-mtl:at=heads", "must be parameters or features"),
        ("stl:task=reech-v3", "names no task"),
    ],
)
def test_unknown_options_are_refused(method, message):
    with pytest.raises((OptionError, UnknownNameError), match=message):
        trial(method)


# The tables


@pytest.fixture(scope="module")
def small():
    """The experiment on three tasks."""
    tasks = tuple(task for task in EXPERIMENT.tasks if task.name in TASKS)
    tiny = dataclasses.replace(TINY, tasks=tuple(task.name for task in tasks))
    presets = {"laptop": tiny, "laptop-spread": dataclasses.replace(tiny, spread=1000.0)}
    return dataclasses.replace(EXPERIMENT, tasks=tasks, presets=presets, methods=("stl", "ls", "nash-mtl"))


@pytest.fixture(scope="module")
def store(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    for preset in small.presets:
        outcomes = run(small, preset, ("stl", "ls"), (0, 1), root)
        assert {outcome.status for outcome in outcomes} == {"done"}
    run(small, "laptop", ("nash-mtl",), (0,), root)
    return Store(root)


def test_the_two_columns_are_those_of_the_runs(small, store):
    def metric(preset, method, seed, name):
        found = {}
        for each in store.runs(small.name, small.version, preset):
            if each.key.method.name == method and each.key.seed == seed:
                found |= each.result()["metrics"]
        return np.array([found[f"{task.name}/{name}"] for task in small.tasks])

    runs = {preset: list(store.runs(small.name, small.version, preset)) for preset in small.presets}
    lines = {line.method: line for line in side_by_side(runs["laptop"], runs["laptop-spread"], small)}
    assert list(lines) == ["stl", "ls", "nash-mtl"]
    for method in ("stl", "ls"):
        line = lines[method]
        means = [metric("laptop", method, seed, "success").mean() for seed in (0, 1)]
        assert line.equal.mean == pytest.approx(np.mean(means))
        assert line.equal.error == pytest.approx(np.std(means, ddof=1) / np.sqrt(2))
        pairs = [[metric(preset, method, seed, "mse") for preset in ("laptop", "laptop-spread")] for seed in (0, 1)]
        worst = [(spread / equal).max() for equal, spread in pairs]
        assert line.worst_ratio.mean == pytest.approx(np.mean(worst))
        assert (line.equal_seeds, line.spread_seeds) == (2, 2)
    assert lines["ls"].worst_ratio.mean > 1
    assert lines["nash-mtl"].spread is lines["nash-mtl"].worst_ratio is None


def test_the_table_is_markdown_and_says_what_it_is(small, store, monkeypatch, capsys):
    text = imitation_table.table(store, small)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert len({row.count("|") for row in rows}) == 1
    assert "success, 1000:1" in rows[0]
    assert rows[4].startswith("| nash-mtl |")
    assert rows[4].endswith("|  |  | 1, 0 |")
    assert "not reinforcement learning" in text
    monkeypatch.setattr("accord.bench.experiments.mt10_imitation.EXPERIMENT", small)
    assert imitation_table.main(["--store", str(store.root)]) == 0
    assert capsys.readouterr().out == text
    assert imitation_table.main(["--store", str(store.root), "--preset", "paper"]) == 2
    assert "no presets 'paper' and 'paper-spread'; pairs: laptop" in capsys.readouterr().err


def test_a_store_without_runs_is_told(tmp_path, capsys):
    assert imitation_table.main(["--store", str(tmp_path)]) == 2
    assert "run an experiment first" in capsys.readouterr().err
    store = Store(tmp_path, create=True)
    assert imitation_table.main(["--store", str(store.root)]) == 2
    assert "accord run mt10-imitation --preset laptop`, then --preset laptop-spread" in capsys.readouterr().err


def test_the_report_its_remarks_and_its_figure_say_what_it_is(small, store, tmp_path, monkeypatch):
    from accord.bench import plots

    report = summarise(store, small, "laptop")
    assert f"Data: {DATA}" in report.notes
    done = list(store.runs(small.name, small.version, "laptop-spread"))
    teachers, scales = remarks(small.presets["laptop-spread"], done)
    assert "noisy experts" in teachers
    assert "1000:1" in scales
    drawn = []
    keep = plots.save

    def watched(figure, *arguments):
        drawn.append(figure)
        return keep(figure, *arguments)

    monkeypatch.setattr(plots, "save", watched)
    (path,) = figures(small.presets["laptop-spread"], done, Path(tmp_path))
    assert path.stat().st_size > 1000
    (axes,) = drawn[0].axes
    title = axes.get_title() or axes.get_title(loc="left")
    assert "not reinforcement learning" in title
    assert "1000:1" in title
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ls", "stl"]


def test_smoke_runs_with_all_ten_tasks(tmp_path):
    outcomes = run(EXPERIMENT, "smoke", ("ls", "nash-mtl"), (0,), tmp_path)
    assert {outcome.status for outcome in outcomes} == {"done"}
    rows = summarise(Store(tmp_path), EXPERIMENT, "smoke").rows
    assert [row.method for row in rows] == ["ls", "nash-mtl"]
    assert all(len(row.metrics) == 20 for row in rows)
