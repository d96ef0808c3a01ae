"""K tasks stepped together: processes change no number, and one that fails ends them all with a reason."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="needs accord[rl]")

from accord.bench.rl.tasks import ACTION, STATE, Goals
from accord.bench.rl.vector import Environments
from accord.errors import OptionError, WorkerError

TASKS = ("reach-v3", "drawer-close-v3")
GOALS = {"train": Goals(0, 2), "evaluate": Goals(1, 2)}
HORIZON = 6
STILL = np.zeros((len(TASKS), ACTION), np.float32)


def make(processes=True):
    return Environments(TASKS, GOALS, HORIZON, processes=processes)


def workers(environments):
    return list(environments._vector.processes)


@pytest.fixture(scope="module")
def apart():
    with make() as environments:
        yield environments


def roll(environments, purpose, episode):
    """Observations, rewards and successes of an episode, and when it ended."""
    draws = np.random.default_rng(episode)
    seen, ended = [environments.reset(purpose, episode)], []
    while not any(ended):
        stepped = environments.step(draws.uniform(-1, 1, STILL.shape).astype(np.float32))
        seen += [stepped.observations, stepped.rewards, stepped.successes]
        ended.append(stepped.ended)
    return seen, ended


def test_processes_change_no_bit(apart):
    with make(processes=False) as together:
        for purpose, episode in (("train", 0), ("evaluate", 1), ("train", 7)):
            (seen, ended), (expected, ended_there) = (roll(each, purpose, episode) for each in (apart, together))
            assert ended == ended_there == [False] * (HORIZON - 1) + [True]
            for ours, theirs in zip(seen, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_shapes_and_kinds(apart):
    assert apart.reset("train", 0).shape == (2, STATE)
    stepped = apart.step(STILL)
    assert (stepped.observations.shape, stepped.observations.dtype) == ((2, STATE), np.float32)
    assert (stepped.rewards.shape, stepped.rewards.dtype) == ((2,), np.float32)
    assert (stepped.successes.shape, stepped.successes.dtype) == ((2,), np.bool_)


def test_observations_are_copies_that_the_next_step_leaves_alone(apart):
    first = apart.reset("train", 0)
    kept = first.copy()
    stepped = apart.step(STILL + 1)
    after = stepped.observations.copy()
    apart.step(-(STILL + 1))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(stepped.observations, after)


def test_workers_ignore_ctrl_c(apart):
    expected, _ = roll(apart, "evaluate", 0)
    for process in workers(apart):
        os.kill(process.pid, signal.SIGINT)
    found, _ = roll(apart, "evaluate", 0)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(process.is_alive() for process in workers(apart))


def test_a_killed_worker_is_named_and_the_others_end():
    environments = make()
    processes = workers(environments)
    environments.reset("train", 0)
    processes[1].kill()
    processes[1].join()
    with pytest.raises(WorkerError, match=r"process of drawer-close-v3 died \(signal 9: Killed\).*can be resumed"):
        environments.step(STILL)
    assert not any(process.is_alive() for process in processes)
    environments.close()


def test_a_worker_killed_between_start_and_finish_is_named():
    environments = make()
    processes = workers(environments)
    environments.reset("train", 0)
    os.kill(processes[0].pid, signal.SIGSTOP)  # or it may have answered before it is killed
    environments.start(STILL)
    processes[0].kill()
    with pytest.raises(WorkerError, match=r"process of reach-v3 died \(signal 9: Killed\)"):
        environments.finish()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("processes", [True, False])
def test_what_a_task_raises_comes_with_its_traceback(processes):
    environments = make(processes)
    ended = workers(environments) if processes else []
    with pytest.raises(WorkerError, match=r"(reach|drawer-close)-v3: KeyError: 'nonsense'") as caught:
        environments.reset("nonsense", 0)
    assert "Traceback (most recent call last)" in str(caught.value)
    assert "environment.py" in str(caught.value)
    assert not any(process.is_alive() for process in ended)
    environments.close()


def test_what_a_step_raises_comes_with_its_traceback(monkeypatch):
    environments = make(processes=False)
    environments.reset("train", 0)
    inner = environments._vector.envs[1].inner
    monkeypatch.setattr(inner, "step", lambda action: 1 / 0)
    with pytest.raises(WorkerError, match="drawer-close-v3: ZeroDivisionError") as caught:
        environments.step(STILL)
    assert "Traceback (most recent call last)" in str(caught.value)


@pytest.mark.parametrize("processes", [True, False])
def test_a_wrong_horizon_is_refused_before_anything_starts(processes):
    with pytest.raises(OptionError, match="horizon=501"):
        Environments(TASKS, GOALS, 501, processes=processes)


def test_closing_while_a_step_goes_on_and_again():
    environments = make()
    processes = workers(environments)
    environments.reset("train", 0)
    environments.start(STILL)
    environments.close()
    environments.close()
    assert not any(process.is_alive() for process in processes)
