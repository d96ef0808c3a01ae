"""The field's summary metrics: Δm, the mean rank, and how much gradients conflict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from accord.errors import NonFiniteError, ShapeError


def delta_m(metrics: Mapping[str, float], baseline: Mapping[str, float], higher_is_better: Mapping[str, bool]) -> float:
    """Δm%: the mean relative change for the worse against single-task learning.

        Δm = 100/S · Σ_s (−1)^{δ_s} (M_s − B_s) / |B_s|

    over the S metrics (not tasks: one with five metrics counts five times), where δ_s = 1 if a higher value is
    better. Lower is better; negative beats the baseline. The paper divides by B_s, which is the same for positive
    metrics; with a negative one, such as a log-likelihood or a return, that would call a change for the better worse.

    Args:
        metrics: Value of each metric.
        baseline: Value of each metric for single-task learning; not zero.
        higher_is_better: δ_s of each metric. It decides which metrics count.

    Returns:
        Δm in percent.

    Raises:
        ShapeError: A metric is missing from one of the mappings, or there is none.
        NonFiniteError: A value is NaN or infinite, or a baseline is zero.

    References:
        Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, as used by Navon et al., ICML 2022.
    """
    if not higher_is_better:
        raise ShapeError("delta_m: no metric is given")
    changes = []
    for name, higher in higher_is_better.items():
        if name not in metrics or name not in baseline:
            where = "metrics" if name not in metrics else "baseline"
            raise ShapeError(f"delta_m: metric {name!r} is missing from the {where}")
        value, base = float(metrics[name]), float(baseline[name])
        if not (np.isfinite(value) and np.isfinite(base) and base != 0.0):
            raise NonFiniteError(
                f"delta_m: metric {name!r} is {value} against a baseline of {base}; "
                "both must be finite and the baseline not zero"
            )
        changes.append((-1.0 if higher else 1.0) * (value - base) / abs(base))
    return 100.0 * float(np.mean(changes))


def mean_rank(table: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]) -> dict[str, float]:
    """The average rank of each method over all metrics; 1 is best.

    Methods with equal values share the average of their ranks. Leave single-task learning out of the table, as
    the published ranks do. Ranks depend on the set of methods: do not compare them between tables.

    Args:
        table: Method to metric to value.
        higher_is_better: The direction of each metric; it decides which metrics count.

    Raises:
        ShapeError: A method lacks a metric, or there is no metric.
        NonFiniteError: A value is NaN.
    """
    if not higher_is_better:
        raise ShapeError("mean_rank: no metric is given")
    methods = list(table)
    ranks = np.zeros((len(methods), len(higher_is_better)))
    for column, (name, higher) in enumerate(higher_is_better.items()):
        missing = [m for m in methods if name not in table[m]]
        if missing:
            raise ShapeError(f"mean_rank: metric {name!r} is missing for {', '.join(missing)}")
        values = np.array([float(table[m][name]) for m in methods])
        if np.isnan(values).any():
            raise NonFiniteError(f"mean_rank: metric {name!r} is NaN for {methods[int(np.isnan(values).argmax())]}")
        values = -values if higher else values
        better = (values[None, :] < values[:, None]).sum(1)
        equal = (values[None, :] == values[:, None]).sum(1)
        ranks[:, column] = better + (equal + 1) / 2
    return dict(zip(methods, ranks.mean(1).tolist(), strict=True))


class Conflict(NamedTuple):
    """How much K task gradients disagree.

    Attributes:
        share: The share of task pairs with a negative cosine, between 0 and 1.
        mean_cosine: The mean cosine over all pairs.
        min_cosine: The smallest cosine.
    """

    share: float
    mean_cosine: float
    min_cosine: float


def conflict(gramian: ArrayLike) -> Conflict:
    """Conflict statistics of a Gramian (K, K); pairs with a zero gradient count as cosine 0.

    A single task has no pair: its statistics are 0, 1 and 1.
    """
    g = np.asarray(gramian, np.float64)
    if g.ndim != 2 or g.shape[0] != g.shape[1]:
        raise ShapeError(f"conflict: a Gramian of shape (K, K) is needed, got {g.shape}")
    norms = np.sqrt(np.maximum(np.diagonal(g), 0.0))
    safe = np.where(norms > 0, norms, 1.0)
    pairs = (g / safe[:, None] / safe)[np.triu_indices(len(g), 1)]
    if not pairs.size:
        return Conflict(0.0, 1.0, 1.0)
    return Conflict(float((pairs < 0).mean()), float(pairs.mean()), float(pairs.min()))
