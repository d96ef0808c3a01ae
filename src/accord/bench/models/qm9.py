"""The message-passing network of the QM9 benchmark, with its convolution in factored form.

Gilmer, Schoenholz, Riley, Vinyals and Dahl, "Neural Message Passing for Quantum Chemistry" (ICML 2017), in
the size that the Nash-MTL paper trains: one edge-conditioned convolution and a gated recurrent unit applied
three times, set2set pooling, and one linear head per task.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from accord.bench.data.graphs import EDGE_FEATURES, NODE_FEATURES, GraphBatch
from accord.errors import DependencyError

try:
    from torch_geometric.nn import Set2Set
except ModuleNotFoundError as error:
    raise DependencyError(
        f"QM9's network needs the package {error.name!r}, which is not installed: pip install 'accord[qm9]'"
    ) from error


class EdgeConv(nn.Module):
    """Edge-conditioned convolution with mean aggregation, without a matrix per edge.

    The layer is ``x'_i = R x_i + b + mean_j W(e_ij)ᵀ x_j``, where a network with one hidden layer,
    ``h(e) = relu(A e + a)``, gives the matrix of an edge, ``W(e) = Σ_c h_c(e) W_c + W_0``. Computed as it
    stands, it makes a D×D matrix for every edge. W(e) is linear in h, so the sums can be taken in another
    order: ``mean_j Σ_c h_c(e_ij) (W_cᵀ x_j)``. Every *node* is multiplied once by all W_c, and one dense
    product per molecule does the two sums. Over n-atom molecules of H hidden units this takes D²H + nDH
    multiplications per node in place of nD²(H + 1), and never holds more than D·H numbers per node and n·H
    per edge row.

    ``h_0 = 1`` joins in as a hidden unit of its own, and the mean is taken by dividing the edges' inputs
    (relu(s·v) = s·relu(v) for s > 0), see `GraphBatch`.

    Args:
        width: D, features per node, in and out.
        hidden: H, hidden units of the edge network.
    """

    constant: Tensor

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        inputs = EDGE_FEATURES + 1
        self.edge = nn.Parameter(torch.empty(inputs, hidden))  # the last row is the bias a
        self.message = nn.Parameter(torch.empty(width, (hidden + 1) * width))  # W_1 … W_H, W_0 side by side
        self.root = nn.Linear(width, width)
        unit = torch.zeros(inputs, 1)
        unit[-1] = 1.0
        self.register_buffer("constant", unit, persistent=False)
        nn.init.uniform_(self.edge, -1 / math.sqrt(EDGE_FEATURES), 1 / math.sqrt(EDGE_FEATURES))
        nn.init.uniform_(self.message, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
        nn.init.zeros_(self.root.bias)

    def filters(self, batch: GraphBatch) -> list[Tensor]:
        """The edge network's hidden units for every group, (b, n, n·(H + 1)); the same in every step."""
        weight = torch.cat([self.edge, self.constant], 1)  # (6, H + 1)
        return [torch.relu(edges @ weight).flatten(2) for edges in batch.edges]

    def forward(self, x: Tensor, filters: list[Tensor], batch: GraphBatch) -> Tensor:
        """One convolution.

        Args:
            x: (R, D) node features.
            filters: From `filters`.
            batch: The batch they were made for.

        Returns:
            (R, D).
        """
        sums = []
        for part, group in zip(x.split(batch.rows), filters, strict=True):
            products = (part @ self.message).view(len(group), -1, self.width)  # (b, n·(H + 1), D)
            sums.append(torch.bmm(group, products).flatten(0, 1))
        return torch.cat(sums) + self.root(x)

    @torch.no_grad()
    def copy_from(self, conv: Any) -> None:
        """Take the weights of a ``torch_geometric.nn.NNConv`` whose edge network is Linear, ReLU, Linear."""
        first, last = conv.nn[0], conv.nn[2]
        self.edge.copy_(torch.cat([first.weight.t(), first.bias[None]]))
        message = self.message.view(self.width, self.hidden + 1, self.width)
        message[:, :-1] = last.weight.view(self.width, self.width, self.hidden).transpose(1, 2)
        message[:, -1] = last.bias.view(self.width, self.width)
        self.root.weight.copy_(conv.lin.weight)
        self.root.bias.copy_(conv.bias)


class Trunk(nn.Module):
    """All shared parameters: from a batch of molecules to one vector each.

    Args:
        width: D, the size of all representations.
        hidden: Hidden units of the edge network.
        steps: Rounds of message passing, and steps of set2set.
    """

    def __init__(self, width: int = 64, hidden: int = 128, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.embed = nn.Linear(NODE_FEATURES, width)
        self.conv = EdgeConv(width, hidden)
        self.gru = nn.GRUCell(width, width)
        self.pool = Set2Set(width, processing_steps=steps)
        self.out = nn.Linear(2 * width, width)

    def forward(self, batch: GraphBatch) -> Tensor:
        """(B, D)."""
        x = torch.relu(self.embed(batch.nodes))  # (R, D)
        filters = self.conv.filters(batch)
        for _ in range(self.steps):
            x = self.gru(torch.relu(self.conv(x, filters, batch)), x)
        # Padding takes part above, unseen by the atoms, and ends here.
        pooled = self.pool(x[batch.atoms], batch.owner, dim_size=len(batch))  # (B, 2D)
        return torch.relu(self.out(pooled))


class QM9Net(nn.Module):
    """Trunk and one linear head per task.

    Args:
        tasks: K.
        width: D.
        hidden: Hidden units of the edge network.
        steps: Rounds of message passing, and steps of set2set.
    """

    def __init__(self, tasks: int, width: int = 64, hidden: int = 128, steps: int = 3) -> None:
        super().__init__()
        self.trunk = Trunk(width, hidden, steps)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))

    def forward(self, batch: GraphBatch) -> tuple[Tensor, ...]:
        """K predictions of shape (B,), separate tensors so that no task's loss reaches another's head."""
        shared = self.trunk(batch)
        return tuple(head(shared).squeeze(1) for head in self.heads)
