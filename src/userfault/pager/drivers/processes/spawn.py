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

from userfault.kernel.errors import PagerError
from userfault.linux.refused import CallRefusedError, cause_of, cure_of
from userfault.linux.unpatched import as_written
from userfault.pager.drivers.processes.lean import command
from userfault.pager.drivers.processes.naming import VARIABLE
from userfault.pager.drivers.processes.which_python import chosen_python


def spawn_python(
    module: str,
    entry: str,
    channel: int,
    path: list[str],
    *,
    more: Sequence[str] = (),
    options: Sequence[str] | None = None,
    stderr: int = 2,
    python: str | None = None,
    sign: bool = False,
) -> int:
    """Run `module.entry(socket)` in a new interpreter; its process id.

    `path`: entries for sys.path.  `more`: modules that it loads, too.  `options`: of the
    interpreter; None: those of this one, isolated and without `site`, for a fast start.  `stderr`:
    the descriptor that becomes its standard error.
    `python`: which, see `chosen_python`.  `sign`: it sends `SIGN` before it loads anything of ours.
    Raises PagerError when no interpreter can be started, UsageError for one that is not to be had.
    """
    chosen = chosen_python(python)
    # Numbers up to 2 are what a client without standard input has left for other uses.
    passed = fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, 3)
    words = command(
        chosen.path,
        module,
        entry,
        passed,
        path,
        more=more,
        options=options,
        site=not chosen.ours,
        sign=sign,
    )
    environment = None if python is None else {**os.environ, VARIABLE: chosen.path}
    try:
        return _start(words, passed, stderr, environment)
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
