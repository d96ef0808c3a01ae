"""The base of all balancers: a module with options, a little state, and one way to write gradients."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from accord.balancers.inputs import Engine, Features, build_jacobian, fingerprint, report
from accord.balancers.options import task_names, warn_option
from accord.balancers.result import Balance, Decision, clip_factor, named_cause
from accord.balancers.state import Stateful
from accord.errors import OptionError, ShapeError
from accord.jacobian import Jacobian, Local, Losses, LossesOnly, Reduce, Shared
from accord.jacobian.scaling import loss_scale
from accord.jacobian.writing import add_gradients

Heads = Literal["weighted", "plain"]
COSTS = {
    "losses": "1 backward",
    "gramian": "K backwards",
    "cross-gramian": "K backwards a batch",
    "rows": "K backwards, K gradients kept",
}


class Balancer(Stateful):
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
    reference: ClassVar[str] = ""
    needs: str = "losses"
    """What a step looks at: ``"losses"``, ``"gramian"``, ``"cross-gramian"`` (of two batches) or ``"rows"``."""
    descent: bool = False
    """Promised: no task's loss increases to first order."""
    homogeneity: float | None = None
    """Promised: gradients times s give weights times s to this power; None promises nothing."""
    equivariant: bool = True
    """Promised: tasks in another order have the same weights in that order."""
    relative: bool = False
    """Whether the method compares a loss with its own past, so that a transform of the losses must not touch it."""
    refuses_negative: str = ""
    """Why the method cannot have losses below zero, where it cannot."""

    def __init__(self, tasks: int | Sequence[str]) -> None:
        super().__init__()
        self.tasks, self.named = task_names(tasks, type(self).__name__)
        self.steps = 0
        self._weights: np.ndarray | None = None
        self._reduce: Reduce = Local()
        self._scaled = False

    @property
    def uses_part(self) -> bool:
        """Whether ``backward`` is to be given ``part=``."""
        return False

    @property
    def cost(self) -> str:
        """What a step costs beside the forward pass, in backward passes."""
        return COSTS[self.needs]

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.tasks)

    # ------------------------------------------------------------------ what a training loop calls

    @torch._disable_dynamo  # what a compiled step calls, it calls as it is: solvers and autograd are not for tracing
    def backward(
        self,
        losses: Losses,
        shared: Shared | None = None,
        *,
        features: Features | None = None,
        heads: Shared | None = None,
        second: Losses | None = None,
        part: Callable[[Callable[[Any], Any]], Losses] | None = None,
        engine: Engine = "sequential",
        scaler: Any = None,
        reduce: Reduce | str = "auto",
    ) -> Balance:
        """Differentiate the losses, balance, and add to ``.grad`` of the shared parameters and the heads.

        The place of ``loss.backward()`` in a training loop. Gradients are added to what is there, so call
        ``optimizer.zero_grad()`` before. Give either ``shared`` or ``features``.

        Args:
            losses: K scalars: a dict by task name, a list, a tuple, or a tensor of shape (K,).
            shared: The shared parameters: a module, parameters or named parameters. All other leaves of the
                losses' graph are heads.
            features: In their place, the shared representation: a tensor that all losses were computed from, or
                several. The gradients are balanced there and go back through the trunk once, whatever K is (MGDA-UB).
                Cheaper, and another problem than balancing at the parameters; ``max_norm`` clips there too.
            heads: All other parameters, where the graph does not show them: needed under ``fully_shard`` alone.
            second: The losses of a second, independent batch, for the methods that use two (SDMGrad, MoDo).
            part: For ``gramian_batch``: a function that is given ``draw``, which takes a random part of a batch, and
                returns the losses on it: ``lambda draw: model.losses(draw(batch))``.
            engine: ``"sequential"`` (one backward a task, always works), ``"batched"`` (one vectorised backward),
                ``"auto"``, with options after a colon (``"sequential:lean=true"``, ``"batched:memory=1e9"``),
                or a callable ``engine(losses, shared) -> Jacobian``.
            scaler: The ``torch.amp.GradScaler`` of the loop, for float16: gradients are computed and written at its
                scale, weights are those without it. Then ``scaler.step(optimizer)`` and ``scaler.update()`` as usual.
            reduce: How the gradients of several processes become those of the joint batch; found out by itself.

        Returns:
            The weights and their certificate, for logging.

        Raises:
            ShapeError: Not K scalars, or other task names than the balancer's.
            NonFiniteError: A loss is NaN or infinite, and there is no scaler to skip the step.
            OptionError: Neither or both of shared and features, or second with features.
            EngineError: The losses cannot be differentiated with respect to the shared parameters, or another process
                failed.
        """
        options = {"engine": engine, "heads": heads, "scaler": scaler, "reduce": reduce}
        jacobian = self._jacobian(losses, shared, features, **options)
        if part is not None and not self.uses_part:
            warn_option(f"{type(self).__name__}: part= has no effect without gramian_batch")
        elif part is not None and features is not None:
            raise OptionError(
                f"{type(self).__name__}: part= is for the parameters; with features= the rows are cheap, so leave "
                "gramian_batch away"
            )
        elif part is not None:
            jacobian.part = lambda draw: self._jacobian(part(draw), shared, None, **options)
        if second is not None:
            if self.needs != "cross-gramian":
                warn_option(f"{type(self).__name__}: second= has no effect, because the method uses one batch")
            elif features is not None:
                raise OptionError(
                    f"{type(self).__name__}: second= has features of its own, so it cannot be used with features=; "
                    "give the parameters of the trunk as shared="
                )
            else:
                jacobian.second = self._jacobian(second, shared, None, **options)
                self._check(jacobian.second)
        return self.apply(jacobian)

    @torch._disable_dynamo
    def forward(
        self,
        losses: Losses,
        shared: Shared | None = None,
        *,
        features: Features | None = None,
        heads: Shared | None = None,
        engine: Engine = "sequential",
        scaler: Any = None,
        reduce: Reduce | str = "auto",
    ) -> Tensor:
        """The balanced loss Σ_k w_k l_k with constant weights, for frameworks that call backward themselves.

        Its gradient is Jᵀw on the shared parameters, and w_k times their own on the heads of task k: ``heads="plain"``
        has no effect here, and ``max_norm`` scales both.

        Args:
            losses: As in ``backward``.
            shared: As in ``backward``; not needed by methods that look at losses alone.
            features: As in ``backward``: the weights are those at the representation.
            heads: As in ``backward``.
            engine: As in ``backward``.
            scaler: As in ``backward``; the scalar is not scaled: ``scaler.scale(loss).backward()`` does it.
            reduce: As in ``backward``.

        Returns:
            A scalar with a graph.

        Raises:
            OptionError: The method needs gradients and shared is missing, or no weights describe it (GradDrop).
            ShapeError, NonFiniteError, EngineError: As in ``backward``.
        """
        if self.needs == "rows":
            raise OptionError(
                f"{type(self).__name__}(losses): no weighted loss has this method's gradient, because it mixes "
                "gradients coordinate by coordinate or with those of earlier steps; call backward(losses, shared) "
                "instead"
            )
        if shared is None and features is None and self.needs == "losses":
            scale = loss_scale(type(self).__name__, scaler)
            jacobian: Jacobian = LossesOnly(self._ordered_together(losses, None, reduce), scale=scale, reduce=reduce)
        else:
            options = {"engine": engine, "heads": heads, "scaler": scaler, "reduce": reduce, "retain_graph": True}
            jacobian = self._jacobian(losses, shared, features, **options)
        self._check(jacobian)
        before = self.snapshot()
        try:
            decision = self._decide(jacobian)
            if decision.max_norm is not None and isinstance(jacobian, LossesOnly):
                raise OptionError(f"{type(self).__name__}(losses): max_norm needs the shared parameters: give shared=")
            scale = clip_factor(decision, lambda: jacobian.norm(jacobian.pull(decision.weights)))
        except BaseException:  # as in apply: a failed step has not happened
            self.restore(before)
            raise
        if decision.outcome == "skipped":
            self.restore(before)
        weights = scale * torch.from_numpy(decision.weights)
        if self.training and jacobian.reduce.size == 1:
            return self.objective(jacobian.losses, weights)
        total = weighted_sum(jacobian.losses, weights)  # whose gradients, averaged, are those of the joint batch
        own = self.own_objective(jacobian.values) if self.training else None
        return total if own is None else total + (own - own.detach()).to(total)

    def apply(self, jacobian: Jacobian) -> Balance:  # pyrefly: ignore[bad-override]
        """Balance a Jacobian that is already there, and add to ``.grad``; returns a ``Balance``.

        Given a function instead, this is ``torch.nn.Module.apply``.
        """
        if not isinstance(jacobian, Jacobian):
            if not callable(jacobian):
                kind = type(jacobian).__name__
                raise OptionError(f"apply: got a {kind}, not a Jacobian; losses go to backward(losses, shared)")
            return super().apply(jacobian)  # pyrefly: ignore[bad-return]
        jacobian.wanted = "losses" if self.needs == "losses" else "rows"
        self._check(jacobian)
        before = self.snapshot()
        try:
            decision = self._decide(jacobian)
            scale = self._write(jacobian, decision)
            if jacobian.scaled and decision.outcome != "skipped" and not jacobian.finite():
                decision = replace(decision, outcome="skipped", cause="gradients at the loss scale are not finite")
        except BaseException:  # a step that failed has not happened: tried again, it gives the same numbers
            self.restore(before)
            raise
        self.accumulate_own(jacobian.values, jacobian.scale)
        if decision.outcome == "skipped":  # nor has one whose gradients are not finite, though they are written
            self.restore(before)
        weights = torch.from_numpy(decision.weights.copy())
        return Balance(
            loss=(torch.from_numpy(decision.head_weights) if decision.directions else weights) @ jacobian.values,
            losses=jacobian.values,
            weights=weights,
            gramian=decision.gramian,
            residual=None if decision.solution is None else decision.solution.residual,
            outcome=decision.outcome,
            cause=named_cause(decision, self.tasks),
            scale=scale,
            tasks=self.tasks,
            interval=decision.interval,
            drift=decision.drift,
            engine=jacobian.why or jacobian.label,
            estimated=decision.estimated,
        )

    def after_step(self, losses: Losses | Callable[[], Losses]) -> None:
        """Tell the balancer the same batch's losses after the optimiser's step, for methods that look back (FAMO).

        All other methods ignore it, and do not call the function, so a loop may call it whatever the method.

        Args:
            losses: The losses, or a function that computes them; it is called without gradients.
        """

    def reset(self) -> None:
        """Forget everything but the options."""
        self.steps = 0
        self._weights = None

    # ------------------------------------------------------------------ what a method implements

    def decide(self, jacobian: Jacobian) -> Decision:
        """Weights for one training step; may change the method's state."""
        raise TypeError(f"{type(self).__name__} does not say how it decides: implement decide(jacobian)")

    def own_objective(self, values: Tensor) -> Tensor | None:
        """What the balancer's own parameters minimise, where it has any, given the losses' values (K,)."""
        del values

    def objective(self, losses: Sequence[Tensor], weights: Tensor) -> Tensor:
        """The scalar whose gradient is the balanced one, that of the balancer's own parameters included."""
        total = weighted_sum(losses, weights)
        own = self.own_objective(torch.stack([loss.detach() for loss in losses]))
        return total if own is None else total + (own - own.detach()).to(total)

    def accumulate_own(self, values: Tensor, scale: float = 1.0) -> None:
        """Add to ``.grad`` of the balancer's own parameters, where it has any, times scale; values is (K,)."""
        own = self.own_objective(values) if self.training else None
        if own is not None:
            with torch.enable_grad():
                add_gradients(parameters := list(self.parameters()), torch.autograd.grad(scale * own, parameters))

    def last_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The last weights of the shared gradients and of the heads'; ones before the first step."""
        weights = np.ones(self.num_tasks) if self._weights is None else self._weights
        return weights, weights

    def _jacobian(self, losses: Losses, shared: Shared | None, features: Features | None, **options: Any) -> Jacobian:
        ordered = self._ordered_together(losses, shared, options["reduce"])
        return build_jacobian(type(self).__name__, ordered, shared, features, **options)

    def _ordered_together(self, losses: Losses, shared: Shared | None, reduce: Reduce | str) -> Losses:
        """``_ordered``, where wrong names on one process are an error on all."""
        try:
            return self._ordered(losses)
        except ShapeError as error:
            report(error, type(self).__name__, shared, reduce)
            raise

    def _decide(self, jacobian: Jacobian) -> Decision:
        if not self.training:
            frozen = Decision(*self.last_weights(), outcome="frozen", cause="the balancer is in eval mode")
            frozen.max_norm = getattr(self, "max_norm", None)
            return frozen
        self._reduce, self._scaled = jacobian.reduce, jacobian.scaled
        if jacobian.scaled and not bool(torch.isfinite(jacobian.values).all()):
            finite = torch.isfinite(jacobian.values).tolist()
            names = ", ".join(name for name, fine in zip(self.tasks, finite, strict=True) if not fine)
            return Decision(*self.last_weights(), outcome="skipped", cause=f"the losses of {names} are not finite")
        decision = self.decide(jacobian)
        if decision.outcome == "skipped":
            return decision
        self.steps += 1
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
        scale = clip_factor(decision, lambda: jacobian.norm(shared))
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
        name, error, facts = type(self).__name__, None, {}
        if jacobian.num_tasks != self.num_tasks:
            error = ShapeError(
                f"{name}: {jacobian.num_tasks} losses were given, but the balancer was made for {self.num_tasks} tasks "
                f"({', '.join(self.tasks)})"
            )
        elif jacobian.names is not None:
            if not self.named:
                self.tasks, self.named = tuple(jacobian.names), True
            if tuple(jacobian.names) != self.tasks:
                error = ShapeError(
                    f"{name}: the Jacobian's tasks are {list(jacobian.names)}, but the balancer's are "
                    f"{list(self.tasks)}; make the Jacobian of the losses in this order"
                )
        if jacobian.reduce.size > 1:
            state = fingerprint({**self.get_extra_state(), "options": repr(self)})
            facts = {"steps": self.steps, "balancer_state": state, "training": int(self.training)}
        jacobian.reduce.agree(name, error, **facts)
        jacobian.check_reach()

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


__all__ = ["Balance", "Balancer", "Decision", "Engine", "Features", "Heads", "weighted_sum"]
