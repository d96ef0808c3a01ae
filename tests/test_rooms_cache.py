"""The cache of rendered frames: subsets, damage, strangers' files, a folder that refuses, and two processes at once."""

from __future__ import annotations

import io
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from accord.bench.data import rooms
from accord.bench.data.rooms import BLOCK, block_file, load
from accord.bench.data.rooms_frames import Frames
from accord.errors import DataError, DependencyError, OptionError

pytest.importorskip("mitsuba")
SIZE = (6, 8, 1)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two blocks of training frames, made by two processes, none by both."""
    folder, counts = tmp_path_factory.mktemp("rooms"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(folder))
        patch.setattr(rooms, "counted", lambda *_: nullcontext(counts.append))
        frames = load("train", BLOCK + 3, *SIZE, processes=2, show=True)
    assert len(frames) == BLOCK + 3
    assert sum(counts) == 2 * BLOCK
    return folder


@pytest.fixture
def cache(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in use."""
    shutil.copytree(rendered, tmp_path / "cache")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be rendered here")

    monkeypatch.setattr(rooms, "render_blocks", refuse)
    monkeypatch.setattr(rooms, "_render_parallel", refuse)


def same(first: Frames, second: Frames) -> bool:
    return all((first.arrays()[name] == second.arrays()[name]).all() for name in first.arrays())


@pytest.mark.usefixtures("cache", "no_rendering")
def test_a_small_set_is_the_beginning_of_a_larger_one() -> None:
    large = load("train", 2 * BLOCK, *SIZE)
    for count in (1, BLOCK, BLOCK + 5):
        small = load("train", count, *SIZE)
        assert len(small) == count
        assert same(small, large.head(count))
    assert large.image.shape == (2 * BLOCK, 6, 8, 3)
    assert (large.image.dtype, large.label.dtype) == (np.uint8, np.uint8)
    assert (large.depth.dtype, large.normal.dtype) == (np.float32, np.float16)
    assert len(np.unique(large.depth.reshape(2 * BLOCK, -1), axis=0)) == 2 * BLOCK  # no frame twice


def test_a_deleted_block_is_rendered_to_the_same_bytes(cache: Path) -> None:
    file = block_file("train", 1, *SIZE)
    before = file.read_bytes()
    file.unlink()
    load("train", BLOCK + 1, *SIZE)  # in this process, with another number of threads
    assert file.read_bytes() == before
    assert file.is_relative_to(cache)


@pytest.mark.usefixtures("cache")
def test_damage_is_told_with_its_remedy() -> None:
    file = block_file("train", 0, *SIZE)
    whole = file.read_bytes()
    for damaged in (whole[:-40], whole[: len(whole) // 2], b"", b"not an archive"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be read.*delete the file, and it is rendered anew"):
            load("train", 2, *SIZE)
    with np.load(io.BytesIO(whole)) as archive:
        arrays = dict(archive)
    for change in ({"depth": arrays["depth"] + 1}, {"depth": arrays["depth"][:2]}, {"more": arrays["depth"]}):
        np.savez(file, **{**arrays, **change})
        with pytest.raises(DataError, match="was altered: its checksum does not match; delete the file"):
            load("train", 2, *SIZE)
    np.savez(file, **{**arrays, "label": np.array([{}], dtype=object)})  # a pickle, which is not executed
    with pytest.raises(DataError, match="cannot be read"):
        load("train", 2, *SIZE)


@pytest.mark.usefixtures("cache")
def test_a_file_of_other_frames_is_refused() -> None:
    shutil.copy(block_file("train", 1, *SIZE), block_file("train", 0, *SIZE))
    with pytest.raises(DataError, match=r"'first': 16.*not.*'first': 0"):
        load("train", 2, *SIZE)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("ACCORD_CACHE", str(file))
    with pytest.raises(DataError, match="set ACCORD_CACHE to a folder that is yours"):
        load("train", 2 * BLOCK, *SIZE, processes=processes)


def test_bad_arguments_and_missing_packages_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    with pytest.raises(OptionError, match="no split 'val'; the splits are train, validation, test"):
        load("val", 1, *SIZE)
    with pytest.raises(OptionError, match="0 frames"):
        load("train", 0, *SIZE)
    with pytest.raises(OptionError, match="processes=0"):
        load("train", 1, *SIZE, processes=0)
    with pytest.raises(OptionError, match="samples=2"):
        load("train", 1, 6, 8, 2)
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(DependencyError, match=r"filelock is missing: `pip install 'accord\[experiments\]'`"):
        load("train", 1, *SIZE)
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(DependencyError, match="mitsuba is missing"):
        load("train", 1, *SIZE)
