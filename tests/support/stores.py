"""What two stores must have in common, whatever happened while they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from accord.bench import experiments
from accord.bench.report import summarise, to_json
from accord.bench.spec import Experiment
from accord.bench.store import Store
from accord.bench.writing import load_checkpoint

CLOCK = ("seconds", "seconds_per_step")
FILES = {"run.json", "metrics.jsonl", "checkpoint.pt", "result.json"}


def numbers(store: Path, experiment: str | Experiment, preset: str = "smoke") -> dict[str, Any]:
    """All that a store of finished runs says, but for times and attempts."""
    made = experiments.load(experiment) if isinstance(experiment, str) else experiment
    home, found = Store(store), {}
    assert not list(Path(store).rglob(".*.discarded"))
    for run in home.runs(made.name, made.version, preset):
        assert run.status == "done"
        # a kill right after result.json leaves the older checkpoint there
        assert {path.name for path in run.folder.iterdir()} - {"checkpoint.prev.pt"} == FILES
        saved = load_checkpoint(run.folder / "checkpoint.pt")
        found[f"{run.key.method} seed {run.key.seed}"] = {
            "settings": run.info()["settings"],
            "records": timeless(run.records()),
            "result": timeless(run.result()),
            "unit": saved["unit"],
            "state": timeless(saved["state"]),
        }
    return {"runs": found, "report": timeless(json.loads(to_json(summarise(home, made, preset))))}


def timeless(value: Any) -> Any:
    """A value without what the clock put into it; tensors as their bytes, so that one bit counts."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in CLOCK}
    if isinstance(value, list | tuple):
        return [timeless(part) for part in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return repr(value) if isinstance(value, float) else value


def check_after_kill(store: Path, experiment: str, preset: str = "smoke") -> None:
    """A store whose writer was killed can be read, and holds nothing that is half written."""
    if not (store / "store.json").exists():
        return  # killed before anything was there
    made = experiments.load(experiment)
    for run in Store(store).runs(made.name, made.version, preset):
        assert run.status in ("unfinished", "done")
        assert not run.damage()
        units = [record["unit"] for record in run.records()]
        assert units == list(range(1, len(units) + 1))
        saved = [load_checkpoint(path)["unit"] for path in run.folder.glob("checkpoint*.pt")]
        assert max(saved, default=0) in (len(units) - 1, len(units)) or not units  # one unit at most is lost
