"""The Gramian of a graph without its rows: walked segment by segment, each segment's rows dropped once multiplied.

A segment lies between two cuts. A cut is a node of the graph through which every path from the losses to what lies
beyond it passes, so that K cotangents there stand for all that came before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from accord.errors import EngineError
from accord.jacobian.collectives import checksum
from accord.jacobian.losses import leaf_of
from accord.jacobian.reduce import Reduce
from accord.jacobian.storage import Held, Rows, nbytes

MODULE_HOOK = "BackwardHookFunctionBackward"

Cotangents = list[list[Tensor | None]]
"""For each of a segment's outputs K cotangents, None where a task does not come there."""

Vjp = Callable[[Sequence[Any], Cotangents, Sequence[Any], range], list[list[Tensor | None]]]
"""(outputs, cotangents, inputs, tasks) to one list over the tasks for each of the inputs."""


@dataclass(frozen=True)
class Segment:
    """A part of the graph.

    Attributes:
        outputs: Where it is entered: the losses, or the edges into a cut.
        leaves: Indices of the shared parameters that it reaches.
        cut: The edges into the next cut.
    """

    outputs: tuple[Any, ...]
    leaves: tuple[int, ...]
    cut: tuple[GradientEdge, ...]


class Graph:
    """The nodes on the way from the losses to the shared parameters, in topological order.

    Args:
        losses: K scalars.
        parameters: The shared parameters.
    """

    def __init__(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        self.losses = tuple(losses)
        self.index = {id(parameter): i for i, parameter in enumerate(parameters)}
        self.direct = sorted({self.index[id(loss)] for loss in losses if id(loss) in self.index})  # also losses
        self.order = self._sort([loss.grad_fn for loss in losses if loss.grad_fn is not None])
        self.position = {node: i for i, node in enumerate(self.order)}
        self.sizes = [nbytes([parameter]) for parameter in parameters]
        self.first: dict[int, int] = {}  # of each parameter, where it is first and last used
        self.last: dict[int, int] = {}
        self.edges: dict[int, set[int]] = {}  # into each position, the outputs of the node that are used
        self.cuts = self._find_cuts()

    def _sort(self, roots: list[Any]) -> list[Any]:
        """Nodes that lead to a shared parameter, each before what it leads to, a short side branch at its stem."""
        height: dict[Any, int] = {}  # longest way to a shared parameter; -1 where there is none
        for node in _postorder(roots, lambda node: [n for n, _ in node.next_functions if n is not None]):
            if id(leaf_of(node)) in self.index:
                height[node] = 0
            else:
                height[node] = max(
                    (height[n] + 1 for n, _ in node.next_functions if height.get(n, -1) >= 0), default=-1
                )

        def tallest_first(node: Any) -> list[Any]:
            below = {n for n, _ in node.next_functions if height.get(n, -1) > 0}
            return sorted(below, key=lambda n: -height[n])

        wanted = sorted({node for node in roots if height[node] > 0}, key=lambda n: -height[n])
        return list(_postorder(wanted, tallest_first))[::-1]

    def _find_cuts(self) -> list[int]:
        """Positions where nothing leads from before to after but through the node itself."""
        reach = [0] * (len(self.order) + 1)  # how far the edges from a position go
        roots = [self.position[loss.grad_fn] for loss in self.losses if loss.grad_fn in self.position]
        before = 1 + max(roots, default=0)  # a root is entered from outside, so it cannot be a cut
        for i, node in enumerate(self.order):
            for below, output in node.next_functions:
                leaf = self.index.get(id(leaf_of(below)))
                if leaf is not None:
                    self.first.setdefault(leaf, i)
                    self.last[leaf] = i
                elif below in self.position:
                    reach[i] = max(reach[i], self.position[below])
                    self.edges.setdefault(self.position[below], set()).add(output)
        for leaf in self.direct:
            if leaf in self.first:
                self.first[leaf] = 0
        calls = [i for i, node in enumerate(self.order) if node.name() == MODULE_HOOK]
        if calls:  # hooks of a module see both of its ends in one backward
            reach[calls[0]] = max(reach[calls[0]], calls[-1] + 1)
        for leaf, i in self.first.items():  # a parameter used twice keeps both uses in one segment
            reach[i] = max(reach[i], self.last[leaf] + (self.last[leaf] > i))
        cuts = []
        for i in range(1, len(self.order)):
            before = max(before, reach[i - 1])
            if before <= i:
                cuts.append(i)
        return cuts

    def cut(self, position: int) -> tuple[GradientEdge, ...]:
        """The edges into a node."""
        return tuple(GradientEdge(self.order[position], n) for n in sorted(self.edges[position]))

    def segments(self, target: int | None) -> list[Segment]:
        """The graph in segments of about ``target`` bytes of parameters, or what cannot be divided; None cuts nothing.

        The first lies before all shared parameters, where it can: the heads, whose rows nobody wants.
        """
        used = {i: [leaf for leaf, at in self.first.items() if at == i] for i in set(self.first.values())}
        starts, leaves, total, beyond = [0], [[]], 0, sum(self.sizes[leaf] for leaf in self.first)
        bounds = [0, *self.cuts, len(self.order)]
        for low, high in itertools.pairwise(bounds):
            here = [leaf for i in range(low, high) for leaf in used.get(i, ())]
            size = sum(self.sizes[leaf] for leaf in here)
            full = target is not None and (total + size > target if total else len(starts) == 1)
            if low and full and bytes_at(self.cut(low)) < beyond and not hooked(self.cut(low)):
                starts.append(low)
                leaves.append([])
                total = 0
            leaves[-1] += here
            total += size
            beyond -= size
        leaves[0] += [leaf for leaf in self.direct if leaf not in self.first]
        cuts = [self.cut(start) for start in starts[1:]]
        return [
            Segment(outputs, tuple(found), cut)
            for outputs, found, cut in zip([self.losses, *cuts], leaves, [*cuts, ()], strict=True)
        ]


def streamed_gramian(
    losses: Sequence[Tensor],
    parameters: Sequence[Tensor],
    vjp: Vjp,
    reduce: Reduce,
    *,
    scale: float,
    memory: float | None,
    caller: str,
) -> Tensor:
    """JJᵀ, shape (K, K), float64, with the rows of one segment at a time; the processes' parts are not yet summed.

    Args:
        losses: K scalars.
        parameters: The shared parameters.
        vjp: The engine's vector-Jacobian products.
        reduce: What the rows go through.
        scale: The cotangent of each loss.
        memory: Bytes that rows and cotangents may take; rows of a segment that do not fit are made several times.
        caller: For errors.

    Raises:
        EngineError: The memory does not hold even two rows.
    """
    k = len(losses)
    segments = plan(losses, parameters, memory, caller)
    layout = checksum(repr([segment.leaves for segment in segments]))
    reduce.agree(caller, None, segments=len(segments), parameters_by_segment=layout)
    gramian = torch.zeros(k, k, dtype=torch.float64)
    given: Cotangents = [
        [loss.new_full((), scale) if i == j else None for j in range(k)] for i, loss in enumerate(losses)
    ]
    for segment in segments:
        shared = [parameters[i] for i in segment.leaves]
        block = k if memory is None else _rows_at_once(segment, shared, k, memory)
        passed: Cotangents = []
        for first in range(0, k, block):
            tasks = range(first, min(k, first + block))
            passing = segment.cut if first == 0 else ()
            found = vjp(segment.outputs, given, [*shared, *passing], tasks)
            held = reduce.hold([_present(rows) for rows in found[: len(shared)]], len(tasks), shared)
            passed = [list(rows) for rows in found[len(shared) :]] if first == 0 else passed
            del found
            _add(gramian, held, held, tasks, tasks)
            group = max(1, block // 7)
            for later in range(tasks.stop, k, group):  # only where memory is short
                others = range(later, min(k, later + group))
                found = vjp(segment.outputs, given, [*shared, *passing], others)
                other = reduce.hold([_present(rows) for rows in found[: len(shared)]], len(others), shared)
                for rows, new in zip(passed, found[len(shared) :], strict=False) if first == 0 else ():
                    rows += new
                _add(gramian, held, other, tasks, others)
                del found, other
            del held  # before the next rows are made
        given = passed
    return gramian


def plan(losses: Sequence[Tensor], parameters: Sequence[Tensor], memory: float | None, caller: str) -> list[Segment]:
    """The segments in which to walk, as few as keep the rows small."""
    graph, k = Graph(losses, parameters), len(losses)
    total = sum(graph.sizes)
    if memory is None:
        return graph.segments(max(2**18, total // 16))
    least = []
    for segments in (graph.segments(int(memory / k)), graph.segments(0), graph.segments(None)):
        least.append(max(_least(s, [parameters[i] for i in s.leaves], k) for s in segments))
        if least[-1] <= memory:
            return segments
    raise EngineError(
        f"{caller}: memory = {memory:.0f} bytes do not hold two rows of one segment of this graph beside {k} "
        f"cotangents; {min(least)} bytes would"
    )


def hooked(edges: Sequence[GradientEdge]) -> bool:
    """Whether hooks of a tensor change the gradient at an edge: cut there, it would be changed twice."""
    for edge in edges:
        meta = edge.node._input_metadata[edge.output_nr]  # what torch.autograd.grad itself reads
        ramp = torch.linspace(0.5, 2.0, math.prod(meta.shape), device=meta.device).reshape(meta.shape).to(meta.dtype)
        for probe in (ramp, -ramp):  # both signs: they cancel where a gradient is kept, and hooks may tell them apart
            seen = torch.autograd.grad([edge], [edge], [probe], retain_graph=True)[0]
            if seen is not probe and not torch.equal(seen, probe):
                return True
    return False


def _rows_at_once(segment: Segment, shared: Sequence[Tensor], k: int, memory: float) -> int:
    row = max(1, nbytes(shared))
    free = memory - k * _passing(segment)
    return k if k * row <= free else max(1, int(free // row) * 7 // 8)  # the rest for those they are multiplied with


def _least(segment: Segment, shared: Sequence[Tensor], k: int) -> int:
    return min(k, 2) * nbytes(shared) + k * _passing(segment)


def _passing(segment: Segment) -> int:
    """Bytes of one task's cotangents at both ends."""
    return bytes_at([edge for edge in (*segment.outputs, *segment.cut) if isinstance(edge, GradientEdge)])


def bytes_at(edges: Sequence[GradientEdge]) -> int:
    """Bytes of one cotangent at each of the edges."""
    metas = [edge.node._input_metadata[edge.output_nr] for edge in edges]
    return sum(math.prod(meta.shape) * meta.dtype.itemsize for meta in metas)


def _add(gramian: Tensor, left: Held, right: Held, rows: range, columns: range) -> None:
    part = left.products(right)
    gramian[rows.start : rows.stop, columns.start : columns.stop] += part
    if columns != rows:
        gramian[columns.start : columns.stop, rows.start : rows.stop] += part.T


def _present(rows: list[Tensor | None]) -> Rows:
    return None if all(row is None for row in rows) else rows


def _postorder(roots: Sequence[Any], children: Callable[[Any], list[Any]]) -> Iterator[Any]:
    """Every node after its children, each once."""
    seen: set[Any] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(children(root)))]
        while stack:
            node, rest = stack[-1]
            child = next((c for c in rest if c not in seen), None)
            if child is None:
                stack.pop()
                yield node
            else:
                seen.add(child)
                stack.append((child, iter(children(child))))
