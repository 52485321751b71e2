"""A shared copy as a worker on Linux holds it: by descriptors."""

from __future__ import annotations

import fcntl
import os
from typing import Protocol

from userfault.kernel.memtypes import BASE_PAGE
from userfault.linux.libc import read_memory
from userfault.pager.drivers.shared.copy import Marks, SharedCopy


class Descriptors(Protocol):
    """Those of a mapping: the copy's file is `memory`."""

    memory: int
    filler: int


def taken_up(address: int, fds: Descriptors, marks: Marks) -> SharedCopy:
    """The copy that a mapping is over; see `SharedCopy`."""

    def same(page: int, source: int) -> bool:
        return os.pread(fds.memory, BASE_PAGE, page * BASE_PAGE) == read_memory(source, BASE_PAGE)

    return SharedCopy(fds.filler, address, marks, fcntl.ioctl, same)
