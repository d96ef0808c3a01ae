"""``accord data check`` finds what is wrong, and nothing where all is right."""

import dataclasses
import gzip
import os
import pickle
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from accord.bench import cli
from accord.bench.data import check, check_celeba, mtan_made
from accord.bench.data.mtan_layout import CITYSCAPES, NYUV2
from accord.errors import DataError, UnknownNameError

ROOMS = dataclasses.replace(NYUV2, size=(12, 16), counts={"train": 5, "val": 3})
STREETS = dataclasses.replace(CITYSCAPES, size=(32, 64), counts={"train": 3, "val": 2})


@pytest.fixture
def small(monkeypatch):
    """The published data sets, but small ones."""
    monkeypatch.setattr(check, "NYUV2", ROOMS)
    monkeypatch.setattr(check, "CITYSCAPES", STREETS)


@pytest.fixture
def nyuv2(small, tmp_path):
    mtan_made.write(tmp_path, ROOMS)
    return tmp_path


def wrong(findings):
    return {(finding.where, finding.text) for finding in findings if finding.status == "wrong"}


def one(findings, where, *parts):
    """There is one wrong thing at a place, whose text has these parts."""
    texts = [text for place, text in wrong(findings) if place == where]
    assert len(texts) == 1, texts
    assert all(part in texts[0] for part in parts), texts[0]


# MTAN's layout


def test_a_whole_folder_has_nothing_wrong(nyuv2):
    seen = []
    findings = check.check(nyuv2, advance=lambda: seen.append(1))
    assert check.passed(findings)
    assert not wrong(findings)
    assert len(seen) == (5 + 3) * 4
    texts = {finding.where: finding.text for finding in findings if finding.status == "ok"}
    assert "NYUv2" in texts["data set"]
    depth = np.concatenate([np.load(path).ravel() for path in (nyuv2 / "train" / "depth").iterdir()])
    assert texts["train/depth"] == (
        f"5 × (12, 16, 1) float64; values 0 to {depth.max():g}, {(depth == 0).mean():.1%} unknown"
    )


def test_cityscapes_is_told_from_nyuv2(small, tmp_path):
    mtan_made.write(tmp_path, STREETS)
    assert check.recognise(tmp_path) == "cityscapes"
    assert check.passed(check.check(tmp_path))


def test_all_that_is_wrong_is_found_at_once(nyuv2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, val = nyuv2 / "train", nyuv2 / "val"
    (train / "image" / "0.npy").write_bytes((train / "image" / "0.npy").read_bytes()[:300])
    (train / "image" / "1.npy").write_bytes(pickle.dumps({"a": 1}))
    np.save(train / "label" / "2.npy", np.full((12, 16), 13))
    np.save(train / "label" / "3.npy", np.zeros((3, 3)))
    (train / "depth" / "4.npy").unlink()
    np.save(train / "normal" / "0.npy", np.full((12, 16, 3), np.nan))
    shutil.rmtree(val / "normal")
    np.save(val / "depth" / "0.npy", np.full((12, 16, 1), "x"))
    findings = check.check(nyuv2)
    found = wrong(findings)
    assert {place for place, _ in found} == {
        *("train/image", "train/label", "train/depth", "train/normal"),
        *("val/normal", "val/depth"),
    }
    images = [text for place, text in found if place == "train/image"]
    assert any("cut off or altered" in text and "0.npy" in text for text in images)
    assert any("a pickle" in text and "never loaded" in text and "1.npy" in text for text in images)
    labels = [text for place, text in found if place == "train/label"]
    assert any("label holds 13" in text for text in labels)
    assert any("shape (3, 3)" in text for text in labels)
    one(findings, "train/depth", "1 file missing", "4.npy")
    one(findings, "train/normal", "NaN", "0.npy")
    one(findings, "val/normal", "is missing")
    one(findings, "val/depth", "dtype <U1")
    assert findings[-1].where == "remedy"
    assert "github.com/lorenmt/mtan" in findings[-1].text


def test_missing_scenes_are_named(nyuv2):
    for key in ROOMS.folders:
        (nyuv2 / "train" / key / "3.npy").unlink()
    one(check.check(nyuv2), "train", "4 scenes, where NYUv2 has 5", "missing are 3.npy")
    shutil.rmtree(nyuv2 / "val")
    one(check.check(nyuv2), "val", "is missing")


def test_many_faults_are_few_lines(nyuv2):
    for path in (nyuv2 / "train" / "image").iterdir():
        np.save(path, np.full((12, 16, 3), 255, np.uint8))
    one(check.check(nyuv2), "train/image", "5 files", "0.npy, 1.npy, 2.npy, 3.npy and 1 more", "[0, 1] is needed")


def test_what_is_odd_but_no_fault_is_a_note(nyuv2):
    (nyuv2 / "train" / "image" / "notes.txt").write_text("mine")
    np.save(nyuv2 / "train" / "depth" / "0.npy", np.full((12, 16, 1), -1.0))
    np.save(nyuv2 / "train" / "normal" / "0.npy", np.full((12, 16, 3), 0.1))
    for path in (nyuv2 / "train" / "label").iterdir():
        np.save(path, np.zeros((12, 16)))
    findings = check.check(nyuv2)
    assert check.passed(findings)
    notes = " ".join(finding.text for finding in findings if finding.status == "note")
    for text in ("notes.txt", "depths are negative", "off length 1", "classes that never occur: 1, 2, 3"):
        assert text in notes


# The command


def test_the_command_says_it_and_returns_it(nyuv2, capsys):
    assert cli.main(["data", "check", str(nyuv2)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    (nyuv2 / "val" / "image" / "0.npy").write_bytes(b"")
    assert cli.main(["data", "check", str(nyuv2), "--dataset", "nyuv2"]) == 1
    out = capsys.readouterr().out
    assert "val/image" in out
    assert "the file is empty" in out
    assert "1 thing is wrong" in out


def test_folders_that_are_no_data_set_are_told(tmp_path, capsys):
    assert cli.main(["data", "check", str(tmp_path)]) == 2
    assert "looks like none of the data sets known; say --dataset NAME with one of: nyuv2" in capsys.readouterr().err
    with pytest.raises(DataError, match="is not a folder"):
        check.check(tmp_path / "absent")
    with pytest.raises(DataError, match="is not a folder"):
        check.check(tmp_path / "absent", "nyuv2")
    with pytest.raises(UnknownNameError, match="did you mean 'celeba'"):
        check.check(tmp_path, "celebA")
    (tmp_path / "qm9_part1.csv").write_text("")
    (tmp_path / "train-images-idx3-ubyte").write_text("")
    with pytest.raises(DataError, match="could be idx or qm9"):
        check.check(tmp_path)


def test_the_check_needs_no_torch():
    code = "import sys, accord.bench.data.check; sys.exit(bool({'torch', 'polars', 'rdkit', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# IDX


def idx(array):
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def mnist(tmp_path):
    for split, count in (("train", 6), ("t10k", 4)):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(np.ones((count, 28, 28))))
        labels = idx(np.arange(count))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return tmp_path


def test_idx_folders(mnist):
    findings = check.check(mnist)
    assert check.passed(findings)
    assert any("6 items; MNIST and Fashion-MNIST have 60,000" in f.text for f in findings if f.status == "note")
    assert {"train/images", "train/labels", "test/images", "test/labels"} <= {f.where for f in findings}
    one_more = mnist / "t10k-labels-idx1-ubyte.gz"
    assert check.passed(check.check(one_more.rename(mnist / "t10k-labels.idx1-ubyte.gz").parent))  # another spelling
    (mnist / "t10k-labels.idx1-ubyte.gz").rename(one_more)

    images = mnist / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes((mnist / "train-labels-idx1-ubyte.gz").read_bytes()[:-9])
    (mnist / "t10k-images-idx3-ubyte").write_bytes(idx(np.ones((3, 20, 28))))
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(4, 12))))
    findings = check.check(mnist)
    one(
        findings,
        "train/images",
        "is cut off: its head says (6, 28, 28), 4,704 bytes, and 4,703 follow",
        "get the file from",
    )
    one(findings, "train/labels", "cut off or damaged")
    one(findings, "test/images", "(20, 28)")
    one(findings, "test/labels", "label 12")
    one(findings, "test", "3 images and 4 labels")
    images.unlink()
    one(check.check(mnist), "train", "neither train-images-idx3-ubyte nor")
    images.write_bytes(pickle.dumps([1, 2, 3]))
    one(check.check(mnist), "train/images", "not 00 00 08 03: it is not an IDX file")


# CelebA


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    monkeypatch.setattr(check_celeba, "COUNT", 6)
    splits = {"0": ("train", 3), "1": ("validation", 2), "2": ("test", 1)}
    monkeypatch.setattr(check_celeba, "SPLITS", splits)
    for folder in ("Anno", "Eval", "Img/img_align_celeba"):
        (tmp_path / folder).mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    rows = [f"{name} " + " ".join(["-1", " 1"] * 20) for name in names]
    attributes = " ".join(f"Attribute_{number}" for number in range(40))
    (tmp_path / "Anno/list_attr_celeba.txt").write_text("\n".join(["6", attributes, *rows]) + "\n")
    partition = [f"{name} {split}" for name, split in zip(names, "000112", strict=True)]
    (tmp_path / "Eval/list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    for name in names:
        Image.new("RGB", (178, 218), "gray").save(tmp_path / "Img/img_align_celeba" / name)
    return tmp_path


def test_celeba(celeba):
    findings = check.check(celeba)
    assert check.passed(findings), wrong(findings)
    assert any(f.text == "whole JPEG images: 6 × 218 × 178" for f in findings)

    images = celeba / "Img/img_align_celeba"
    (images / "000001.jpg").unlink()
    (images / "000002.jpg").write_bytes((images / "000002.jpg").read_bytes()[:400])
    (images / "000003.jpg").write_bytes(b"<html>too many downloads</html>")
    Image.new("RGB", (64, 64)).save(images / "000004.jpg")
    attributes = celeba / "Anno/list_attr_celeba.txt"
    attributes.write_text("\n".join(attributes.read_text().replace("000005.jpg -1", "000005.jpg 7").splitlines()[:-1]))
    findings = check.check(celeba)
    texts = " | ".join(text for _, text in wrong(findings))
    for part in (
        "line 1 announces '6' images, 5 follow",
        "1 lines are not a name and 40 of 1 or -1: 7",
        "names other images than list_attr_celeba.txt: 000006.jpg",
        "1 of the images listed are missing: 000001.jpg",
        "cut off: the end marker of JPEG is missing: 000002.jpg",
        "not a JPEG image: 000003.jpg",
        "64 × 64 pixels, where aligned images have 218 × 178: 000004.jpg",
    ):
        assert part in texts, (part, texts)
    os.remove(celeba / "Eval/list_eval_partition.txt")
    one(check.check(celeba), "list_eval_partition.txt", "missing", "mmlab.ie.cuhk.edu.hk")


# QM9


def test_qm9_files_that_are_not_the_published_ones(tmp_path):
    (tmp_path / "qm9_part1.csv").write_text("Index,SMILES\n")
    findings = check.check(tmp_path)
    one(findings, "qm9_part1.csv", "cut off: 13 bytes, not 69,693,764")
    one(findings, "qm9_part2.csv", "missing")


def test_a_file_that_cannot_be_read_at_all_is_told(nyuv2, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "secret")

    monkeypatch.setattr(check.check_mtan, "numbers_in", denied)
    with pytest.raises(DataError, match="cannot read secret: Permission denied"):
        check.check(nyuv2)
