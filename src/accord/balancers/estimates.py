"""Cheaper Gramians by name: from part of the batch, of the trunk or of the tasks, and averaged over the solves.

None of them is used unless it is asked for, and a step that used one says so: its outcome is ``"approximate"``.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from accord.balancers.grammar import suggest
from accord.balancers.options import check_positive, warn_option
from accord.balancers.randomness import PrivateGenerator
from accord.errors import OptionError, ShapeError
from accord.jacobian import Jacobian

FORWARD = 1 / 3
"""A forward pass in plain steps; a backward pass is the other two thirds."""


class Draw:
    """Takes the same random samples of everything it is given: what ``part=`` hands to the user's function.

    Tensors of one length lose the same samples, in one call or in several. Give it a tensor, or tensors in tuples,
    lists and dicts; what is no tensor (a list of graphs, say) can be indexed by ``draw(torch.arange(len(graphs)))``.

    Args:
        fraction: Share of the samples that is kept, at least one.
        seed: Which samples; the same for the same number of them.
        caller: The balancer's class, for errors.
    """

    def __init__(self, fraction: float, seed: int, caller: str) -> None:
        self.fraction = fraction
        self.seed = seed
        self.caller = caller

    def __call__(self, batch: Any) -> Any:
        """The batch with the drawn samples alone, along the first axis of each tensor; None stays None.

        Raises:
            ShapeError: A leaf is no tensor, has no first axis, or another length than the others.
        """
        leaves, spec = pytree.tree_flatten(batch)
        lengths = [self._length(leaf) for leaf in leaves if leaf is not None]
        if len(set(lengths)) != 1:
            raise ShapeError(
                f"{self.caller}: draw(batch) takes tensors of as many samples, got first axes of lengths {lengths}; "
                "call it once for each kind of batch"
            )
        order = torch.randperm(lengths[0], generator=torch.Generator().manual_seed(self.seed))
        chosen = order[: max(1, round(self.fraction * lengths[0]))].sort().values
        return pytree.tree_unflatten([None if leaf is None else leaf[chosen.to(leaf.device)] for leaf in leaves], spec)

    def _length(self, leaf: Any) -> int:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            found = f"a tensor of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ShapeError(
                f"{self.caller}: draw(batch) takes samples along the first axis of tensors, but the batch holds "
                f"{found}; give it the tensors alone, or index the batch with draw(torch.arange(number_of_samples))"
            )
        if not len(leaf):
            raise ShapeError(f"{self.caller}: draw(batch) got a tensor of shape {tuple(leaf.shape)}, without samples")
        return len(leaf)


class Estimate:
    """What a Gramian method's ``gramian_*`` options make of the Gramian; all can be combined.

    Args:
        caller: The balancer's class, for errors.
        num_tasks: K.
        batch: Share of the batch whose rows stand for all of it, above 0 and below 1.
        ema: Decay of the moving average over the solves, above 0 and below 1.
        part: Name of the part of the trunk whose rows stand for all of it.
        tasks: How many tasks, drawn at each solve, have rows of their own; the others share the row of their mean.
        seed: Of the draws.

    Raises:
        OptionError: An option is out of range.
    """

    def __init__(
        self,
        caller: str,
        num_tasks: int,
        *,
        batch: float | None = None,
        ema: float | None = None,
        part: str | int | None = None,
        tasks: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_share(batch, "gramian_batch", caller, "the share of the samples whose gradients are taken")
        _check_share(ema, "gramian_ema", caller, "the decay of the moving average")
        if isinstance(part, numbers.Integral) and not isinstance(part, bool):
            part = str(part)  # the name of a module in an nn.Sequential, as a spec string has it
        if part is not None and (not isinstance(part, str) or not part.strip(".")):
            raise OptionError(
                f"{caller}: gramian_part = {part!r} is not the name of a part of the trunk; a name such as '1.0' is "
                "written in quotes"
            )
        if tasks is not None:
            check_positive(tasks, "gramian_tasks", caller, integer=True)
            if tasks > num_tasks - 2:
                raise OptionError(
                    f"{caller}: gramian_tasks = {tasks} needs {tasks} + 1 rows, no fewer than the {num_tasks} of the "
                    "exact Gramian; "
                    + (f"give at most {num_tasks - 2}" if num_tasks > 2 else "leave it out with so few tasks")
                )
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**63:
            raise OptionError(f"{caller}: gramian_seed = {seed!r} is not an integer of at least 0")
        if seed and batch is None and tasks is None:
            warn_option(f"{caller}: gramian_seed has no effect without gramian_batch or gramian_tasks")
        self.caller, self.num_tasks = caller, num_tasks
        self.batch, self.ema, self.part, self.tasks = batch, ema, part, tasks
        self._generator = PrivateGenerator(int(seed))
        self._mean: Tensor | None = None
        self._count = 0

    @property
    def active(self) -> bool:
        """Whether the Gramian is anything but the exact one of this step."""
        return any(option is not None for option in (self.batch, self.ema, self.part, self.tasks))

    @property
    def sampled(self) -> bool:
        """Whether the rows are anything but those of this step's losses and all shared parameters."""
        return any(option is not None for option in (self.batch, self.part, self.tasks))

    @property
    def cause(self) -> str:
        """What was estimated, in words."""
        parts = []
        if self.batch is not None:
            parts.append(f"a random {self.batch:g} of the batch")
        if self.part is not None:
            parts.append(f"{self.part!r} alone")
        if self.tasks is not None:
            parts.append(f"{self.tasks} drawn tasks and the mean of the others")
        told = f"the Gramian is estimated from {', '.join(parts)}" if parts else "the Gramian is estimated"
        return told if self.ema is None else f"{told}{',' if parts else ''} as a moving average (decay {self.ema:g})"

    def cost(self, jacobian: Jacobian) -> float:
        """What a solve costs beyond a plain step, in plain steps.

        The exact rows' last product serves the step too; an estimate's serve it alone. Rows of part of the trunk are
        taken to cost as much as those of all of it, since the products go through whatever lies behind that part.
        """
        exact = float(jacobian.extra_cost)
        if not self.sampled or exact == 0.0:  # rows that cost nothing (tasks with samples of their own) have all parts
            return exact
        rows = self.num_tasks if self.tasks is None else self.tasks + 1
        products = rows * (exact + 1.0 - FORWARD) / self.num_tasks
        return products if self.batch is None else self.batch * (FORWARD + products)

    def gramian(self, jacobian: Jacobian) -> Tensor:
        """This step's Gramian, or what stands for it, shape (K, K), float64 on the CPU.

        Raises:
            OptionError: ``part=`` or the parameters' names are missing, or no parameter has such a name.
            ShapeError: ``draw`` was given what it cannot take samples of.
        """
        seen = jacobian
        if self.batch is not None:
            if jacobian.part is None:
                raise OptionError(
                    f"{self.caller}: gramian_batch = {self.batch:g} takes gradients of part of the batch, which is to "
                    "be given as a function: backward(losses, shared, part=lambda draw: losses_of(model, draw(batch)))"
                )
            with self._generator.draw() as generator:
                # one number a solve, so that processes whose batches differ in size keep equal generators
                seed = int(torch.randint(2**62, (), generator=generator))
            seen = jacobian.part(Draw(self.batch, seed, self.caller))
            if seen.num_tasks != self.num_tasks:
                raise ShapeError(
                    f"{self.caller}: part= returned {seen.num_tasks} losses for {self.num_tasks} tasks; it must "
                    "compute the same losses as the step, on the samples that draw gives"
                )
        if self.part is not None:
            seen = seen.restricted(self._matches(seen.parameter_names))
        if self.tasks is None:
            return seen.gramian()
        with self._generator.draw() as generator:
            chosen = torch.randperm(self.num_tasks, generator=generator)[: self.tasks].sort().values
        mixing, spread = mean_of_rest(chosen, self.num_tasks)
        return spread @ seen.mixed(mixing).gramian() @ spread.T

    def averaged(self, gramian: Tensor) -> Tensor:
        """The moving average with this Gramian taken in, bias-corrected; the Gramian itself without ``ema``."""
        if self.ema is None:
            return gramian
        self._count += 1
        # the bias-corrected average in its recursive form, which starts at the first Gramian and keeps its scale
        share = (1.0 - self.ema) / (1.0 - self.ema**self._count)
        self._mean = gramian if self._mean is None else self._mean + share * (gramian - self._mean)
        return self._mean.clone()

    def state(self) -> dict[str, Any]:
        """The generator, the average and how many Gramians are in it."""
        return {"generator": self._generator.state, "mean": self._mean, "count": self._count}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a ``state``."""
        self._generator.state = state["generator"]
        self._mean, self._count = state["mean"], int(state["count"])

    def reset(self) -> None:
        """Start anew."""
        self._generator.reset()
        self._mean, self._count = None, 0

    def _matches(self, names: Sequence[str] | None) -> list[int]:
        """The places of the parameters of ``part``: that of its name, and those whose name goes on after a dot."""
        wanted = str(self.part).rstrip(".")
        if names is None:
            raise OptionError(
                f"{self.caller}: gramian_part = {self.part!r} needs the parameters' names; give shared= as a module or "
                "as named parameters"
            )
        found = [i for i, name in enumerate(names) if name == wanted or name.startswith(wanted + ".")]
        if not found:
            parts = {".".join(name.split(".")[: n + 1]): None for name in names for n in range(name.count(".") + 1)}
            near = suggest(wanted, parts, listing=False)
            listed = suggest(wanted, {name.split(".")[0]: None for name in names})
            raise OptionError(
                f"{self.caller}: gramian_part = {self.part!r} is the name of none of the {len(names)} shared "
                f"parameters nor of a module around one{near or listed}"
            )
        return found


def mean_of_rest(chosen: Tensor, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Mixing matrix (m + 1, K) of the chosen tasks and the mean of the rest; the matrix (K, m + 1) that spreads them.

    With G' the Gramian of the mixed losses, spread · G' · spreadᵀ gives each of the rest the row of their mean.

    Args:
        chosen: m < K task numbers, shape (m,).
        num_tasks: K.
    """
    m = len(chosen)
    spread = torch.zeros(num_tasks, m + 1, dtype=torch.float64)
    spread[:, m] = 1.0
    spread[chosen, m] = 0.0
    spread[chosen, torch.arange(m)] = 1.0
    return spread.T / spread.sum(0)[:, None], spread


def _check_share(value: object, option: str, caller: str, what: str) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is not None and not (number and 0.0 < float(value) < 1.0):  # type: ignore[arg-type]
        raise OptionError(f"{caller}: {option} = {value!r}: {what} is a number above 0 and below 1")
