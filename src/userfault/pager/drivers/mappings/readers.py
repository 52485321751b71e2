"""Threads that read files and stores, so that one slow page delays no other fault.

A read releases the GIL while it waits.  A read that never returns (a dead network file system)
cannot be stopped: its thread is left behind and replaced.
"""

from __future__ import annotations

import _thread
import os
from collections import deque
from typing import Protocol

import msgspec

from userfault.kernel.errors import SourceError
from userfault.pager.core.actions import Fetch


class Answered(msgspec.Struct):
    """A fetch with its bytes, or the reason why there are none."""

    fetch: Fetch
    data: memoryview | None
    cause: str = ""


class Source(Protocol):
    """What the threads read."""

    def read(
        self, offset: int, length: int, *, urgent: bool, waited: float
    ) -> bytearray | memoryview:
        """`length` bytes from `offset`, for which a thread has waited since `waited` seconds.

        May block; raises SourceError.
        """
        ...


class Readers:
    """Reads of one source: a thread each.  `bell`: an eventfd rung for every answer."""

    def __init__(self, source: Source, bell: int) -> None:
        self._source = source
        self._bell = bell
        self.answers: deque[Answered] = deque()  # append and popleft are atomic
        self.under_way = 0  # reads whose answer was not taken

    def start(self, fetch: Fetch, offset: int, length: int) -> None:
        """Read [offset, offset + length) in a thread."""
        self.under_way += 1
        try:
            _thread.start_new_thread(self._read, (fetch, offset, length))
        except RuntimeError as error:  # a limit on processes counts threads too
            cause = f"no thread to read with: {error}"
            self.answers.append(Answered(fetch, None, cause))

    def take(self) -> Answered:
        """The next answer; there is one."""
        self.under_way -= 1
        return self.answers.popleft()

    def close(self) -> None:
        """Nothing to end: threads end with their read."""

    def _read(self, fetch: Fetch, offset: int, length: int) -> None:
        data: memoryview | None = None
        cause = ""
        try:
            read = self._source.read(offset, length, urgent=fetch.demand, waited=fetch.waited)
            data = memoryview(read)
        except SourceError as error:
            cause = f"{error.what}: {error.cause}"
        except Exception as error:  # a bug here must not leave a thread of the client waiting
            cause = f"{type(error).__name__}: {error}"
        self.answers.append(Answered(fetch, data, cause))
        os.eventfd_write(self._bell, 1)
