"""``accord data check``: what a folder of data lacks, and what is wrong in its files; NumPy alone is needed.

Every file is read. Nothing in a file is ever executed: pickles are named, not loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from accord.bench.data import check_celeba, check_idx, check_mtan, check_qm9
from accord.bench.data.finding import Advance, Finding
from accord.bench.data.mtan_layout import CITYSCAPES, NYUV2
from accord.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Kind:
    """A data set that can be checked.

    Attributes:
        title: As shown.
        looks: How its folder is recognised, in words.
        fits: Whether a folder looks like it.
        check: Yields the findings, calling ``advance`` after each file.
    """

    title: str
    looks: str
    fits: Callable[[Path], bool]
    check: Callable[[Path, Advance], Iterator[Finding]]


KINDS = {
    "nyuv2": Kind(
        "NYUv2 in MTAN's layout",
        "train/ and val/ with image/ and normal/",
        lambda root: check_mtan.fits(root, NYUV2),
        lambda root, advance: check_mtan.check(root, NYUV2, advance),
    ),
    "cityscapes": Kind(
        "Cityscapes in MTAN's layout",
        "train/ and val/ with image/ and label_7/",
        lambda root: check_mtan.fits(root, CITYSCAPES),
        lambda root, advance: check_mtan.check(root, CITYSCAPES, advance),
    ),
    "celeba": Kind(
        "CelebA in its official layout",
        "list_attr_celeba.txt or img_align_celeba/",
        check_celeba.fits,
        check_celeba.check,
    ),
    "idx": Kind("MNIST or Fashion-MNIST in IDX form", "*-ubyte or *-ubyte.gz", check_idx.fits, check_idx.check),
    "qm9": Kind("QM9 as in qm9pack", "qm9_part*.csv", check_qm9.fits, check_qm9.check),
}


def recognise(root: Path) -> str:
    """The name of the data set that a folder looks like.

    Raises:
        DataError: There is no such folder, or it looks like none, or like several.
    """
    if not root.is_dir():
        raise DataError(f"data check: {root} is not a folder; name the folder that holds the data set")
    found = [name for name, kind in KINDS.items() if kind.fits(root)]
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{name} ({kind.looks})" for name, kind in KINDS.items())
    what = f"could be {' or '.join(found)}" if found else "looks like none of the data sets known"
    raise DataError(f"data check: {root} {what}; say --dataset NAME with one of: {known}")


def check(root: Path, dataset: str | None = None, advance: Advance = lambda: None) -> list[Finding]:
    """All findings about a folder.

    Args:
        root: The folder.
        dataset: One of ``KINDS``; by default what the folder looks like.
        advance: Called after each file.

    Raises:
        DataError: There is no such folder, what it holds is not clear, or a file cannot be read at all.
        UnknownNameError: There is no such data set.
    """
    if dataset is not None and dataset not in KINDS:
        from accord.balancers.registry import suggest

        raise UnknownNameError(f"data check: unknown data set {dataset!r}{suggest(dataset, KINDS)}")
    name = recognise(root) if dataset is None else dataset
    if not root.is_dir():
        raise DataError(f"data check: {root} is not a folder; name the folder that holds the data set")
    try:
        return [Finding("ok", "data set", f"{KINDS[name].title}, {root}"), *KINDS[name].check(root, advance)]
    except OSError as error:
        cause = f"{error.filename}: {error.strerror or error}"
        raise DataError(f"data check: cannot read {cause}; make it readable and check again") from error


def passed(findings: list[Finding]) -> bool:
    """Whether nothing is wrong."""
    return all(finding.status != "wrong" for finding in findings)


def print_findings(findings: list[Finding], console: Console) -> None:
    """One line a finding, then what it comes to."""
    from rich.text import Text

    width = max(len(finding.where) for finding in findings)
    styles = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    for finding in findings:
        line = Text.assemble(f"{finding.where:<{width}}  ", (f"{finding.status:<5}", styles[finding.status]), "  ")
        console.print(line.append(finding.text), highlight=False, soft_wrap=True)
    wrong = sum(finding.status == "wrong" for finding in findings)
    console.print(f"{wrong} things are wrong" if wrong > 1 else "1 thing is wrong" if wrong else "nothing is wrong")
