"""Where runs live: one folder a run, readable while it is written, whole after a crash.

::

    runs/store.json                              format version
    runs/toy-v1/laptop/nash-mtl/seed-0.lock      held by the one process that trains this run
    runs/toy-v1/laptop/nash-mtl/seed-0/
        run.json         key, settings of the preset, and one entry an attempt (versions, machine, start)
        metrics.jsonl    one record a unit; append-only; after a resume the last record of a unit counts
        checkpoint.pt    the newest state (``torch.load(..., weights_only=True)``); checkpoint.prev.pt the one before
        result.json      the final record: its presence means that the run is done
        failure.json     why the last attempt failed; removed when the run is tried again

This module reads and names; ``accord.bench.writing`` writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accord.bench.files import disk, read_json, read_lines, write_json
from accord.bench.spec import MethodSpec, RunKey
from accord.errors import OptionError, StoreError

FRESH = "train it again with --fresh (fresh=True)"
FORMAT = 1
"""Version of the layout above; raised when an older accord could misread it."""

Status = Literal["absent", "unfinished", "failed", "done"]


def slug(spec: str) -> str:
    """A folder name for a canonical method spec: safe on every file system, and one-to-one.

    Plain names stay (``nash-mtl``); with options, a readable form and a hash (``cagrad_c=0.5.1b2c3d4e``).
    """
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", spec) and len(spec) <= 64:
        return spec
    readable = re.sub(r"[^A-Za-z0-9=.-]+", "_", spec).strip("._")[:64] or "method"
    return f"{readable}.{hashlib.sha256(spec.encode()).hexdigest()[:8]}"


def label(key: RunKey) -> str:
    """A run in words: ``"toy laptop cagrad:c=0.5 seed 0"``."""
    return f"{key.experiment} {key.preset} {key.method} seed {key.seed}"


@dataclass(frozen=True)
class Run:
    """One run's folder, for reading.

    Attributes:
        key: What was asked for.
        folder: Where its files are.
    """

    key: RunKey
    folder: Path

    @property
    def status(self) -> Status:
        """``"done"``, ``"failed"`` (last attempt), ``"unfinished"`` (running, interrupted) or ``"absent"``."""
        if not present(self.folder / "run.json"):
            return "absent"
        if present(self.folder / "result.json"):
            return "done"
        return "failed" if present(self.folder / "failure.json") else "unfinished"

    @property
    def lock_file(self) -> Path:
        """Lies beside the folder, so that it outlives ``--fresh``."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    def info(self) -> dict[str, Any]:
        """``run.json``: ``key``, ``settings`` and ``attempts``."""
        return _read_info(self.folder / "run.json")

    def records(self) -> list[dict[str, Any]]:
        """The record of each unit in order, with its ``unit`` (from 1); of a repeated unit the last counts."""
        path = self.folder / "metrics.jsonl"
        last = {}
        for number, record in enumerate(read_lines(path), start=1):
            unit = record.get("unit") if isinstance(record, dict) else None
            if not isinstance(unit, int):
                raise StoreError(f"{path}, line {number} is no record of a unit: altered by hand; {FRESH}")
            last[unit] = record
        return [last[unit] for unit in sorted(last)]

    def result(self) -> dict[str, Any]:
        """The final record, with ``metrics``; only a run that is done has one."""
        remedy = "give the command that trained it again, and it is made anew from the checkpoint"
        return _fields(self.folder / "result.json", {"metrics": dict}, remedy)

    def failure(self) -> dict[str, Any]:
        """Why the last attempt failed: ``unit``, ``time``, ``type``, ``message``, ``traceback``."""
        kinds: dict[str, type] = {"unit": int, "type": str, "message": str}
        return _fields(self.folder / "failure.json", kinds, "give the command that trained it again")

    def damage(self) -> str:
        """Which file of the run cannot be read, why and what to do; empty for a run that is whole or absent."""
        try:
            status = self.status
            if status != "absent":
                self.info()
            if status == "done":
                self.result()
        except StoreError as error:
            return str(error)
        return ""

    def is_done_and_whole(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.damage() and self.status == "done"

    def check_settings(self, settings: Any) -> None:
        """Refuse to mix numbers of two different presets of one name.

        Args:
            settings: The preset's settings as plain JSON data.

        Raises:
            StoreError: The run was made with other settings under the same experiment, version and preset.
        """
        if self.status == "absent":
            return
        made = self.info().get("settings")
        if made != settings:
            raise StoreError(
                f"run {label(self.key)} in {self.folder} was made with other settings than preset "
                f"{self.key.preset!r} has now ({_difference(made, settings)}): give --fresh (fresh=True) to run it "
                "anew, name another store, or raise the experiment's version"
            )


def _read_info(path: Path) -> dict[str, Any]:
    return _fields(path, {"key": dict, "attempts": list}, FRESH)


def _fields(path: Path, kinds: Mapping[str, type], remedy: str) -> dict[str, Any]:
    """A JSON object with fields of the given kinds."""
    try:
        data = read_json(path)
    except StoreError as error:
        raise StoreError(f"{error}; {remedy}") from error
    wrong = [name for name, kind in kinds.items() if not isinstance(data, dict) or not isinstance(data.get(name), kind)]
    if wrong:
        raise StoreError(f"{path} lacks {', '.join(wrong)}, so that it was altered by hand: {remedy}")
    return data


class Store:
    """A folder of runs.

    Args:
        root: The folder.
        create: Make it if it is not there; else its absence is an error.

    Raises:
        StoreError: There is no store, or it has another format version, or the disk refuses.
    """

    def __init__(self, root: str | Path, create: bool = False) -> None:
        self.root = Path(root)
        marker = self.root / "store.json"
        with disk("look at", marker):
            exists = marker.exists()
        if exists:
            self._check(read_json(marker))
        elif create:
            write_json(marker, {"format": FORMAT, "made_by": f"accord {accord_version()}"})
        else:
            raise StoreError(
                f"no runs in {self.root}/ (it has no store.json): run an experiment first, as in "
                f"`accord run toy --preset smoke --store {self.root}`, or name the folder with --store"
            )

    def run(self, key: RunKey) -> Run:
        """The run with that key, whether it exists or not."""
        folder = self._folder(key.experiment, key.version, key.preset) / slug(str(key.method)) / f"seed-{key.seed}"
        return Run(key, folder)

    def runs(
        self, experiment: str, version: int, preset: str, damaged: Callable[[Path, StoreError], None] | None = None
    ) -> Iterator[Run]:
        """Every run of one preset of an experiment, by method and seed.

        Args:
            experiment: Its name.
            version: Its version.
            preset: Which preset.
            damaged: Called with the folder and the error of what cannot be read, which is then passed over.

        Raises:
            StoreError: A run's folder does not hold the run that its name says; not with ``damaged``.
        """
        folder = self._folder(experiment, version, preset)
        for path in sorted(folder.glob("*/seed-*"), key=lambda p: (p.parts[-2], _seed(p))):
            file = path / "run.json"
            if not path.is_dir() or not present(file):
                continue
            try:
                run = self._described(path, file)
            except StoreError as error:
                if damaged is None:
                    raise
                damaged(path, error)
                continue
            yield run

    def _described(self, path: Path, file: Path) -> Run:
        """The run in a folder, by what its ``run.json`` says."""
        try:
            run = self.run(key_from_json(_read_info(file)["key"]))
        except (OptionError, KeyError) as error:
            raise StoreError(f"{file} names no run ({error!r}), so that it was altered by hand; {FRESH}") from error
        if run.folder != path:
            raise StoreError(f"{file} describes {label(run.key)}, which belongs in {run.folder}: move it back")
        return run

    def presets(self, experiment: str, version: int) -> tuple[str, ...]:
        """The presets of an experiment that have runs here."""
        root = self.root / _experiment_folder(experiment, version)
        return tuple(sorted({path.parts[-4] for path in root.glob("*/*/seed-*/run.json")}))

    def _folder(self, experiment: str, version: int, preset: str) -> Path:
        return self.root / _experiment_folder(experiment, version) / preset

    def _check(self, marker: Any) -> None:
        found = marker.get("format") if isinstance(marker, dict) else None
        if found != FORMAT:
            maker = marker.get("made_by", "unknown") if isinstance(marker, dict) else "unknown"
            raise StoreError(
                f"store {self.root}: format {found!r}, made by {maker}; accord {accord_version()} reads "
                f"format {FORMAT}: name another folder with --store, or use the accord that made it"
            )


def figures_folder(store: Path, experiment: str, preset: str) -> Path:
    """Where a preset's figures go unless told otherwise."""
    return store / "figures" / f"{_plain(experiment)}-{preset}"


def _experiment_folder(experiment: str, version: int) -> str:
    return f"{_plain(experiment)}-v{version}"


def _plain(experiment: str) -> str:
    """An experiment's name for a folder: itself, but for names such as ``mt:reach,push``."""
    return slug(experiment) if ":" in experiment else experiment


def key_to_json(key: RunKey) -> dict[str, Any]:
    """A run's key as plain JSON data."""
    return {
        "experiment": key.experiment,
        "version": key.version,
        "preset": key.preset,
        "method": str(key.method),
        "seed": key.seed,
    }


def key_from_json(data: Mapping[str, Any]) -> RunKey:
    """The inverse of ``key_to_json``."""
    method = MethodSpec.parse(data["method"])
    return RunKey(data["experiment"], data["version"], data["preset"], method, data["seed"])


def accord_version() -> str:
    """The version of the installed distribution."""
    from importlib import metadata

    return metadata.version("accord")


def present(path: Path) -> bool:
    """Whether there is such a file; a StoreError where that may not be known."""
    with disk("look at", path):
        return path.exists()


def _seed(path: Path) -> int:
    text = path.name.removeprefix("seed-")
    return int(text) if text.isdigit() else -1


def _difference(old: Any, new: Any) -> str:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{old!r} then, {new!r} now"
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)!r} then, {new.get(name)!r} now" for name in changed)
