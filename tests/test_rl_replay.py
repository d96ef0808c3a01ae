"""What the learner learns from: rings of transitions, and rewards brought to one scale."""

import io

import numpy as np
import pytest
import torch

from accord.bench.rl.replay import Replay
from accord.bench.rl.rewards import MODES, RewardScale
from accord.bench.rl.tasks import ACTION, STATE
from accord.bench.spec import MethodSpec
from accord.errors import OptionError

K = 3


def transition(number, tasks=K, state=2, action=1):
    """One whose every number says which task and transition it belongs to."""
    mark = number + 1000.0 * np.arange(tasks, dtype=np.float32)
    states, actions = np.repeat(mark[:, None], state, 1), np.repeat(mark[:, None], action, 1)
    return states, actions, mark, states + 0.5


def filled(count, capacity=5, tasks=K):
    replay = Replay(tasks, capacity, 2, 1)
    for number in range(count):
        replay.add(*transition(number, tasks))
    return replay


def contents(replay):
    return {name: getattr(replay, name).copy() for name in ("states", "actions", "rewards", "after")}


def saved(replay):
    buffer = io.BytesIO()
    torch.save(replay.state_dict(), buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------------- the ring


@pytest.mark.parametrize("count", [1, 4, 5, 6, 13])
def test_the_ring_keeps_the_newest(count):
    replay = filled(count)
    kept = range(max(0, count - 5), count)
    assert replay.size == len(kept)
    for task in range(K):
        found = replay.rewards[task, : replay.size]
        assert sorted(found) == [number + 1000 * task for number in kept]
        np.testing.assert_array_equal(replay.states[task, : replay.size], found[:, None].repeat(2, 1))
        np.testing.assert_array_equal(replay.actions[task, : replay.size], found[:, None])
        np.testing.assert_array_equal(replay.after[task, : replay.size], found[:, None].repeat(2, 1) + 0.5)
    oldest = replay.rewards[0, replay.next if count >= 5 else 0]
    assert oldest == kept[0]  # what is overwritten next


@pytest.mark.parametrize("count", [1, 3, 12])
def test_samples_are_whole_transitions_of_their_task_from_what_is_filled(count):
    batch = filled(count).sample(400, np.random.default_rng(0))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "state": (K, 400, 2),
        "action": (K, 400, 1),
        "reward": (K, 400),
        "after": (K, 400, 2),
    }
    assert all(tensor.dtype == torch.float32 for tensor in batch.values())
    for task in range(K):
        mark = batch["reward"][task]
        assert set((mark - 1000 * task).tolist()) == set(range(max(0, count - 5), count))  # all of them, nothing else
        assert torch.equal(batch["state"][task], mark[:, None].expand(-1, 2))
        assert torch.equal(batch["action"][task], mark[:, None])
        assert torch.equal(batch["after"][task], mark[:, None].expand(-1, 2) + 0.5)


def test_tasks_are_sampled_independently_and_a_seed_repeats():
    replay = filled(5)
    first, again, other = (replay.sample(50, np.random.default_rng(seed))["reward"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1] - 1000)


def test_ten_tasks_with_100_000_transitions_are_under_500_megabytes():
    replay = Replay(10, 100_000, STATE, ACTION)
    assert replay.nbytes == 332_000_000  # as documented
    assert replay.nbytes == sum(array.nbytes for array in contents_of_nothing(replay))


def contents_of_nothing(replay):
    """Every array that it holds, without touching (and so allocating) their pages."""
    return [value for value in vars(replay).values() if isinstance(value, np.ndarray)]


def test_no_capacity_is_refused():
    with pytest.raises(OptionError, match="capacity=0"):
        Replay(K, 0, 2, 1)


@pytest.mark.parametrize("tasks", [1, K])
@pytest.mark.parametrize("count", [3, 5, 8])
def test_a_buffer_that_was_saved_goes_on_as_if_it_had_not_been(count, tasks):
    replay = filled(count, tasks=tasks)
    other = Replay(tasks, 5, 2, 1)
    other.load_state_dict(torch.load(io.BytesIO(saved(replay)), weights_only=True))
    for number in range(count, count + 4):
        for each in (replay, other):
            each.add(*transition(number, tasks))
        draws = (each.sample(20, np.random.default_rng(number)) for each in (replay, other))
        ours, theirs = draws
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, array in contents(replay).items():
        np.testing.assert_array_equal(array, contents(other)[name])


@pytest.mark.parametrize("tasks", [1, K])
def test_only_what_is_filled_is_saved(tasks):
    replay = filled(50, capacity=10_000, tasks=tasks)
    assert len(saved(replay)) < 50 * tasks * 4 * (2 + 1 + 1 + 2) + 4_000


def test_next_observations_are_those_of_the_same_episode_to_its_last_step():
    """A run's buffer against its environments, stepped by hand one after the other."""
    pytest.importorskip("metaworld", reason="needs accord[rl]")
    from dataclasses import replace

    from accord.bench.experiments.mt import by_tasks
    from accord.bench.rl.environment import TaskEnvironment
    from accord.bench.rl.tasks import Goals
    from accord.bench.rl.trial import SACTrial

    experiment = by_tasks("mt:reach,drawer-close")
    preset = replace(
        experiment.presets["smoke"], horizon=4, steps=12, eval_every=12, random_steps=12, replay=12, goals=3
    )
    preset = replace(preset, reward_scale="raw")
    trial = SACTrial(preset, MethodSpec("ls"), 0)
    trial.advance()
    trial.close()
    replay = trial.replay
    for index, task in enumerate(trial.tasks):
        env = TaskEnvironment(task, {"train": Goals(trial._seed("goals"), preset.goals)}, preset.horizon)
        for at in range(12):
            if at % 4 == 0:
                observation, _ = env.reset(options={"purpose": "train", "episode": at // 4})
            np.testing.assert_array_equal(replay.states[index, at], observation)
            observation, reward, _, truncated, _ = env.step(replay.actions[index, at])
            np.testing.assert_array_equal(replay.after[index, at], observation)
            assert replay.rewards[index, at] == np.float32(reward)
            assert truncated == (at % 4 == 3)
    starts, ends = replay.states[:, 4::4], replay.after[:, 3:-1:4]
    assert np.all(np.any(starts != ends, axis=-1))  # the test would see a reset observation


# ---------------------------------------------------------------------- rewards

REWARDS = np.random.default_rng(3).gamma(2.0, [0.1, 3.0, 40.0], (700, K)).astype(np.float32)


def with_rewards(rewards, capacity):
    replay = Replay(K, capacity, 2, 1)
    for row in rewards:
        states, actions, _, after = transition(0)
        replay.add(states, actions, row, after)
    return replay


def test_raw_rewards_stay_as_they_are():
    scale = RewardScale("raw", K)
    batch = torch.from_numpy(REWARDS[:9].T.copy())
    scale.look(with_rewards(REWARDS[:9], 9), 0)
    np.testing.assert_array_equal(scale.collected(REWARDS[0]), REWARDS[0])
    assert torch.equal(scale.sampled(batch), batch)


def test_deviation_is_that_of_the_published_wrapper():
    """mtenv's NormalizedEnvWrapper, one task at a time in plain floats: r / (√v + 1e-8), after v took r in."""
    scale = RewardScale("deviation", K)
    found = np.stack([scale.collected(row) for row in REWARDS])
    assert found.dtype == np.float32
    for task in range(K):
        mean, variance = 0.0, 1.0
        for reward, ours in zip(REWARDS[:, task].tolist(), found[:, task].tolist(), strict=True):
            mean = (1 - 0.001) * mean + 0.001 * reward
            variance = (1 - 0.001) * variance + 0.001 * (reward - mean) ** 2
            assert ours == pytest.approx(reward / (variance**0.5 + 1e-8), rel=1e-6)
    batch = torch.from_numpy(REWARDS.T.copy())
    assert torch.equal(scale.sampled(batch), batch)  # the buffer has them scaled


def test_standardised_rewards_have_the_buffers_mean_and_deviation():
    scale = RewardScale("standardised", K, every=500)
    np.testing.assert_array_equal(scale.collected(REWARDS[0]), REWARDS[0])  # the buffer has them as they came
    replay = with_rewards(REWARDS, 300)  # the ring holds the last 300
    scale.look(replay, 500)
    found = scale.sampled(torch.from_numpy(REWARDS[:20].T.copy())).numpy()
    for task in range(K):
        kept = [float(value) for value in REWARDS[-300:, task]]
        mean = sum(kept) / 300
        deviation = (sum((value - mean) ** 2 for value in kept) / 300) ** 0.5
        expected = [(float(value) - mean) / deviation for value in REWARDS[:20, task]]
        np.testing.assert_allclose(found[task], expected, rtol=1e-4, atol=1e-5)


def test_the_buffer_is_looked_at_when_it_is_time_and_at_first():
    scale = RewardScale("standardised", K, every=500)
    early, late = with_rewards(REWARDS[:50], 50), with_rewards(REWARDS[50:100], 50)
    scale.look(early, 123)
    first = scale.mean.copy()
    np.testing.assert_allclose(first, REWARDS[:50].mean(0), rtol=1e-5)
    scale.look(late, 499)
    np.testing.assert_array_equal(scale.mean, first)
    scale.look(late, 500)
    np.testing.assert_allclose(scale.mean, REWARDS[50:100].mean(0), rtol=1e-5)


def test_rewards_that_never_change_are_standardised_to_nothing():
    scale = RewardScale("standardised", K)
    replay = with_rewards(np.full((6, K), 2.5, np.float32), 6)
    scale.look(replay, 0)
    assert scale.sampled(torch.full((K, 4), 2.5)).tolist() == [[0.0] * 4] * K


@pytest.mark.parametrize("mode", MODES)
def test_a_scale_that_was_saved_goes_on_as_if_it_had_not_been(mode):
    scale, other = RewardScale(mode, K), RewardScale(mode, K)
    replay = with_rewards(REWARDS[:30], 30)
    for row in REWARDS[:30]:
        scale.collected(row)
    scale.look(replay, 0)
    other.load_state_dict(scale.state_dict())
    kept = scale.state_dict()
    for row in REWARDS[30:40]:
        np.testing.assert_array_equal(scale.collected(row), other.collected(row))
    for each in (scale, other):
        each.look(replay, 7)
    batch = torch.from_numpy(REWARDS[:9].T.copy())
    assert torch.equal(scale.sampled(batch), other.sampled(batch))
    if mode == "deviation":
        assert not torch.equal(kept["mean"], scale.state_dict()["mean"])  # what was saved is a copy


def test_an_unknown_mode_is_refused():
    with pytest.raises(OptionError, match="'normalised' is not one of raw, deviation, standardised"):
        RewardScale("normalised", K)
