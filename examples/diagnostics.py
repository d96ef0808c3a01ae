"""Diagnose a multi-task model before and after training: two digits lie on top of each other; read both, and their sum.

    python examples/diagnostics.py [--steps 200] [--log run.jsonl] [--tensorboard FOLDER]

The digits are scikit-learn's: pip install 'accord[experiments]'. Prints what `accord.diagnose` says at the first step
and at the last, and how the cosines went in between, from the log.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss

import accord

TASKS = ["left", "right", "sum"]


def pairs(count):
    """Overlay two digits, one shifted to the left and one to the right: (N, 96), and the two labels (N, 2)."""
    data = load_digits()
    images, digits = torch.tensor(data.images / 16).float(), torch.tensor(data.target)
    draw = torch.randint(len(images), (count, 2), generator=torch.Generator().manual_seed(0))
    canvas = torch.zeros(2, count, 8, 12)
    canvas[0, :, :, :8], canvas[1, :, :, 4:] = images[draw[:, 0]], images[draw[:, 1]]
    return canvas.amax(0).flatten(1), digits[draw]


def losses_of(model, x, y):
    """One scalar a task."""
    z = model["trunk"](x)
    left, right, total = (model[task](z) for task in TASKS)
    error = l1_loss(total[:, 0], y.sum(1).float())
    return {"left": cross_entropy(left, y[:, 0]), "right": cross_entropy(right, y[:, 1]), "sum": error}


def main():
    """Train with Nash-MTL, log every step, and diagnose the first and the last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--log", default=f"{tempfile.mkdtemp()}/run.jsonl")
    parser.add_argument("--tensorboard")
    options = parser.parse_args()

    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(96, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    heads = {task: nn.Linear(128, 1 if task == "sum" else 10) for task in TASKS}
    model = nn.ModuleDict({"trunk": trunk, **heads})
    optimizer = torch.optim.Adam(model.parameters())
    balancer = accord.NashMTL(TASKS)
    x, y = pairs(2000)

    print(accord.diagnose(model, losses_of(model, x[:256], y[:256])))
    with accord.Log(options.log, tensorboard=options.tensorboard) as log:
        for step in range(options.steps):
            chosen = torch.randint(len(x), (256,))
            optimizer.zero_grad()
            balance = balancer.backward(losses_of(model, x[chosen], y[chosen]), trunk)
            optimizer.step()
            log(balance, step)
    found = accord.diagnose(model, losses_of(model, x[:256], y[:256]))
    print("\n\nAfter training\n")
    print(found)

    read = accord.read_log(options.log)
    share, cosine = read.series("conflict", "share")[1], read.series("cosines", "left", "right")[1]
    print(f"\n{len(read)} steps in {Path(options.log).name}: {share.mean():.0%} of the pairs conflict on average")
    print(
        f"Cosine of left and right: {cosine[:20].mean():.2f} in the first 20, {cosine[-20:].mean():.2f} in the last 20"
    )


if __name__ == "__main__":
    main()
