"""Losses whose gradients, over all tasks at once, ``torch.compile`` makes one program of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from accord.errors import EngineError
from accord.jacobian.pertask import Exchange, Found, TaskLoss, mapped, rows_at_once
from accord.jacobian.taskbatches import Batches


class CompiledLoss:
    """A task's loss for ``accord.jacobian.disjoint`` whose forward and gradients are compiled, for all tasks at once.

    Make it once, outside the loop: it keeps the compiled programs, and their models, as long as it lives. For each
    model, and each structure of its batches, the first step runs as without it, which checks all that ``disjoint``
    checks; the second compiles, which takes from seconds to a minute. From then on a step has the compiled program's
    speed: most is gained where layers are small, and Python costs more than arithmetic. Rows differ from those of the
    function itself by rounding; random numbers are others. What needs no rows (``update_every`` between two solves,
    methods of losses alone) runs as without it.

    Args:
        loss_fn: As for ``disjoint``: ``loss_fn(model, batch)``, or ``loss_fn(model, batch, head)``.
        options: Of ``torch.compile``: ``backend``, ``mode``, ``dynamic``.

    Raises:
        EngineError: In ``disjoint``: the loss cannot be compiled, there is no C++ compiler, batches do not run at once,
            or norms keep statistics by task; the message names the remedy.

    Examples:
        >>> import accord, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> @accord.jacobian.compiled
        ... def loss(model, batch):
        ...     return (model(batch["x"]) - batch["y"]).square().mean()
        >>> batches = {"x": torch.randn(4, 32, 3), "y": torch.randn(4, 32, 1)}
        >>> accord.NashMTL(tasks=4).apply(accord.jacobian.disjoint(model, loss, batches)).outcome
        'solved'
    """

    def __init__(self, loss_fn: Callable[..., Any], **options: Any) -> None:
        if isinstance(loss_fn, CompiledLoss):
            raise EngineError("jacobian.compiled: this loss is compiled already")
        if not callable(loss_fn):
            raise EngineError(f"jacobian.compiled: loss_fn is a {type(loss_fn).__name__}; give a function")
        self.loss_fn, self.__wrapped__, self.options = loss_fn, loss_fn, options
        self._tasks: dict[Any, TaskLoss] = {}
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *args: Any) -> Any:
        """The function itself."""
        return self.loss_fn(*args)

    def task(self, model: nn.Module, head: nn.Module | None) -> TaskLoss:
        """The loss around a model: the same object for the same model, head and mixed precision."""
        made = TaskLoss(model, self.loss_fn, head)
        return self._tasks.setdefault((id(model), id(head), made.mixed, made.precision["dtype"]), made)

    def rows(self, task: TaskLoss, give: Exchange, batches: Batches, scale: float, caller: str) -> Found:
        """``rows_at_once``, compiled from the second call on."""
        _check(task, give, caller)
        key = id(task), batches.structure, tuple(give.shared), tuple(give.own), tuple(give.common)
        program = self._programs.get(key)
        if program is None:
            found = rows_at_once(task, give, batches, scale, caller)
            run = torch.compile(_rows(task, give, batches.build), fullgraph=True, **self.options)
            reached = {name for name, rows in found.rows.items() if rows is not None}
            self._programs[key] = _Program(run, reached)
            return found
        parameters = [parameter.detach() for parameter in give.shared.values()]
        own = [parameter.detach() for parameter in give.own.values()]
        factor = None if scale == 1.0 else torch.full((), scale, device=parameters[0].device)  # no constant of it
        with mapped(task, give, caller), _compiling(caller), torch.enable_grad():
            blocks, values = program.run(parameters, own, list(give.common.values()), batches.leaves, factor)
        rows: dict[str, Any] = {}
        for name, block in zip((*give.shared, *give.own), blocks, strict=True):
            if name not in program.reached and block.any():  # a branch that was not taken at first
                program.reached.add(name)
            rows[name] = block if name in program.reached else None
        return Found(values, rows, {})


compiled = CompiledLoss


def around(
    model: nn.Module, loss_fn: Callable[..., Any], head: nn.Module | None, at_once: bool, caller: str
) -> tuple[TaskLoss, Callable[..., Found]]:
    """A loss around a model, and what computes its rows for all tasks at once.

    Raises:
        EngineError: It is compiled, and the tasks run one after the other.
    """
    if not isinstance(loss_fn, CompiledLoss):
        return TaskLoss(model, loss_fn, head), rows_at_once
    if not at_once:
        raise EngineError(
            f"{caller}: a compiled loss runs over all tasks at once, but these batches run one task after the other, "
            "because their shapes differ or vectorize=False asks for it; pad them to one shape and weight the padding "
            "with 0, or give the function itself, without accord.jacobian.compiled"
        )
    return loss_fn.task(model, head), loss_fn.rows


@dataclass
class _Program:
    """A compiled function, and the parameters that losses were seen to reach."""

    run: Callable[..., Any]
    reached: set[str] = field(default_factory=set)


def _check(task: TaskLoss, give: Exchange, caller: str) -> None:
    """Refuse norms that cannot be compiled over all tasks at once."""
    moved = [*give.each, *give.counters]
    mixed = [name for name in give.common if task.mixed and name.endswith("running_mean")]
    if moved or mixed:
        cause = (
            f"a compiled loss cannot move what norms and heads keep of each task ({', '.join(moved[:3])}); put the "
            "norms in eval mode"
            if moved
            else "torch does not compile batch norm in mixed precision over all tasks at once "
            f"({', '.join(mixed[:3])}); leave autocast away"
        )
        raise EngineError(
            f"{caller}: {cause}, use GroupNorm or LayerNorm, or give the function itself, without "
            "accord.jacobian.compiled"
        )


def _rows(task: TaskLoss, give: Exchange, build: Callable[[Sequence[Tensor]], Any]) -> Callable[..., Any]:
    """What is compiled: blocks (K, *shape) and losses (K,) from parameters, buffers, batches and loss scale."""
    names = (*give.common, *give.shared, *give.own)

    def rows(
        shared: list[Tensor], own: list[Tensor], common: list[Tensor], leaves: list[Tensor], factor: Tensor | None
    ) -> Any:
        def one(leaves: list[Tensor], own: list[Tensor]) -> Any:
            def loss_of(parameters: list[Tensor]) -> Any:
                given = dict(zip(names, [*common, *parameters], strict=True))
                loss = functional_call(task, task.exchanged(given), (build(leaves),), tie_weights=False)
                return loss if factor is None else loss * factor, loss

            return grad(loss_of, has_aux=True)([*shared, *own])

        return vmap(one, randomness="different")(leaves, own)

    return rows


@contextmanager
def _compiling(caller: str) -> Iterator[None]:
    """Explain what the compiler says."""
    from torch._dynamo import exc as dynamo
    from torch._inductor import exc as inductor

    try:
        yield
    except (dynamo.TorchDynamoException, inductor.InvalidCxxCompiler, inductor.CppCompileError) as error:
        causes = (error, error.__cause__, getattr(error, "inner_exception", None))
        missing = any(isinstance(cause, inductor.InvalidCxxCompiler) for cause in causes)
        cause = (
            "torch.compile needs a C++ compiler and found none; install g++ or clang++"
            if missing
            else "torch.compile makes no single program of this loss; take out of it what is not tensor arithmetic "
            "(printing, .item(), calls into NumPy), or, where it was compiled for too many shapes, give batches of one"
        )
        raise EngineError(
            f"{caller}: {cause}, or give the function itself, without accord.jacobian.compiled "
            f"[torch: {_first_line(error)}]"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
