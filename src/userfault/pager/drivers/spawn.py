"""Starting a Python process of ours: pager, worker.

The child is made by vfork, which shares the caller's memory until exec, so no fork event is raised
and no page table is copied, however large the client is.  It gets one socket, standard error, and
nothing else: what the client lets its children inherit is closed before exec.  It runs in a session
of its own, so Ctrl-C does not reach it.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from userfault.kernel.errors import PagerError
from userfault.linux.unpatched import original
from userfault.source import interpreter

_NEEDED = ("msgspec", "zstandard", "blake3", "obstore")


def spawn_python(
    module: str,
    entry: str,
    channel: int,
    path: list[str],
    *,
    options: Sequence[str] | None = None,
    stderr: int = 2,
) -> int:
    """Run `module.entry(socket)` in a new interpreter; its process id.

    `path`: entries for sys.path.  `options`: of the interpreter; None: those of this one, isolated
    and without `site`, for a fast start.  `stderr`: the descriptor that becomes its standard error.
    Raises PagerError when no interpreter can be started.
    """
    if not sys.executable:
        raise PagerError(
            "cannot start a process",
            cause="sys.executable is empty (an embedded interpreter)",
            cure="set sys.executable to a Python of the same version",
        )
    # Numbers up to 2 are what a client without standard input has left for other uses.
    passed = fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, 3)
    program = (  # without "", which stands for wherever the client is
        f"import sys; sys.path[:] = {path!r} + [p for p in sys.path if p and p not in {path!r}]\n"
        f"import socket; channel = socket.socket(fileno={passed}); channel.set_inheritable(False)\n"
        f"from {module} import {entry}; {entry}(channel)"
    )
    if options is None:
        options = [*interpreter.options(), "-I", "-S"]
    try:
        return _start([sys.executable, *options, "-c", program], passed, stderr)
    except (OSError, ImportError) as error:
        cause = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise PagerError(
            f"cannot start {sys.executable}",
            cause=cause,
            cure="check the limits on processes and descriptors",
        ) from None
    finally:
        os.close(passed)


def _start(command: list[str], passed: int, stderr: int) -> int:
    """Its process id; the caller reaps it."""
    # Late: a client that restores from files, and its pager, need it once or never.
    import subprocess  # noqa: PLC0415

    popen = original("subprocess", "Popen")  # gevent's would have its loop watch the process
    process = popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr if _inheritable(stderr) else subprocess.DEVNULL,
        pass_fds=[passed],
        close_fds=True,
        start_new_session=True,
    )
    process.returncode = 0  # ours to reap, not to be watched by the module
    pid: int = process.pid
    return pid


def _inheritable(fd: int) -> bool:
    """Whether a descriptor is one to hand on: number 2 of a client that closed its standard error
    may be anything by now, but Python does not let what it opens itself be inherited."""
    try:
        return fd > 2 or os.get_inheritable(fd)
    except OSError:
        return False


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
