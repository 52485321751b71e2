"""Starting a Python process of ours: pager, worker.

posix_spawn shares the caller's memory until exec, so no fork event is raised and no page table is
copied, however large the client is.  The child gets one socket as descriptor 3, standard error,
and nothing else; it runs in a session of its own, so Ctrl-C does not reach it.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from userfault.kernel.errors import PagerError
from userfault.linux.unpatched import original

CHANNEL = 3
_NEEDED = ("msgspec", "zstandard", "blake3", "obstore")


def spawn_python(module: str, entry: str, channel: int, path: list[str], *, lean: bool) -> int:
    """Run `module.entry(socket)` in a new interpreter; its process id.

    `path`: entries for sys.path.  `lean`: isolated and without `site`, for a fast start.  Raises
    PagerError when no interpreter can be started.
    """
    if not sys.executable:
        raise PagerError(
            "cannot start a process",
            cause="sys.executable is empty (an embedded interpreter)",
            cure="set sys.executable to a Python of the same version",
        )
    program = (
        f"import sys; sys.path[:] = {path!r} + [p for p in sys.path if p not in {path!r}]\n"
        f"import socket; from {module} import {entry}\n"
        f"{entry}(socket.socket(fileno={CHANNEL}))"
    )
    # -u: what a function prints is not lost when its worker is killed
    options = ["-I", "-S"] if lean else ["-u"]
    null = os.devnull
    try:
        spawn = original("os", "posix_spawn")  # gevent's would have its loop watch the process
        pid: int = spawn(
            sys.executable,
            [sys.executable, *options, "-c", program],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, channel, CHANNEL),
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            ],
            setsid=True,
        )
        return pid
    except OSError as error:
        raise PagerError(
            f"cannot start {sys.executable}",
            cause=os.strerror(error.errno or 0),
            cure="check the limits on processes and descriptors",
        ) from None


def lean_path() -> list[str]:
    """Where our package and what it needs lie, for an interpreter that does not look for itself."""
    ours = os.path.abspath(__file__)
    for _ in range(4):  # userfault/pager/drivers/spawn.py
        ours = os.path.dirname(ours)
    found = [ours]
    for name in _NEEDED:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(os.path.dirname(os.path.dirname(os.path.abspath(spec.origin))))
    return list(dict.fromkeys(found))
