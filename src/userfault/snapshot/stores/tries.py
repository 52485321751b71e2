"""One chunk from a remote store: up to three tries, each verified; an urgent one asked for twice.

For urgent ones (a thread stands in a page fault) a second request is sent when the first takes
longer than 95 of the last 100 did; the first right answer counts.  Such hedges are a tenth of all
requests at most: an overloaded service is not loaded twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from userfault.snapshot.errors import FormatError, NoSuchObject, StoreError, told
from userfault.snapshot.stores.digests import verify
from userfault.snapshot.stores.keys import chunk_key
from userfault.snapshot.stores.objects import Fetchable

Wanted = tuple[bytes, int]  # digest, stored length

_TRIES = 3
_FIRST_PAUSE_S = 0.05
_RECENT = 100
_FEW = 10  # too few to know how long a request takes
_HEDGE_UNKNOWN_S = 0.1
_HEDGE_LEAST_S = 0.005
_HEDGE_MOST_S = 1.0
_HEDGE_SHARE = 0.1
_HEDGE_SAVED = 5.0


class Counts(msgspec.Struct):
    """What was done: verified `chunks`, their `bytes`, `tries` again after a failure, `wrong`
    answers among them, `hedges` sent and `hedges_won`."""

    chunks: int = 0
    bytes: int = 0
    tries: int = 0
    wrong: int = 0
    hedges: int = 0
    hedges_won: int = 0


class Tries:
    """Of `store`, in one event loop.  `deadline`: seconds that one try may take.

    `late_s`: seconds after which an answer is late, 95 of the last 100 came sooner.
    """

    def __init__(self, store: Fetchable, deadline: float) -> None:
        self.counts = Counts()
        self.late_s = _HEDGE_UNKNOWN_S
        self._store = store
        self._deadline = deadline
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._may_hedge = _HEDGE_SAVED

    async def chunk(self, wanted: Wanted, urgent: asyncio.Event) -> bytes:
        """A verified chunk; `urgent` is set when somebody stands still until it is there.

        Raises StoreError where the store does not answer, FormatError where it does and has no such
        chunk, or wrong bytes in its place.
        """
        failures: list[str] = []
        answered = False
        pause = _FIRST_PAUSE_S
        for number in range(_TRIES):
            if number:
                self.counts.tries += 1
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause *= 4
            try:
                async with asyncio.timeout(self._deadline):
                    data = await self._hedged(wanted, urgent)
            except TimeoutError:
                failures.append(f"no answer within {self._deadline:g} s")
            except FormatError as error:
                answered = True
                self.counts.wrong += 1
                failures.append(told(error))
            except StoreError as error:
                answered = answered or isinstance(error, NoSuchObject)
                failures.append(error.cause or error.what)
            else:
                self.counts.chunks += 1
                self.counts.bytes += len(data)
                return data
        kind = FormatError if answered else StoreError
        raise kind(f"{_TRIES} tries", cause="; then ".join(dict.fromkeys(failures)))

    async def _hedged(self, wanted: Wanted, urgent: asyncio.Event) -> bytes:
        """One try: a request, and a second one where it is urgent and the first is late."""
        began = time.monotonic()
        first = self._request(wanted)
        requests = [first]
        try:
            if await self._is_late(first, urgent, began):
                self.counts.hedges += 1
                self._may_hedge -= 1
                requests.append(self._request(wanted))
            data, winner = await _first_right(requests)
            self.counts.hedges_won += winner is not first
            self._recent.append(time.monotonic() - began)
            self.late_s = self._hedge_after()
            self._may_hedge = min(self._may_hedge + _HEDGE_SHARE, _HEDGE_SAVED)
            return data
        finally:
            for request in requests:
                request.cancel()

    async def _is_late(
        self, first: asyncio.Task[bytes], urgent: asyncio.Event, began: float
    ) -> bool:
        """Wait for the moment to hedge; False where there is no reason to."""
        if not urgent.is_set():
            becomes_urgent = asyncio.ensure_future(urgent.wait())
            try:
                await asyncio.wait((first, becomes_urgent), return_when=asyncio.FIRST_COMPLETED)
            finally:
                becomes_urgent.cancel()
        left = began + self.late_s - time.monotonic()
        if not first.done() and left > 0:
            await asyncio.wait((first,), timeout=left)
        return not first.done() and self._may_hedge >= 1

    def _hedge_after(self) -> float:
        """Seconds after which a request is late: the 95th percentile of the recent ones."""
        if len(self._recent) < _FEW:
            return _HEDGE_UNKNOWN_S
        ordered = sorted(self._recent)
        return min(max(ordered[len(ordered) * 95 // 100], _HEDGE_LEAST_S), _HEDGE_MOST_S)

    def _request(self, wanted: Wanted) -> asyncio.Task[bytes]:
        request = asyncio.get_running_loop().create_task(self._once(wanted))
        # The failure of one that lost is nobody's; unread, it would be logged.
        request.add_done_callback(lambda done: done.cancelled() or done.exception())
        return request

    async def _once(self, wanted: Wanted) -> bytes:
        digest, length = wanted
        data = await self._store.fetch(chunk_key(digest), most=length)
        verify(digest, data)
        return data


async def _first_right(
    requests: Sequence[asyncio.Task[bytes]],
) -> tuple[bytes, asyncio.Task[bytes]]:
    """The first answer that is right; the last failure where none is."""
    left = set(requests)
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for request in done:
            if request.exception() is None:
                return request.result(), request
        if not left:
            return done.pop().result(), requests[0]  # raises
