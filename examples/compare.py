"""Your own model under several methods: two digits lie on top of each other; read both, and their sum.

    python examples/compare.py

The digits are scikit-learn's (8×8, 1,797 of them): pip install 'accord[experiments]'.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss
from torch.utils.data import DataLoader, TensorDataset

import accord

TASKS = {"left": {"accuracy": "max"}, "right": {"accuracy": "max"}, "sum": {"abs_err": "min"}}


def pairs(images, digits, count):
    """Overlay two digits, one shifted to the left and one to the right: (N, 96), and the two labels (N, 2)."""
    draw = torch.randint(len(images), (count, 2), generator=torch.Generator().manual_seed(0))
    canvas = torch.zeros(2, count, 8, 12)
    canvas[0, :, :, :8], canvas[1, :, :, 4:] = images[draw[:, 0]], images[draw[:, 1]]
    return TensorDataset(canvas.amax(0).flatten(1), digits[draw])


class Pairs(accord.Problem):
    """One trunk, three heads: the left digit, the right digit, and the sum of both."""

    tasks, epochs = TASKS, 5

    def __init__(self):
        data = load_digits()
        images, digits = torch.tensor(data.images / 16).float(), torch.tensor(data.target)
        self.train, self.test = pairs(images[:1200], digits[:1200], 2000), pairs(images[1200:], digits[1200:], 1000)

    def build(self):
        """The network and its batches; the global generators are seeded before."""
        trunk = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        heads = nn.ModuleDict({task: nn.Linear(64, 1 if task == "sum" else 10) for task in TASKS})
        self.net = nn.ModuleDict({"trunk": trunk, "heads": heads})
        return accord.Training(self.net, DataLoader(self.train, batch_size=50, shuffle=True), shared=trunk)

    def outputs(self, x):
        """One tensor a task, (N, 10) or (N, 1)."""
        features = self.net["trunk"](x)
        return (self.net["heads"][task](features) for task in TASKS)

    def losses(self, batch):
        """One scalar a task."""
        (left, right, total), digits = self.outputs(batch[0]), batch[1]
        error = l1_loss(total[:, 0], digits.sum(1).float())
        return {"left": cross_entropy(left, digits[:, 0]), "right": cross_entropy(right, digits[:, 1]), "sum": error}

    def evaluate(self):
        """The metrics on the test set."""
        (left, right, total), digits = self.outputs(self.test.tensors[0]), self.test.tensors[1]
        hits = (torch.stack([left, right], dim=1).argmax(2) == digits).float().mean(0)
        error = (total[:, 0] - digits.sum(1)).abs().mean()
        return {"left/accuracy": hits[0], "right/accuracy": hits[1], "sum/abs_err": error}


if __name__ == "__main__":
    print(accord.compare(Pairs(), methods=["stl", "ls", "nash-mtl"], seeds=[0, 1]))
