"""A pager comes up, or tells its client the one cause why it does not.

Until a worker serves, nobody of the client waits in a fault: whatever fails ends the family, by a
`Refused` that answers the client's wait for its start (`api.starting`).  After that, only what is
told here is forgotten: a family that serves heals itself, or its client ends with it.
"""

from __future__ import annotations

import contextlib
import os
import socket

from userfault.kernel.errors import UserfaultError
from userfault.linux.refused import cause_of, cure_of
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.wire import messages

_MEMORY = "raise the limit on memory: `ulimit -v`, or memory.max of the cgroup"


def refuse(journal: Journal, error: BaseException) -> None:
    """Tell the client that no pager comes up, and have the whole family end."""
    if journal.words[Word.CHANNEL_FD]:
        refuse_on(journal.words[Word.CHANNEL_FD], error)
    journal.words[Word.RETIRED] = 1


def refuse_on(channel: int, error: BaseException) -> None:
    """The same on a socket, by its descriptor; none is opened for it, as there may be none."""
    if isinstance(error, UserfaultError):
        cause, cure = f"{error.what}: {error.cause}", error.cure
    elif isinstance(error, OSError):
        cause, cure = cause_of(error), cure_of(error)
    elif isinstance(error, MemoryError):
        cause, cure = "memory ran out", _MEMORY
    else:
        cause, cure = f"{type(error).__name__}: {error}", ""
    with contextlib.suppress(OSError):
        told = socket.socket(fileno=channel)
        try:
            messages.send(told, 0, messages.Refused("cannot start a pager", cause, cure))
        finally:
            told.detach()


def came_up(journal: Journal) -> None:
    """A worker serves: what the family says goes to the client's standard error from now on."""
    words = journal.words
    words[Word.UP] = 1
    words[Word.CHANNEL_FD] = 0  # it is the client's, whose record has it
    fd = words[Word.STDERR_FD]
    if fd:
        os.dup2(fd, 2, inheritable=True)  # one table: for the whole family
        words[Word.STDERR_FD] = 0
        os.close(fd)
