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


def pairs(images, digits, count):
    """Overlay two digits, one shifted to the left and one to the right: (N, 96), and the two labels (N, 2)."""
    draw = torch.randint(len(images), (count, 2), generator=torch.Generator().manual_seed(0))
    canvas = torch.zeros(2, count, 8, 12)
    canvas[0, :, :, :8], canvas[1, :, :, 4:] = images[draw[:, 0]], images[draw[:, 1]]
    return TensorDataset(canvas.amax(0).flatten(1), digits[draw])


class Pairs(accord.Problem):
    """Three tasks of one network; the first two are judged by accuracy, the third by its absolute error."""

    tasks = {"left": {"accuracy": "max"}, "right": {"accuracy": "max"}, "sum": {"abs_err": "min"}}
    epochs = 8

    def __init__(self):
        data = load_digits()
        images, digits = torch.tensor(data.images / 16).float(), torch.tensor(data.target)
        self.train, self.test = pairs(images[:1200], digits[:1200], 4000), pairs(images[1200:], digits[1200:], 1000)

    def build(self):
        trunk = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        heads = nn.ModuleDict({"left": nn.Linear(64, 10), "right": nn.Linear(64, 10), "sum": nn.Linear(64, 1)})
        self.net = nn.ModuleDict({"trunk": trunk, "heads": heads})
        batches = DataLoader(self.train, batch_size=100, shuffle=True)
        return accord.Training(self.net, batches, shared=trunk, features=trunk)

    def outputs(self, x):
        features = self.net["trunk"](x)
        return {task: self.net["heads"][task](features) for task in self.active}

    def losses(self, batch):
        y, targets = self.outputs(batch[0]), {"left": batch[1][:, 0], "right": batch[1][:, 1]}
        sums = {"sum": l1_loss(y["sum"][:, 0], batch[1].sum(1).float())} if "sum" in y else {}
        return {task: cross_entropy(y[task], targets[task]) for task in y if task != "sum"} | sums

    def evaluate(self):
        x, digits = self.test.tensors
        y, sums, found = self.outputs(x), digits.sum(1), {}
        for side, task in enumerate(("left", "right")):
            if task in y:
                found[f"{task}/accuracy"] = (y[task].argmax(1) == digits[:, side]).float().mean()
        return found | ({"sum/abs_err": (y["sum"][:, 0] - sums).abs().mean()} if "sum" in y else {})


if __name__ == "__main__":
    print(accord.compare(Pairs(), methods=["stl", "ls", "uw", "nash-mtl"], seeds=[0, 1]))
