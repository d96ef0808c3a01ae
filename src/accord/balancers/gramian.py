"""The base of all balancers whose weights follow from the Gramian."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from accord.balancers.base import Balancer, Decision, Heads
from accord.balancers.estimates import Estimate
from accord.balancers.grammar import suggest
from accord.balancers.options import check_choice, check_positive, warn_numerical, warn_option
from accord.balancers.schedule import Auto, Every, Schedule, drift_of
from accord.errors import OptionError
from accord.jacobian import Jacobian
from accord.solvers import Solution

BUDGET = 1.2
"""Mean cost of a step in plain steps with ``update_every="auto"``, unless told otherwise."""


class GramianOptions(TypedDict, total=False):
    """The options that every Gramian method hands on to ``GramianBalancer``, where they are described."""

    update_every: int | Literal["auto"]
    budget: float | None
    max_norm: float | None
    gramian_batch: float | None
    gramian_ema: float | None
    gramian_part: str | int | None
    gramian_tasks: int | None
    gramian_seed: int


class SpelledOut:
    """``__signature__`` of a class whose constructor hands ``**options`` on: those of the classes after it, by name.

    ``inspect.signature(cls)``, and with it ``help``, ``repr``, ``accord list`` and the check of a spec's options, then
    see what the constructor really takes. An instance has none, since calling it is another matter.
    """

    def __get__(self, instance: object | None, owner: type) -> inspect.Signature:
        """The signature of the class."""
        if instance is not None:
            raise AttributeError("__signature__")
        handed_on = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        found: dict[str, inspect.Parameter] = {}
        for cls in owner.__mro__:
            if "__init__" in vars(cls):
                own = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
                for parameter in own:
                    if parameter.kind not in handed_on:
                        found.setdefault(parameter.name, parameter)
                if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in own):
                    break
        return inspect.Signature(sorted(found.values(), key=lambda parameter: parameter.kind))


class GramianBalancer(Balancer):
    """A balancer around a solver of the Gramian.

    Options that every Gramian method has:

    Args:
        tasks: The number of tasks, or their names.
        heads: ``"weighted"`` multiplies the heads' gradients by their task's weight, as back-propagating the
            weighted loss does; ``"plain"`` gives each head its own gradient. A task with a zero gradient on the
            shared parameters always trains its head with weight 1.
        update_every: Solve at every n-th step and reuse the weights in between. The steps in between walk the shared
            part of the graph once: neither the K vector-Jacobian products nor the solver run. ``"auto"`` solves as
            often as the weights move and ``budget`` allows (``accord.balancers.schedule.Auto``).
        budget: With ``update_every="auto"``, what a step may cost on average, in plain steps (forward, and backward of
            the summed loss), above 1; None is 1.2. It is kept by arithmetic on the engine's ``extra_cost``, so that
            the same run solves at the same steps on every machine.
        max_norm: Clip the shared gradient to this norm, after weighting; None does not clip.
        gramian_batch: Estimate the Gramian from the gradients of a random part of the batch, this share of its samples;
            ``backward`` is then given ``part=``, a function that computes the losses of that part.
        gramian_ema: Use the moving average, with this decay, of the Gramians of all solves so far.
        gramian_part: Estimate the Gramian from the gradients of that part of the trunk alone: the parameter of this
            name, and those whose names go on after a dot (``"layer4"``).
        gramian_tasks: Estimate the Gramian from the gradients of this many tasks, drawn at each solve, and of the mean
            of the others' losses, which gives each of the others the same row.
        gramian_seed: Of the samples and tasks drawn, the same on all processes.

    The ``gramian_*`` options can be combined. With any of them the outcome is ``"approximate"``, the cause says what
    was estimated, and the residual is that of the weights as a solution for the estimate.

    Raises:
        OptionError: An option is none of these, or out of range.
    """

    needs = "gramian"
    __signature__ = SpelledOut()

    def __init__(
        self,
        tasks: int | Sequence[str],
        *,
        heads: Heads,
        update_every: int | Literal["auto"] = 1,
        budget: float | None = None,
        max_norm: float | None = None,
        gramian_batch: float | None = None,
        gramian_ema: float | None = None,
        gramian_part: str | int | None = None,
        gramian_tasks: int | None = None,
        gramian_seed: int = 0,
    ) -> None:
        super().__init__(tasks)
        name = type(self).__name__
        check_choice(heads, ("weighted", "plain"), "heads", name)
        self._schedule = _schedule(update_every, budget, name)
        if max_norm is not None:
            check_positive(max_norm, "max_norm", name)
        self._estimate = Estimate(
            name,
            self.num_tasks,
            batch=gramian_batch,
            ema=gramian_ema,
            part=gramian_part,
            tasks=gramian_tasks,
            seed=gramian_seed,
        )
        self.heads = heads
        self.update_every = update_every
        self.budget = budget
        self.max_norm = max_norm
        self.gramian_batch = gramian_batch
        self.gramian_ema = gramian_ema
        self.gramian_part = gramian_part
        self.gramian_tasks = gramian_tasks
        self.gramian_seed = gramian_seed
        self._head_weights: np.ndarray | None = None

    @property
    def estimated(self) -> bool:
        """Whether the Gramian is an estimate, so that nothing is promised of this step's gradients."""
        return self._estimate.active

    @property
    def equivariant(self) -> bool:  # pyrefly: ignore[bad-override]
        """Drawn tasks are drawn by their places."""
        return self.gramian_tasks is None

    def solve_cost(self, jacobian: Jacobian) -> float:
        """What a step that solves costs beyond a plain one, in plain steps (forward, backward of the summed loss)."""
        return self._estimate.cost(jacobian)

    @property
    def uses_part(self) -> bool:
        """Whether ``backward`` is to be given ``part=``."""
        return self.gramian_batch is not None

    def solve(self, gramian: np.ndarray) -> Solution:
        """The method's weights for a Gramian (K, K)."""
        raise TypeError(f"{type(self).__name__} has no solver: implement solve(gramian)")

    def weigh(self, gramian: np.ndarray, values: np.ndarray) -> Solution:
        """The method's weights for a Gramian (K, K) and losses (K,); may change the method's state."""
        del values
        return self.solve(gramian)

    def weigh_heads(self, solution: Solution, values: np.ndarray) -> np.ndarray:
        """Weights (K,) of the heads' gradients; a task without a shared gradient trains its head with weight 1."""
        del values
        heads = np.ones(self.num_tasks) if self.heads == "plain" else solution.weights.copy()
        heads[list(solution.zero_rows)] = 1.0
        return heads

    def decide(self, jacobian: Jacobian) -> Decision:
        """Solve for the weights, or reuse the last ones between two solves."""
        cost = self.solve_cost(jacobian)
        if not self._schedule.due(cost) and self._weights is not None:
            self._schedule.reused()
            return self._decision(*self.last_weights(), outcome="reused")
        gramian = self._estimate.gramian(jacobian)
        skipped = skip_unless_finite(self, gramian)
        if skipped is not None:
            return replace(skipped, estimated=self._estimate.active, interval=self._schedule.interval)
        gramian = self._estimate.averaged(gramian)
        values = jacobian.values.numpy()
        solution = self.weigh(gramian.numpy(), values)
        heads = self.weigh_heads(solution, values)
        last = self._weights
        drift = None if last is None else drift_of(last, solution.weights, gramian.numpy())
        self._schedule.solved(drift, cost)
        self._head_weights = heads
        decision = self._decision(solution.weights, heads, gramian, solution, solution.outcome, solution.cause)
        return replace(self._as_estimated(decision), drift=drift)

    def _decision(self, *args: Any, **options: Any) -> Decision:
        return Decision(*args, **options, max_norm=self.max_norm, interval=self._schedule.interval)

    def _as_estimated(self, decision: Decision) -> Decision:
        """The decision, marked as approximate where the Gramian is an estimate; the solver's own trouble stays."""
        if not self._estimate.active:
            return decision
        own = decision.cause
        if decision.outcome not in ("solved", "approximate"):
            own = f"{decision.outcome} as far as it tells" + (f": {own}" if own else "")
        cause = f"{self._estimate.cause}; {own}" if own else self._estimate.cause
        return replace(decision, outcome="approximate", cause=cause, estimated=True)

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; ones before the first step."""
        weights, _ = super().last_weights()
        return weights, np.ones(self.num_tasks) if self._head_weights is None else self._head_weights

    def reset(self) -> None:
        """Forget everything but the options."""
        super().reset()
        self._schedule.reset()
        self._estimate.reset()
        self._head_weights = None

    def own_state(self) -> dict[str, Any]:
        """The schedule, what the estimate remembers, and the heads' last weights."""
        heads = None if self._head_weights is None else torch.from_numpy(self._head_weights.copy())
        own = {"schedule": self._schedule.state(), "head_weights": heads}
        return {**own, "estimate": self._estimate.state()} if self._estimate.active else own

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take up the schedule, what the estimate remembers where both have one, and the heads' last weights."""
        heads = state["head_weights"]
        self._schedule.load(state["schedule"])
        self._estimate.reset()
        if self._estimate.active and "estimate" in state:
            self._estimate.load(state["estimate"])
        self._head_weights = None if heads is None else heads.numpy().copy()


def _schedule(update_every: int | str, budget: float | None, name: str) -> Schedule:
    if update_every == "auto":
        budget = BUDGET if budget is None else budget
        number = isinstance(budget, numbers.Real) and not isinstance(budget, bool)
        if not number or not 1.0 < budget < math.inf:
            raise OptionError(
                f"{name}: budget = {budget!r} is not a finite number above 1; a plain step costs 1, so that what is "
                f"above it pays for solves, and {BUDGET} is the default"
            )
        return Auto(float(budget))
    integer = isinstance(update_every, numbers.Integral) and not isinstance(update_every, bool)
    if not integer or update_every < 1:
        hint = suggest(update_every, ["auto"], listing=False) if isinstance(update_every, str) else ""
        raise OptionError(f"{name}: update_every = {update_every!r} is neither a positive integer nor 'auto'{hint}")
    if budget is not None:
        warn_option(f"{name}: budget has no effect without update_every='auto'")
    return Every(int(update_every))


def skip_unless_finite(balancer: Balancer, gramian: Tensor) -> Decision | None:
    """Where a gradient is not finite, the decision to keep the last weights, so that it shows in ``.grad``."""
    if bool(torch.isfinite(gramian).all()):
        return None
    finite = torch.isfinite(gramian.diagonal()).tolist()
    names = ", ".join(name for name, fine in zip(balancer.tasks, finite, strict=True) if not fine)
    cause = f"the gradients of {names} are not finite"
    if not balancer._scaled:  # with a GradScaler such steps are routine: it finds its scale by them
        warn_numerical(f"{type(balancer).__name__}: {cause}; the weights of the last step were kept")
    return Decision(*balancer.last_weights(), gramian, outcome="skipped", cause=cause)


def times_k(solution: Solution, wanted: bool) -> Solution:
    """The solution with its weights multiplied by K, on request."""
    return replace(solution, weights=len(solution.weights) * solution.weights) if wanted else solution
