"""What descriptors stand for.  A file is shared by the descriptors that duplicate or inherit it."""

from __future__ import annotations

import errno
from collections import deque

from userfault.kernel.calls import WAITS_PIPE
from userfault.model.errors import Errno
from userfault.model.files.inode import Inode
from userfault.model.files.pagecache import PageCache
from userfault.model.tasks.recorder import RECORD, Place
from userfault.model.tasks.sched import Sched, Task, Wait

O_ACCMODE = 3
O_RDONLY = 0
O_WRONLY = 1
O_RDWR = 2
O_NONBLOCK = 0o4000
O_CLOEXEC = 0o2000000


class OpenFile:
    """An open file: `links` descriptors refer to it."""

    def __init__(self, flags: int) -> None:
        self.flags = flags & ~O_CLOEXEC
        self.number = RECORD.number()
        self.links = 0
        self.position = 0

    def record(self, kind: set[Place]) -> None:
        """Who refers to it is counted (for the recorder); the last to let go closes it."""
        if RECORD.on:
            kind.add(("links", self.number))

    @property
    def readable(self) -> bool:
        return self.flags & O_ACCMODE != O_WRONLY

    @property
    def writable(self) -> bool:
        return self.flags & O_ACCMODE != O_RDONLY

    def release(self, files: PageCache) -> None:
        """The last descriptor is gone."""


class DevNull(OpenFile):
    """/dev/null."""


class DevZero(OpenFile):
    """/dev/zero."""


class DevUserfaultfd(OpenFile):
    """/dev/userfaultfd."""


class DevKvm(OpenFile):
    """/dev/kvm."""


class Vm(OpenFile):
    """A virtual machine of KVM."""


class ObjectFile(OpenFile):
    """A file with pages: memfd, tmpfs, ordinary, hugetlb, guest_memfd."""

    def __init__(self, flags: int, target: Inode) -> None:
        super().__init__(flags)
        self.object = target

    def release(self, files: PageCache) -> None:
        files.unlink(self.object)


class PipeBuffer:
    """The bytes between the two ends of a pipe."""

    CAPACITY = 65536

    def __init__(self, sched: Sched) -> None:
        self._sched = sched
        self.data = bytearray()
        self.readers = 0
        self.writers = 0
        self._asleep: deque[Task] = deque()

    def wait(self, task: Task) -> None:
        """Sleep until the other end does something."""
        self._asleep.append(task)
        self._sched.block(
            Wait(
                WAITS_PIPE,
                lambda: "the other end of a pipe",
                interruptible=True,
                give_up=lambda: self._asleep.remove(task),
            )
        )
        if task.interrupted:
            raise Errno(errno.EINTR)

    def stir(self) -> None:
        """Wake whoever sleeps on it."""
        while self._asleep:
            self._sched.wake(self._asleep.popleft())


class PipeEnd(OpenFile):
    """One end of a pipe."""

    def __init__(self, flags: int, pipe: PipeBuffer, *, writes: bool) -> None:
        super().__init__(flags & O_NONBLOCK | (O_WRONLY if writes else O_RDONLY))
        self.pipe = pipe
        if writes:
            pipe.writers += 1
        else:
            pipe.readers += 1

    def release(self, files: PageCache) -> None:
        del files
        if self.writable:
            self.pipe.writers -= 1
        else:
            self.pipe.readers -= 1
        self.pipe.stir()
