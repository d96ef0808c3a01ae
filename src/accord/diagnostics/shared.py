"""Which parameters of a model the tasks share, by the graph of their losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from accord.errors import EngineError
from accord.jacobian import Losses, Shared
from accord.jacobian.collectives import sharded
from accord.jacobian.losses import gather_losses, gather_shared, hides, parameter_names, reached_by


@dataclass(frozen=True)
class Found:
    """The losses, checked, and the parameters to balance.

    Attributes:
        losses: As a dict where they have names, else as a list.
        shared: The shared parameters, with their names where they have some.
        note: How they were chosen, where the graph decided.
    """

    losses: Losses
    shared: Shared | None
    note: str = ""


def find(model: Shared | None, losses: Losses, shared: Shared | None, at_features: bool, caller: str) -> Found:
    """Gather the losses, and of the model's parameters those that more than one loss reaches.

    With ``shared`` these are taken as they are. Losses in one tensor (K,) come from one node of the graph, which all
    tasks seem to share; then all of the model's parameters count, as they do for a balancer.

    Raises:
        ShapeError: Not K scalars.
        EngineError: No parameter is shared, or the graph does not show which are.
    """
    gathered = gather_losses(losses, caller)
    names, tensors = gathered.names, gathered.tensors
    given: Losses = list(tensors) if names is None else dict(zip(names, tensors, strict=True))
    if at_features or shared is not None:
        return Found(given, shared)
    if model is None:
        raise EngineError(
            f"{caller}: neither a model nor shared= nor features= was given, so it is not known what the tasks share; "
            "give the model, its shared part, or the representation as features="
        )
    kept: Any = list(model) if isinstance(model, Iterator) else model
    parameters = gather_shared(kept, caller)
    if len(tensors) == 1:
        return Found(given, kept)
    if isinstance(losses, Tensor):
        note = (
            "the losses came as one tensor, so every trainable parameter given counts as shared; name others as heads"
        )
        return Found(given, kept, f"{note} by giving shared=")
    if any(map(sharded, parameters)) or hides(tensors):
        raise EngineError(
            f"{caller}: the graph does not show which parameters the tasks share, because some are sharded or inside a "
            "reentrant activation checkpoint; name them, for instance shared=model.trunk"
        )
    reach = [len(range_) for range_ in reached_by(tensors, parameters)]
    several = [i for i, count in enumerate(reach) if count > 1]
    if not several:
        raise EngineError(
            f"{caller}: {_none_shared(reach)}. Give the network that computed these losses, or name what they share "
            "as shared= or features="
        )
    if len(several) == len(parameters):
        return Found(given, kept)
    own, unused = sum(count == 1 for count in reach), reach.count(0)
    parts = [f"{own} reached by one loss alone (heads)"] if own else []
    parts += [f"{unused} reached by none"] if unused else []
    note = f"{len(several)} of {len(parameters)} trainable parameter tensors are shared; {' and '.join(parts)} left out"
    labels = parameter_names(kept)
    chosen: Shared = [parameters[i] for i in several]
    if labels is not None and len(labels) == len(parameters):
        chosen = {labels[i]: parameters[i] for i in several}
    return Found(given, chosen, note)


def _none_shared(reach: list[int]) -> str:
    if not any(reach):
        return f"none of the losses reaches any of the {len(reach)} trainable parameters of the model"
    return f"each of the {len(reach)} trainable parameters is reached by one loss at most, so the tasks share none"
