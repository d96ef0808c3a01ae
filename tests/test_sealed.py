"""Cache files with a note and a checksum: what was written comes back, anything else is told with its remedy."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from accord.bench.data.sealed import Seal
from accord.errors import DataError

SEAL = Seal("things", 3, "drawn", ("count", "x"), "it is drawn anew")
MADE = {"seed": 4, "size": [2, 3]}


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"x": random.normal(size=(2, 3)).astype(np.float16), "count": np.array([True, False])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file.npz"
    SEAL.write(path, arrays(), MADE)
    return path


def contents(path: Path) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(path.read_bytes())) as archive:
        return dict(archive)


def test_what_was_written_comes_back(file: Path) -> None:
    found = SEAL.read(file, MADE)
    assert set(found) == {"x", "count"}
    for name, array in arrays().items():
        assert found[name].dtype == array.dtype
        assert (found[name] == array).all()


def test_equal_arrays_make_equal_bytes(file: Path, tmp_path: Path) -> None:
    SEAL.write(tmp_path / "again.npz", arrays(), MADE)
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def test_the_note_says_how_it_was_made(file: Path) -> None:
    note = json.loads(contents(file)["note"].tobytes())
    assert (note["format"], note["data"], note["made"]) == (3, "drawn", MADE)


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no zip"])
def test_a_truncated_file_is_told(file: Path, damage) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"^things: the cache file .* cannot be read.*delete the file, and it is drawn"):
        SEAL.read(file, MADE)


@pytest.mark.parametrize(
    "change",
    [
        {"x": arrays()["x"] + np.float16(1)},
        {"x": arrays()["x"].astype(np.float32)},
        {"x": arrays()["x"].reshape(3, 2)},
        {"more": arrays()["x"]},
    ],
)
def test_an_altered_array_is_told(file: Path, change: dict[str, np.ndarray]) -> None:
    np.savez(file, **{**contents(file), **change})
    with pytest.raises(DataError, match="was altered: its checksum does not match; delete the file"):
        SEAL.read(file, MADE)


def test_names_are_checked_even_where_the_checksum_fits(tmp_path: Path) -> None:
    other = Seal("things", 3, "drawn", ("x",), "it is drawn anew")
    other.write(tmp_path / "one.npz", {"x": arrays()["x"]}, MADE)
    with pytest.raises(DataError, match="was altered"):
        SEAL.read(tmp_path / "one.npz", MADE)


def test_a_pickle_is_not_executed(file: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.savez(file, **{**contents(file), "x": np.array([Touch()], dtype=object)})
    with pytest.raises(DataError, match="cannot be read"):
        SEAL.read(file, MADE)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Touch()))  # it would have been
    assert (tmp_path / "executed").exists()


def test_another_format_and_another_recipe_are_told(file: Path) -> None:
    newer = Seal("things", 4, "drawn", ("count", "x"), "it is drawn anew")
    with pytest.raises(DataError, match="has format 3, this version reads 4"):
        newer.read(file, MADE)
    with pytest.raises(DataError, match=r"holds .*'seed': 4.*, not .*'seed': 5"):
        SEAL.read(file, {**MADE, "seed": 5})


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot write the cache file .*set ACCORD_CACHE to a folder that is yours"):
        SEAL.write(tmp_path / "file" / "one.npz", arrays(), MADE)
    with pytest.raises(DataError, match="cannot be read"):
        SEAL.read(tmp_path / "absent.npz", MADE)
