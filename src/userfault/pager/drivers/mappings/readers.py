"""Reads of a file or a store by threads, so that one slow page delays no other fault.

A read that never returns (a dead network file system) cannot be stopped: its thread is left behind
and replaced, but not for ever.  Of one source `MOST_STUCK` threads may be left behind; from then on
its reads wait until one comes back, or their deadline passes too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from userfault.kernel.errors import SourceError
from userfault.pager.core.actions import Fetch
from userfault.pager.drivers.mappings.residency import AT_ONCE
from userfault.pager.drivers.mappings.threads import Threads

MOST_STUCK = 8
_PROMPT_S = 0.02  # a read that lasts longer waits for more than a disk

_clock = time.monotonic


class Answered(msgspec.Struct):
    """A fetch with its bytes, or the reason why there are none."""

    fetch: Fetch
    data: memoryview | None
    cause: str = ""


class Source(Protocol):
    """What the threads read."""

    def read(
        self, offset: int, length: int, *, urgent: bool, waited: float
    ) -> bytes | bytearray | memoryview:
        """`length` bytes from `offset`, for which a thread has waited since `waited` seconds.

        May block; raises SourceError.
        """
        ...


class _Read:
    """One read of `readers`."""

    __slots__ = ("_buffer", "began", "fetch", "length", "offset", "readers")

    def __init__(self, readers: Readers, fetch: Fetch, offset: int, length: int) -> None:
        self.readers = readers
        self.fetch = fetch
        self.offset = offset
        self.length = length
        self.began = _clock()
        self._buffer: memoryview | None = None

    @property
    def stuck(self) -> bool:
        return self.fetch.abandoned

    def now(self) -> bool:
        """Whether it is answered by now, without waiting."""
        readers = self.readers
        if self._buffer is None:
            self._buffer = memoryview(bytearray(self.length))
        if readers.read_now is None or self.fetch.abandoned:
            return False
        try:
            there = readers.read_now(self.offset, self._buffer)
        except OSError:  # a thread will tell
            readers.read_now = None
            return False
        if there:
            readers.answers.append(Answered(self.fetch, self._buffer))
        return there

    def hand_over(self) -> None:
        """To a thread that may wait."""
        self.readers.read_on(self)

    def run(self) -> None:
        fetch = self.fetch
        data: memoryview | None = None
        cause = ""
        try:
            source = self.readers.source
            read = source.read(self.offset, self.length, urgent=fetch.demand, waited=fetch.waited)
            data = memoryview(read)
        except SourceError as error:
            cause = f"{error.what}: {error.cause}"
        except Exception as error:  # a bug here must not leave a thread of the client waiting
            cause = f"{type(error).__name__}: {error}"
        self.readers.answers.append(Answered(fetch, data, cause))


class Readers:
    """Reads of one source by `threads`.

    `read_now`: fills memory from an offset on if the bytes are at hand, and says so; raises OSError
    where it cannot say.  `took_s`: how long the read lasted whose answer was taken last.
    """

    took_s = 0.0

    def __init__(
        self,
        source: Source,
        threads: Threads,
        read_now: Callable[[int, memoryview], bool] | None = None,
    ) -> None:
        self.source = source
        self.read_now = read_now
        self._threads = threads
        self.answers: deque[Answered] = deque()  # append and popleft are atomic
        self._reads: dict[int, _Read] = {}  # by identity of their fetch, oldest first
        self._closed = False
        self._held: deque[_Read] = deque()  # for want of threads that come back

    @property
    def under_way(self) -> bool:
        """Whether there are reads whose answer was not taken."""
        return bool(self._reads)

    def prompt(self) -> bool:
        """Whether no read lasts longer than a disk takes."""
        for read in self._reads.values():
            return _clock() - read.began < _PROMPT_S
        return True

    def start(self, fetch: Fetch, offset: int, length: int) -> None:
        """Read [offset, offset + length) in a thread."""
        read = self._reads[id(fetch)] = _Read(self, fetch, offset, length)
        self.read_on(read)

    def momentary(self, fetch: Fetch, offset: int, length: int) -> _Read | None:
        """The same read, to be asked for by `now` for a while and then to be handed over.

        None where that would not do.
        """
        if self.read_now is None or length > AT_ONCE or self._held or not self.prompt():
            return None
        read = self._reads[id(fetch)] = _Read(self, fetch, offset, length)
        return read

    def read_on(self, read: _Read) -> None:
        """Have a thread do it, unless nobody waits for it any more."""
        if self._closed or read.fetch.abandoned:
            self._reads.pop(id(read.fetch), None)
        elif self._held or self._stuck() >= MOST_STUCK:
            self._held.append(read)
        else:
            self._give(read)

    def abandon(self, fetch: Fetch) -> None:
        """Nobody waits for its answer any more."""
        for read in self._held:
            if read.fetch is fetch:
                self._held.remove(read)
                del self._reads[id(fetch)]
                return

    def take(self) -> Answered:
        """The next answer; there is one."""
        answer = self.answers.popleft()
        self.took_s = _clock() - self._reads.pop(id(answer.fetch)).began
        while self._held and self._stuck() < MOST_STUCK:
            self._give(self._held.popleft())
        return answer

    def close(self) -> None:
        """Threads read on, and are heard by nobody."""
        self._closed, self.read_now = True, None
        self._held.clear()

    def _give(self, read: _Read) -> None:
        try:
            self._threads.give(read)
        except (OSError, RuntimeError) as error:
            cause = f"no thread to read with: {error}"
            self.answers.append(Answered(read.fetch, None, cause))

    def _stuck(self) -> int:
        """How many threads are in a read that nobody waits for any more."""
        if len(self._reads) < MOST_STUCK:
            return 0
        return sum(read.stuck for read in self._reads.values())
