"""CelebA in its official layout: what is read, what is refused, and the cache of decoded images."""

import io
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from accord.bench.data import celeba, celeba_cache, celeba_made
from accord.bench.data.celeba import ATTRIBUTES, folder_of, read_image, read_splits
from accord.bench.data.celeba_cache import cache_file, decoded
from accord.errors import DataError, OptionError

COUNTS = {"train": 5, "val": 3, "test": 4}
HELP = "mmlab.ie.cuhk.edu.hk"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A small folder in the official layout, and a cache of its own."""
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    celeba_made.write(folder, COUNTS)
    return folder


def images(root):
    return root / "img_align_celeba"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# Reading


def test_the_lists_and_the_partition_are_read(root):
    splits = read_splits(root)
    assert {name: len(split) for name, split in splits.items()} == COUNTS
    assert splits["val"].names == ("000006.jpg", "000007.jpg", "000008.jpg")
    for name, split in splits.items():
        wanted = [celeba_made.image(name, index)[0] for index in range(len(split))]
        assert np.array_equal(split.labels, wanted)
        assert split.labels.dtype == np.uint8
        assert split.folder == images(root)


def test_the_official_spacing_is_understood(root):
    path = root / "list_attr_celeba.txt"
    path.write_text("\n".join(line.replace(" 1", "  1") + " " for line in path.read_text().splitlines()) + "\n")
    assert np.array_equal(read_splits(root)["train"].labels[0], celeba_made.image("train", 0)[0])


def test_the_archives_subfolders_are_found(root):
    for name, folder in (("list_attr_celeba.txt", "Anno"), ("list_eval_partition.txt", "Eval")):
        (root / folder).mkdir()
        shutil.move(root / name, root / folder)
    (root / "Img").mkdir()
    shutil.move(images(root), root / "Img")
    splits = read_splits(root)
    assert splits["train"].folder == root / "Img" / "img_align_celeba"
    assert len(splits["test"]) == 4


def test_a_list_that_changes_is_read_again(root):
    assert len(read_splits(root)["train"]) == 5
    edit(root / "list_eval_partition.txt", "000001.jpg 0", "000001.jpg 1")
    os.utime(root / "list_eval_partition.txt", (1, 1))
    assert len(read_splits(root)["train"]) == 4


def test_images_are_resized_as_the_published_code_does(root):
    path = images(root) / "000001.jpg"
    found = read_image(path, 16)
    with Image.open(path) as image:
        wanted = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert found.shape == (3, 16, 16)
    assert found.dtype == np.uint8
    assert np.array_equal(found, wanted)
    labels, pixels = celeba_made.image("train", 0)
    # each patch is where its attribute says: bright or dark
    patches = read_image(path, 40)[:, 2::5, 4::8].mean(axis=0)  # the middles of 8 rows and 5 columns
    assert np.array_equal(patches.ravel() > 130, labels)
    assert pixels.shape == (218, 178, 3)


def test_grey_images_are_read_as_colour(root):
    Image.new("L", celeba.SIZE, 90).save(images(root) / "000001.jpg")
    assert np.array_equal(read_image(images(root) / "000001.jpg", 8), np.full((3, 8, 8), 90, np.uint8))


def test_some_images_are_spread_evenly(root):
    split = read_splits(root)["train"]
    assert split.some(2).names == (split.names[0], split.names[2])
    assert np.array_equal(split.some(2).labels, split.labels[[0, 2]])
    with pytest.raises(OptionError, match="train=0 images were asked for"):
        split.some(0)


def test_too_few_images_are_told_with_the_official_number(root):
    split = read_splits(root)["val"]
    with pytest.raises(DataError, match=f"all 19,867 images of the official val split.*names 3 there.*{HELP}"):
        split.some(None)
    with pytest.raises(DataError, match=f"celeba: 4 images of the official val split.*{HELP}"):
        split.some(4)


# Bad input


def test_without_a_folder_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("ACCORD_CELEBA", raising=False)
    with pytest.raises(DataError, match=f"yours to bring, and ACCORD_CELEBA is not set.*{HELP}"):
        folder_of()
    monkeypatch.setenv("ACCORD_CELEBA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=f"none is not a folder.*{HELP}"):
        folder_of()


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"])
def test_what_is_missing_is_told(root, name):
    os.rename(root / name, root / "elsewhere")
    with pytest.raises(DataError, match=f"has neither {name} nor .*/{name}. Get CelebA from .*{HELP}"):
        read_splits(root)


ATTRIBUTES_LIST, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (ATTRIBUTES_LIST, "12\n", "twelve\n", "begins with 'twelve' and 40 names"),
        (ATTRIBUTES_LIST, "12\n", "13\n", "announces 13 images and lists 12"),
        (ATTRIBUTES_LIST, "Bald", "Blad", "in their official order"),
        (ATTRIBUTES_LIST, "000002.jpg", "000001.jpg", "lists 12, 11 of them with names of their own"),
        (ATTRIBUTES_LIST, "000002.jpg ", "000002.jpg 0 ", "line 4: a file name and 40 values of 1 or -1"),
        (ATTRIBUTES_LIST, "000002.jpg", "../secret.jpg", "line 4: a file name"),
        (ATTRIBUTES_LIST, "000002.jpg", "000002.png", "line 4: a file name"),
        (PARTITION, "000002.jpg 0", "000002.jpg 3", "line 2: .* 0, 1 or 2 are needed, seen '000002.jpg 3'"),
        (PARTITION, "000002.jpg 0", "000001.jpg 0", "line 2: a file name that no other line has"),
        (PARTITION, "000012.jpg 2\n", "", "lists 11 images, list_attr_celeba.txt 12, .* such as 000012.jpg"),
        (PARTITION, "000012.jpg 2", "000012", "line 12"),
    ],
)
def test_lists_that_are_wrong_are_told(root, name, old, new, message):
    edit(root / name, old, new)
    with pytest.raises(DataError, match=f"{message}.*{HELP}"):
        read_splits(root)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", pickle.dumps([1, 2]), b"\xff\xfe1\x002\x00"])
@pytest.mark.parametrize("name", [ATTRIBUTES_LIST, PARTITION])
def test_lists_that_are_no_lists_are_told(root, name, content):
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=HELP):
        read_splits(root)


def test_a_split_without_images_is_told(root):
    path = root / PARTITION
    path.write_text(path.read_text().replace(" 1\n", " 0\n"))
    with pytest.raises(DataError, match=f"names no image of the val split.*{HELP}"):
        read_splits(root)


def test_missing_images_are_counted(root):
    for number in (3, 7):
        (images(root) / f"{number:06}.jpg").unlink()
    with pytest.raises(DataError, match=f"lacks 2 of the 12 images .* such as 000003.jpg.*{HELP}"):
        read_splits(root)


def jpeg(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def huge():
    """A JPEG whose header announces more pixels than Pillow will decode."""
    data = jpeg(178, 218)
    return data.replace(struct.pack(">HH", 218, 178), struct.pack(">HH", 60000, 60000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a JPEG image"),
        (b"<html>too many downloads</html>", "is not a JPEG image"),
        (jpeg(64, 64), "has 64×64 pixels, where the aligned images have 178×218"),
        (huge(), "is not a JPEG image"),
        (None, "image file is truncated"),
    ],
)
def test_images_that_are_wrong_are_told(root, content, message):
    path = images(root) / "000002.jpg"
    path.write_bytes(path.read_bytes()[:1500] if content is None else content)
    with pytest.raises(DataError, match=f"000002.jpg .*{message}.*{HELP}"):
        read_image(path, 16)
    with pytest.raises(DataError, match=r"000002\.jpg"):
        decoded(read_splits(root)["train"], 16)
    assert not list(celeba_cache.cache_folder().glob("*.npy"))
    assert not list(celeba_cache.cache_folder().glob(".*tmp"))


# The cache


def test_the_cache_holds_what_decoding_gives(root):
    split = read_splits(root)["val"]
    file = decoded(split, 16)
    array = np.load(file, allow_pickle=False)
    assert np.array_equal(array, [read_image(images(root) / name, 16) for name in split.names])
    before = file.stat()
    assert decoded(split, 16) == file
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert decoded(split, 8) != file
    assert decoded(split.some(2), 16) != file


def test_a_changed_image_is_decoded_anew(root):
    split = read_splits(root)["val"]
    first = np.load(decoded(split, 16))
    path = images(root) / "000007.jpg"
    Image.new("RGB", celeba.SIZE, "red").save(path)
    second = np.load(decoded(split, 16))
    assert np.array_equal(first[[0, 2]], second[[0, 2]])
    assert np.array_equal(second[1], read_image(path, 16))
    assert not np.array_equal(first[1], second[1])


def corrupt(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def pickled(file):
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)


DAMAGES = {
    "flipped": corrupt,
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "empty": lambda file: file.write_bytes(b""),
    "pickle": pickled,
    "missing": lambda file: file.unlink(),
    "note": lambda file: file.with_suffix(".json").write_text("{"),
    "other note": lambda file: file.with_suffix(".json").write_text(json.dumps({"format": 0})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_told_with_the_remedy(root, damage):
    split = read_splits(root)["val"]
    file = decoded(split, 16)
    whole = np.load(file)
    DAMAGES[damage](file)
    celeba_cache._verify.cache_clear()  # as another process sees it
    with pytest.raises(DataError, match=r"delete it and the \.json file beside it, and the images are decoded anew"):
        decoded(split, 16)
    file.unlink(missing_ok=True)
    file.with_suffix(".json").unlink()
    assert np.array_equal(np.load(decoded(split, 16)), whole)


def test_a_run_killed_between_the_two_files_leaves_nothing_that_is_trusted(root):
    split = read_splits(root)["val"]
    file = cache_file(split, 16)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of a run that was killed before it wrote the note")
    assert len(np.load(decoded(split, 16))) == 3


def test_a_cache_that_cannot_be_written_is_told(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write the cache file .*set ACCORD_CACHE .*or set cache=False"):
        decoded(read_splits(root)["val"], 16)


# Made images


def test_made_images_are_the_same_each_time_and_named_as_made(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    folder = celeba_made.make(COUNTS)
    assert folder == tmp_path / "made" / "celeba-5-3-4-v1"
    assert celeba_made.make(COUNTS) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    again = tmp_path / "again"
    again.mkdir()
    celeba_made.write(again, COUNTS)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_attributes_are_40_names_of_their_own():
    assert len(set(ATTRIBUTES)) == 40
