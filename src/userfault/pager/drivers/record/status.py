"""What a pager's family shows its client without being asked: who it is, and how often it healed.

It lies in memory that the client made, and may write to: the family writes there and never reads.
(The journal, by which the family lives, is never in the client's hands: the client may have fewer
rights than its pager by now.)
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os

from userfault.linux.refused import calling

_SIZE = 4096


class Shown(enum.IntEnum):
    """Words, by place: process ids as the family sees them itself, and a count."""

    WORKER = 0
    SUPERVISOR = 1
    SPARE = 2
    TAKEOVERS = 3


ROLES = (Shown.WORKER, Shown.SUPERVISOR, Shown.SPARE)


class Status:
    """The memory behind `fd`, mapped; `words` are as the family wrote them last."""

    def __init__(self, fd: int, *, write: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        self._map = mmap.mmap(fd, _SIZE, prot=protection)
        self.words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls) -> tuple[Status, int]:
        """The client's side: mapped, and its descriptor to be sent.  Raises OSError.

        It is sealed: memory that shrinks would kill the one that writes to it.
        """
        with calling("memfd_create"):
            fd = os.memfd_create("userfault-status", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with calling("fallocate"):
                os.posix_fallocate(fd, 0, _SIZE)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            with calling("fcntl(F_ADD_SEALS)"):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            with calling("mmap"):
                return cls(fd, write=False), fd
        except OSError:
            os.close(fd)
            raise

    def close(self) -> None:
        """Unmap it."""
        self.words.release()
        self._map.close()
