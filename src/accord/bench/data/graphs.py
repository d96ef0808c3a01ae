"""Molecules as batches of complete graphs, grouped by size so that dense products waste almost nothing.

A batch holds its molecules in order of size, cut into groups of (nearly) equal size; within a group each
molecule is padded to the largest. One flat tensor of rows holds the atoms of all groups, and every group has
a dense tensor of the edges between all pairs of its atoms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from accord.bench.data.molecules import Molecules

NODE_FEATURES = 11
EDGE_FEATURES = 5
ELEMENTS = (1, 6, 7, 8, 9)


@dataclass(frozen=True)
class GraphBatch:
    """B molecules in order of size; R rows, one per atom or padding.

    Attributes:
        chosen: (B,) which molecules these are.
        nodes: (R, 11) features of the atoms; zero for padding.
        edges: For every group of b molecules padded to n atoms, (b, n, n, 6): entry [m, i, j] holds the five
            edge features of the pair and a one, all divided by the number of neighbours of atom i, so that a
            sum over j is a mean. Zero where i = j and where there is no atom.
        rows: Rows of each group, b·n.
        atoms: (A,) the rows that hold an atom, molecule by molecule.
        owner: (A,) the molecule of each of them, ascending.
        targets: (B, K).
    """

    chosen: Tensor
    nodes: Tensor
    edges: tuple[Tensor, ...]
    rows: tuple[int, ...]
    atoms: Tensor
    owner: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.chosen)


class Graphs:
    """M molecules, kept compactly, from which batches of complete graphs are made.

    Node features, named as in PyTorch Geometric's QM9: one-hot H, C, N, O, F; atomic number; aromatic; sp,
    sp², sp³; number of bonded hydrogens. Edge features: one-hot bond type (single, double, triple, aromatic;
    none of them where the atoms are not bonded) and the distance in Ångström, not normalised.

    Args:
        molecules: The molecules.
        targets: (M, K) what is to be learnt of each; by default the molecules' own targets.
        dtype: Of features and targets.
        device: Where the batches live.
    """

    def __init__(
        self,
        molecules: Molecules,
        targets: np.ndarray | Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = molecules.sizes.astype(np.int64)
        count, widest = len(molecules), int(sizes.max(initial=1))
        owner = np.repeat(np.arange(count), sizes)  # (A,) the molecule of each atom
        place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # (A,) its place there
        features = np.zeros((count, widest, NODE_FEATURES), np.uint8)
        features[owner, place] = _node_features(molecules.atoms)
        positions = np.zeros((count, widest, 3), np.float32)
        positions[owner, place] = molecules.positions
        bonds = np.zeros((count, widest, widest), np.uint8)
        owner = np.repeat(np.arange(count), molecules.bond_counts.astype(np.int64))  # (B,) of each bond
        first, second, kind = molecules.bonds.T
        bonds[owner, first, second] = bonds[owner, second, first] = kind
        self.sizes = torch.from_numpy(sizes)
        self._features, self._positions, self._bonds = (
            torch.from_numpy(array).to(device) for array in (features, positions, bonds)
        )
        values = torch.as_tensor(molecules.targets if targets is None else targets)
        self._targets = values.to(device=device, dtype=dtype)

    def __len__(self) -> int:
        return len(self.sizes)

    def batch(self, chosen: Tensor, group: int = 4) -> GraphBatch:
        """The complete graphs of the chosen molecules.

        Args:
            chosen: (B,) int64, numbers of molecules.
            group: A group of one size with fewer molecules than this is joined with the next larger size;
                1 means that nothing is padded.
        """
        sizes, order = torch.sort(self.sizes[chosen], stable=True)
        chosen = chosen[order]
        nodes, edges, rows, firsts = [], [], [], []
        start = 0
        for end in _group_ends(sizes.tolist(), group):
            members = chosen[start:end]
            width = int(sizes[end - 1])
            nodes.append(self._features[members, :width].flatten(0, 1))
            edges.append(self._edges(members, sizes[start:end], width))
            firsts.append(sum(rows) + width * torch.arange(end - start))
            rows.append((end - start) * width)
            start = end
        owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # (A,)
        place = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner]  # (A,) of the atom in its molecule
        device, dtype = self._targets.device, self._targets.dtype
        return GraphBatch(
            chosen=chosen,
            nodes=torch.cat(nodes).to(dtype),
            edges=tuple(edges),
            rows=tuple(rows),
            atoms=(torch.cat(firsts)[owner] + place).to(device),
            owner=owner.to(device),
            targets=self._targets[chosen],
        )

    def batches(self, order: Tensor, size: int, group: int = 4) -> Iterator[GraphBatch]:
        """Batches of ``size`` molecules in the given order; the last may be smaller."""
        return (self.batch(chosen, group) for chosen in order.split(size))

    def _edges(self, members: Tensor, sizes: Tensor, width: int) -> Tensor:
        """(b, n, n, 6), see `GraphBatch`."""
        dtype, device = self._targets.dtype, self._targets.device
        place = self._positions[members, :width].to(dtype)  # (b, n, 3)
        kinds = self._bonds[members, :width, :width]  # (b, n, n)
        types = torch.arange(1, EDGE_FEATURES, device=device, dtype=kinds.dtype)
        distance = torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")  # (b, n, n)
        there = torch.arange(width) < sizes[:, None]  # (b, n)
        pair = there[:, :, None] & there[:, None, :] & ~torch.eye(width, dtype=torch.bool)
        share = pair.to(dtype) / (sizes - 1).clamp(min=1)[:, None, None]  # (b, n, n)
        edges = torch.cat(
            [
                (kinds[..., None] == types).to(dtype),
                distance[..., None],
                torch.ones_like(distance)[..., None],
            ],
            -1,
        )
        return edges * share[..., None].to(device)


def _node_features(atoms: np.ndarray) -> np.ndarray:
    """(A, 11) from the (A, 4) of `Molecules`."""
    number, aromatic, hybridisation, hydrogens = atoms.T
    return np.column_stack(
        [
            number[:, None] == np.array(ELEMENTS),
            number,
            aromatic,
            hybridisation[:, None] == np.array([1, 2, 3]),
            hydrogens,
        ]
    ).astype(np.uint8)


def _group_ends(sizes: list[int], smallest: int) -> list[int]:
    """Where groups of ascending sizes end: at a change of size once the group is large enough."""
    ends, start = [], 0
    for i in range(1, len(sizes)):
        if sizes[i] != sizes[i - 1] and i - start >= smallest:
            ends.append(i)
            start = i
    return [*ends, len(sizes)]
