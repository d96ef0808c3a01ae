"""One line of a log: a balanced step or a diagnosis as a JSON object, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from accord.balancers import Balance
from accord.diagnostics.diagnose import Diagnosis
from accord.diagnostics.gradients import Gradients
from accord.metrics import conflict

TEXTS = ("kind", "outcome", "cause", "engine")
"""Fields that hold text; in all others text is a number that JSON does not know."""
SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def record_of(entry: Balance | Diagnosis, chosen: Sequence[str]) -> dict[str, Any]:
    """What is logged of a step, by task name, of the chosen tasks.

    Statistics of pairs (``conflict``, as ``accord.metrics.conflict`` has it, ``imbalance``, ``stationarity``) are those
    of all tasks. Of an estimated Gramian nothing is logged: its norms and cosines are not those of the gradients.
    """
    if isinstance(entry, Diagnosis):
        record = {"kind": "diagnosis", "losses": _named(entry.tasks, entry.losses, chosen), **_gradients(entry, chosen)}
        cost = entry.cost
        record["cost"] = None if cost is None else {"plain": cost.plain, "backward": cost.backward, "rows": cost.rows}
        record["methods"] = {
            name: {
                "shares": None if one.shares is None else _named(entry.tasks, one.shares, chosen),
                "relative": _named(entry.tasks, one.relative, chosen),
                "worst": one.worst,
                "length": one.length,
                "outcome": one.outcome,
                "residual": one.residual,
                "steps": one.steps,
            }
            for name, one in entry.methods.items()
        }
        return record
    weights = entry.weights.numpy()
    record = {
        "kind": "balance",
        "losses": _named(entry.tasks, entry.losses.numpy(), chosen),
        "weights": None if np.isnan(weights).all() else _named(entry.tasks, weights, chosen),
        "scale": entry.scale,
        "outcome": entry.outcome,
        "cause": entry.cause,
        "residual": entry.residual,
        "interval": entry.interval,
        "drift": entry.drift,
        "engine": entry.engine,
    }
    if entry.gramian is not None and not entry.estimated:
        record |= _gradients(Gradients(tasks=entry.tasks, gramian=entry.gramian.numpy()), chosen)
    return record


def dumps(record: Mapping[str, Any]) -> bytes:
    """One line of JSON; NaN and infinities, which JSON does not know, as the strings ``"NaN"``, ``"Infinity"``."""
    return (json.dumps(_spelled(record), ensure_ascii=False, allow_nan=False) + "\n").encode()


def loads(line: bytes) -> dict[str, Any]:
    """A record from its line.

    Raises:
        ValueError: It is none; the message says what it is.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not the record of a step")
    for field, kind in (("step", int), ("kind", str), ("losses", dict)):
        if not isinstance(record.get(field), kind):
            raise ValueError(f"{field!r} is missing, so this is not the record of a step")
    return _numbers(record)


def _gradients(gradients: Gradients, chosen: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"norms": _named(gradients.tasks, gradients.norms, chosen)}
    if not np.isfinite(gradients.gramian).all():
        return found
    index = {task: k for k, task in enumerate(gradients.tasks)}
    cosines = gradients.cosines.round(4).tolist()
    found["cosines"] = {a: {b: cosines[index[a]][index[b]] for b in chosen[i + 1 :]} for i, a in enumerate(chosen[:-1])}
    found["conflict"] = conflict(gradients.gramian)._asdict()
    return found | {"imbalance": gradients.imbalance, "stationarity": gradients.stationarity}


def _named(tasks: Iterable[str], values: np.ndarray, chosen: Sequence[str]) -> dict[str, float]:
    by_name = dict(zip(tasks, values.tolist(), strict=True))
    return {task: by_name[task] for task in chosen}


def _spelled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value if key in TEXTS else _unspelled(value) for key, value in record.items()}
    if isinstance(record.get("methods"), dict):
        found["methods"] = {name: _numbers(one) for name, one in record["methods"].items()}
    return found


def _unspelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unspelled(item) for key, item in value.items()}
    return SPELLED.get(value, value) if isinstance(value, str) else value
