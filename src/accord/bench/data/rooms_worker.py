"""``python -m accord.bench.data.rooms_worker split height width samples block…``: a process that renders blocks.

It writes one byte to its output for each frame, and ends when its reader is gone.
"""

from __future__ import annotations

import signal
import sys

from accord.bench.data.rooms import render_blocks
from accord.bench.data.rooms_render import mitsuba
from accord.errors import AccordError


def main(arguments: list[str]) -> int:
    """Render; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its children
    split, *rest = arguments
    height, width, samples, *blocks = map(int, rest)
    try:
        mitsuba()
        import drjit

        drjit.set_thread_count(1)  # the processes are the parallelism

        def advance(frames: int) -> None:
            sys.stdout.write("." * frames)
            sys.stdout.flush()

        render_blocks(split, blocks, height, width, samples, advance)
    except AccordError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
