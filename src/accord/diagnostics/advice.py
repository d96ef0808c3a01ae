"""What follows from a diagnosis, each sentence from a number and a threshold that it states."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accord.diagnostics.diagnose import Diagnosis

ALIKE = 2.0
"""Norms within this factor are alike."""
SPREAD = 10.0
"""From this factor on the sum of the gradients follows the longest."""
NEARLY = 0.05
"""A Pareto-stationarity measure below this leaves little to gain for all tasks."""
LISTED = 6
"""So many names, then how many more."""


def advise(found: Diagnosis) -> tuple[str, ...]:
    """Sentences, the most important first."""
    said = list(_silent(found))
    if len(found.tasks) - len(found.silent) < 2:
        return (*said, "Fewer than two tasks have a gradient on the shared parameters: there is nothing to balance.")
    said += [_stationary(found), _conflict(found), *_norms(found), _lowering(found), _cost(found), _rounding(found)]
    said.append(
        "This is one batch. Cosines near zero change their signs from batch to batch: look at several, or log them "
        "over training (accord.Log)."
    )
    return tuple(sentence for sentence in said if sentence)


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names with commas, the first few of many."""
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def _silent(found: Diagnosis) -> list[str]:
    if not found.silent:
        return []
    return [
        f"No gradient of {listed(found.silent)} arrives: the loss does not depend on the shared parameters here, or is "
        "saturated. No method can balance it; its own head alone learns."
    ]


def _stationary(found: Diagnosis) -> str:
    if found.stationarity >= NEARLY:
        return ""
    return (
        f"Pareto stationarity is {found.stationarity:.2g} (below {NEARLY}): some mixture of the unit gradients nearly "
        "vanishes, so what one task gains others lose, whatever the method."
    )


def _conflict(found: Diagnosis) -> str:
    if not found.conflicts:
        if found.imbalance <= ALIKE:
            return (
                f"No pair conflicts and norms are within {found.imbalance:.2g}× (at most {ALIKE:g}×): expect little "
                "from balancing; the plain sum costs one backward."
            )
        return (
            f"No pair conflicts, so any positive weights lower every loss; methods differ in speed ({_ratio(found)})."
        )
    worst = found.conflicts[0]
    many = f"{len(found.conflicts)} of {len(found.pairs)} pairs conflict, {worst.first} and {worst.second} most"
    total = found.plain_rises
    if total:
        return f"{many} (cosine {worst.cosine:.2f}). The plain sum raises {listed(total)} to first order here."
    return f"{many} (cosine {worst.cosine:.2f}), but the plain sum still lowers every loss to first order here."


def _norms(found: Diagnosis) -> list[str]:
    if found.imbalance < SPREAD:
        return []
    longest = found.tasks[int(found.norms.argmax())]
    return [
        f"Gradients are of very different lengths ({_ratio(found)}, from {SPREAD:g}× on): the plain sum follows "
        f"{longest}. Bring the losses to one scale first, or use a method that is blind to their scales."
    ]


def _ratio(found: Diagnosis) -> str:
    return f"the longest is {found.imbalance:.3g}× the shortest"


def _lowering(found: Diagnosis) -> str:
    if not found.plain_rises or not found.methods:
        return ""
    good = [name for name, one in found.methods.items() if not one.rises and one.outcome in ("solved", "approximate")]
    if not good:
        return "Of the methods that were run none lowers every loss here."
    return f"Lower every loss here: {listed(good)}."


def _cost(found: Diagnosis) -> str:
    if found.cost is None:
        return ""
    solving = sorted((one for one in found.methods.values() if one.every is not None), key=lambda one: one.every or 0)
    if not solving:
        return ""
    one = solving[len(solving) // 2]
    if one.every == 1:
        return f"A Gramian method costs {one.steps:.2f} plain steps here at every step."
    return (
        f"A Gramian method at every step costs about {one.steps:.1f} plain steps here; update_every={one.every} "
        "brings the mean to 1.2, and update_every='auto' finds its interval itself."
    )


def _rounding(found: Diagnosis) -> str:
    if found.digits >= 23:
        return ""
    return (
        f"The shared parameters are {found.dtype}: each number of a gradient has {found.digits + 1} binary digits, so "
        "what separates nearly parallel gradients may be rounding."
    )
