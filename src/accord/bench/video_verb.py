"""``accord video``: a verb of ``accord.bench.cli``, in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from accord.errors import StoreError

if TYPE_CHECKING:
    from accord.bench.spec import Experiment
    from accord.bench.store import Run, Store

Name = Annotated[str, arg(metavar="EXPERIMENT")]
Specs = Annotated[tuple[str, ...], arg(metavar="SPEC ...", help_behavior_hint="(default: all that are done)")]
Seeds = Annotated[tuple[int, ...], arg(metavar="SEED ...")]
Folder = Annotated[Path, arg(metavar="FOLDER")]


@dataclass(frozen=True)
class VideoVerb:
    """Film the trained policies of runs that are done: one video a task.

    The policy acts without noise, on the goals of the evaluation; a green border means that the task is solved. Half
    the robot's speed.
    """

    experiment: Positional[Name]
    """mt10, mt50 or mt:TASK,TASK."""
    preset: str = "laptop"
    """Whose runs to film."""
    methods: Specs = ()
    """Such as nash-mtl ls:net=multi-head."""
    seeds: Seeds = (0,)
    """Of the runs."""
    store: Folder = Path("runs")
    """Where runs are kept."""
    out: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: a folder in the store)")] = None
    """Where the videos go."""
    format: Literal["gif", "mp4"] = "gif"
    """mp4 needs the package imageio-ffmpeg."""
    episodes: int = 1
    """Evaluation episodes of each task, one after the other."""
    size: int = 240
    """Width and height in pixels."""
    camera: str = "corner"
    """topview, corner, corner2, corner3, corner4, behindGripper or gripperPOV."""

    def __call__(self) -> int:
        """Film, and say what each episode came to."""
        from accord.bench import cli
        from accord.bench.experiments import load
        from accord.bench.rl.studio import Studio
        from accord.bench.rl.video import VideoSettings, film, load_policy
        from accord.bench.store import Store, label, slug

        experiment = load(self.experiment)
        folder = self.out or self.store / "videos" / f"{slug(experiment.name)}-{self.preset}"
        settings = VideoSettings(folder, self.format, self.episodes, self.size, self.camera)
        runs = runs_of(Store(self.store), experiment, self.preset, self.methods, self.seeds)
        preset = experiment.presets[self.preset]
        for run in runs:
            load_policy(run, preset)  # what is wrong with any of them is told before the first is filmed
        with Studio() as studio:
            for run in runs:
                for video in studio.each(film, run, preset, settings):
                    ends = ", ".join("solved" if solved else "not solved" for solved in video.solved)
                    print(f"{label(run.key)}: {video.task}: {ends}: {video.path}", flush=True)
        return cli.OK


def runs_of(
    store: Store, experiment: Experiment, preset: str, methods: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """The runs of these methods, or all that are done, with these seeds.

    Raises:
        UnknownNameError: No such preset, method or task.
        OptionError: An option or a seed is out of range.
        StoreError: No run of the preset is done.
    """
    from accord.bench.runner import check_preset, check_seeds, plan

    if methods:
        return [store.run(key) for key in plan(experiment, preset, methods, seeds)]
    check_preset(experiment, preset)
    wanted = check_seeds(seeds)
    found = [
        run
        for run in store.runs(experiment.name, experiment.version, preset)
        if run.status == "done" and run.key.seed in wanted
    ]
    if not found:
        raise StoreError(
            f"video: no run of {experiment.name} with preset {preset!r} and seeds {list(wanted)} is done in "
            f"{store.root}: train one with `accord run {experiment.name} --preset {preset}`"
        )
    return found
