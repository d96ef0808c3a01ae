"""``accord doctor``: what is installed and found on this machine, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from accord.bench.store import Store, accord_version
from accord.errors import AccordError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        subject: What was looked at.
        status: ``"ok"``, ``"absent"`` (something optional) or ``"broken"``.
        detail: A version, a path, or the remedy.
    """

    subject: str
    status: Literal["ok", "absent", "broken"]
    detail: str


def examine(store: Path) -> list[Finding]:
    """Look at everything."""
    return [*_software(), *_devices(), *_extras(), *_data(), *_folders(), _store(store)]


def print_findings(findings: list[Finding], console: Console) -> None:
    """One line a finding."""
    from rich.text import Text

    width = max(len(finding.subject) for finding in findings)
    styles = {"ok": "green", "absent": "yellow", "broken": "bold red"}
    for finding in findings:
        status = (f"{finding.status:<6}", styles[finding.status])
        line = Text.assemble(f"{finding.subject:<{width}}  ", status, f"  {finding.detail}")
        console.print(line, highlight=False, soft_wrap=True)


def _software() -> Iterator[Finding]:
    import numpy
    import torch

    machine = f"{platform.system()} {platform.machine()}"
    yield Finding("accord", "ok", accord_version())
    yield Finding("Python", "ok", f"{platform.python_version()} on {machine}")
    yield Finding("torch", "ok", str(torch.__version__))
    yield Finding("NumPy", "ok", numpy.__version__)


def _devices() -> Iterator[Finding]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", "ok", f"{usable} cores; torch uses {torch.get_num_threads()} threads, a run of accord 1")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Finding(f"GPU {index}", "ok", f"{name}, {memory:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "Apple, through MPS")
    else:
        yield Finding("GPU", "absent", "none that torch can use; all experiments run on the CPU")


def _extras() -> Iterator[Finding]:
    """Each extra with the packages that it asks for, from the distribution's own metadata."""
    packages: dict[str, list[str]] = {}
    for requirement in metadata.requires("accord") or []:
        match = re.match(r"([A-Za-z0-9._-]+).*;.*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match and match[1] != "accord" and match[2] not in ("dev", "docs"):
            packages.setdefault(match[2], []).append(match[1])
    for extra, wanted in packages.items():
        versions = {name: _version(name) for name in wanted}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            yield Finding(f"[{extra}]", "absent", f"no {', '.join(missing)}: pip install 'accord[{extra}]'")
        else:
            yield Finding(f"[{extra}]", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _data() -> Iterator[Finding]:
    from accord.bench.data.qm9 import cache_folder
    from accord.bench.data.qm9_source import FILES, source_folder

    try:
        folder = source_folder()
    except AccordError as error:
        yield Finding("QM9 files", "absent", str(error))
    else:
        wrong = [
            name
            for name, (size, *_) in FILES.items()
            if not (folder / name).is_file() or (folder / name).stat().st_size != size
        ]
        if wrong:
            named = os.environ.get("ACCORD_QM9")
            remedy = "set ACCORD_QM9 to the folder that has them, or unset it" if named else "install qm9pack anew"
            yield Finding("QM9 files", "broken", f"missing or cut in {folder}: {', '.join(wrong)}; {remedy}")
        else:
            yield Finding("QM9 files", "ok", f"{len(FILES)} files in {folder} (sizes right; contents checked on use)")
    cache = cache_folder()
    if cache.is_dir():
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        yield Finding("QM9 cache", "ok", f"{size / 2**20:.0f} MiB in {cache}")
    else:
        yield Finding("QM9 cache", "absent", f"{cache} is made on first use; ACCORD_CACHE moves it")


def _folders() -> Iterator[Finding]:
    """The environment variables that name folders, and whether those are there."""
    from accord.bench.data import celeba, mnist
    from accord.bench.data.mtan_layout import LAYOUTS

    yield _cache()
    instead = {}  # what is used where a variable is not set
    if _version(mnist.PACKAGE) is not None:
        instead["ACCORD_MNIST"] = f"the package {mnist.PACKAGE}"
    if mnist.FASHION_FOLDER.is_dir():
        instead["ACCORD_FASHION"] = str(mnist.FASHION_FOLDER)
    remedies = {layout.variable: layout.remedy for layout in LAYOUTS.values()}
    remedies |= {"ACCORD_MNIST": mnist.REMEDIES["mnist"], "ACCORD_FASHION": mnist.REMEDIES["fashion"]}
    for variable, remedy in (remedies | {celeba.VARIABLE: celeba.REMEDY}).items():
        named = os.environ.get(variable)
        if not named:
            used = f"{instead[variable]} is used" if variable in instead else remedy
            yield Finding(variable, "absent", f"not set: {used}")
        elif Path(named).expanduser().is_dir():
            yield Finding(variable, "ok", f"{named} (a folder; `accord data check {named}` reads what is in it)")
        else:
            why = "is not a folder" if Path(named).expanduser().exists() else "does not exist"
            yield Finding(variable, "broken", f"{named} {why}: unset {variable}, or mend it: {remedy}")


def _cache() -> Finding:
    """Where data that are made, decoded or rendered once are kept; made on first use."""
    named = os.environ.get("ACCORD_CACHE")
    folder = Path(named or "~/.cache/accord").expanduser()
    said = "" if named else "not set: "
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "is not a folder" if not nearest.is_dir() else "may not be written to"
        return Finding("ACCORD_CACHE", "broken", f"{said}{folder}: {nearest} {why}; set it to a folder that is yours")
    if folder != nearest:
        return Finding("ACCORD_CACHE", "ok" if named else "absent", f"{said}{folder} is made on first use")
    return Finding("ACCORD_CACHE", "ok" if named else "absent", f"{said}{folder} is used")


def _store(root: Path) -> Finding:
    if not (root / "store.json").exists():
        return Finding("store", "absent", f"{root}/ is made by the first `accord run`")
    try:
        Store(root)
    except AccordError as error:
        return Finding("store", "broken", str(error))
    results = sum(1 for _ in root.glob("*/*/*/seed-*/result.json"))
    failures = sum(1 for _ in root.glob("*/*/*/seed-*/failure.json"))
    return Finding("store", "ok", f"{results} runs done, {failures} failed in {root}/")
