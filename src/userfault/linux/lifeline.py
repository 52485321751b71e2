"""A line between a pager and its client: if the pager is killed, the kernel ends the client.

A thread that waits in a page fault cannot be told that its pager has died, and Python code cannot
run while the waiting thread holds the GIL.  So the client makes a pipe whose read end sends it
SIGBUS when the last writer is gone (fcntl(2): O_ASYNC, F_SETSIG, F_SETOWN; the flags belong to
the open file, which both sides hold).  The pager holds the writer, and takes the signal off before
it closes it in peace.

SIGBUS does not end a process that ignores it or blocks it in every thread.  For such a one SIGKILL
is asked for, which F_SETSIG takes and which nobody can block (measured on 6.18).
"""

from __future__ import annotations

import fcntl
import os
import signal

from userfault.linux.refused import calling
from userfault.linux.signals import reaches

_F_SETSIG, _F_GETSIG = 10, 11  # asm-generic/fcntl.h; not in Python's fcntl module


class LifeLine:
    """Both ends of the pipe; which of them a process keeps is its side of the line."""

    def __init__(self, read: int, write: int) -> None:
        self.read = read
        self.write = write

    @classmethod
    def armed(cls, number: int = signal.SIGBUS, *, whom: int = 0) -> LifeLine:
        """A new line: this process gets signal `number` when every writer is closed.

        `whom`: another process, which holds neither end.  Then the end of those who hold both must
        reach the writer before the reader.  The kernel lets go of what a process that ends had
        open from the highest number down (fs/file.c, kernel/task_work.c; measured on 6.18): so the
        reader has the lower number.
        """
        with calling("pipe2"):
            line = cls(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        assert line.read < line.write, "the kernel gives out the lowest number first"
        if not whom:
            _unsent.add(line.write)
        try:
            with calling("fcntl"):
                fcntl.fcntl(line.read, _F_SETSIG, number)
                fcntl.fcntl(line.read, fcntl.F_SETOWN, whom or os.getpid())
                flags = fcntl.fcntl(line.read, fcntl.F_GETFL)
                fcntl.fcntl(line.read, fcntl.F_SETFL, flags | os.O_ASYNC)
        except OSError:
            line.close()
            raise
        return line

    @classmethod
    def for_this_process(cls) -> LifeLine:
        """A new line with the signal that ends this process as it is now."""
        reached = reaches(os.getpid(), signal.SIGBUS)
        if reached is None:  # no /proc: what this thread knows
            ignored = signal.getsignal(signal.SIGBUS) == signal.SIG_IGN
            reached = not ignored and signal.SIGBUS not in signal.pthread_sigmask(
                signal.SIG_BLOCK, []
            )
        return cls.armed(signal.SIGBUS if reached else signal.SIGKILL)

    def ask_for(self, number: int) -> None:
        """Another signal from now on; armed or not stays as it is."""
        if self.read >= 0 and fcntl.fcntl(self.read, _F_GETSIG) != number:
            fcntl.fcntl(self.read, _F_SETSIG, number)

    def disarm(self) -> None:
        """No signal any more, whoever closes what."""
        if self.read >= 0:
            flags = fcntl.fcntl(self.read, fcntl.F_GETFL)
            fcntl.fcntl(self.read, fcntl.F_SETFL, flags & ~os.O_ASYNC)

    def close_writer(self) -> None:
        """The client's side, once the pager holds the writer."""
        if self.write >= 0:
            _unsent.discard(self.write)
            os.close(self.write)
            self.write = -1

    def close(self) -> None:
        """Close what is still open.  Disarm first, unless the signal is wanted."""
        self.close_writer()
        if self.read >= 0:
            os.close(self.read)
        self.read = -1


_unsent: set[int] = set()  # writers that the client has still


def _forked() -> None:
    """In a child that another thread forked in that moment: it would be a writer who lives on."""
    for fd in _unsent:
        os.close(fd)
    _unsent.clear()


os.register_at_fork(after_in_child=_forked)
