"""Tasks of Meta-World: names, goals, horizon, rewards, and that an episode depends on its number alone."""

from importlib.metadata import version

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="needs accord[rl]")

from metaworld import env_dict

from accord.bench.rl import environment
from accord.bench.rl.environment import TaskEnvironment
from accord.bench.rl.tasks import ACTION, MT10, MT50, STATE, Goals, parse_tasks
from accord.errors import DependencyError, OptionError, UnknownNameError

GOALS = {"train": Goals(1, 3), "evaluate": Goals(2, 4)}


def begin(env, purpose, episode):
    return env.reset(options={"purpose": purpose, "episode": episode})[0]


def roll(env, purpose, episode, steps, seed=0):
    """All that an episode shows: observations with reward and success, (steps + 1, 41)."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, ACTION)).astype(np.float32)
    rows = [np.append(begin(env, purpose, episode), [0, 0])]
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        rows.append(np.append(observation, [reward, info["success"]]))
    return np.stack(rows)


def goal_of(env, purpose, episode):
    """Where object and target are at the beginning."""
    begin(env, purpose, episode)
    return tuple(env.inner._last_rand_vec)


# ---------------------------------------------------------------------- names


def test_sets_of_tasks_are_those_of_metaworld():
    assert tuple(env_dict.MT10_V3) == MT10
    assert tuple(env_dict.MT50_V3) == MT50
    assert set(MT50) == set(env_dict.ALL_V3_ENVIRONMENTS)


def test_names_may_lack_the_version():
    assert parse_tasks(["reach", " push-v3"]) == ("reach-v3", "push-v3")


def test_an_unknown_task_has_its_nearest_suggested():
    with pytest.raises(UnknownNameError, match=r"'drawer-clse'.*drawer-close-v3"):
        parse_tasks(["reach", "drawer-clse"])


def test_tasks_named_twice_are_refused():
    with pytest.raises(OptionError, match=r"twice: reach-v3;"):
        parse_tasks(["reach", "push", "reach-v3"])


def test_no_tasks_are_refused():
    with pytest.raises(OptionError, match="no tasks were named"):
        parse_tasks([])


# ---------------------------------------------------------------------- episodes


@pytest.mark.parametrize("task", MT10)
def test_an_episode_repeats_bit_for_bit_whatever_came_before(task):
    fresh = TaskEnvironment(task, GOALS)
    expected = roll(fresh, "evaluate", 3, 12)

    used = TaskEnvironment(task, {"evaluate": GOALS["evaluate"], "train": Goals(9, 1)})  # drawn in another order
    roll(used, "train", 5, 7, seed=1)
    roll(used, "evaluate", 1, 2, seed=2)
    np.random.default_rng().normal()
    np.testing.assert_array_equal(roll(used, "evaluate", 3, 12), expected)
    np.testing.assert_array_equal(roll(used, "evaluate", 3, 12), expected)
    assert np.ptp(expected[:, :3], axis=0).max() > 1e-3  # the hand did move


def test_observations_are_float32_and_end_with_the_goal():
    for task in ("reach-v3", "drawer-close-v3", "peg-insert-side-v3"):
        env = TaskEnvironment(task, GOALS)
        observation = begin(env, "train", 0)
        assert observation.shape == (STATE,) == env.observation_space.shape
        assert observation.dtype == np.float32
        np.testing.assert_array_equal(observation[-3:], env.inner._target_pos.astype(np.float32))
        assert observation[-3:].any()
        stepped = env.step(np.zeros(ACTION, np.float32))[0]
        np.testing.assert_array_equal(stepped[-3:], observation[-3:])


def test_evaluation_goes_through_its_goals_in_turn():
    env = TaskEnvironment("reach-v3", GOALS)
    first = [goal_of(env, "evaluate", episode) for episode in range(4)]
    assert len(set(first)) == 4
    assert [goal_of(env, "evaluate", episode) for episode in range(4, 8)] == first


def test_training_draws_from_its_goals_at_random():
    env = TaskEnvironment("reach-v3", GOALS)
    drawn = [goal_of(env, "train", episode) for episode in range(30)]
    assert len(set(drawn)) == 3
    assert drawn[:15] != drawn[15:]
    again = TaskEnvironment("reach-v3", GOALS)
    assert [goal_of(again, "train", episode) for episode in range(30)] == drawn


def test_goals_follow_from_seed_and_count():
    def goals(**both):
        env = TaskEnvironment("push-v3", {"evaluate": Goals(**both)})
        return [goal_of(env, "evaluate", episode) for episode in range(both["count"])]

    assert goals(seed=5, count=2) == goals(seed=5, count=2) == goals(seed=5, count=3)[:2]
    assert not set(goals(seed=5, count=2)) & set(goals(seed=6, count=2))


@pytest.mark.parametrize("horizon", [1, 6, 500])
def test_an_episode_is_truncated_at_the_horizon_and_never_terminates(horizon):
    env = TaskEnvironment("drawer-close-v3", GOALS, horizon)
    for episode in range(2 if horizon < 500 else 1):
        begin(env, "train", episode)
        ends = [env.step(np.zeros(ACTION, np.float32))[2:4] for _ in range(horizon)]
        assert ends == [(False, False)] * (horizon - 1) + [(False, True)]


@pytest.mark.parametrize("horizon", [0, 501])
def test_a_horizon_out_of_range_is_refused(horizon):
    with pytest.raises(OptionError, match=rf"reach-v3: horizon={horizon} must be from 1 to 500"):
        TaskEnvironment("reach-v3", GOALS, horizon)


def test_versions_of_the_rewards_differ_and_nothing_else_does():
    rolls = {
        which: roll(TaskEnvironment("door-open-v3", GOALS, rewards=which), "train", 0, 10) for which in ("v1", "v2")
    }
    np.testing.assert_array_equal(rolls["v1"][:, :STATE], rolls["v2"][:, :STATE])
    assert np.all(rolls["v1"][1:, STATE] != rolls["v2"][1:, STATE])
    assert np.all((rolls["v2"][1:, STATE] >= 0) & (rolls["v2"][1:, STATE] <= 10))


# ---------------------------------------------------------------------- another metaworld


class WithoutSetTask:
    max_path_length = 500

    def __init__(self, **given):
        del given


class WithoutRewardVersions:
    def __init__(self, render_mode=None, camera_name=None):
        del render_mode, camera_name


@pytest.mark.parametrize(
    ("other", "cause"), [(WithoutSetTask, "has no set_task"), (WithoutRewardVersions, "reward_function_version")]
)
def test_a_metaworld_with_another_interface_is_named_with_its_version(monkeypatch, other, cause):
    monkeypatch.setattr(environment, "ALL_V3_ENVIRONMENTS", {"reach-v3": other})
    with pytest.raises(DependencyError, match=cause) as caught:
        TaskEnvironment("reach-v3", GOALS)
    assert f"metaworld {version('metaworld')} has another interface" in str(caught.value)
    assert "pip install 'metaworld==3.1.1'" in str(caught.value)
