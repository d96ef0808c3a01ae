"""One policy for four gridworlds, by policy gradient: each task brings its own episodes, and Nash-MTL balances them.

python examples/reinforcement.py                 # seconds on a CPU
python examples/reinforcement.py --method ls     # the plain sum

Each task has a goal of its own and pays another reward for reaching it. The rewards differ by a factor of 1,000, as
units do in practice: the plain sum trains for the dearest goal, a scale-free method for all four.
"""

import argparse

import torch
from torch import Tensor, nn

import accord

SIDE, HORIZON, EPISODES, DISCOUNT = 5, 10, 64, 0.9
GOALS = {"north": (0, 2), "east": (2, 4), "south": (4, 2), "west": (2, 0)}
REWARDS = {"north": 0.01, "east": 0.1, "south": 1.0, "west": 10.0}
MOVES = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]])
K = len(GOALS)


class Policy(nn.Module):
    """Where the agent is and which task it has, to the logits of four moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(SIDE * SIDE + K, 64), nn.Tanh(), nn.Linear(64, len(MOVES)))

    def forward(self, observation: Tensor) -> Tensor:
        """(..., SIDE² + K) to (..., 4)."""
        return self.layers(observation)


def observe(position: Tensor) -> Tensor:
    """Positions (K, EPISODES, 2) to observations (K, EPISODES, SIDE² + K): the cell and the task, one-hot."""
    cell = nn.functional.one_hot(position[..., 0] * SIDE + position[..., 1], SIDE * SIDE)
    task = torch.eye(K)[:, None].expand(-1, position.shape[1], -1)
    return torch.cat([cell.float(), task], -1)


@torch.no_grad()
def play(policy: Policy, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Episodes of all tasks side by side, from random cells, until the goal is reached or time is over.

    Returns:
        A batch whose tensors have a leading task axis, (K, HORIZON, EPISODES, ...), and the share of episodes that
        reached the goal, (K,).
    """
    goal = torch.tensor(list(GOALS.values()))[:, None]  # (K, 1, 2)
    reward = torch.tensor(list(REWARDS.values()))[:, None]  # (K, 1)
    position = torch.randint(SIDE, (K, EPISODES, 2), generator=generator)
    going = (position != goal).any(-1)
    seen, moves, alive, paid = [], [], [], []
    for _ in range(HORIZON):
        seen.append(observe(position))
        chances = policy(seen[-1]).softmax(-1)
        moves.append(torch.multinomial(chances.flatten(0, 1), 1, generator=generator).reshape(K, EPISODES))
        alive.append(going.float())
        position = torch.where(going[..., None], (position + MOVES[moves[-1]]).clamp(0, SIDE - 1), position)
        arrived = going & (position == goal).all(-1)
        paid.append(arrived * reward)
        going = going & ~arrived
    returns, after = [], torch.zeros(K, EPISODES)
    for payment in reversed(paid):
        after = payment + DISCOUNT * after
        returns.insert(0, after)
    alive, returns = torch.stack(alive, 1), torch.stack(returns, 1)  # (K, HORIZON, EPISODES)
    baseline = (alive * returns).sum(2, keepdim=True) / alive.sum(2, keepdim=True).clamp(min=1)
    batch = {"seen": torch.stack(seen, 1), "moves": torch.stack(moves, 1), "advantage": alive * (returns - baseline)}
    return batch, 1 - going.float().mean(1)


def loss(policy: Policy, batch: dict[str, Tensor]) -> Tensor:
    """The policy gradient's surrogate for one task: its own episodes, its own reward."""
    chosen = policy(batch["seen"]).log_softmax(-1).gather(-1, batch["moves"][..., None]).squeeze(-1)
    return -(chosen * batch["advantage"]).sum(0).mean()


def main(method: str, steps: int) -> None:
    """Train the policy, and show how often each goal is reached."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    policy = Policy()
    balancer = accord.make(method, tasks=list(GOALS))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(steps):
        batch, reached = play(policy, generator)
        optimizer.zero_grad()
        jacobian = accord.jacobian.disjoint(policy, loss, batch)  # (K, P) for the arithmetic of one backward
        balance = balancer.apply(jacobian)
        optimizer.step()
        if step % 25 == 0 or step == steps - 1:
            told = zip(GOALS, reached.tolist(), balance.weights.tolist(), strict=True)
            print(f"step {step:3d}  " + "  ".join(f"{t}: reached {share:.2f} weight {w:.3g}" for t, share, w in told))
    found = torch.stack([play(policy, generator)[1] for _ in range(10)]).mean(0)
    print(
        "reached at the end: " + ", ".join(f"{t} {share:.2f}" for t, share in zip(GOALS, found.tolist(), strict=True))
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="nash-mtl")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    main(given.method, given.steps)
