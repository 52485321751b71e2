"""A program from its start to the end of its last child, with its mappings served."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from userfault.api import ahead
from userfault.api.undisturbed import undisturbed
from userfault.exec.settings import Settings
from userfault.kernel.errors import UsageError
from userfault.linux import pidfd
from userfault.linux.descriptors import allow_all

if TYPE_CHECKING:
    from userfault.exec.files import File

VARIABLE = "USERFAULT_EXEC"
_PASSED = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
)
_BY_KERNEL = 0x80  # SI_KERNEL (siginfo.h): a key of the terminal, whose other processes got it too
_SAID_S = 1.0
_PATH_MAX = 108  # of a socket's address, its end included (unix(7))

Tell = Callable[[str], None]


class Runner:
    """Runs `command` with lazy mappings of `maps` (`FILE` or `FILE=SOURCE`).

    It is started when this returns, and its pager serves.  `tell`: hears what the user should know.
    Use it as a context manager.

    Raises UsageError for a program that cannot be given lazy memory, or is not there, and for files
    that do not go with their sources; Unavailable where there is no compiler for the library;
    SourceError and its like for the sources; PagerError.
    """

    def __init__(
        self, maps: Sequence[str], command: Sequence[str], settings: Settings, tell: Tell
    ) -> None:
        self._tell = tell
        self.files: list[File] = []
        self._child = 0
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_child)
            # None of these waits for another: the pager, the program, the code that is needed here.
            ahead.begin()
            undo.callback(ahead.drop)
            listener = undisturbed(functools.partial(self._begin, undo, maps, command, settings))
            from userfault.api.pager import Pager  # noqa: PLC0415

            prepare = functools.partial(self._prepare, listener, settings)
            self.pager = undo.enter_context(Pager(_meanwhile=prepare))
            # Of this thread, and those to come: the pager's processes have it as it was.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
            self.desk = self._make_desk(self.pager, tell)
            undo.callback(self.desk.close)
            self._close = undo.pop_all()

    def _begin(
        self,
        undo: contextlib.ExitStack,
        maps: Sequence[str],
        command: Sequence[str],
        settings: Settings,
    ) -> socket.socket:
        """The program is started: where its library will ask."""
        from userfault.exec import program  # noqa: PLC0415
        from userfault.exec.files import opened  # noqa: PLC0415

        path = program.find(command[0])
        program.check(path)
        for each in maps:
            self.files.append(opened(each, settings.stored))
            undo.callback(self.files[-1].close)
        folder = _folder(undo)
        listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind(os.path.join(folder, "socket"))
        listener.listen(128)
        environment = self._environment(listener.getsockname())
        self._alive, theirs = os.pipe()  # ends when nobody is left who has inherited the other end
        undo.callback(os.close, self._alive)
        self._child = _spawned(path, command, environment, theirs)
        return listener

    def _prepare(self, listener: socket.socket, settings: Settings) -> None:
        """All else that needs no pager."""
        from userfault.exec.desk import Desk  # noqa: PLC0415
        from userfault.exec.giving import Giver  # noqa: PLC0415

        giver = Giver(self.files, settings, self._tell)
        self._make_desk = functools.partial(Desk, listener, giver)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close.close()

    def run(self) -> int:
        """Serve until it and its children have ended: its exit code; 128 and the number of the
        signal that ended it."""
        process = os.pidfd_open(self._child)
        try:
            allow_all()
            threading.Thread(target=self._pass_on, args=(process,), daemon=True).start()
            self.desk.watch(process, _nothing)
            while not pidfd.ended(process):
                self.desk.serve()
            self.desk.forget(process)
            _, status = os.waitpid(self._child, 0)
            self._child = 0
            self._serve_children(self._alive)
        finally:
            os.close(process)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _environment(self, address: str) -> dict[str, str]:
        from userfault.exec.library import library  # noqa: PLC0415

        places = " ".join(f"{d} {i} {f.itself:d}" for f in self.files for d, i in [f.place])
        preloaded = filter(None, [str(library()), os.getenv("LD_PRELOAD")])
        return {**os.environ, "LD_PRELOAD": ":".join(preloaded), VARIABLE: f"{places} {address}"}

    def _end_child(self) -> None:
        """It is not to run on without what serves it."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def _serve_children(self, alive: int) -> None:
        """Those that it has left behind."""
        say_at: float | None = time.monotonic() + _SAID_S
        self.desk.watch(alive, _nothing)
        while not _readable(alive) or self.desk.processes():
            if _readable(alive):
                self.desk.forget(alive)  # who is left has closed what it inherited
            if say_at is not None and time.monotonic() >= say_at:
                say_at = None
                self._tell("the program has ended; its children are served until they end, too")
            self.desk.serve()

    def _pass_on(self, process: int) -> None:
        """A thread: signals that were sent to this process alone go to the program; once that has
        ended, to the children that it has left."""
        while True:
            info = signal.sigwaitinfo(_PASSED)
            if info.si_code == _BY_KERNEL:
                continue
            with contextlib.suppress(OSError):
                if not pidfd.ended(process):
                    signal.pidfd_send_signal(process, info.si_signo)
                    continue
            for pid in self.desk.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, info.si_signo)


def _nothing() -> None:
    """Whoever waits looks himself."""


def _folder(undo: contextlib.ExitStack) -> str:
    """For the socket, whose path has to fit into an address: where TMPDIR is too long, in /tmp."""
    import shutil  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    for place in (None, "/tmp"):
        try:
            folder = tempfile.mkdtemp(prefix="userfault-exec-", dir=place)
        except OSError as error:
            cause = os.strerror(error.errno or 0)
        else:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            if len(os.fsencode(folder)) + len("/socket") < _PATH_MAX:
                return folder
            cause = "the path of TMPDIR is too long for a socket (108 bytes, unix(7))"
    raise UsageError("no folder for a socket", cause=cause, cure="set TMPDIR to a shorter one")


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _spawned(
    path: str,
    command: Sequence[str],
    environment: dict[str, str],
    alive: int,
) -> int:
    """A process of the program, with the signals as this process was started with them."""
    os.set_inheritable(alive, True)
    # Python ignores these two, and a program that inherits that would not end by them.
    ours = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        return os.posix_spawn(path, list(command), environment, setsigdef=ours)
    finally:
        os.close(alive)
