"""The base of all balancers: a module with options, a little state, and one way to write gradients."""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from accord.balancers.grammar import suggest
from accord.balancers.result import Balance, Decision
from accord.errors import NumericalWarning, OptionError, ShapeError, UnknownNameError
from accord.jacobian import ENGINES, Jacobian, Losses, Shared
from accord.jacobian.losses import gather_losses

Heads = Literal["weighted", "plain"]
Engine = str | Callable[..., Jacobian]
STATE_VERSION = 1


class Balancer(nn.Module):
    """Decides how the shared parameters of a multi-task network move.

    A subclass stores each option under its own name and implements ``decide``; state beyond the last weights
    goes through ``own_state`` and ``load_own_state``. The state lives on the CPU in float64 outside the module's
    buffers: moving or halving the parent module leaves it alone.

    Args:
        tasks: The number of tasks, or their names.

    Attributes:
        tasks: The tasks' names.
        steps: How many training steps were balanced.
    """

    method: ClassVar[str] = ""
    needs: ClassVar[str] = "losses"
    reference: ClassVar[str] = ""

    def __init__(self, tasks: int | Sequence[str]) -> None:
        super().__init__()
        self.tasks, self.named = _task_names(tasks, type(self).__name__)
        self.steps = 0
        self._weights: np.ndarray | None = None

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.tasks)

    # ------------------------------------------------------------------ what a training loop calls

    def backward(self, losses: Losses, shared: Shared, *, engine: Engine = "sequential") -> Balance:
        """Differentiate the losses, balance, and add to ``.grad`` of the shared parameters and the heads.

        The place of ``loss.backward()`` in a training loop. Gradients are added to what is there, so call
        ``optimizer.zero_grad()`` before.

        Args:
            losses: K scalars: a dict by task name, a list, a tuple, or a tensor of shape (K,).
            shared: The shared parameters: a module, parameters or named parameters. All other leaves of the
                losses' graph are heads.
            engine: ``"sequential"`` (one backward a task, always works), ``"batched"`` (one vectorised backward),
                or a callable ``engine(losses, shared) -> Jacobian``.

        Returns:
            The weights and their certificate, for logging.

        Raises:
            ShapeError: Not K scalars, or other task names than the balancer's.
            NonFiniteError: A loss is NaN or infinite.
            EngineError: The losses cannot be differentiated with respect to the shared parameters.
        """
        return self.apply(_engine(engine)(self._ordered(losses), shared))

    def forward(self, losses: Losses, shared: Shared | None = None, *, engine: Engine = "sequential") -> Tensor:
        """The balanced loss Σ_k w_k l_k with constant weights, for frameworks that call backward themselves.

        Its gradient is Jᵀw on the shared parameters, and w_k times their own on the heads of task k.

        Args:
            losses: As in ``backward``.
            shared: As in ``backward``; not needed by methods that look at losses alone.
            engine: As in ``backward``.

        Returns:
            A scalar with a graph.

        Raises:
            OptionError: The method needs gradients and shared is missing, or no weights describe it (GradDrop).
            ShapeError, NonFiniteError, EngineError: As in ``backward``.
        """
        if shared is None and self.needs != "losses":
            raise OptionError(
                f"{type(self).__name__}(losses): this method looks at gradients; call it with shared=, "
                "the shared parameters"
            )
        ordered = self._ordered(losses)
        jacobian = _LossesOnly(ordered) if shared is None else _engine(engine)(ordered, shared, retain_graph=True)
        self._check(jacobian)
        if self.needs == "rows":
            raise OptionError(
                f"{type(self).__name__}(losses): no weighted loss has this method's gradient, because it mixes "
                "gradients coordinate by coordinate; call backward(losses, shared) instead"
            )
        before = self.get_extra_state()
        try:
            decision = self._decide(jacobian)
        except BaseException:
            self.set_extra_state(before)
            raise
        weights = _clip(decision, None) * torch.from_numpy(decision.weights)
        return self.objective(jacobian.losses, weights) if self.training else weighted_sum(jacobian.losses, weights)

    def apply(self, jacobian: Any) -> Any:  # pyrefly: ignore[bad-override-param-name]
        """Balance a Jacobian that is already there, and add to ``.grad``; returns a ``Balance``.

        Given a function instead, this is ``torch.nn.Module.apply``.
        """
        if not isinstance(jacobian, Jacobian):
            return super().apply(jacobian)
        self._check(jacobian)
        jacobian.check_reach()
        before = self.get_extra_state()
        try:
            decision = self._decide(jacobian)
            scale = self._write(jacobian, decision)
        except BaseException:  # a step that failed has not happened: tried again, it gives the same numbers
            self.set_extra_state(before)
            raise
        self.accumulate_own(jacobian.values)
        weights = torch.from_numpy(decision.weights.copy())
        return Balance(
            loss=(torch.from_numpy(decision.head_weights) if decision.directions else weights) @ jacobian.values,
            losses=jacobian.values,
            weights=weights,
            gramian=decision.gramian,
            residual=None if decision.solution is None else decision.solution.residual,
            outcome=decision.outcome,
            cause=_named(decision.cause, decision, self.tasks),
            scale=scale,
            tasks=self.tasks,
        )

    def reset(self) -> None:
        """Forget everything but the options."""
        self.steps = 0
        self._weights = None

    # ------------------------------------------------------------------ what a method implements

    def decide(self, jacobian: Jacobian) -> Decision:
        """Weights for one training step; may change the method's state."""
        raise TypeError(f"{type(self).__name__} does not say how it decides: implement decide(jacobian)")

    def objective(self, losses: Sequence[Tensor], weights: Tensor) -> Tensor:
        """The scalar whose gradient is the balanced one."""
        return weighted_sum(losses, weights)

    def accumulate_own(self, values: Tensor) -> None:
        """Add to ``.grad`` of the balancer's own parameters, where it has any; values is (K,)."""

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; ones before the first step."""
        weights = np.ones(self.num_tasks) if self._weights is None else self._weights
        return weights, weights

    def own_state(self) -> dict[str, Any]:
        """State beyond the last weights, as tensors and plain numbers."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``own_state`` gave."""

    # ------------------------------------------------------------------ the rest

    def _decide(self, jacobian: Jacobian) -> Decision:
        if not self.training:
            frozen = Decision(*self.last_weights(), outcome="frozen", cause="the balancer is in eval mode")
            frozen.max_norm = getattr(self, "max_norm", None)
            return frozen
        decision = self.decide(jacobian)
        self.steps += 1
        if decision.outcome != "skipped":
            self._weights = decision.weights
        return decision

    def _write(self, jacobian: Jacobian, decision: Decision) -> float:
        """Add the decided gradients to ``.grad``; returns the factor that ``max_norm`` put on the shared ones."""
        if decision.directions is not None:
            jacobian.add(decision.directions, jacobian.head_gradients(decision.head_weights))
            return 1.0
        if decision.max_norm is None:
            jacobian.accumulate(decision.weights, decision.head_weights)
            return 1.0
        shared = jacobian.pull(decision.weights)
        scale = _clip(decision, shared)
        shared = [None if block is None else block * scale for block in shared]
        jacobian.add(shared, jacobian.head_gradients(decision.head_weights))
        return scale

    def _ordered(self, losses: Losses) -> Losses:
        """Losses by name in the balancer's order; a balancer made with a number of tasks takes up the names."""
        if not isinstance(losses, Mapping):
            return losses
        by_name = {str(name): loss for name, loss in losses.items()}
        names = tuple(by_name)
        if not self.named and len(names) == self.num_tasks:
            self.tasks, self.named = names, True
        if set(names) != set(self.tasks):
            raise ShapeError(
                f"{type(self).__name__}: losses are named {sorted(names)}, but the balancer's tasks are "
                f"{sorted(self.tasks)}"
            )
        return {name: by_name[name] for name in self.tasks}

    def _check(self, jacobian: Jacobian) -> None:
        if jacobian.num_tasks != self.num_tasks:
            raise ShapeError(
                f"{type(self).__name__}: {jacobian.num_tasks} losses were given, but the balancer was made for "
                f"{self.num_tasks} tasks ({', '.join(self.tasks)})"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """All state, for ``state_dict``."""
        weights = None if self._weights is None else torch.from_numpy(self._weights.copy())
        return {
            "version": STATE_VERSION,
            "method": self.method,
            "tasks": list(self.tasks),
            "named": self.named,
            "steps": self.steps,
            "weights": weights,
            **self.own_state(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take up state from ``state_dict``.

        Raises:
            ShapeError: It is that of another method, of other tasks, or of another version of accord.
        """
        if state.get("version") != STATE_VERSION or state.get("method") != self.method:
            raise ShapeError(
                f"{type(self).__name__}: the saved state is that of {state.get('method')!r} in state version "
                f"{state.get('version')}, not of {self.method!r} in version {STATE_VERSION}"
            )
        tasks = tuple(state["tasks"])
        if len(tasks) != self.num_tasks or (self.named and state["named"] and tasks != self.tasks):
            raise ShapeError(
                f"{type(self).__name__}: the saved state is for tasks {list(tasks)}, not {list(self.tasks)}"
            )
        if state["named"]:
            self.tasks, self.named = tasks, True
        self.steps = int(state["steps"])
        weights = state["weights"]
        self._weights = None if weights is None else weights.numpy().copy()
        self.load_own_state(state)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Balancer:
        """Follow the parent's device, never its dtype: parameters of the method stay in float32."""
        for parameter in self._parameters.values():
            if parameter is not None:
                device = fn(torch.empty(0, dtype=parameter.dtype, device=parameter.device)).device
                parameter.data = parameter.data.to(device)
                if parameter.grad is not None:
                    parameter.grad.data = parameter.grad.data.to(device)
        return self

    def __repr__(self) -> str:
        parts = [repr(list(self.tasks)) if self.named else repr(self.num_tasks)]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name != "tasks" and getattr(self, name) != parameter.default:
                value = getattr(self, name)
                parts.append(f"{name}=float({str(value)!r})" if value in (math.inf, -math.inf) else f"{name}={value!r}")
        return f"{type(self).__name__}(tasks={', '.join(parts)})"


def weighted_sum(losses: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Σ_k w_k l_k, with a graph to the losses."""
    return sum((w.to(loss) * loss for w, loss in zip(weights, losses, strict=True)), losses[0].new_zeros(()))


class _LossesOnly(Jacobian):
    """Losses without shared parameters, for ``forward`` of the methods that look at losses alone."""

    engine = "losses"

    def __init__(self, losses: Losses) -> None:
        gathered = gather_losses(losses, "balancer(losses)")
        self.losses, self.names, self.values = gathered.tensors, gathered.names, gathered.values
        self.parameters, self.retain_graph, self._heads, self._rows = (), False, (), None

    def _differentiate(self) -> list[Tensor | None]:
        return []


def check_choice(value: object, choices: Sequence[object], option: str, method: str) -> None:
    """Refuse a value that is not one of the choices, suggesting the nearest."""
    if value not in choices:
        hint = suggest(str(value), [str(choice) for choice in choices])
        raise OptionError(f"{method}: {option} = {value!r} is none of {', '.join(map(repr, choices))}{hint}")


def check_positive(value: float, option: str, method: str, *, integer: bool = False) -> None:
    """Refuse a value that is not a positive finite number."""
    number = isinstance(value, numbers.Integral if integer else numbers.Real) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        kind = "integer" if integer else "number"
        raise OptionError(f"{method}: {option} = {value!r} is not a positive {kind}")


def check_number(value: object, option: str, method: str, hint: str, *, least: float = -math.inf) -> None:
    """Refuse a value that is not a number of at least ``least``; infinity passes, NaN does not."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= least:
        raise OptionError(f"{method}: {option} = {value!r} is not a number of at least {least:g}; {hint}")


def warn_numerical(message: str) -> None:
    """Warn that a step is not what was asked for."""
    warnings.warn(message, NumericalWarning, stacklevel=2)


def _clip(decision: Decision, shared: Sequence[Tensor | None] | None) -> float:
    """The factor that brings the shared gradient to ``max_norm``: from wᵀGw, else from the gradient itself."""
    if decision.max_norm is None:
        return 1.0
    if decision.gramian is not None:
        w = torch.from_numpy(decision.weights)
        norm = float((w @ decision.gramian @ w).clamp(min=0).sqrt())
    elif shared is not None:
        norm = float(torch.stack([block.float().norm() for block in shared if block is not None]).norm())
    else:
        return 1.0
    return min(1.0, decision.max_norm / norm) if norm > 0 else 1.0


def _named(cause: str, decision: Decision, tasks: Sequence[str]) -> str:
    """The cause with zero rows by task name."""
    solution = decision.solution
    if solution is None or not solution.zero_rows:
        return cause
    return f"{cause} ({', '.join(tasks[k] for k in solution.zero_rows)})"


def _engine(engine: Engine) -> Callable[..., Jacobian]:
    if callable(engine):
        return engine
    if engine not in ENGINES:
        raise UnknownNameError(f"unknown engine {engine!r}{suggest(str(engine), list(ENGINES))}")
    return ENGINES[engine]


def _task_names(tasks: int | Sequence[str], caller: str) -> tuple[tuple[str, ...], bool]:
    if isinstance(tasks, numbers.Integral) and not isinstance(tasks, bool):
        tasks = int(tasks)
    if isinstance(tasks, bool) or not isinstance(tasks, (int, Sequence)) or isinstance(tasks, str):
        raise ShapeError(f"{caller}: tasks = {tasks!r} is neither a number of tasks nor a list of their names")
    if isinstance(tasks, int):
        if tasks < 1:
            raise ShapeError(f"{caller}: tasks = {tasks}; at least one task is needed")
        return tuple(str(k) for k in range(tasks)), False
    names = tuple(str(name) for name in tasks)
    if not names or len(set(names)) != len(names):
        raise ShapeError(f"{caller}: tasks = {list(names)}; one or more distinct names are needed")
    return names, True


__all__ = ["Balance", "Balancer", "Decision", "Heads", "check_choice", "check_positive", "warn_numerical"]
