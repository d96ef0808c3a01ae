"""A user's module: typical uses of accord with the types that a checker is to see, and that hold when it is run."""

from typing import assert_type

import numpy as np
import torch
from torch import Tensor, nn

import accord
from accord import solvers
from accord.balancers import LossBalancer

trunk = nn.Linear(4, 8)
heads = nn.ModuleDict({"size": nn.Linear(8, 1), "sign": nn.Linear(8, 1)})
optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()])

balancer = accord.NashMTL(tasks=["size", "sign"], update_every=5, max_norm=1.0)


def losses() -> tuple[Tensor, dict[str, Tensor]]:
    z = trunk(torch.randn(16, 4))
    return z, {name: head(z).square().mean() for name, head in heads.items()}


_, by_name = losses()
balance = balancer.backward(by_name, shared=trunk)
assert_type(balance, accord.Balance)
assert_type(balance.weights, Tensor)
assert_type(balance.solved, bool)
z, by_name = losses()
balancer.backward(by_name, features=z, engine="batched")
_, by_name = losses()
plain = accord.CAGrad(2, c=0.5, heads="plain")
plain.backward(torch.stack(list(by_name.values())), list(trunk.parameters()), heads=heads)
optimizer.step()
made = accord.make("cagrad:c=0.5", tasks=2, rescale=1)
assert_type(made, accord.Balancer)
wrapped = accord.AlphaFair(2, of="nash-mtl", alpha=0.5)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean()


jacobian = accord.jacobian.disjoint(trunk, loss, {"x": torch.randn(2, 16, 4)})
assert_type(made.apply(jacobian), accord.Balance)

solution = solvers.nash([[4.0, 1.0], [1.0, 9.0]])
assert_type(solution, solvers.Solution)
assert_type(solvers.nash(np.eye(2)).weights, np.ndarray)


@accord.register("inverse")
class Inverse(LossBalancer):
    power: float = 1.0

    def weigh(self, values: np.ndarray) -> np.ndarray:
        return values**-self.power


assert_type(Inverse(2).power, float)


class Waves(accord.Problem):
    tasks = {"size": {"error": "min"}}  # noqa: RUF012 - as the documentation has it
    epochs = 2

    def build(self) -> accord.Training:
        model = nn.Linear(1, 1)
        return accord.Training(model, [torch.ones(1, 1)], shared=model)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        return {"size": batch.sum()}

    def evaluate(self) -> dict[str, float]:
        return {"size/error": 1.0}


def trained() -> str:
    return str(accord.compare(Waves(), methods=["ls", "nash-mtl"], seeds=[0, 1]))


def gained(ours: dict[str, float], single: dict[str, float]) -> float:
    return accord.metrics.delta_m(ours, single, {"size": False})


assert isinstance(wrapped, accord.AlphaFair)
