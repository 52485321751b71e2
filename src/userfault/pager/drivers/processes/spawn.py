"""Starting a Python process of ours: pager, worker.

The child is made by vfork, which shares the caller's memory until exec, so no fork event is raised
and no page table is copied, however large the client is.  It gets one socket, standard error, and
nothing else: what the client lets its children inherit is closed before exec.  It runs in a session
of its own, so Ctrl-C does not reach it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from importlib.util import find_spec

from userfault.kernel.errors import PagerError
from userfault.linux.refused import CallRefusedError, cause_of, cure_of
from userfault.linux.unpatched import as_written
from userfault.pager.drivers.processes.which_python import VARIABLE, chosen_python
from userfault.source import interpreter

SIGN = b"python"
_FIRST = bytes(16) + SIGN  # as a packet (`packets.py`)
# msgspec takes three names from typing_extensions where it can, which typing has on every Python
# that we run on; so it is not loaded, with inspect, ast and dis: 9 ms of 70 of a pager's start.
_LEAN = (
    "sys.modules['typing_extensions'] = None\n"
    "import msgspec; del sys.modules['typing_extensions']\n"
)
_NEEDED = ("msgspec", "zstandard", "blake3", "pyroaring", "obstore")


def spawn_python(
    module: str,
    entry: str,
    channel: int,
    path: list[str],
    *,
    options: Sequence[str] | None = None,
    stderr: int = 2,
    python: str | None = None,
    sign: bool = False,
) -> int:
    """Run `module.entry(socket)` in a new interpreter; its process id.

    `path`: entries for sys.path.  `options`: of the interpreter; None: those of this one, isolated
    and without `site`, for a fast start.  `stderr`: the descriptor that becomes its standard error.
    `python`: which, see `chosen_python`.  `sign`: it sends `SIGN` before it loads anything of ours.
    Raises PagerError when no interpreter can be started, UsageError for one that is not to be had.
    """
    chosen = chosen_python(python)
    # Numbers up to 2 are what a client without standard input has left for other uses.
    passed = fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, 3)
    # What Python brings comes first, as it does with `site`: else each of its modules is looked for
    # in vain in our folders.  (Another Python has what it needs itself, and takes of ours what it
    # lacks.)  No collection while all is loaded, of which hardly anything goes again: 6 of 65 ms.
    program = (  # without "", which stands for wherever the client is
        f"import gc, sys; gc.disable()\n"
        f"sys.path[:] = [p for p in sys.path if p and p not in {path!r}] + {path!r}\n"
        f"import socket; channel = socket.socket(fileno={passed}); channel.set_inheritable(False)\n"
        + (f"channel.send({_FIRST!r})\n" if sign else "")
        + _LEAN
        + f"from {module} import {entry}; gc.enable(); {entry}(channel)"
    )
    if options is None:
        options = [*interpreter.options(), "-I", *(["-S"] if chosen.ours else [])]
    environment = None if python is None else {**os.environ, VARIABLE: chosen.path}
    try:
        return _start([chosen.path, *options, "-c", program], passed, stderr, environment)
    except ImportError as error:
        raise PagerError(
            f"cannot start {chosen.path}", cause=str(error), cure="mend this Python"
        ) from None
    except OSError as error:
        refused = CallRefusedError("vfork, clone or execve", error.errno or 0)
        raise PagerError(
            f"cannot start {chosen.path}", cause=cause_of(refused), cure=cure_of(refused)
        ) from None
    finally:
        os.close(passed)


def _start(command: list[str], passed: int, stderr: int, environment: dict[str, str] | None) -> int:
    """Its process id; the caller reaps it."""
    # Late: a client that restores from files, and its pager, need it once or never.  And gevent's
    # would have its loop watch the process.
    subprocess = as_written("subprocess")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr if _inheritable(stderr) else subprocess.DEVNULL,
        pass_fds=[passed],
        env=environment,
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
    for _ in range(5):  # userfault/pager/drivers/processes/spawn.py
        ours = os.path.dirname(ours)
    found = [ours]
    for name in _NEEDED:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(os.path.dirname(os.path.dirname(os.path.abspath(spec.origin))))
    return list(dict.fromkeys(found))
