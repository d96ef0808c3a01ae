"""Experiments on scenes in MTAN's layout: NYUv2 and Cityscapes as published, or made files of the same form."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from accord.bench.data.mtan import MtanScenes
from accord.bench.data.mtan_layout import LAYOUTS, SPLITS, Layout, folder_of
from accord.bench.data.mtan_made import make
from accord.bench.scenes.problem import SceneProblem
from accord.bench.scenes.settings import SceneSettings
from accord.bench.scenes.source import Held, SceneSource
from accord.errors import OptionError


@dataclass(frozen=True)
class MtanPreset(SceneSettings):
    """Settings of one preset; see ``SceneSettings`` for the others.

    Attributes:
        dataset: ``"nyuv2"`` or ``"cityscapes"``.
        train: Training scenes to use, spread evenly over the split; None for all, which must be the published ones.
        test: Test scenes to use; likewise.
        synthetic: Make the scenes, in files of the same layout, instead of reading the user's folder.
        hold: Keep the scenes in memory.
    """

    dataset: str = "nyuv2"
    train: int | None = None
    test: int | None = None
    synthetic: bool = False
    hold: bool = False


def mtan_problem(preset: MtanPreset) -> SceneProblem:
    """The problem of a preset.

    Raises:
        DataError: The user's folder is not named or lacks files, or the cache cannot be written.
        OptionError: A setting is out of range.
    """
    layout, root = _found(preset)
    held = _held if preset.hold else _lazy
    train, test = (
        held(preset.dataset, layout.size, root, split, preset.size, limit)
        for split, limit in zip(SPLITS, (preset.train, preset.test), strict=True)
    )
    return SceneProblem(preset, train, test, preset.dataset, {"data": _described(layout, preset)})


def prepare(preset: MtanPreset) -> None:
    """Make the scenes of a synthetic preset, or look whether the user's folder has what is needed."""
    layout, root = _found(preset)
    for split, limit in zip(SPLITS, (preset.train, preset.test), strict=True):
        MtanScenes(root, split, layout, preset.size, limit)


def _found(preset: MtanPreset) -> tuple[Layout, Path]:
    """The layout, and the folder of its files."""
    if preset.dataset not in LAYOUTS:
        raise OptionError(f"dataset={preset.dataset!r} must be one of {tuple(LAYOUTS)}")
    layout = LAYOUTS[preset.dataset]
    if not preset.synthetic:
        return layout, folder_of(layout)
    if preset.train is None or preset.test is None:
        raise OptionError(f"{preset.dataset}: synthetic scenes need to know how many: set train and test")
    counts = dict(zip(SPLITS, (preset.train, preset.test), strict=True))
    layout = dataclasses.replace(layout, size=preset.size, counts=counts)
    return layout, make(layout)


def _lazy(
    dataset: str, native: tuple[int, int], root: Path, split: str, size: tuple[int, int], limit: int | None
) -> SceneSource:
    layout = dataclasses.replace(LAYOUTS[dataset], size=native)
    return MtanScenes(root, split, layout, size, limit)


@functools.lru_cache(maxsize=4)  # the runs of one process share what was read
def _held(
    dataset: str, native: tuple[int, int], root: Path, split: str, size: tuple[int, int], limit: int | None
) -> SceneSource:
    return Held(_lazy(dataset, native, root, split, size, limit))


def _described(layout: Layout, preset: MtanPreset) -> str:
    if preset.synthetic:
        return f"synthetic: smooth surfaces made in the layout of {layout.title}; not {layout.title}"
    return f"{layout.title}, as MTAN's authors preprocessed it"
