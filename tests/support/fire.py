"""A process that trains in forked children and kills them where it is told.

Starting Python and importing torch takes seconds, and a test that kills a hundred runs cannot pay them a hundred times:
this program does it once, then forks a child for each run. It reads one JSON object a line and answers with one.
"""

from __future__ import annotations

import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CALLS = ("write", "fsync", "replace", "unlink", "open", "ftruncate", "mkdir", "rename", "rmdir")
"""The calls through which a store changes what is on the disk."""

NOBODY = 65534
PHASES = ("before", "half", "after")


class Fire:
    """The test's side of the program."""

    def __init__(self) -> None:
        paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
        paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
        environment.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-W", "ignore:`torch.jit.script`", __file__],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def train(
        self, experiment: str, methods: list[str], store: Path, preset: str = "smoke", **kill: Any
    ) -> dict[str, Any]:
        """Run a preset with seed 0, saving after every unit.

        Args:
            experiment: As on the command line.
            methods: Method specs.
            store: Folder of the runs.
            preset: Which preset.
            **kill: ``at`` and ``phase``: kill before or after that call of ``CALLS``, or half
                way through the next ``write`` from there on; or ``after``: kill after so many seconds. Or
                rather: ``limit``, the largest file in bytes; ``nobody``, to give up the rights of root; ``fresh``.

        Returns:
            ``killed``; else ``statuses``, ``notes``, ``calls`` (how many of ``CALLS``) and ``seconds``.
        """
        job = {"experiment": experiment, "methods": methods, "store": str(store), "preset": preset, **kill}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the program that forks has died with {self._process.wait()}"
        told = json.loads(answer)
        assert "error" not in told, told["error"]
        return told

    def close(self) -> None:
        """End the program."""
        self._process.communicate(timeout=20)


def main() -> None:
    """Serve until the input ends."""
    warm_up()
    prepared = set()
    for line in sys.stdin:
        job = json.loads(line)
        if job["experiment"] not in prepared:  # data sets that are kept in memory are read once for all children
            prepared.add(job["experiment"])
            prepare(job["experiment"])
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            try:
                told = train(job)
            except BaseException:  # noqa: BLE001 - the test fails with it
                told = {"error": traceback.format_exc()}
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
        os.close(writer)
        if "after" in job and not select.select([reader], [], [], job["after"])[0]:
            os.kill(child, signal.SIGKILL)
        with open(reader, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            data = b'{"killed": true}'
        elif not data:
            data = json.dumps({"error": f"the child ended with status {status}"}).encode()
        sys.stdout.write(data.decode() + "\n")
        sys.stdout.flush()


def warm_up() -> None:
    """Import, and use once, all that runs need."""
    import torch

    import accord
    from accord.bench import report, runner  # noqa: F401

    torch.set_num_threads(1)
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    balancer = accord.make("nash-mtl", tasks=2)
    for _ in range(2):
        optimizer.zero_grad()
        balancer.backward(list((layer(torch.rand(3, 2)) ** 2).mean(0)), shared=layer)
        optimizer.step()
    torch.save(layer.state_dict(), io.BytesIO())


def prepare(name: str) -> None:
    """Make the data of an experiment's smoke preset."""
    from accord.bench import experiments

    experiment = experiments.load(name)
    experiment.prepare(experiment.presets["smoke"])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """One child's work."""
    from accord.bench import experiments
    from accord.bench.runner import run

    bomb = Bomb(job.get("at", 0), job.get("phase", "before"))
    experiment = experiments.load(job["experiment"])
    if "limit" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    if job.get("nobody") and os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    bomb.arm()
    begin = time.perf_counter()
    try:
        outcomes = run(
            experiment, job["preset"], job["methods"], [0], job["store"], 1, job.get("fresh", False), None, 0.0
        )
    finally:
        bomb.disarm()
    return {
        "killed": False,
        "statuses": [outcome.status for outcome in outcomes],
        "notes": [note for outcome in outcomes for note in (*outcome.notes, outcome.cause) if note],
        "calls": bomb.count,
        "seconds": time.perf_counter() - begin,
    }


class Bomb:
    """Counts the calls of this process, and ends it at one of them."""

    def __init__(self, at: int, phase: str) -> None:
        self.at, self.phase, self.count = at, phase, 0
        self._real = {name: getattr(os, name) for name in CALLS}

    def arm(self) -> None:
        """Begin to count."""
        for name in CALLS:
            setattr(os, name, self._watched(name))

    def disarm(self) -> None:
        """Count no more."""
        for name, real in self._real.items():
            setattr(os, name, real)

    def _watched(self, name: str) -> Any:
        real = self._real[name]

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            here = self.count == self.at and self.phase != "half"
            if self.phase == "half" and name == "write" and self.count >= self.at > 0:
                here, (fd, data) = True, arguments
                real(fd, data[: len(data) // 2])
            if here and self.phase != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **options)
            finally:  # also where there was nothing to remove
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call


if __name__ == "__main__":
    main()
