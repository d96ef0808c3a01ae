"""Demonstrations of Meta-World's scripted experts: they repeat, their labels are the experts', the cache is checked."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("metaworld")

from accord.bench.rl import demonstrations
from accord.bench.rl.demonstrations import Recipe, load, record
from accord.errors import DataError, OptionError, UnknownNameError

LARGE = pytest.mark.filterwarnings("ignore:Constant")  # the experts warn of actions above 1


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))


def test_demonstrations_repeat_bit_for_bit_and_a_small_set_begins_a_larger_one():
    first, second = (record("push-v3", Recipe(2, 12)) for _ in range(2))
    one = record("push-v3", Recipe(1, 12))
    for name in ("states", "actions", "solved"):
        assert (getattr(first, name) == getattr(second, name)).all()
        assert (getattr(first, name)[:1] == getattr(one, name)).all()
    assert first.states.shape == (2, 12, 39)
    assert first.actions.shape == (2, 12, 4)
    assert not (record("push-v3", Recipe(1, 12, seed=1)).states == one.states).all()


@LARGE
def test_labels_are_the_experts_and_the_noise_is_in_the_states():
    from metaworld.policies import ENV_POLICY_MAP

    found = record("drawer-close-v3", Recipe(1, 30))
    expert = ENV_POLICY_MAP["drawer-close-v3"]()
    wanted = np.stack([expert.get_action(state) for state in found.states[0]])
    assert np.abs(wanted).max() > 1  # so that clipping shows
    np.testing.assert_array_equal(found.actions[0], np.clip(wanted, -1, 1).astype(np.float32))
    calm = record("drawer-close-v3", Recipe(1, 30, noise=0.0))
    assert (calm.states[0, 0] == found.states[0, 0]).all()
    assert not (calm.states[0, 1] == found.states[0, 1]).all()


def test_an_expert_without_noise_solves_its_task():
    assert record("reach-v3", Recipe(2, 60, noise=0.0)).solved.all()


def test_the_cache_is_read_again_and_an_altered_file_is_refused(monkeypatch):
    recipe = Recipe(1, 5, seed=7)
    made = []
    first = load("reach-v3", recipe, made.append)
    again = load("reach-v3", recipe, made.append)
    assert made == [1]
    assert (first.states == again.states).all()
    path = recipe.path("reach-v3")
    shutil.copy(path, recipe.path("push-v3"))
    with pytest.raises(DataError, match=r"'task': 'reach-v3'.*not.*'task': 'push-v3'.*delete the file, and it is made"):
        load("push-v3", recipe)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "actions": arrays["actions"] * 0.5})
    with pytest.raises(DataError, match="was altered: its checksum does not match"):
        load("reach-v3", recipe)
    np.savez(path, **arrays)
    monkeypatch.setattr(demonstrations, "version", lambda name: "9.9")
    with pytest.raises(DataError, match=r"'metaworld': '3.*not.*'metaworld': '9.9'"):
        load("reach-v3", recipe)


@pytest.mark.parametrize("recipe", [Recipe(0), Recipe(1, 0), Recipe(1, noise=-0.1), Recipe(1, noise=float("nan"))])
def test_a_recipe_out_of_range_is_refused(recipe):
    with pytest.raises(OptionError, match="must be 1 or more"):
        load("reach-v3", recipe)
    with pytest.raises(UnknownNameError, match="no task 'reech'"):
        load("reech", recipe)
