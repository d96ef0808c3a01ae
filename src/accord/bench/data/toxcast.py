"""ToxCast-40: 7,934 molecules tested in 40 assays, every outcome observed; real data that come with the package.

The file is ``files/toxcast40.npz``, with its licence and its origin beside it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from accord.errors import DataError, DependencyError, OptionError

FILE = "toxcast40.npz"
SHA256 = "9a17e79a54b91d5368aa15d8df6fc616c22a30a4f3816b6b6edf51303703676a"
BITS = 1024
ATTEMPTS = 100
"""How often a split is drawn before it is given up for lack of active or inactive molecules."""

TASKS = (
    "TR_LUC_GH3_Antagonist",
    "Aromatase_Inhibition",
    "ERa_LUC_BG1_Agonist",
    "AR_BLA_Antagonist_ratio",
    "ERa_BLA_Antagonist_ratio",
    "p53_BLA_p2_ratio",
    "p53_BLA_p3_ratio",
    "p53_BLA_p4_ratio",
    "p53_BLA_p5_ratio",
    "AR_LUC_MDAKB2_Antagonist",
    "p53_BLA_p1_ratio",
    "AhR_LUC_Agonist",
    "p53_BLA_p2_ch2",
    "p53_BLA_p2_viability",
    "ERa_LUC_BG1_Antagonist",
    "p53_BLA_p3_ch2",
    "p53_BLA_p3_ch1",
    "p53_BLA_p4_viability",
    "p53_BLA_p4_ch1",
    "p53_BLA_p5_ch2",
    "AR_BLA_Antagonist_viability",
    "p53_BLA_p4_ch2",
    "p53_BLA_p1_ch1",
    "GR_BLA_Antagonist_ch2",
    "p53_BLA_p2_ch1",
    "GR_BLA_Agonist_ratio",
    "p53_BLA_p1_ch2",
    "ERa_BLA_Agonist_ratio",
    "ERa_BLA_Agonist_ch2",
    "GR_BLA_Antagonist_ratio",
    "p53_BLA_p3_viability",
    "AR_BLA_Agonist_ratio",
    "GR_BLA_Antagonist_viability",
    "p53_BLA_p1_viability",
    "AR_BLA_Agonist_ch2",
    "AR_LUC_MDAKB2_Agonist",
    "PPARg_BLA_Agonist_ratio",
    "p53_BLA_p5_ch1",
    "GR_BLA_Agonist_ch1",
    "p53_BLA_p5_viability",
)
"""The assays' names without the prefix TOX21_ that all of them have, from 22 % down to 4 % active."""


@dataclass(frozen=True)
class Molecules:
    """N molecules and the outcomes of T assays.

    Attributes:
        fingerprints: (N, 1024) uint8, the bits of ECFP4.
        labels: (N, T) uint8, 1 for active.
        smiles: The N molecules as SMILES.
    """

    fingerprints: np.ndarray
    labels: np.ndarray
    smiles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@functools.cache
def load() -> Molecules:
    """All molecules, read once a process.

    Raises:
        DataError: The file is missing, cut off or altered.
    """
    path = resources.files("accord.bench.data") / "files" / FILE
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"toxcast40: {path}: {error.strerror or error}. {_REMEDY}") from error


def parse(data: bytes, where: str) -> Molecules:
    """The molecules in the bytes of the file, after checks; nothing in them is executed.

    Args:
        data: What the file holds.
        where: Its path, for messages.

    Raises:
        DataError: They are not those that came with the package.
    """
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise DataError(
            f"toxcast40: {where} ({len(data):,} bytes) is not the file that came with this version: it was cut off or "
            f"altered. {_REMEDY}"
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in ("ecfp4_1024", "y", "smiles", "tasks")}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"toxcast40: {where} cannot be read ({error}). {_REMEDY}") from error
    names = tuple(str(name).removeprefix("TOX21_") for name in arrays["tasks"])
    if names != TASKS or arrays["y"].shape != (len(arrays["smiles"]), len(TASKS)):
        raise DataError(f"toxcast40: {where} holds labels {arrays['y'].shape} of {names}. {_REMEDY}")
    bits = np.unpackbits(arrays["ecfp4_1024"], axis=1)
    return Molecules(bits, arrays["y"], tuple(smiles.decode() for smiles in arrays["smiles"]))


_REMEDY = "Install the package again."


@functools.cache
def scaffolds() -> np.ndarray:
    """The number of each molecule's Bemis–Murcko scaffold, (N,) int64; molecules without a ring share one.

    Raises:
        DependencyError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError as error:
        raise DependencyError(
            "toxcast40: split='scaffold' needs RDKit: `pip install 'accord[experiments]'`, or use split='random'"
        ) from error
    names = []
    with rdBase.BlockLogs():
        for smiles in load().smiles:
            molecule = Chem.MolFromSmiles(smiles)
            if molecule is None:
                raise DataError(f"toxcast40: this version of RDKit cannot read the molecule {smiles}; try another one")
            names.append(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule))
    return np.unique(names, return_inverse=True)[1].reshape(-1)


def split(
    labels: np.ndarray,
    val: int,
    test: int,
    random: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a training, a validation and a test set, each with active and inactive molecules in every assay.

    It is drawn anew until that is so, which with the full sets the first draw almost always is.

    Args:
        labels: (N, T) of 0 and 1.
        val: Molecules to validate on.
        test: Molecules to test on.
        random: Draws the split.
        groups: The N molecules' groups, such as scaffolds, of which none is in two sets; the sizes are then reached
            to half a group. Groups of more than half the smaller set are for training. None: each molecule for itself.

    Returns:
        Three arrays of row numbers, in random order.

    Raises:
        OptionError: Sizes are out of range.
        DataError: No such split is found.
    """
    count = len(labels)
    if val < 1 or test < 1 or val + test >= count:
        raise OptionError(f"toxcast40: val={val} and test={test} must be positive, and leave some of {count} to train")
    for _ in range(ATTEMPTS):
        order = random.permutation(count)
        parts = _by_row(order, val, test) if groups is None else _by_group(order, groups, val, test, random)
        shares = [labels[part].mean(axis=0) if len(part) else np.zeros(1) for part in parts]
        if all(share.min() > 0 and share.max() < 1 for share in shares):
            return parts
    raise DataError(
        f"toxcast40: {ATTEMPTS} splits of {count} molecules into {val} to validate, {test} to test and the rest to "
        f"train, and none had active and inactive molecules of all {labels.shape[1]} assays in each set: use more "
        "molecules, or larger validation and test sets"
    )


def _by_row(order: np.ndarray, val: int, test: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return order[val + test :], order[test : val + test], order[:test]


def _by_group(
    order: np.ndarray, groups: np.ndarray, val: int, test: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole groups in random order, to the test set until it is full, then to the validation set, then to training."""
    sizes = np.bincount(groups)
    place = np.zeros(len(sizes), np.int64)  # 0 to train, 1 to validate, 2 to test
    drawn = random.permutation(len(sizes))
    waiting = [group for group in drawn if 0 < 2 * sizes[group] <= min(val, test)]
    for part, wanted in ((2, test), (1, val)):
        held = 0
        while waiting and held + sizes[waiting[-1]] / 2 <= wanted:
            group = waiting.pop()
            place[group] = part
            held += int(sizes[group])
    placed = place[groups[order]]
    return order[placed == 0], order[placed == 1], order[placed == 2]
