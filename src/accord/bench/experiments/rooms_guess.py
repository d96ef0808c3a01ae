"""``python -m accord.bench.experiments.rooms_guess [preset]``: the metrics of guessing without looking at the image.

At each pixel the guess is the training frames' most frequent class, median depth and mean normal. What a network is
worth begins here.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from accord.bench.data.rooms_frames import Frames
from accord.bench.data.rooms_scene import CLASSES
from accord.bench.experiments.rooms import PRESETS, RoomScenes, frames_of
from accord.bench.scenes.metrics import meter_of
from accord.bench.scenes.problem import MAPS


def guesses(train: Frames) -> dict[str, torch.Tensor]:
    """A prediction for each task, (1, channels, H, W), from training frames alone."""
    counts = np.stack([(train.label == label).sum(0) for label in range(len(CLASSES))])  # (C, H, W)
    normal = train.normal.astype(np.float64).mean(0)
    return {
        "seg": torch.from_numpy(counts)[None],
        "depth": torch.from_numpy(np.median(train.depth, axis=0))[None, None],
        "normal": torch.from_numpy(normal).permute(2, 0, 1)[None],
    }


def metrics_of_guesses(train: Frames, test: Frames) -> dict[str, float]:
    """``{"task/metric": value}`` of the guesses on test frames."""
    scenes, found = RoomScenes(test), {}
    for task, guess in guesses(train).items():
        meter = meter_of(task, len(CLASSES))
        for number in range(len(scenes)):
            meter.add(guess, scenes[number][MAPS[task]][None])
        found |= {f"{task}/{name}": value for name, value in meter.values().items()}
    return found


if __name__ == "__main__":
    chosen = PRESETS[sys.argv[1] if len(sys.argv) > 1 else "laptop"]
    for metric, score in metrics_of_guesses(
        *(frames_of(chosen, split, show=True) for split in ("train", "test"))
    ).items():
        print(f"{metric:14} {score:.4g}")
