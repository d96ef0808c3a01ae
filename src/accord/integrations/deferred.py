"""A balanced step in two halves: a scalar for the framework, and the gradients once it has called backward.

Frameworks divide a loss by the number of micro-batches, put a loss scale on it, and call ``backward`` at a place of
their own. The scalar given to them is a leaf, so their backward stops there, and what it leaves in ``.grad`` is the
factor by which the loss was multiplied, whoever did so. The balanced gradients are then written times this factor:
weights, certificates and thresholds are those of the losses as they are, and no framework's arithmetic is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from accord.balancers import Balance, Balancer
from accord.balancers.inputs import build_jacobian
from accord.balancers.wrappers import Wrapper
from accord.errors import EngineError, OptionError, ShapeError
from accord.jacobian import Jacobian, Losses
from accord.jacobian.losses import check_finite

FORWARDED = ("shared", "features", "heads", "second", "part", "engine", "reduce")
"""Arguments of ``Balancer.backward`` that an integration hands on; the scaler is the framework's."""


class Deferred:
    """Losses of one batch, to be balanced when the framework's backward has run.

    Args:
        caller: What the user called, for errors.
        balancer: The balancer.
        losses: K scalars, as for ``Balancer.backward``.
        options: Its other arguments, those of ``FORWARDED``.

    Attributes:
        loss: What to give to the framework, shape (): the plain sum of the losses, whatever their weights, so that
            curves of it compare between methods.

    Raises:
        OptionError: It is no balancer, or an option is not one.
        ShapeError: There is no loss among the losses.
    """

    def __init__(self, caller: str, balancer: Any, losses: Losses, **options: Any) -> None:
        check_balancer(caller, balancer)
        for name in options:
            if name not in FORWARDED:
                hint = "; the framework's own is used" if name == "scaler" else f"; there are {', '.join(FORWARDED)}"
                raise OptionError(f"{caller}: {name}= is not to be given here{hint}")
        losses = list(losses) if isinstance(losses, Iterator) else losses
        self.caller, self.balancer, self.losses, self.options = caller, balancer, losses, options
        self.loss = total(caller, losses).requires_grad_()

    def run(self, *, scaled: bool) -> Balance:
        """Balance, and add to ``.grad`` times the factor that the framework's backward has left.

        Args:
            scaled: Whether a ``GradScaler`` is at work, which finds its scale by steps that overflow: losses and
                gradients that are not finite then skip the step, and are an error or a warning otherwise.

        Raises:
            EngineError: The framework's backward did not reach the scalar.
        """
        if self.loss.grad is None:
            raise EngineError(
                f"{self.caller}: the framework's backward did not reach the loss that was made here; was it detached "
                "or replaced by another?"
            )
        factor, options = float(self.loss.grad), dict(self.options)
        if scaled:
            options["scaler"] = _Factor(factor)
        elif factor != 1.0:
            options["engine"] = self._at_factor(factor)
        return self.balancer.backward(self.losses, **options)

    def _at_factor(self, factor: float) -> Callable[..., Jacobian]:
        """The engine asked for, where micro-batches alone scale the losses, so that nothing would skip a step."""
        name, engine = type(self.balancer).__name__, self.options.get("engine", "sequential")
        at_features = self.options.get("features") is not None

        def build(losses: Losses, where: Any, **given: Any) -> Jacobian:
            shared, features = (None, where) if at_features else (where, None)
            jacobian = build_jacobian(name, losses, shared, features, engine=engine, scaler=_Factor(factor), **given)
            jacobian.scaled = False
            check_finite(jacobian.values, jacobian.names, name)
            return jacobian

        return build


class _Factor:
    """The interface of a ``GradScaler`` that a balancer reads."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def get_scale(self) -> float:
        return self._factor

    def is_enabled(self) -> bool:
        return True


def check_balancer(caller: str, balancer: Any) -> None:
    """Raise OptionError unless it is a balancer."""
    if not isinstance(balancer, Balancer):
        raise OptionError(
            f"{caller}: the balancer is a {type(balancer).__name__}; make one, for instance "
            "accord.make('nash-mtl', tasks=['size', 'sign'])"
        )


def names_known(balancer: Any) -> Sequence[str] | None:
    """The tasks' names; None while the first losses may still bring them, or where it is no balancer."""
    return balancer.tasks if isinstance(balancer, Balancer) and balancer.named else None


def forget_look(balancer: Balancer) -> None:
    """Forget the losses that await ``after_step`` (FAMO): the optimiser makes no step after this micro-batch."""
    while isinstance(balancer, Wrapper):
        balancer = balancer.inner
    state = balancer.own_state()
    if state.get("before") is not None:
        balancer.load_own_state({**state, "before": None})


def total(caller: str, losses: Any) -> Tensor:
    """The plain sum of the losses, shape (), without a graph, in float32 or better.

    Nothing else is checked here: the balancer does it, on all processes together.

    Raises:
        ShapeError: There is no tensor among them.
    """
    items = losses.values() if isinstance(losses, Mapping) else losses if isinstance(losses, Iterable) else ()
    tensors = [losses] if isinstance(losses, Tensor) else [item for item in items if isinstance(item, Tensor)]
    if not tensors:
        raise ShapeError(
            f"{caller}: got a {type(losses).__name__} without losses; give one scalar tensor a task, as a dict by the "
            "tasks' names or a list"
        )
    parts = [tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).sum() for tensor in tensors]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()
