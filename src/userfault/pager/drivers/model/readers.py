"""The source of a modelled world, and the threads that read it for a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.process import Thread
from userfault.model.tasks.recorder import RECORD
from userfault.pager.core.actions import Fetch
from userfault.pager.drivers.mappings.origin import Origin
from userfault.pager.drivers.mappings.readers import Answered, Readers
from userfault.pager.drivers.model.calls import ModelCalls
from userfault.pager.drivers.model.waiting import wake_waiting
from userfault.pager.drivers.wire.messages import Attach

Job = Callable[[Thread], None]


class Source:
    """`pages` pages, each of which says which it is.  `address`: where the pager has it mapped."""

    def __init__(self, address: int, pages: int, page_size: int = PAGE) -> None:
        self.address = address
        self.pages = pages
        self.page_size = page_size

    def page(self, number: int) -> bytes:
        """How this page begins; zeros follow."""
        return b"source %d" % number

    def read(self, page: int, count: int) -> bytes:
        """Whole pages."""
        pages = range(page, page + count)
        return b"".join(self.page(each).ljust(self.page_size, b"\0") for each in pages)


class Pool:
    """Threads of the pager's process; each reads for whoever comes.

    (On Linux they are the worker's, and end with it.  Here what they read for one that was killed
    is heard by nobody.)
    """

    def __init__(self) -> None:
        self.idle: deque[Thread] = deque()
        self._jobs: deque[Job] = deque()

    def add(self, thread: Thread) -> None:
        """One more."""
        self.idle.append(thread)

    def give(self, job: Job) -> None:
        """To a thread that has nothing to do, or to the next that has not."""
        if RECORD.on:
            RECORD.writes.add(("reader pool",))
        if self.idle:
            thread = self.idle.popleft()
            thread.submit(lambda: self._work(thread, job))
        else:
            self._jobs.append(job)

    def _work(self, thread: Thread, job: Job) -> None:
        job(thread)
        if RECORD.on:
            RECORD.writes.add(("reader pool",))
        while self._jobs:
            self._jobs.popleft()(thread)
        self.idle.append(thread)


class ModelReaders(Readers):
    """Reads for one worker."""

    def __init__(self, source: Source, bell: int, calls: ModelCalls, pool: Pool) -> None:
        self._bytes = source
        self._bell = bell
        self._calls = calls
        self._pool = pool
        self.answers = deque()
        self._asked = 0  # reads whose answer was not taken

    def start(self, fetch: Fetch, offset: int, length: int) -> None:
        self._asked += 1
        size = self._bytes.page_size
        page, count = offset // size, length // size
        reading = self._calls.kernel.weather.reading(page, count)

        def read(thread: Thread) -> None:
            clock = self._calls.kernel.clock
            thread.sched.point("source.read")
            data = None if reading.failure else memoryview(self._bytes.read(page, count))
            answered = Answered(fetch, data, reading.failure)
            if reading.seconds:
                clock.at(clock.now + reading.seconds, lambda: self._answer(answered))
            else:
                self._answer(answered)

        self._pool.give(read)

    @property
    def under_way(self) -> bool:
        return self._asked > 0

    def momentary(self, fetch: Fetch, offset: int, length: int) -> None:
        """Nothing comes about while nobody looks."""

    def abandon(self, fetch: Fetch) -> None:
        """Its thread reads on."""

    def take(self) -> Answered:
        self._asked -= 1
        return self.answers.popleft()

    def _answer(self, answered: Answered) -> None:
        """Ring the bell."""
        if RECORD.on:
            RECORD.writes.add(("bell", self._bell))
        self.answers.append(answered)
        calls = self._calls
        calls.rung.add(self._bell)
        wake_waiting(calls.task)


class ModelOrigin(Origin):
    """The source of a mapping, for one worker."""

    def __init__(self, attach: Attach, source: Source, readers: ModelReaders) -> None:
        self.experiences = None
        self.file = self.residency = self.store = self.layout = None
        self.fd = -1
        self.fetcher = readers
        self._attach = attach
        self._source = source
        self._weather = readers._calls.kernel.weather
        self.address = self.mapped = self._address

    def _address(self, offset: int, length: int) -> int:
        size = self._source.page_size
        at_hand = self._weather.at_hand(offset // size, length // size)
        return self._source.address + offset if at_hand else 0

    def close(self) -> None:
        """Nothing of it is open."""
