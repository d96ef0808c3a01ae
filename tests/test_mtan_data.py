"""MTAN's layout: what is written in it is what the loader gives, and what is wrong in it is told."""

import dataclasses
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from accord.bench.data import mtan_made
from accord.bench.data.mtan import MtanScenes
from accord.bench.data.mtan_layout import CITYSCAPES, NYUV2
from accord.errors import DataError

SMALL = dataclasses.replace(NYUV2, size=(12, 16), counts={"train": 5, "val": 3})
STREETS = dataclasses.replace(CITYSCAPES, size=(8, 16), counts={"train": 3, "val": 2})


@pytest.fixture
def root(tmp_path):
    mtan_made.write(tmp_path, SMALL)
    return tmp_path


def overwrite(root, key, array, split="train", number=2):
    np.save(root / split / key / f"{number}.npy", array)


def read_all(root, split="train", **options):
    scenes = MtanScenes(root, split, SMALL, **options)
    return [scenes[index] for index in range(len(scenes))]


# What it gives


def test_a_scene_is_what_its_files_hold(root):
    (root / "train" / "image" / "README.txt").write_text("not a scene")
    for number, scene in enumerate(read_all(root)):
        files = {key: np.load(root / "train" / key / f"{number}.npy") for key in SMALL.folders}
        assert {key: tensor.dtype for key, tensor in scene.items()} == {
            "image": torch.float32,
            "label": torch.int64,
            "depth": torch.float32,
            "normal": torch.float32,
        }
        np.testing.assert_allclose(scene["image"].numpy(), files["image"].transpose(2, 0, 1), atol=1e-6)
        np.testing.assert_array_equal(scene["label"].numpy(), files["label"])
        np.testing.assert_allclose(scene["depth"].numpy(), files["depth"].transpose(2, 0, 1), rtol=1e-6)
        np.testing.assert_allclose(scene["normal"].numpy(), files["normal"].transpose(2, 0, 1), atol=1e-6)


def test_scenes_are_in_the_order_of_their_numbers(root):
    for key in SMALL.folders:  # as text, 10 would come before 2
        os.rename(root / "train" / key / "0.npy", root / "train" / key / "10.npy")
    assert MtanScenes(root, "train", SMALL).numbers == [1, 2, 3, 4, 10]
    assert MtanScenes(root, "train", SMALL, limit=2).numbers == [1, 3]


def test_other_dtypes_and_flat_depth_are_read_too(root):
    overwrite(root, "image", np.full((12, 16, 3), 0.5, np.float32), number=0)
    overwrite(root, "label", np.full((12, 16), 3, np.uint8), number=0)
    overwrite(root, "depth", np.asfortranarray(np.full((12, 16), 2.0, np.float16)), number=0)
    overwrite(root, "normal", np.tile([0.0, 0.0, -0.9], (12, 16, 1)), number=0)
    scene = read_all(root)[0]
    assert scene["depth"].shape == (1, 12, 16)
    assert scene["depth"].unique().tolist() == [2]
    assert scene["label"].unique().tolist() == [3]
    torch.testing.assert_close(scene["normal"].norm(dim=0), torch.ones(12, 16))  # brought to length 1


def test_scenes_can_be_brought_to_another_size(root):
    full, half = read_all(root)[0], read_all(root, size=(6, 8))[0]
    for key in ("image", "depth", "normal"):
        assert half[key].shape == (len(full[key]), 6, 8)
    mean = full["image"].reshape(3, 6, 2, 8, 2).mean(dim=(2, 4))
    torch.testing.assert_close(half["image"], mean)
    assert torch.isin(half["label"], full["label"]).all()
    blocks = full["depth"].reshape(6, 2, 8, 2).permute(0, 2, 1, 3).reshape(6, 8, 4)
    assert (blocks == half["depth"][0][..., None]).any(dim=-1).all()


def test_cityscapes_has_label_7_and_no_normals(tmp_path):
    mtan_made.write(tmp_path, STREETS)
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["depth", "image", "label_7"]
    scene = MtanScenes(tmp_path, "val", STREETS)[1]
    assert set(scene) == {"image", "label", "depth"}
    assert scene["label"].max() < 7


# What it refuses


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_pickles_are_never_executed(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = root / "train" / "depth" / "2.npy"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(DataError, match=r"depth/2.npy: a pickle, which could execute anything and is never loaded"):
        read_all(root)
    array = np.empty((12, 16, 1), object)
    array[:] = Harmful()
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=r"depth/2.npy: an array of Python objects"):
        read_all(root)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 3, 40, 100, 500])
def test_cut_off_files_are_told(root, keep):
    path = root / "train" / "normal" / "2.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"normal/2.npy: (cut off or altered|the file is empty|not a NumPy file)"):
        read_all(root)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("image", np.zeros((16, 12, 3)), r"image has the shape \(16, 12, 3\), where NYUv2 has \(12, 16, 3\)"),
        ("image", np.full((12, 16, 3), 200, np.uint8), r"values from 200 to 200, where \[0, 1\] is needed"),
        ("image", np.full((12, 16, 3), np.nan), "NaN or infinity"),
        ("label", np.full((12, 16), 13.0), "label holds 13, where classes are 0 to 12"),
        ("label", np.full((12, 16), 0.5), "label holds 0.5"),
        ("label", np.full((12, 16), -2), "label holds -2"),
        ("depth", np.full((12, 16, 1), "far"), "dtype <U3"),
        ("depth", np.full((12, 16, 1), np.inf), "NaN or infinity"),
        ("normal", np.full((12, 16, 3), 7.0), "unit vectors"),
    ],
)
def test_wrong_shapes_dtypes_and_values_are_told(root, key, array, message):
    overwrite(root, key, array)
    with pytest.raises(DataError, match=rf"nyuv2: .*{key}/2.npy: .*{message}.*github.com/lorenmt/mtan.*ACCORD_NYUV2"):
        read_all(root)


def test_missing_splits_folders_and_files_are_told(root):
    (root / "train" / "depth" / "3.npy").unlink()
    with pytest.raises(DataError, match=r"train/depth lacks 3.npy: it has 4 files of depth beside 5 images"):
        MtanScenes(root, "train", SMALL)
    (root / "val" / "image" / "0.npy").unlink()
    with pytest.raises(DataError, match=r"val/image lacks 0.npy"):
        MtanScenes(root, "val", SMALL)
    shutil.rmtree(root / "train" / "normal")
    with pytest.raises(DataError, match=r"train/normal is missing.*data check"):
        MtanScenes(root, "train", SMALL)


def test_a_part_of_the_data_set_is_not_the_data_set(root):
    for key in SMALL.folders:
        (root / "train" / key / "4.npy").unlink()
    with pytest.raises(DataError, match=r"train has 4 scenes; NYUv2 has 5 there, and 5 are needed"):
        MtanScenes(root, "train", SMALL)
    assert len(MtanScenes(root, "train", SMALL, limit=4)) == 4


# The scenes made in this layout


def test_made_scenes_are_whole_or_absent_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "a"))
    first = mtan_made.make(SMALL)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*.npy")}
    assert mtan_made.make(SMALL) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*.npy")} == before
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "b"))
    second = mtan_made.make(SMALL)
    for path in before:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()

    def broken(root, layout):
        (root / "train").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mtan_made, "write", broken)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "c"))
    with pytest.raises(DataError, match=r"No space left on device; set ACCORD_CACHE"):
        mtan_made.make(SMALL)
    assert list((tmp_path / "c" / "made").iterdir()) == []


def test_normals_of_made_scenes_belong_to_their_depth():
    layout = dataclasses.replace(NYUV2, size=(96, 128))
    scene = mtan_made.scene(layout, "train", 0)
    known = (scene["depth"][..., 0] > 0) & (scene["label"] >= 0)
    y, x = np.mgrid[0:96, 0:128]
    points = np.stack(((x - 64) / 128, (y - 48) / 128, np.ones((96, 128))), -1) * scene["depth"]
    # along the surface, to the pixel on the right: at a right angle to the normal
    step = points[:, 1:] - points[:, :-1]
    both = known[:, 1:] & known[:, :-1]
    cosine = (step * scene["normal"][:, :-1]).sum(-1)[both] / np.linalg.norm(step, axis=-1)[both]
    assert np.median(np.abs(cosine)) < 0.02
    assert (scene["normal"][known][:, 2] < 0).mean() > 0.99  # towards the camera
