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
    return [*_software(), *_devices(), *_extras(), *_data(), _store(store)]


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
            yield Finding("QM9 files", "broken", f"missing or cut in {folder}: {', '.join(wrong)}")
        else:
            yield Finding("QM9 files", "ok", f"{len(FILES)} files in {folder} (sizes right; contents checked on use)")
    cache = cache_folder()
    if cache.is_dir():
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        yield Finding("QM9 cache", "ok", f"{size / 2**20:.0f} MiB in {cache}")
    else:
        yield Finding("QM9 cache", "absent", f"{cache} is made on first use; ACCORD_CACHE moves it")


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
