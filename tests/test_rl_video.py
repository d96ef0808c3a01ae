"""Videos: the episodes that were evaluated, the right side up, from a process that can render."""

import importlib.util
import json
import os
import runpy
import signal
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="needs accord[rl]")

import imageio.v3

from accord.bench.experiments import load
from accord.bench.rl.environment import TaskEnvironment
from accord.bench.rl.studio import Studio, backends, probe
from accord.bench.rl.tasks import Goals
from accord.bench.rl.video import (
    FRAME_MS,
    SOLVED,
    VideoSettings,
    encoded,
    film,
    framed,
    load_policy,
    make_environment,
    play,
    upside_down,
)
from accord.bench.runner import run as train
from accord.bench.store import Store
from accord.bench.video_verb import VideoVerb, runs_of
from accord.errors import DependencyError, OptionError, StoreError, UnknownNameError, WorkerError

NAME = "mt:reach,drawer-close"
METHODS = ("ls:net=multi-head", "stl")
HORIZON = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three runs that are done: one on both tasks, one on each."""
    folder = tmp_path_factory.mktemp("runs")
    outcomes = train(load(NAME), "smoke", METHODS, (0,), folder)
    assert [outcome.status for outcome in outcomes] == ["done"] * 3, outcomes
    return Store(folder)


@pytest.fixture(scope="module")
def studio():
    try:
        made = Studio()
    except DependencyError as error:
        pytest.skip(str(error))
    yield made
    made.close()


def runs(store, *methods):
    return runs_of(store, load(NAME), "smoke", methods, (0,))


PRESET = load(NAME).presets["smoke"]

# ---------------------------------------------------------------------- the policy


def test_the_episodes_are_those_of_the_evaluation_to_the_last_bit(store):
    found = runs(store)
    assert len(found) == 3
    for run in found:
        trial = load_policy(run, PRESET)
        result = run.result()
        for task, expected in zip(trial.tasks, result["returns"], strict=True):
            episode = play(trial, make_environment(trial, task), 0)
            assert episode.total == expected
            assert episode.solved == (result["metrics"][f"{task}/success"] > 0)
            assert episode.frames == []


def test_pictures_are_taken_at_the_start_at_every_second_step_and_at_the_end(store):
    trial = load_policy(runs(store, "ls:net=multi-head")[0], PRESET)
    for horizon, expected in ((8, [0, 2, 4, 6, 8]), (5, [0, 2, 4, 5]), (1, [0, 1])):
        goals = {"evaluate": Goals(0, 1)}
        env, taken = TaskEnvironment("reach-v3", goals, horizon), []

        def look(env=env, taken=taken):
            taken.append(env._steps)
            return np.zeros((32, 32, 3), np.uint8)

        assert len(play(trial, env, 0, look).frames) == len(expected)
        assert taken == expected


def test_the_border_is_green_from_the_step_on_that_solves(store):
    trial = load_policy(runs(store, "ls:net=multi-head")[0], PRESET)
    env, step = make_environment(trial, "drawer-close-v3"), TaskEnvironment.step
    blank = np.full((60, 60, 3), 9, np.uint8)

    def solving(action):
        observation, reward, terminated, truncated, info = step(env, action)
        return observation, reward, terminated, truncated, info | {"success": float(env._steps == 3)}

    env.step = solving
    episode = play(trial, env, 0, blank.copy)
    assert episode.solved
    assert [tuple(frame[0, 0]) == SOLVED for frame in episode.frames] == [False, False, True, True, True]
    marked = framed(blank)
    np.testing.assert_array_equal(marked[2:-2, 2:-2], blank[2:-2, 2:-2])
    assert np.all(blank == 9)  # the picture itself is left alone
    for edge in (marked[0], marked[-1], marked[:, 0], marked[:, -1]):
        assert np.all(edge == SOLVED)


# ---------------------------------------------------------------------- files


def test_a_gif_has_all_frames_at_their_pace_and_repeats():
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    frames = [np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(40 * n)), -1) for n in range(5)]
    data = encoded(frames, "gif")
    back = imageio.v3.imread(data, extension=".gif", index=None)
    assert back.shape == (5, 48, 48, 3)
    assert np.abs(back.astype(int) - np.stack(frames)).mean() < 8  # 256 colours
    meta = imageio.v3.immeta(data, extension=".gif")
    assert (meta["duration"], meta["loop"]) == (FRAME_MS, 0)


def test_mp4_is_written_or_names_the_package_that_is_missing(tmp_path):
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        with pytest.raises(DependencyError, match=r"pip install imageio-ffmpeg, or write GIF"):
            VideoSettings(tmp_path, "mp4")
        return
    frames = [np.full((64, 64, 3), 50 * n, np.uint8) for n in range(5)]
    back = imageio.v3.imread(encoded(frames, "mp4"), extension=".mp4", index=None)
    assert back.shape == (5, 64, 64, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "avi"}, "format='avi' is not one of gif, mp4"),
        ({"episodes": 0}, "episodes=0"),
        ({"size": 33}, "size=33 must be an even number"),
        ({"size": 4096}, "size=4096"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, given, message):
    with pytest.raises(OptionError, match=message):
        VideoSettings(tmp_path, **given)


# ---------------------------------------------------------------------- runs


def test_without_methods_all_runs_that_are_done(store):
    assert {str(run.key.method) for run in runs(store)} == {
        "ls:net=multi-head",
        "stl:task=reach-v3",
        "stl:task=drawer-close-v3",
    }
    with pytest.raises(StoreError, match=r"no run of mt:.* and seeds \[7\] is done .*accord run mt:.* --preset smoke"):
        runs_of(store, load(NAME), "smoke", (), (7,))
    with pytest.raises(UnknownNameError, match="no preset 'smok'"):
        runs_of(store, load(NAME), "smok", (), (0,))


def test_a_run_that_is_not_there_is_named_with_the_command_that_trains_it(store):
    with pytest.raises(StoreError, match=r"cagrad seed 0 is absent .*accord run mt:.* --methods cagrad --seeds 0") as e:
        load_policy(runs(store, "cagrad")[0], PRESET)
    assert f"--store {store.root}`" in str(e.value)


def test_a_checkpoint_that_was_removed_or_damaged_is_told(tmp_path):
    train(load(NAME), "smoke", ["ls"], (0,), tmp_path)
    run = runs(Store(tmp_path), "ls")[0]
    path = run.folder / "checkpoint.pt"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="is damaged"):
        load_policy(run, PRESET)
    path.unlink()
    with pytest.raises(StoreError, match=r"checkpoint.pt is not there.*--fresh"):
        load_policy(run, PRESET)


def test_a_run_with_other_settings_is_refused(store):
    with pytest.raises(StoreError, match="other settings"):
        load_policy(runs(store, "ls:net=multi-head")[0], replace(PRESET, horizon=4))


def test_an_experiment_without_a_policy_is_refused(store):
    toy = load("toy")
    run = runs_of(store, toy, "smoke", ["ls"], (0,))[0]
    with pytest.raises(OptionError, match=r"'toy' have no policy to be filmed; those of mt10"):
        load_policy(run, toy.presets["smoke"])


# ---------------------------------------------------------------------- the process that renders


def test_without_a_renderer_the_packages_are_named():
    with pytest.raises(DependencyError, match=r"no renderer works here.*\(disabled: .*\)") as caught:
        Studio(["disabled"])
    assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri" in str(caught.value)
    assert "apt-get install libosmesa6" in str(caught.value)


def test_which_renderers_are_tried(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for asked, expected in (("disabled", ("egl", "osmesa")), ("", ("egl", "osmesa")), (" OSMesa", ("osmesa",))):
        monkeypatch.setenv("MUJOCO_GL", asked)
        assert backends() == expected


def test_what_a_function_gives_comes_one_by_one_and_what_goes_wrong_comes_too():
    with Studio(["disabled"], check=list) as process:  # it need not render
        assert list(process.each(range, 3)) == [0, 1, 2]
        assert "".join(process.each(os.getenv, "MUJOCO_GL")) == "disabled"
        with pytest.raises(WorkerError, match=r"FileNotFoundError: .*nowhere") as caught:
            list(process.each(os.listdir, "nowhere"))
        assert "Traceback (most recent call last)" in str(caught.value)
        with pytest.raises(OptionError, match="size=33"):
            list(process.each(VideoSettings, "folder", "gif", 1, 33))
        os.kill(process.process.pid, signal.SIGINT)  # Ctrl-C reaches both; this side decides
        assert list(process.each(range, 2)) == [0, 1]
        with pytest.raises(WorkerError, match=r"process that renders died \(signal 9: Killed\)"):
            list(process.each(signal.raise_signal, signal.SIGKILL))
        assert not process.process.is_alive()
        process.close()  # and again at the end of the block


# ---------------------------------------------------------------------- pictures


def test_cameras_that_hang_upside_down_are_known():
    env = TaskEnvironment("reach-v3", {"evaluate": Goals(0, 1)})
    env.reset(options={"purpose": "evaluate", "episode": 0})
    data, model = env.inner.data, env.inner.model
    names = [model.camera(number).name for number in range(model.ncam)]
    found = {name for name in names if upside_down(data.camera(name).xmat)}
    assert found == {"corner", "corner2", "corner3", "corner4"}


BALLS = """
import json, pathlib
from types import SimpleNamespace
import mujoco, numpy as np
from accord.bench.rl.video import Camera

def look(axes):
    model = mujoco.MjModel.from_xml_string(f'''<mujoco><worldbody><light pos="0 -3 3" dir="0 1 -1"/>
        <camera name="eye" pos="0 -2 0" xyaxes="{axes}"/>
        <geom size=".2" pos="0 0 .5" rgba="1 0 0 1"/> <geom size=".2" pos=".5 0 0" rgba="0 0 1 1"/>
        </worldbody></mujoco>''')
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = Camera(SimpleNamespace(inner=SimpleNamespace(model=model, data=data)), "eye", 64)
    frame = camera.look().astype(int)
    camera.close()
    red, blue = frame[..., 0] - frame[..., 2], frame[..., 2] - frame[..., 0]
    return [np.argwhere(part > 40).mean(0).tolist() for part in (red, blue)]

pathlib.Path(OUT).write_text(json.dumps([look("1 0 0 0 0 1"), look("-1 0 0 0 0 -1")]))
"""


def test_pictures_are_right_side_up_and_not_mirrored(studio, tmp_path):
    """A red ball above the middle, a blue one to its right, seen by a camera and by the same one upside down."""
    script, out = tmp_path / "balls.py", tmp_path / "found.json"
    script.write_text(BALLS)
    list(studio.each(runpy.run_path, str(script), {"OUT": str(out)}))
    upright, hanging = json.loads(out.read_text())
    for (red_row, red_column), (blue_row, blue_column) in (upright, hanging):
        assert red_row < 26
        assert abs(red_column - 31.5) < 2
        assert abs(blue_row - 31.5) < 2
        assert blue_column > 38
    np.testing.assert_allclose(upright, hanging, atol=1.5)


def test_the_verb_films_every_task_of_every_run(studio, store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", studio.backend)
    verb = VideoVerb(NAME, "smoke", ("ls:net=multi-head",), (0,), store.root, tmp_path / "out", episodes=2, size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verb() == 0
    lines = capsys.readouterr().out.splitlines()
    files = sorted((tmp_path / "out").rglob("*.*"))
    assert [file.name for file in files if file.is_file()] == ["drawer-close-v3.gif", "reach-v3.gif"]
    for line, task in zip(lines, ("reach-v3", "drawer-close-v3"), strict=True):
        path = next(file for file in files if file.name == f"{task}.gif")
        assert f"{task}: not solved, not solved: {path}" in line
        frames = imageio.v3.imread(path, index=None)
        assert frames.shape == (2 * (HORIZON // 2 + 1), 32, 32, 3)
        assert np.ptp(frames[0]) > 50  # there is something to see


def test_an_unknown_camera_is_refused_with_the_names(studio, store, tmp_path):
    settings = VideoSettings(tmp_path, camera="corner5", size=32)
    with pytest.raises(OptionError, match=r"no camera 'corner5'; it has topview, corner, corner2"):
        list(studio.each(film, runs(store, "ls:net=multi-head")[0], PRESET, settings))
    assert list(studio.each(probe)) == []  # and the process goes on
