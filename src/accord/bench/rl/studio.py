"""A process that can render: MuJoCo chooses its renderer once, when it is imported.

Elsewhere it is imported without one, so that training needs no graphics; videos are made in a fresh process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from accord.errors import AccordError, DependencyError, WorkerError

_NONE = ("", "disable", "disabled", "off", "false", "0")
_OWN = {"linux": ("egl", "osmesa"), "darwin": ("cgl",), "win32": ("wgl",)}


def backends() -> tuple[str, ...]:
    """What to try: the renderer that the environment variable MUJOCO_GL names, or those that need no screen."""
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    return _OWN.get(sys.platform, ("glfw",)) if asked in _NONE else (asked,)


class Studio:
    """A process with a renderer that works, in which functions are called.

    Args:
        names: Renderers to try, values of MUJOCO_GL; by default ``backends()``.
        check: What must work there.

    Raises:
        DependencyError: None of them works; the message has the causes, and the packages that bring one. Or Meta-World
            is not installed.

    Attributes:
        backend: The renderer that works.
    """

    def __init__(self, names: Sequence[str] | None = None, check: Callable[[], Iterable[Any]] | None = None) -> None:
        causes = []
        for name in backends() if names is None else names:
            self._start(name)
            try:
                list(self.each(check or probe))
            except WorkerError as error:
                self.close()
                causes.append(f"{name}: {str(error).splitlines()[0]}")
            except BaseException:
                self.close()
                raise
            else:
                self.backend = name
                return
        raise DependencyError(
            f"no renderer works here, so that no video can be made ({'; '.join(causes)}). On Debian and Ubuntu, either "
            "of these brings one: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or apt-get install libosmesa6"
        )

    def each(self, function: Callable[..., Iterable[Any]], *given: Any) -> Iterator[Any]:
        """Call a function there and yield what it gives, one by one as it comes.

        Raises:
            AccordError: What the function raised.
            WorkerError: It raised something else, whose traceback is in the message, or the process died.
        """
        try:
            self._conn.send((function, given))
            while True:
                kind, value = self._conn.recv()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        except (EOFError, ConnectionError) as error:
            self.process.join(5)
            code = self.process.exitcode
            how = f"signal {-code}: {signal.strsignal(-code)}" if code is not None and code < 0 else f"exit code {code}"
            raise WorkerError(f"the process that renders died ({how})") from error

    def close(self) -> None:
        """End the process; again does nothing."""
        self.process.terminate()
        self.process.join()
        self._conn.close()

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, backend: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._conn, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, backend), daemon=True)
        self.process.start()
        there.close()  # or the end of the process would not be the end of what it sends


def probe() -> Iterator[None]:
    """Draw an empty scene."""
    from accord.bench.experiments.mt import check_installed

    check_installed(None)
    import mujoco

    compiled: Any = mujoco  # its classes have no types
    renderer = mujoco.Renderer(compiled.MjModel.from_xml_string("<mujoco/>"), 16, 16)
    renderer.update_scene(compiled.MjData(renderer.model))
    renderer.render()
    renderer.close()
    yield from ()


def _serve(conn: Connection, backend: str) -> None:
    """What the process does: calls, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one hears Ctrl-C and decides
    os.environ["MUJOCO_GL"] = backend
    import torch

    torch.set_num_threads(1)  # as in training
    while True:
        try:
            function, given = conn.recv()
        except EOFError:
            return
        try:
            for value in function(*given):
                conn.send(("value", value))
            conn.send(("end", None))
        except AccordError as error:
            conn.send(("error", error))
        except Exception as error:  # noqa: BLE001 - told on the other side
            conn.send(("error", WorkerError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))
