"""A program from its start to the end of its last child, with its mappings served."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from userfault.api.pager import Pager
from userfault.exec import program
from userfault.exec.desk import Desk
from userfault.exec.files import File
from userfault.exec.giving import Giver, Settings
from userfault.exec.library import library
from userfault.linux import pidfd
from userfault.linux.descriptors import allow_all

VARIABLE = "USERFAULT_EXEC"
_PASSED = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
)
_BY_KERNEL = 0x80  # SI_KERNEL (siginfo.h): a key of the terminal, whose other processes got it too
_SAID_S = 1.0

Tell = Callable[[str], None]


class Runner:
    """Runs a program whose mappings of `files` are lazy.  `tell`: hears what the user should know.

    Use it as a context manager.  Raises Unavailable where there is no compiler for the library, or
    it cannot be used; PagerError.
    """

    def __init__(self, files: Sequence[File], settings: Settings, tell: Tell) -> None:
        self._files = files
        self._tell = tell
        self._library = library()
        with contextlib.ExitStack() as undo:
            self.pager = undo.enter_context(Pager())
            folder = tempfile.mkdtemp(prefix="userfault-exec-")
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self._address = os.path.join(folder, "socket")
            listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(self._address)
            listener.listen(128)
            self.desk = Desk(listener, Giver(self.pager, files, settings, tell), tell)
            undo.callback(self.desk.close)
            self._close = undo.pop_all()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close.close()

    def run(self, command: Sequence[str]) -> int:
        """Start it, and serve until it and its children have ended: its exit code; 128 and the
        number of the signal that ended it.

        Raises UsageError for a program that cannot be given lazy memory, or is not there.
        """
        path = program.find(command[0])
        program.check(path)
        with contextlib.ExitStack() as undo:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
            alive, theirs = os.pipe()  # ends when nobody is left who has inherited the other end
            undo.callback(os.close, alive)
            pid = self._spawn(path, command, before, theirs)
            process = os.pidfd_open(pid)
            undo.callback(os.close, process)
            allow_all()
            threading.Thread(target=self._pass_on, args=(process,), daemon=True).start()
            self.desk.watch(process, _nothing)
            while not pidfd.ended(process):
                self.desk.serve()
            self.desk.forget(process)
            _, status = os.waitpid(pid, 0)
            self._serve_children(alive)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _spawn(
        self, path: str, command: Sequence[str], mask: set[int | signal.Signals], alive: int
    ) -> int:
        """Started, with the signals as this process was started with them."""
        places = " ".join(f"{d} {i} {f.itself:d}" for f in self._files for d, i in [f.place])
        environment = {
            **os.environ,
            "LD_PRELOAD": ":".join(filter(None, [str(self._library), os.getenv("LD_PRELOAD")])),
            VARIABLE: f"{places} {self._address}",
        }
        os.set_inheritable(alive, True)
        # Python ignores these two, and a program that inherits that would not end by them.
        ours = [signal.SIGPIPE, signal.SIGXFSZ]
        try:
            return os.posix_spawn(path, list(command), environment, setsigmask=mask, setsigdef=ours)
        finally:
            os.close(alive)

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


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
