"""What the calls of a task have in common: the task, descriptors, and what errors become."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import Any

from userfault.model.errors import Errno, Signalled
from userfault.model.files.inode import Inode
from userfault.model.files.open_files import ObjectFile
from userfault.model.process import Process, Thread
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile


class Descriptor:
    """A descriptor of one process."""

    __slots__ = ("fd", "process")

    def __init__(self, process: Process, fd: int) -> None:
        self.process = process
        self.fd = fd

    @property
    def context(self) -> Context:
        """Of a userfaultfd; EBADF once it is closed."""
        file = self.process.file(self.fd)
        if not isinstance(file, UffdFile):
            raise Errno(errno.EBADF)
        return file.context

    @property
    def object(self) -> Inode:
        """Of a file; EBADF once it is closed."""
        file = self.process.file(self.fd)
        if not isinstance(file, ObjectFile):
            raise Errno(errno.EBADF)
        return file.object


class Calls:
    """A task that makes calls.

    A call returns its value, or the name of its errno ("EEXIST") or of the signal that it raised
    ("SIGBUS"): a task of a scenario sees what a program would see, and goes on.
    """

    def __init__(self, task: Thread) -> None:
        self.task = task

    def try_again(self) -> None:
        """Before a call that failed with EAGAIN is made once more: let somebody else do a thing."""
        self.task.sched.spin(lambda: "what made its call fail with EAGAIN to end")

    def _call(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except (Errno, Signalled) as outcome:
            return named(outcome)

    def _do(self, run: Callable[[], None]) -> Any:
        """Of a call without a value: 0."""
        try:
            run()
        except (Errno, Signalled) as outcome:
            return named(outcome)
        return 0


def named(outcome: Errno | Signalled) -> str:
    """What a program is told."""
    if isinstance(outcome, Errno):
        return errno.errorcode.get(outcome.code, str(outcome.code))
    return signal.Signals(outcome.number).name
