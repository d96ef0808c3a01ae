"""The Gramian methods that `solver_quality` judges: accord's solver, TorchJD's counterpart, and the definition."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchjd import aggregation

from accord import solvers
from accord.solvers import Solution
from benchmarks import judge
from benchmarks.judge import Answer, Certificate

FLOAT32 = float(np.finfo(np.float32).eps)  # where Aligned-MTL's published code cuts the spectrum
TINY = 1e-200
Solve = Callable[[np.ndarray], Solution]
Certify = Callable[[Answer, np.ndarray], Certificate]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        label: Its name there.
        solve: From a Gramian (K, K).
        certify: The judge's certificate, from an answer and the Gramian.
        tolerance: What the certificate must meet for "solved".
        vanishing: How far the gradients are from what "stationary" claims, a length; convex combinations but for
            methods whose weights may be negative.
        peer: K to TorchJD's weights as a function of a Jacobian (K, P), or None where there is no counterpart.
        certify_peer: Where it differs from ``certify``.
    """

    label: str
    solve: Solve
    certify: Certify
    tolerance: float = 1e-8
    vanishing: Callable[[np.ndarray], float] = judge.stationarity
    peer: Callable[[int], Callable[[torch.Tensor], torch.Tensor]] | None = None
    certify_peer: Certify | None = None


def methods(labels: list[str] | None = None) -> dict[str, Method]:
    """All of them by label, or those that ``labels`` name: a whole label, else what labels begin with."""
    found = {m.label: m for m in [*_fair(), *_hull(), *_surgery(), *_cone(), *_spectral()]}
    if labels is None:
        return found
    chosen = [
        label for name in labels for label in found if label == name or (name not in found and label.startswith(name))
    ]
    return {label: found[label] for label in found if label in chosen}


def orders(k: int) -> np.ndarray:
    """Shape (K, K): the fixed orders in which tasks are projected."""
    rng = np.random.default_rng(k)
    return np.stack([rng.permutation(k) for _ in range(k)])


def _fair() -> list[Method]:
    found = [
        Method(
            "nash-mtl",
            solvers.nash,
            lambda a, _: judge.fair(a, 1.0),
            peer=lambda k: _aggregator("NashMTL", n_tasks=k, max_norm=0.0),
        )
    ]
    for alpha in (0.5, 1.0, 2.0, 5.0, np.inf):
        found.append(
            Method(
                f"fairgrad α={alpha:g}",
                functools.partial(solvers.fairgrad, alpha=alpha),
                lambda a, _, alpha=alpha: judge.fair(a, alpha),
                peer=(lambda _, alpha=alpha: _aggregator("FairGrad", alpha=alpha)) if np.isfinite(alpha) else None,
            )
        )
    for label, first_term in (("nash-mtl ccp", True), ("nash-mtl ccp, no first term", False)):
        solve = functools.partial(solvers.nash_ccp, first_term=first_term)
        found.append(Method(label, solve, lambda a, _: judge.fair(a, 1.0)))
    return found


def _hull() -> list[Method]:
    found = [
        Method("mgda", solvers.mgda, lambda a, _: judge.mgda(a), tolerance=1e-9, peer=lambda _: _aggregator("MGDA"))
    ]
    for c in (0.1, 0.4, 0.9):
        found.append(
            Method(
                f"cagrad c={c:g}",
                functools.partial(solvers.cagrad, c=c),
                lambda a, _, c=c: judge.cagrad(a, c),
                peer=lambda _, c=c: _aggregator("CAGrad", c=c),
            )
        )
    return found


def _surgery() -> list[Method]:
    found = [
        Method(
            "imtl-g",
            solvers.imtl_g,
            lambda a, _: judge.imtl_g(a),
            vanishing=judge.dependence,
            peer=lambda _: _aggregator("IMTLG"),
        ),
        Method(
            "pcgrad",
            lambda g: solvers.pcgrad(g, orders(len(g))),
            lambda a, g: judge.pcgrad(a, orders(len(g))),
            vanishing=judge.never,
            peer=lambda _: _aggregator("PCGrad"),
            certify_peer=lambda a, g: judge.pcgrad(a, _torch_orders(len(g))),
        ),
    ]
    for target in (0.0, 0.5):
        found.append(
            Method(
                f"gradvac φ={target:g}",
                lambda g, target=target: solvers.gradvac(g, np.full(g.shape, target), order=orders(len(g))),
                lambda a, g, target=target: judge.gradvac(a, orders(len(g)), np.full(g.shape, target)),
                vanishing=judge.never,
                peer=None if target else lambda _: _aggregator("GradVac"),
                certify_peer=lambda a, g: judge.gradvac(a, _torch_orders(len(g), others=True), np.zeros(g.shape)),
            )
        )
    return found


def _cone() -> list[Method]:
    def certify(a: Answer, g: np.ndarray) -> Certificate:
        return judge.upgrad(a, solvers.cone_projections(g)[np.ix_(a.live, a.live)])

    return [
        Method("upgrad", solvers.upgrad, certify, peer=lambda _: _aggregator("UPGrad")),
        Method("dualproj", solvers.dualproj, lambda a, _: judge.dualproj(a), peer=lambda _: _aggregator("DualProj")),
    ]


def _spectral() -> list[Method]:
    found = [
        Method(
            f"aligned-mtl {scale}",
            functools.partial(solvers.aligned_mtl, scale=scale),
            lambda a, _, scale=scale: judge.aligned(a, scale, FLOAT32),
            vanishing=judge.length_of_sum,
            peer=lambda k, scale=scale: _aggregator("AlignedMTL", pref_vector=k, scale_mode=scale),
            certify_peer=lambda a, _, scale=scale: judge.aligned(a, scale, a.eps),
        )
        for scale in ("min", "median", "rmse")
    ]
    found.append(
        Method(
            "config",
            solvers.config,
            lambda a, _: judge.config(a),
            vanishing=judge.dependence,
            peer=lambda _: _aggregator("ConFIG"),
        )
    )
    return found


def _aggregator(name: str, **options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """TorchJD's weights of a Jacobian; where it gives only their sum d, the least weights with that sum."""
    if "pref_vector" in options:
        options["pref_vector"] = torch.ones(options["pref_vector"])
    made = getattr(aggregation, name)(**options)

    def weigh(rows: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(len(rows))
        if "pref_vector" in options:
            made.pref_vector = options["pref_vector"].to(rows.dtype)
        if hasattr(made, "weighting") and name != "ConFIG":
            return made.weighting(rows)
        direction = made(rows).double()
        if not direction.isfinite().all():
            return direction[:1].expand(len(rows)) * torch.nan
        norms = rows.double().norm(dim=1).clamp(min=TINY)
        units = rows.double() / norms[:, None]
        return torch.linalg.lstsq(units.T, direction / norms.max(), driver="gelsd").solution * norms.max() / norms

    return weigh


def _torch_orders(k: int, others: bool = False) -> np.ndarray:
    """The orders that TorchJD draws after the seed that `_aggregator` sets; ``others`` where it leaves i out."""
    torch.manual_seed(k)
    drawn = []
    for i in range(k):
        rest = [j for j in range(k) if j != i] if others else list(range(k))
        drawn.append([rest[n] for n in torch.randperm(len(rest)).tolist()] + [i] * others)
    return np.array(drawn)
