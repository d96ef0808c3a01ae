"""Runs of soft actor-critic: presets, resume, single tasks, the command line, and what a run says of itself."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("metaworld", reason="needs accord[rl]")

from accord.bench import cli
from accord.bench.experiments import load, mt
from accord.bench.rl.tasks import MT10, MT50, parse_tasks
from accord.bench.rl.trial import SACTrial, check_preset
from accord.bench.spec import MethodSpec
from accord.errors import DependencyError, OptionError, UnknownNameError

TWO = load("mt:reach,drawer-close")
SHORT = replace(
    TWO.presets["smoke"], steps=64, horizon=16, eval_every=16, random_steps=16, goals=3, replay=40, eval_episodes=2
)


@pytest.fixture(autouse=True)
def one_thread():
    """As the runner has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def told(record):
    """A record without times and memory."""
    return {name: value for name, value in record.items() if not any(w in name for w in ("second", "per_s", "rss"))}


def run(trial, units):
    return [told(trial.advance()) for _ in range(units)]


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    ("method", "scale"),
    [
        ("nash-mtl:net=multi-head,update_every=3", "deviation"),
        ("famo", "standardised"),
        ("rlw:net=care", "raw"),
        ("stl:task=drawer-close-v3", "deviation"),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(method, scale):
    preset, method = replace(SHORT, reward_scale=scale), MethodSpec.parse(method)
    whole = SACTrial(preset, method, 3)
    expected = run(whole, whole.length)
    first = SACTrial(preset, method, 3)
    found = run(first, 2)
    state = through_a_file(first.state_dict())
    first.close()
    second = SACTrial(preset, method, 3)
    second.load_state_dict(state)
    found += run(second, whole.length - 2)
    assert json.dumps(found) == json.dumps(expected)
    results = [told(trial.result()) for trial in (whole, second)]
    assert json.dumps(results[0]) == json.dumps(results[1])
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, second.agent.state_dict()[name]), name


def test_processes_change_nothing():
    method = MethodSpec.parse("cagrad")
    found = []
    for processes in (False, True):
        trial = SACTrial(replace(SHORT, steps=32, processes=processes), method, 0)
        found.append(run(trial, 2))
        trial.close()
    assert json.dumps(found[0]) == json.dumps(found[1])


def test_all_methods_of_a_seed_begin_alike_and_seeds_differ():
    def begun(method, seed):
        trial = SACTrial(replace(SHORT, steps=16), MethodSpec.parse(method), seed)
        weights = trial.agent.actor.network.state_dict()
        trial.advance()
        trial.close()
        return weights, trial.replay.states[:, :16].copy()

    (weights, states), (same, alike), (other, unlike) = begun("ls", 0), begun("nash-mtl", 0), begun("ls", 1)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert (states == alike).all()
    assert any(not torch.equal(weights[name], other[name]) for name in weights)
    assert not (states == unlike).all()


def test_records_say_what_was_done():
    trial = SACTrial(SHORT, MethodSpec.parse("nash-mtl"), 0)
    first, second = trial.advance(), trial.advance()
    assert first["steps"] == 0  # random actions
    assert second["steps"] == 16
    assert second["env_steps"] == 2 * 32
    assert second["env_steps_per_s"] > 0
    assert second["updates_per_s"] > 0
    assert second["peak_rss_bytes"] > 1e6
    assert len(second["weights"]) == len(second["actor"]["weights"]) == 2
    assert second["residual"] < 1e-8
    assert set(second["metrics"]) == {"reach-v3/success", "drawer-close-v3/success"}
    result = trial.result()
    assert result["balancers"] == {"critic": "nash-mtl", "actor": "nash-mtl"}
    assert trial.environments is None  # closed


def test_the_published_first_updates_come_at_once():
    trial = SACTrial(replace(SHORT, first_updates=9, steps=32), MethodSpec.parse("ls"), 0)
    assert [record["steps"] for record in run(trial, 2)] == [0, 9 + 15]
    trial.close()


def test_single_task_learning_has_one_task():
    trial = SACTrial(SHORT, MethodSpec.parse("stl:task=reach-v3"), 0)
    assert set(trial.advance()["metrics"]) == {"reach-v3/success"}
    trial.close()
    with pytest.raises(UnknownNameError, match="stl:task=NAME"):
        SACTrial(SHORT, MethodSpec.parse("stl:task=push-v3"), 0)


def test_evaluation_neither_learns_nor_draws():
    trial = SACTrial(SHORT, MethodSpec.parse("ls"), 0)
    run(trial, 2)
    before = through_a_file(trial.state_dict())
    one, two = trial.evaluate(), trial.evaluate()
    assert one == two
    after = trial.state_dict()
    assert torch.equal(before["explore"], after["explore"])
    assert before["draws"] == after["draws"]
    assert before["progress"] == after["progress"]
    trial.close()


# ------------------------------------------------------------------ presets and names


@pytest.mark.parametrize("name", ["mt10", "mt50", "mt:reach,push"])
def test_every_preset_is_one_that_can_run(name):
    experiment = load(name)
    assert {"smoke", "laptop", "paper", "metaworld-plus"} <= set(experiment.presets)
    for preset in experiment.presets.values():
        check_preset(preset)
        assert preset.tasks == tuple(task.name for task in experiment.tasks)


def test_sets_of_tasks():
    assert len(MT10) == 10
    assert len(MT50) == 50
    assert set(MT10) <= set(MT50)
    assert load("mt:push-v3, reach").name == "mt:push-v3,reach-v3"
    assert parse_tasks(["reach", "door-open-v3"]) == ("reach-v3", "door-open-v3")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("mt:reech", UnknownNameError, "no task 'reech'.*reach-v3"),
        ("mt:reach,reach-v3", OptionError, "named twice: reach-v3"),
        ("mt:", UnknownNameError, "no task ''"),
        ("mt:reach-v2", UnknownNameError, "reach-v2"),
    ],
)
def test_wrong_names_of_tasks(name, kind, message):
    with pytest.raises(kind, match=message):
        load(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_every": 20}, "eval_every=20 is not a multiple of horizon=16"),
        ({"goals": 0}, "goals=0 must be 1 or more"),
        ({"reward_scale": "log"}, "rewards='log' is not one of raw, deviation, standardised"),
        ({"horizon": 600, "eval_every": 600, "steps": 600}, "horizon=600 must be from 1 to 500"),
    ],
)
def test_wrong_settings_are_named(given, message):
    with pytest.raises(OptionError, match=message):
        SACTrial(replace(SHORT, **given), MethodSpec.parse("ls"), 0).advance()


def test_without_metaworld_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "metaworld", None)
    for module in ("environment", "vector"):
        monkeypatch.delitem(__import__("sys").modules, f"accord.bench.rl.{module}", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "metaworld.env_dict", None)
    with pytest.raises(DependencyError, match=r"accord\[rl\]"):
        mt.check_installed(SHORT)


# ------------------------------------------------------------------ the command line


def test_a_run_and_its_report(tmp_path, capsys):
    store = str(tmp_path / "runs")
    name = "mt:reach,drawer-close"
    assert cli.main(["run", name, "--preset", "smoke", "--methods", "ls", "nash-mtl:net=care", "--store", store]) == 0
    out = capsys.readouterr().out
    assert "mean" in out
    assert "best average over evaluations" in out
    assert "success.png" in out
    folders = [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert all(":" not in folder and "," not in folder for folder in folders)
    assert cli.main(["run", name, "--preset", "smoke", "--methods", "ls:net=cares", "--store", store]) != 0
    assert "care" in capsys.readouterr().err


def test_rewards_of_a_constant_task_stay_finite():
    trial = SACTrial(replace(SHORT, reward_scale="standardised"), MethodSpec.parse("ls"), 0)
    run(trial, 1)
    trial.replay.rewards[:] = 3.0
    trial.scale.look(trial.replay, 0)
    assert np.isfinite(trial.scale.sampled(torch.full((2, 4), 3.0)).numpy()).all()
    trial.close()
