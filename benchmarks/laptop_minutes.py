"""How long does an experiment take at laptop size: all methods of its list with single-task learning, one seed?

    python -m benchmarks.laptop_minutes [EXPERIMENT ...] [--jobs N] [--most MINUTES]

Runs ``accord run EXPERIMENT --preset laptop`` into a store of its own, by default for the three whose data the user
brings: NYUv2, Cityscapes and CelebA. Where their environment variable names no folder, as many synthetic images as the
preset takes are made first, in the official layout and size; they say nothing about the methods, but cost the same
time. Making them, and what an experiment renders or converts once, is timed by itself where it is made here.

What it must reach: 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from accord.bench.data import celeba, celeba_made, mtan_layout, mtan_made
from accord.bench.experiments import load
from benchmarks.timing import heading

LIMIT = 25.0
"""Minutes."""


def mtan_scenes(name: str, root: Path) -> None:
    """Synthetic scenes in MTAN's layout, as many as the laptop preset takes."""
    preset = load(name).presets["laptop"]
    counts = dict(zip(mtan_layout.SPLITS, (preset.train, preset.test), strict=True))
    mtan_made.write(root, replace(mtan_layout.LAYOUTS[name], counts=counts))


def celeba_images(name: str, root: Path) -> None:
    """Synthetic images in CelebA's layout, likewise."""
    preset = load(name).presets["laptop"]
    counts = dict(zip(celeba.SPLITS, (preset.train, preset.val, preset.test), strict=True))
    celeba_made.write(root, counts)


BROUGHT: dict[str, tuple[str, Callable[[str, Path], None]]] = {
    "nyuv2": (mtan_layout.NYUV2.variable, mtan_scenes),
    "cityscapes": (mtan_layout.CITYSCAPES.variable, mtan_scenes),
    "celeba": (celeba.VARIABLE, celeba_images),
}
"""The variable that names an experiment's data, and what makes synthetic data in their place."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(BROUGHT))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--most", type=float, default=LIMIT)
    args = parser.parse_args()
    console = Console(width=110)
    console.print(f"an experiment at laptop size, {args.jobs} jobs: {heading()}")
    for name in args.experiments:
        with tempfile.TemporaryDirectory(prefix="accord-") as folder:
            environment, data = os.environ | {"OMP_NUM_THREADS": "1", "ACCORD_CACHE": f"{folder}/cache"}, "the user's"
            variable, make = BROUGHT.get(name, ("", None))
            if make is not None and not os.environ.get(variable):
                root, begin = Path(folder, "data"), time.perf_counter()
                root.mkdir()
                make(name, root)
                environment[variable] = str(root)
                data = f"synthetic, made in {time.perf_counter() - begin:.0f} s"
            command = ["run", name, "--preset", "laptop", "--jobs", str(args.jobs), "--store", f"{folder}/store"]
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "accord", *command], env=environment, capture_output=True, text=True, check=False
            )
            minutes = (time.perf_counter() - begin) / 60
            if done.returncode:
                sys.exit(f"{name}: `accord {' '.join(command)}` ended with {done.returncode}:\n{done.stderr[-2000:]}")
            answer = "yes" if minutes <= args.most else "no"
            kind = data if make is not None else "its own"
            console.print(f"must reach: {name} (data: {kind}): {minutes:.1f} ≤ {args.most:g} minutes: {answer}")


if __name__ == "__main__":
    main()
