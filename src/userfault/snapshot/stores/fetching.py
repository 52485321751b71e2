"""Chunks of one remote store: many requests at once, each bounded, none asked for twice.

One thread runs an event loop, so that a request that nobody wants any more ends at once.  A flight
is the work of getting one chunk (`tries`).  Whoever wants that chunk meanwhile joins it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVarTuple, Unpack

from userfault.snapshot.errors import FormatError, StoreError
from userfault.snapshot.stores.objects import Fetchable
from userfault.snapshot.stores.tries import Counts, Tries, Wanted

_Arguments = TypeVarTuple("_Arguments")
Asked: TypeAlias = "concurrent.futures.Future[bytes]"

_WAITING_MOST = 1 << 16


class _Flight:
    """The work of getting one chunk."""

    def __init__(self, wanted: Wanted, generation: int) -> None:
        self.wanted = wanted
        self.generation = generation
        self.askers = 0
        self.asked = False  # by somebody who waits, now or before
        self.urgent = asyncio.Event()
        self.task: asyncio.Task[bytes]


class Loop(asyncio.SelectorEventLoop):
    """An event loop to which nothing can be told after its end, and nobody hears of that.

    The client library tells of requests in threads of its own, a moment after they were cancelled
    too; what it would then raise (RuntimeError: the loop is closed) it prints on standard error.
    """

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Arguments]], object],
        *args: *_Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """See `asyncio`; after `close` the call is not made."""
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
        handle = asyncio.Handle(callback, args, self, context)
        handle.cancel()
        return handle


class Fetcher:
    """Verified chunks of `store`.  All public methods are for any thread.

    `parallel`: requests in advance at one time; urgent ones come on top.  `ahead_bytes`: what may
    be kept of chunks that were read in advance.  `arrived`: called with each chunk, in the thread
    of the loop; must not block.  `needless`: whether a chunk need not be read in advance.
    """

    def __init__(
        self,
        store: Fetchable,
        *,
        deadline: float,
        parallel: int,
        ahead_bytes: int,
        arrived: Callable[[bytes, bytes], None],
        needless: Callable[[bytes], bool],
    ) -> None:
        self._tries = Tries(store, deadline)
        self._parallel = parallel
        self._ahead_bytes = ahead_bytes
        self._arrived = arrived
        self._needless = needless
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        # From here on: the loop's thread alone, but for `_ready`, which has a lock.
        self._flights: dict[bytes, _Flight] = {}
        self._waiting: deque[tuple[Wanted, int]] = deque()
        self._generation = 0
        self._in_advance: set[bytes] = set()
        self._reserved = 0
        self._ready_lock = threading.Lock()
        self._ready: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()
        self._ready_bytes = 0

    @property
    def late_s(self) -> float:
        """Seconds after which an answer is late: 95 of the last 100 came sooner."""
        return self._tries.late_s

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self._tries.counts

    def take(self, digest: bytes) -> bytes | None:
        """A chunk that was read in advance and is here; it is given once."""
        with self._ready_lock:
            found = self._ready.pop(digest, None)
            if found is None:
                return None
            self._ready_bytes -= len(found[0])
        self._call(self._advance)  # there is room for the next one
        return found[0]

    def begin(self, wanted: Wanted, *, urgent: bool, timeout: float) -> Asked:
        """Ask for a chunk, for up to `timeout` seconds: `answer` takes it, `cancel` ends it.

        Raises StoreError where this is closed.
        """
        loop = self._running()
        asked = asyncio.run_coroutine_threadsafe(self._ask(wanted, urgent, timeout), loop)
        if loop.is_closed():
            asked.cancel()
        return asked

    def answer(self, asked: Asked) -> bytes:
        """The verified chunk that was asked for; what is not there now is ended.

        Raises StoreError where the store does not answer, FormatError where it does and has no such
        chunk, or wrong bytes in its place.
        """
        try:
            return asked.result(0)
        except concurrent.futures.CancelledError:
            raise _closed() from None
        except TimeoutError:
            asked.cancel()
            raise _late() from None

    def ahead(self, wanted: Sequence[Wanted]) -> None:
        """Begin to read these, in this order, as far as there is room; the latest call goes first.

        What an earlier call brought and nobody took makes room for it.
        """
        self._running()
        self._call(self._add_ahead, list(wanted))

    def close(self) -> None:
        """End all requests and the thread.  Whoever waits gets StoreError."""
        with self._starting:
            self._closed = True
            thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        if thread.is_alive():
            self._call(loop.stop)
            thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._closed:
                raise _closed()
            if self._loop is None:
                self._loop = Loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="userfault-fetcher", daemon=True
                )
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            self._waiting.clear()  # or each flight that ends would start another
            loop.run_until_complete(asyncio.sleep(0))  # who asked in the last moment has a task
            while tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks))
        finally:
            loop.close()

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the loop's thread call something; nothing where it has ended."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function, *arguments)

    # The rest runs in the loop's thread.

    async def _ask(self, wanted: Wanted, urgent: bool, timeout: float) -> bytes:
        end = time.monotonic() + timeout
        while True:
            here = self.take(wanted[0])
            if here is not None:
                return here
            flight = self._flights.get(wanted[0])
            joined = flight is not None and not flight.asked
            if flight is None:
                flight = self._start(wanted, self._generation)
            try:
                return await self._join(flight, urgent, end - time.monotonic())
            except TimeoutError:
                raise _late(timeout) from None
            except (StoreError, FormatError):
                # It was under way before: this asker has not had its own tries yet.
                if not joined:
                    raise

    async def _join(self, flight: _Flight, urgent: bool, timeout: float) -> bytes:
        flight.asked = True
        flight.askers += 1
        if urgent:
            flight.urgent.set()
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(flight.task)
        finally:
            flight.askers -= 1
            if not flight.askers and not flight.task.done():
                flight.task.cancel()  # nobody waits for it any more

    def _start(self, wanted: Wanted, generation: int) -> _Flight:
        flight = _Flight(wanted, generation)
        self._flights[wanted[0]] = flight
        work = self._tries.chunk(wanted, flight.urgent)
        flight.task = asyncio.get_running_loop().create_task(work)
        flight.task.add_done_callback(lambda _: self._landed(flight))
        return flight

    def _landed(self, flight: _Flight) -> None:
        digest, length = flight.wanted
        if self._flights.get(digest) is flight:
            del self._flights[digest]
        if digest in self._in_advance:
            self._in_advance.discard(digest)
            self._reserved -= length
        if not flight.task.cancelled() and flight.task.exception() is None:
            data = flight.task.result()
            self._arrived(digest, data)
            if not flight.asked:
                with self._ready_lock:
                    self._ready[digest] = (data, flight.generation)
                    self._ready_bytes += len(data)
        self._advance()

    def _add_ahead(self, wanted: list[Wanted]) -> None:
        self._generation += 1
        asked = {digest for digest, _ in wanted}
        kept = [item for item in self._waiting if item[0][0] not in asked]
        self._waiting = deque([(one, self._generation) for one in wanted] + kept)
        while len(self._waiting) > _WAITING_MOST:
            self._waiting.pop()
        self._advance()

    def _advance(self) -> None:
        """Start requests in advance, as many as there is room for."""
        while self._waiting and len(self._in_advance) < self._parallel:
            wanted, generation = self._waiting[0]
            digest, length = wanted
            if digest in self._flights or digest in self._ready or self._needless(digest):
                self._waiting.popleft()
                continue
            if not self._make_room(length, generation):
                return
            self._waiting.popleft()
            self._in_advance.add(digest)
            self._reserved += length
            self._start(wanted, generation)

    def _make_room(self, length: int, generation: int) -> bool:
        """Whether there is room for one more; what older calls brought goes first."""
        with self._ready_lock:
            while self._ready_bytes + self._reserved + length > self._ahead_bytes:
                oldest = next(iter(self._ready), None)
                if oldest is None or self._ready[oldest][1] >= generation:
                    # Alone, a chunk larger than all the room is read all the same.
                    return not self._ready and not self._reserved
                data, _ = self._ready.pop(oldest)
                self._ready_bytes -= len(data)
            return True


def _late(timeout: float = 0.0) -> StoreError:
    within = f"within {timeout:.1f} s" if timeout else "in time"
    return StoreError("no answer", cause=f"none came {within}")


def _closed() -> StoreError:
    return StoreError("the reader is closed", cause="close() was called", cure="")
