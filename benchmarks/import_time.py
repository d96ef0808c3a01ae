"""What does `import accord` add to `import torch`?

    python -m benchmarks.import_time [--processes N]

Every import is timed in fresh processes of its own: torch first, then what is asked for, with the CPU time of each and
their ratio taken within the process. Medians over the processes. Bytecode is compiled beforehand, as pip does when it
installs a package. Torch is loaded once before any timing, so that its files are in the page cache: the first import
after a start of the machine takes longer, nearly all of it torch's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import heading

ASKED = {
    "import accord": "import accord",
    "accord.NashMTL (loads the methods)": "import accord; accord.NashMTL",
    "accord.compare (loads the harness)": "import accord; accord.compare",
}
PROGRAM = """\
from time import process_time
begin = process_time()
import torch
middle = process_time()
{asked}
print(middle - begin, process_time() - middle)
"""


def seconds(asked: str, environment: dict[str, str]) -> tuple[float, float]:
    """CPU seconds of `import torch`, and then of what is asked for, in a process of their own."""
    program = [sys.executable, "-c", PROGRAM.format(asked=asked)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    torch, beyond = done.stdout.split()
    return float(torch), float(beyond)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=15)
    processes = parser.parse_args().processes
    print(heading())
    print(f"medians of {processes} processes each; CPU time\n")
    print(f"{'':<36}{'torch ms':>10}{'beyond ms':>11}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = kept | {"PYTHONPYCACHEPREFIX": str(Path(folder)), "OMP_NUM_THREADS": "1"}
        for asked in ASKED.values():
            seconds(asked, environment)  # compiles
        taken = {name: [] for name in ASKED}
        for _ in range(processes):
            for name, asked in ASKED.items():
                taken[name].append(seconds(asked, environment))
    for name, pairs in taken.items():
        torch, beyond = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        share = statistics.median(after / before for before, after in pairs)
        print(f"{name:<36}{torch:>10.0f}{beyond:>11.2f}{share:>8.4f}")


if __name__ == "__main__":
    main()
