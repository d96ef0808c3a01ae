"""Videos of trained policies: the episodes that evaluation counts, seen by one of Meta-World's cameras.

What needs a renderer runs in a process of its own (``accord.bench.rl.studio``); this module can be imported without.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from accord.bench.files import disk, write_atomic
from accord.bench.rl.trial import SACPreset, SACTrial
from accord.bench.runner import settings_of
from accord.bench.store import Run, label, slug
from accord.bench.writing import load_checkpoint
from accord.errors import DependencyError, OptionError, StoreError

if TYPE_CHECKING:
    from accord.bench.rl.environment import TaskEnvironment

Frame = npt.NDArray[np.uint8]
Format = Literal["gif", "mp4"]
FORMATS = ("gif", "mp4")

EVERY = 2
"""Steps between frames. A step is 12.5 ms of the robot's time."""
FRAME_MS = 50
"""How long a frame is shown: half the robot's speed. GIF counts in hundredths of a second."""
SOLVED = (40, 190, 70)
"""Colour of the border from the step on at which the task is solved."""


@dataclass(frozen=True)
class VideoSettings:
    """How to film.

    Attributes:
        folder: Where the videos go: ``METHOD-seed-N/TASK.gif``.
        format: ``"gif"`` or ``"mp4"``.
        episodes: Evaluation episodes of each task, one after the other.
        size: Width and height of a frame in pixels, even, from 32 to 2,048.
        camera: One of Meta-World's: topview, corner, corner2, corner3, corner4, behindGripper, gripperPOV.

    Raises:
        OptionError: One of these is out of range.
        DependencyError: MP4 needs a package that is not installed.
    """

    folder: Path
    format: Format = "gif"
    episodes: int = 1
    size: int = 240
    camera: str = "corner"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"video: format={self.format!r} is not one of {', '.join(FORMATS)}")
        if self.episodes < 1:
            raise OptionError(f"video: episodes={self.episodes} must be 1 or more")
        if not 32 <= self.size <= 2048 or self.size % 2:
            raise OptionError(f"video: size={self.size} must be an even number of pixels from 32 to 2048")
        if self.format == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
            raise DependencyError(
                "video: MP4 needs the package imageio-ffmpeg, which is not installed: pip install imageio-ffmpeg, or "
                "write GIF (--format gif)"
            )


class Video(NamedTuple):
    """A video that was made.

    Attributes:
        task: Full name.
        path: The file.
        solved: Whether each episode was, at any step.
        returns: The sum of each episode's rewards.
    """

    task: str
    path: Path
    solved: tuple[bool, ...]
    returns: tuple[float, ...]


class Episode(NamedTuple):
    """What one episode showed: frames, whether the task was solved at any step, and the sum of the rewards."""

    frames: list[Frame]
    solved: bool
    total: float


def load_policy(run: Run, preset: Any) -> SACTrial:
    """The trial of a run that is done, with the trained networks, on the CPU.

    Raises:
        OptionError: Runs of this preset have no policy.
        StoreError: The run is not done, was made with other settings, or its checkpoint is missing or damaged.
    """
    if not isinstance(preset, SACPreset):
        raise OptionError(
            f"video: runs of experiment {run.key.experiment!r} have no policy to be filmed; those of mt10, mt50 and "
            "mt:TASK,… have"
        )
    if run.status != "done":
        raise StoreError(
            f"video: run {label(run.key)} is {run.status} in {run.folder}: a video needs a run that is done; train it "
            f"with `accord run {run.key.experiment} --preset {run.key.preset} --methods {run.key.method} --seeds "
            f"{run.key.seed} --store {run.folder.parents[3]}`"
        )
    run.check_settings(settings_of(preset))
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        raise StoreError(
            f"video: {path} is not there: the numbers of run {label(run.key)} are kept, but the trained networks were "
            "removed; train it again with --fresh"
        )
    trial = SACTrial(dataclasses.replace(preset, device="cpu", processes=False), run.key.method, run.key.seed)
    trial.agent.load_state_dict(load_checkpoint(path)["state"]["trial"]["learner"]["agent"])
    return trial


def make_environment(trial: SACTrial, task: str) -> TaskEnvironment:
    """The environment in which the trial evaluates a task: same goals, horizon and rewards."""
    from accord.bench.rl.environment import TaskEnvironment

    preset = trial.preset
    goals = {"evaluate": trial.goals}
    return TaskEnvironment(task, goals, preset.horizon, preset.rewards)


def play(
    trial: SACTrial, environment: TaskEnvironment, episode: int, look: Callable[[], Frame] | None = None
) -> Episode:
    """An evaluation episode of the deterministic policy, the same to the last bit as in the trial's evaluation.

    Args:
        trial: Whose policy.
        environment: Of one of its tasks.
        episode: Its number.
        look: Takes a picture; called at the beginning, at every second step, and at the end.
    """
    index, count = trial.tasks.index(environment.task), len(trial.tasks)
    observation, _ = environment.reset(options={"purpose": "evaluate", "episode": episode})
    frames, solved, total, steps, ended = [], False, 0.0, 0, False
    if look is not None:
        frames.append(look())
    while not ended:
        # as many rows as in evaluation: with other shapes, matrix products differ in the last bit
        states = torch.from_numpy(observation).expand(count, -1)
        observation, reward, _, ended, info = environment.step(trial.agent.act(states)[index].numpy())
        solved |= info["success"] > 0
        total += float(np.float32(reward))
        steps += 1
        if look is not None and (steps % EVERY == 0 or ended):
            frames.append(framed(look()) if solved else look())
    return Episode(frames, solved, total)


def film(run: Run, preset: Any, settings: VideoSettings) -> Iterator[Video]:
    """A video of each task of a run, in a process that can render.

    Raises:
        OptionError, StoreError: As ``load_policy``; or there is no such camera; or the disk refuses.
    """
    trial = load_policy(run, preset)
    folder = settings.folder / f"{slug(str(run.key.method))}-seed-{run.key.seed}"
    for task in trial.tasks:
        environment = make_environment(trial, task)
        camera = Camera(environment, settings.camera, settings.size)
        try:
            episodes = [play(trial, environment, number, camera.look) for number in range(settings.episodes)]
        finally:
            camera.close()
            environment.close()
        path = folder / f"{task}.{settings.format}"
        write_atomic(path, encoded([frame for episode in episodes for frame in episode.frames], settings.format))
        solved, returns = tuple(e.solved for e in episodes), tuple(e.total for e in episodes)
        yield Video(task, path, solved, returns)


class Camera:
    """Takes pictures of an environment, right side up.

    Meta-World's four corner cameras hang upside down: their up-axis points to the floor. Pictures of a camera that does
    so when the first is taken are turned by half a circle (mirroring them would swap left and right).

    Args:
        environment: What to look at; reset before the first picture.
        name: Which of its cameras.
        size: Width and height in pixels.

    Raises:
        OptionError: It has no such camera.
    """

    def __init__(self, environment: TaskEnvironment, name: str, size: int) -> None:
        import mujoco

        model, self._data = environment.inner.model, environment.inner.data
        names = [model.camera(number).name for number in range(model.ncam)]
        if name not in names:
            raise OptionError(f"video: Meta-World has no camera {name!r}; it has {', '.join(names)}")
        model.vis.global_.offwidth = model.vis.global_.offheight = size  # of the buffer that is drawn into
        self.name = name
        self._turned: bool | None = None
        self._renderer = mujoco.Renderer(model, size, size)

    def look(self) -> Frame:
        """A picture, (size, size, 3)."""
        if self._turned is None:
            self._turned = upside_down(self._data.camera(self.name).xmat)
        self._renderer.update_scene(self._data, camera=self.name)
        frame = self._renderer.render()
        return np.array(frame[::-1, ::-1] if self._turned else frame)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()


def upside_down(axes: npt.NDArray[np.float64]) -> bool:
    """Whether a camera's up-axis, the second column of its axes (9,) in the world, points downwards."""
    return bool(axes.reshape(3, 3)[2, 1] < -1e-6)


def framed(frame: Frame) -> Frame:
    """The frame with a green border: the task is solved."""
    width, found = max(2, len(frame) // 60), frame.copy()
    for edge in (found[:width], found[-width:], found[:, :width], found[:, -width:]):
        edge[:] = SOLVED
    return found


def encoded(frames: Sequence[Frame], form: Format) -> bytes:
    """The frames, (H, W, 3) each, as a file that repeats itself (GIF), or as H.264 (MP4)."""
    if form == "gif":
        import imageio.v3

        return imageio.v3.imwrite("<bytes>", np.stack(frames), extension=".gif", duration=FRAME_MS, loop=0)
    import imageio.v2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        made: Any = imageio.v2.get_writer(path, format="FFMPEG", mode="I", fps=1000 / FRAME_MS, macro_block_size=2)
        with made as writer:
            for frame in frames:
                writer.append_data(frame)
        with disk("read", path):
            return path.read_bytes()
