"""Tasks that bring their own samples: the whole Jacobian for the arithmetic of one backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from accord.errors import AccordError, EngineError, OptionError
from accord.jacobian.base import Jacobian, Weights
from accord.jacobian.compiled import around
from accord.jacobian.losses import Shared, check_finite
from accord.jacobian.pertask import (
    Exchange,
    Named,
    cause_of,
    check_graph,
    losses_at_once,
    refuse_captured,
)
from accord.jacobian.reduce import Reduce, choose
from accord.jacobian.scaling import check_scale, loss_scale
from accord.jacobian.storage import Block, Held, Rows, combine, mixture
from accord.jacobian.taskbatches import gather_batches
from accord.jacobian.taskmodules import (
    Norms,
    check_loss,
    check_model,
    gather_heads,
    sort_parameters,
    unchanged_on_error,
)

Ran = tuple[Any, Tensor, Norms, Named]
"""What a computation found, its losses (K,), the norms, and what became of their statistics."""

Heads = nn.ModuleList | Sequence[nn.Module] | Mapping[str, nn.Module]


class DisjointJacobian(Jacobian):
    """J of K losses that are each computed from the task's own samples, as in multi-task reinforcement learning.

    Row k needs the samples of task k alone, so all rows together cost what one backward of the joint batch does: the
    gradient is mapped over the task axis (``torch.func.vmap``), with the shared parameters common to all tasks. Batches
    of different sizes run one task after the other, one graph alive at a time, for the same arithmetic.

    Nothing runs until it is asked for. Rows and losses then come from one forward; a step that needs no rows
    (``update_every``, methods of losses alone) is a forward and one weighted backward, that of the plain sum. Gradients
    are computed under ``torch.no_grad()`` too, and in the mixed precision that was on when this was made.

    * Norms that normalise by the batch, or whose running statistics would move, are refused, because a joint batch is
      one and a task's batch another; ``statistics="per-task"`` accepts that.
    * Dropout and other random numbers differ from task to task and repeat after ``torch.manual_seed``; they are other
      numbers than those of tasks that run one after the other.
    * Frozen parameters get nothing, and ``.grad`` of parameters that no loss reaches stays as it is.
    * A model in ``DistributedDataParallel`` is given as ``.module``; the processes' rows are then averaged as
      ``reduce`` says.

    Args:
        model: The network, called by ``loss_fn`` as often as that likes.
        loss_fn: ``loss_fn(model, batch)``, a scalar for one task's batch; ``loss_fn(model, batch, head)`` with heads.
            Wrapped in ``accord.jacobian.compiled``, once, ``torch.compile`` makes one program of forward and gradients.
        batches: A list of K batches; a mapping from task to batch; or one batch whose tensors have a leading task axis
            (K, …), as a tuple is. A batch is a tensor or any nesting of mappings (they arrive as dicts), sequences,
            named tuples and dataclasses. A mapping of tensors is one batch with a task axis, unless its keys are
            ``tasks``.
        shared: The shared parameters, of the model; by default all that are not in ``heads``. What is left of the
            model's trainable parameters is treated as a head: it gets Σ_k h_k ∇l_k.
        heads: K modules, one a task, inside the model or outside it; task k is computed with the k-th.
        tasks: The tasks' names, in order; with them a list is K batches, and a mapping is one a task if its keys are
            the names, and one batch with a task axis otherwise.
        statistics: ``"per-task"`` lets norms in train mode normalise each task by its own batch; the running statistics
            then move once, to the mean over tasks of what each task's batch makes of them.
        vectorize: True or False; by default where the batches can be stacked.
        scaler: The loop's ``torch.amp.GradScaler``; a disabled one counts as none.
        scale: Its factor as a number instead, as in ``Jacobian``.
        reduce: As in ``Jacobian``.

    Raises:
        ShapeError: Batches, tasks or heads do not fit together.
        EngineError: The model or its parameters cannot be used so; the message names the remedy.
        OptionError: ``statistics`` is not known, or the scale is not a positive number.

    Examples:
        >>> import accord, torch
        >>> model = torch.nn.Linear(3, 1)
        >>> x, y = torch.randn(4, 32, 3), torch.randn(4, 32, 1)  # 4 tasks, 32 samples each
        >>> def loss(model, batch):
        ...     return (model(batch["x"]) - batch["y"]).square().mean()
        >>> jacobian = accord.jacobian.disjoint(model, loss, {"x": x, "y": y})
        >>> accord.NashMTL(tasks=4).apply(jacobian).outcome
        'solved'
    """

    engine = "disjoint"

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Any],
        batches: Any,
        *,
        shared: Shared | None = None,
        heads: Heads | None = None,
        tasks: Sequence[str] | None = None,
        statistics: str | None = None,
        vectorize: bool | None = None,
        scaler: Any = None,
        scale: float | None = None,
        reduce: Reduce | str = "auto",
    ) -> None:
        if statistics not in (None, "per-task"):
            raise OptionError(f"{self._caller}: statistics = {statistics!r} is neither None nor 'per-task'")
        self.retain_graph, self._reached = False, False
        self._held: Held | None = None
        self._losses: tuple[Tensor, ...] | None = None
        self._values: Tensor | None = None
        self._head_rows: list[Rows] | None = None
        self._progress = {"moved": False}  # the running statistics; views made of this Jacobian have the same
        self.model, self.statistics = model, statistics
        self.reduce, error = choose(reduce, None, (), self._caller), None
        facts: dict[str, int] = {}
        try:
            if scaler is not None and scale is not None:
                raise OptionError(f"{self._caller}: give scaler= or scale=, not both")
            scale = check_scale(self._caller, scale) if scaler is None else loss_scale(self._caller, scaler)
            self.scaled, self.scale = scale is not None, scale or 1.0
            check_model(model, self._caller)
            self.batches = gather_batches(batches, tasks, vectorize, self._caller)
            self.vectorized = bool(self.batches.leaves)
            self.names, self._count = self.batches.names, self.batches.num_tasks
            self.modules = gather_heads(heads, self.names, self._count, self.vectorized, self._caller)
            self._sorted = sort_parameters(model, self.modules, shared, self._caller)
            self.parameters, self.parameter_names = tuple(self._sorted.shared.values()), self._sorted.names
            self._heads = (*self._sorted.others.values(), *self._sorted.own)
            check_loss(loss_fn, bool(self.modules), self._caller)
            head = self.modules[0] if self.modules else None
            self.task, self._at_once = around(model, loss_fn, head, self.vectorized, self._caller)
            self._known = (*self.parameters, *self._heads)  # of which views leave some out
            facts = self._facts()
        except AccordError as caught:
            error = caught
        self.reduce.agree(self._caller, error, **facts)

    @property
    def num_tasks(self) -> int:
        """K."""
        return self._count

    @property
    def extra_cost(self) -> float:
        """None: the rows cost what the plain step's backward does."""
        return 0.0

    @property
    def values(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """The losses, shape (K,), float64 on the CPU; computed with the rows where the method wants those."""
        if self._values is None:
            if self.wanted == "losses":
                self._forward()
            else:
                self.held()
        assert self._values is not None  # both set it
        return self._values

    @property
    def losses(self) -> tuple[Tensor, ...]:  # pyrefly: ignore[bad-override]
        """The losses with their graph; without one where the rows are there already."""
        if self._losses is None:
            if self._held is not None:
                return self.values.unbind()
            self._forward()
        assert self._losses is not None
        return self._losses

    def accumulate(self, weights: Weights, head_weights: Weights) -> None:
        """Add Jᵀw to the shared parameters' ``.grad`` and the heads' weighted gradients to theirs.

        Without rows this is one forward and one backward of the weighted sum.
        """
        w = self._weights(weights)
        h = self._weights(head_weights) if self.heads else w
        if self._held is None and self._losses is None:
            if not self.vectorized:
                self._stream(w, h)
                return
            self._forward()
        super().accumulate(w, h)

    def restricted(self, indices: Sequence[int]) -> Jacobian:
        """The Jacobian with respect to some of the shared parameters."""
        held = self.held()
        part = super().restricted(indices)
        if type(held) is Held:
            part._held = Held([held.pieces[i] for i in indices], self.num_tasks)
        return part

    def mixed(self, matrix: Tensor) -> Jacobian:
        """The Jacobian of combinations of the losses.

        Raises:
            EngineError: The rows are spread over processes.
        """
        held = self.held()
        if type(held) is not Held:
            raise EngineError(
                f"{self._caller}: combinations of tasks whose rows are spread over processes are not implemented, and "
                "save nothing, since all rows cost one backward; leave gramian_tasks away"
            )
        part = self._view()
        part._held = Held([None if b is None else mixture(matrix, b) for b in held.blocks()], len(matrix))
        part._count, part.names, part._values = len(matrix), None, matrix.double() @ self.values
        return part

    def check_reach(self) -> None:
        """Raise EngineError unless some loss depends on some shared parameter, as soon as that is known."""
        if self._losses is not None:
            super().check_reach()

    def head_rows(self) -> list[dict[int, Tensor]]:
        """For each head the gradients of the tasks that reach it, on this process's batch, times ``scale``."""
        if self._head_rows is None:
            self.local_rows()
        found = self._head_rows or []
        return [{k: row for k, row in enumerate(() if rows is None else rows) if row is not None} for rows in found]

    # ------------------------------------------------------------------ what an engine implements

    def _differentiate(self) -> list[Rows]:
        shared, own = self._together(self._rows_at_once if self.vectorized else self._rows_in_turn)
        self._head_rows = own
        return shared

    def _head_sum(self, weights: Tensor) -> list[Block]:
        if self._held is None:
            return super()._head_sum(weights)
        return [None if rows is None else combine(rows, weights) for rows in self._head_rows or []]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (AccordError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, NotImplementedError) as error:
            cause = cause_of(str(error)) or "the losses could not be computed or differentiated"
            raise EngineError(f"{self._caller}: {cause} [torch: {error}]") from error

    # ------------------------------------------------------------------ all tasks at once

    def _rows_at_once(self) -> Ran:
        norms = self._norms()
        exchange = self._exchange(norms, detached=True)
        found = self._at_once(self.task, exchange, self.batches, self.scale, self._caller)
        heads = [found.rows[name] for name in self._sorted.others]
        heads += [self._own_rows(leaf, found.rows) for leaf in self._sorted.own]
        names = {id(p): name for name, p in self._sorted.shared.items()}
        shared = [found.rows[names[id(p)]] for p in self.parameters]
        return (shared, heads), found.values, norms, found.each

    def _forward(self) -> None:
        """The losses with a graph."""
        self._losses = self._together(self._forward_at_once if self.vectorized else self._forward_in_turn)

    def _forward_at_once(self) -> Ran:
        norms = self._norms()
        with self._explained():
            losses, moved = losses_at_once(self.task, self._exchange(norms), self.batches, self._caller)
        refuse_captured(losses, self._known, self._caller)
        with torch.enable_grad():
            return losses.unbind(), losses, norms, moved

    def _exchange(self, norms: Norms, *, detached: bool = False) -> Exchange:
        own: dict[str, Tensor] = {}
        each, counters = norms.copies(self.num_tasks)
        heads = {id(buffer) for head in self.modules for buffer in head.buffers()}
        if self.modules:
            for name, _ in self.modules[0].named_parameters():
                stack = [head.get_parameter(name) for head in self.modules]
                some = any(tensor.requires_grad for tensor in stack)
                stacked = torch.stack([t.detach() if detached else t for t in stack])
                (own if some else each)[f"head.{name}"] = stacked
            for name, _ in self.modules[0].named_buffers():
                each[f"head.{name}"] = torch.stack([head.get_buffer(name) for head in self.modules])
        common = {  # copies, so that a forward that changes one is found before harm is done
            f"model.{name}": buffer.clone()
            for name, buffer in self.model.named_buffers()
            if id(buffer) not in heads and f"model.{name}" not in each and f"model.{name}" not in counters
        }
        return Exchange({**self._sorted.shared, **self._sorted.others}, own, each, counters, common)

    def _own_rows(self, leaf: Tensor, found: dict[str, Rows]) -> Rows:
        """K rows of a parameter of one head: those of its own task, None elsewhere."""
        rows: list[Any] = [None] * self.num_tasks
        for k, name in self._sorted.owners[id(leaf)]:
            block, before = found[f"head.{name}"], rows[k]
            if block is not None and block[k] is not None:
                rows[k] = block[k] if before is None else before + block[k]
        return rows if any(row is not None for row in rows) else None

    # ------------------------------------------------------------------ one task after the other

    def _rows_in_turn(self) -> Ran:
        leaves = (*self.parameters, *self.heads)
        rows: list[Any] = [None] * len(leaves)

        def store(k: int, loss: Tensor, gradients: Sequence[Block]) -> None:
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    rows[i] = rows[i] or [None] * self.num_tasks
                    rows[i][k] = gradient if gradient.layout is torch.strided else gradient.to_dense()

        ran = self._in_turn(store)
        return (rows[: len(self.parameters)], rows[len(self.parameters) :]), *ran

    def _stream(self, weights: Tensor, head_weights: Tensor) -> None:
        """The weighted gradients without rows: one task's graph and gradient at a time."""
        count = len(self.parameters)
        sums: list[Block] = [None] * (count + len(self.heads))

        def add(k: int, loss: Tensor, gradients: Sequence[Block]) -> None:
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    factor, total = float(weights[k] if i < count else head_weights[k]), sums[i]
                    sums[i] = gradient * factor if total is None else total.add_(gradient, alpha=factor)

        self._together(lambda: (None, *self._in_turn(add)))
        shared, heads = self._averaged(sums[:count], self.parameters), self._averaged(sums[count:], self.heads)
        if all(total is None for total in shared):
            raise self._unreached()
        self._write(shared, heads, owned=True)

    def _forward_in_turn(self) -> Ran:
        losses: list[Tensor] = []
        ran = self._in_turn(lambda k, loss, gradients: losses.append(loss), differentiate=False)
        return tuple(losses), *ran

    def _in_turn(
        self, use: Callable[[int, Tensor, Sequence[Block]], Any], *, differentiate: bool = True
    ) -> tuple[Tensor, Norms, Named]:
        """Call ``use`` with each task's loss and its gradients, times ``scale``, for parameters and heads."""
        leaves, norms = (*self.parameters, *self.heads), self._norms()
        values: list[Tensor] = []
        moved: list[Named] = []
        with torch.enable_grad(), self._explained():
            for k, batch in enumerate(self.batches.in_turn()):
                with norms.copied(moved):
                    loss = self.task(batch, self.modules[k] if self.modules else None)
                check_graph(loss)
                refuse_captured(loss, self._known, self._caller)
                gradients: Sequence[Block] = ()
                if differentiate:
                    scale = loss.new_full((), self.scale)
                    gradients = torch.autograd.grad(loss, leaves, scale, allow_unused=True)
                use(k, loss, gradients)
                values.append(loss.detach())
        return torch.stack(values), norms, {name: torch.stack([one[name] for one in moved]) for name in moved[0]}

    def _together(self, call: Callable[[], Ran]) -> Any:
        """What a computation found; its losses are kept, and statistics move, once.

        What fails on one process fails on all, and leaves buffers as they were.
        """
        ran, error = None, None
        with unchanged_on_error(() if self.vectorized else (self.model, *self.modules)):
            try:
                ran = call()
            except AccordError as caught:
                error = caught
            self.reduce.agree(self._caller, error)  # before anything else is exchanged
            assert ran is not None  # or there was an error
            found, losses, norms, moved = ran
            values = losses.detach()
            values = (values.float() if values.dtype.itemsize < 4 else values).cpu().double()
            values = self.reduce.mean(values)
            if not self.scaled:
                check_finite(values, self.names, self._caller)
        self._values = values
        if not self._progress["moved"]:
            norms.move(moved)
            self._progress["moved"] = True
        return found

    def _norms(self) -> Norms:
        return Norms(self.model, self.modules, self.statistics, self._caller)

    def _view(self) -> Any:
        view = super()._view()
        view._losses, view._head_rows = None, None
        return view


disjoint = DisjointJacobian
