"""A diagnosis as plain text: a section a question, whatever the number of tasks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from accord.diagnostics.gradients import NEGLIGIBLE

if TYPE_CHECKING:
    from accord.diagnostics.diagnose import Diagnosis
    from accord.diagnostics.previews import Preview

WIDE = 6
"""Up to so many tasks each method's weights and changes are shown task by task."""
MATRIX = 10
"""Up to so many tasks all cosines are shown."""
ROWS = 12
"""Up to so many tasks all losses and norms are shown."""
WORST = 8
"""So many conflicting pairs are named."""
NAME = 14
"""Longer names of tasks are cut in the heads of columns."""
WIDTH = 120


def render(found: Diagnosis) -> str:
    """All sections, with a blank line between two."""
    parts = [_title(found), _tasks(found), _cosines(found), _pairs(found), _measures(found)]
    parts += [_methods(found), _not_run(found), _cost(found), _advice(found)]
    return "\n\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns of equal width, numbers to the right, those in ``left`` to the left."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _title(found: Diagnosis) -> str:
    k = len(found.tasks)
    size = f"{found.size:,} numbers in {found.tensors} tensor{'s' * (found.tensors > 1)}, {found.dtype}"
    lines = [f"{k} task{'s' * (k > 1)}; {found.place}: {size}; engine: {found.engine}", *found.notes]
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)


def _tasks(found: Diagnosis) -> str:
    mean = float(found.norms.mean())
    order = list(range(len(found.tasks)))
    title = "Losses and gradients"
    if len(order) > ROWS:
        by_norm = np.argsort(-found.norms, kind="stable").tolist()
        order = [*by_norm[: ROWS // 2], *by_norm[-ROWS // 2 :]]
        title += f" (the {ROWS // 2} longest and the {ROWS // 2} shortest of {len(found.tasks)})"
    rows = [
        [
            found.tasks[k],
            f"{found.losses[k]:.4g}",
            f"{found.norms[k]:.3g}",
            f"{found.norms[k] / mean:.2g}×" if mean > 0.0 else "–",
        ]
        for k in order
    ]
    return f"{title}\n{table(['task', 'loss', 'norm', 'of the mean norm'], rows)}"


def _cosines(found: Diagnosis) -> str:
    if not found.pairs or len(found.tasks) > MATRIX:
        return ""
    rows = [[task, *(f"{c:.2f}" for c in row)] for task, row in zip(found.tasks, found.cosines, strict=True)]
    return f"Cosines of the gradients\n{table(['', *map(_cut, found.tasks)], rows)}"


def _pairs(found: Diagnosis) -> str:
    if not found.pairs:
        return ""
    conflicts = found.conflicts
    title = f"Conflicting pairs: {len(conflicts)} of {len(found.pairs)}"
    if not conflicts:
        return title
    shown = [[f"{pair.first} – {pair.second}", f"{pair.cosine:.3f}"] for pair in conflicts[:WORST]]
    more = f"\n  and {len(conflicts) - WORST} more: see .conflicts" if len(conflicts) > WORST else ""
    return f"{title}, worst first\n{table(['pair', 'cosine'], shown)}{more}"


def _measures(found: Diagnosis) -> str:
    if not found.pairs:
        return ""
    longest, live = found.tasks[int(found.norms.argmax())], np.where(found.norms > 0, found.norms, np.inf)
    shortest = found.tasks[int(live.argmin())]
    rows = [
        ["mean cosine", f"{found.mean_cosine:.3f}", "over all pairs"],
        [
            "imbalance",
            f"{found.imbalance:.3g}",
            f"norm of the longest gradient ({longest}) over the shortest ({shortest})",
        ],
        [
            "Pareto stationarity",
            f"{found.stationarity:.3f}",
            "least norm of a mixture of the unit gradients; 0: stationary",
        ],
        ["mean gradient", f"{found.mean_gradient:.3g}", "its norm: the unit of the lengths below"],
    ]
    return "Measures\n" + table(rows[0], rows[1:], left=(0, 2))


def _methods(found: Diagnosis) -> str:
    if not found.methods:
        return ""
    wide = len(found.tasks) <= WIDE
    columns, rows = (_by_task if wide else _in_short)(found)
    timed = any(one.steps is not None for one in found.methods.values())
    head = ["method", *columns, "length", "rises", "outcome", "residual"] + ["cost"] * timed
    lines = []
    for (name, one), cells in zip(found.methods.items(), rows, strict=True):
        tail = [
            f"{one.length:.3g}",
            _rises(one, wide),
            one.outcome,
            _small(one.residual),
        ]
        tail += [] if one.steps is None else [f"{one.steps:.2f}"]
        lines.append([name + "¹" * one.first + "²" * one.random, *cells, *tail])
    shape = "weights in per cent (% task), then each loss's change (Δ task)"
    shape = shape if wide else "the largest and the smallest weight, and how the loss of the worst-off task changes"
    legend = (
        f"{shape}: −1 is what a step of the same length along that task's own gradient would bring, above 0 the loss "
        "rises. Length: of the update, over that of the mean gradient. On top: whose worst-off task fares best."
    )
    if timed:
        legend += " Cost: of a step that solves, in plain steps."
    marks = [("¹", "its first step: later ones go by what it remembers", any(o.first for o in found.methods.values()))]
    marks += [("²", "one draw", any(o.random for o in found.methods.values()))]
    legend += "".join(f" {mark} {text}." for mark, text, used in marks if used)
    left = (0, head.index("rises"), head.index("outcome"))
    causes: dict[str, list[str]] = {}
    for name, one in found.methods.items():
        if one.cause:
            causes.setdefault(one.cause, []).append(name)
    said = [_wrapped(f"  {', '.join(names)}: {cause}") for cause, names in causes.items()]
    legend = textwrap.fill(legend, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(["What each method would do here", legend, table(head, lines, left=left), *said])


def _by_task(found: Diagnosis) -> tuple[list[str], list[list[str]]]:
    short = [_cut(task) for task in found.tasks]
    rows = []
    for one in found.methods.values():
        shares = ["–"] * len(short) if one.shares is None else [f"{100 * s:.0f}" for s in one.shares]
        rows.append(
            [*shares, *(_change(c) if norm else "–" for c, norm in zip(one.relative, found.norms, strict=True))]
        )
    return [*(f"% {task}" for task in short), *(f"Δ {task}" for task in short)], rows


def _in_short(found: Diagnosis) -> tuple[list[str], list[list[str]]]:
    rows = []
    for one in found.methods.values():
        if one.shares is None:
            extremes = ["–", "–"]
        else:
            extremes = [
                f"{100 * one.shares[k]:.0f}% {found.tasks[k]}" for k in (one.shares.argmax(), one.shares.argmin())
            ]
        live = np.flatnonzero(found.norms > 0.0)
        k = int(live[one.relative[live].argmax()]) if len(live) else 0
        rows.append([*extremes, f"{_change(one.relative[k])} {found.tasks[k]}"])
    return ["largest", "smallest", "worst-off"], rows


def _rises(one: Preview, wide: bool) -> str:
    if not one.rises:
        return "none"
    return ", ".join(map(_cut, one.rises)) if wide and len(one.rises) <= 2 else f"{len(one.rises)} tasks"


def _not_run(found: Diagnosis) -> str:
    if not found.not_run:
        return ""
    lines = [f"  {name}: {why.removesuffix('. No gradient was written')}" for name, why in found.not_run.items()]
    return "\n".join(["Not asked", *map(_wrapped, lines)])


def _cost(found: Diagnosis) -> str:
    cost = found.cost
    if cost is None:
        return ""
    k = len(found.tasks)
    forward = "forward (as given)" if cost.timed_forward else "forward (not timed: half a backward)"
    rows = [
        [forward, _seconds(cost.forward), ""],
        ["backward of the summed loss", _seconds(cost.backward), ""],
        [
            f"{k} vector-Jacobian product{'s' * (k > 1)}, Gramian",
            _seconds(cost.rows),
            f"{cost.rows / cost.backward:.2f}",
        ],
        ["weighted gradient", _seconds(cost.combine), f"{cost.combine / cost.backward:.2f}"],
    ]
    clock = " (CPU time of one thread)" if found.device == "cpu" else ""
    return f"Cost of a step's parts, timed here{clock}\n{table(['part', 'time', 'in backwards'], rows)}"


def _advice(found: Diagnosis) -> str:
    return "\n".join(["What follows", *(_wrapped(f"  * {sentence}", "    ") for sentence in found.advice)])


def _wrapped(line: str, indent: str = "    ") -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=indent)


def _change(value: float) -> str:
    """Two digits after the point, or as many as show the sign."""
    return f"{value:+.2f}" if abs(value) >= 0.005 or abs(value) <= NEGLIGIBLE else f"{value:+.0e}"


def _small(residual: float | None) -> str:
    return "" if residual is None else "0" if residual == 0.0 else f"{residual:.0e}"


def _cut(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
