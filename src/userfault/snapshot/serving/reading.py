"""Stored chunks, verified before anybody sees a byte of them: memory, cache, store, second store.

A chunk is named by the digest of its stored bytes, so that wrong bytes are seen for what they are,
whoever sent them.  A wrong or missing chunk is asked for again, then at the second store, and in
the end StoreError says what was tried.  An answer that is late is waited for while the next store
is asked; a store that does not answer is left for a time (`health`).
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from userfault.snapshot.errors import FormatError, StoreError, told
from userfault.snapshot.stores.digests import verify
from userfault.snapshot.stores.health import SILENT_S, Health
from userfault.snapshot.stores.keys import chunk_key
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.stores.objects import Fetchable, Objects, is_remote
from userfault.snapshot.stores.opening import open_objects

if TYPE_CHECKING:
    from userfault.snapshot.stores.cache import ChunkCache
    from userfault.snapshot.stores.fetching import Asked, Fetcher
    from userfault.snapshot.stores.tries import Counts, Wanted

DEADLINE_S = 20.0
# What a chunk has where others before it have used all that up: one try.
_LEAST_S = 2.0
# When an answer is late that nobody stands still for: from, to.
_LATE_S = (0.5, 2.0)
# A caller waits this much longer than its deadline, for an event loop that is busy.
_GRACE_S = 2.0
_PARALLEL = 16
_AHEAD_BYTES = 32 << 20
_LOCAL_TRIES = 2


def open_reader(
    url: str, *, second: str | None = None, cache: str | None = None, cache_size: int | None = None
) -> ChunkReader:
    """A reader of the chunks of the store at `url`, then at `second`.

    `cache`: the folder of the local cache, "" for none; None: as USERFAULT_CACHE says, else the
    user's cache folder.  Local stores are not cached.  Nothing is read and no thread runs before
    the first chunk is asked for.
    """
    stores = [open_objects(one) for one in (url, second) if one is not None]
    front = None
    if cache is None:
        cache = os.environ.get("USERFAULT_CACHE")
    if cache != "" and is_remote(stores[0]):
        from userfault.snapshot.stores.cache import open_cache  # noqa: PLC0415  # for remote stores alone

        front = open_cache(cache, cache_size)
    return ChunkReader(stores, cache=front)


class ChunkReader:
    """Verified chunks from `stores`, tried in their order.  Thread-safe.

    `deadline`: seconds that one chunk may take, all tries together.  `parallel`: requests in
    advance at one time.
    """

    def __init__(
        self,
        stores: Sequence[Objects],
        *,
        cache: ChunkCache | None = None,
        deadline: float = DEADLINE_S,
        parallel: int = _PARALLEL,
    ) -> None:
        self._stores = tuple(stores)
        self._cache = cache
        self._deadline = deadline
        self._fetchers: dict[int, Fetcher] = {}
        for number, store in enumerate(self._stores):
            if is_remote(store):
                self._fetchers[number] = self._fetcher(store, parallel)
        self._health = [Health() for _ in self._stores]
        # One request a store that was overtaken and may still be answered; when it began.
        self._lingering: dict[int, tuple[float, Asked]] = {}

    @property
    def counts(self) -> list[Counts]:
        """What was asked of each remote store, in their order."""
        return [fetcher.counts for fetcher in self._fetchers.values()]

    def chunk(
        self, digest: bytes, stored_length: int, *, urgent: bool = False, waited: float = 0.0
    ) -> bytes:
        """The stored bytes of a chunk, verified.  May block, up to the deadline.

        `urgent`: somebody stands still until they are there.  `waited`: seconds of the deadline
        that are over already.  Raises StoreError; its cause names every store that was tried and
        what it answered.
        """
        here = self._nearby(digest, stored_length)
        if here is not None:
            return here
        race = _Race(time.monotonic() + max(self._deadline - waited, _LEAST_S), urgent=urgent)
        left_alone = deque(self._order())
        try:
            while left_alone or race.running:
                if left_alone:
                    number = left_alone.popleft()
                    found = self._begin(race, number, (digest, stored_length))
                    if found is not None:
                        return found
                found = self._first_of(race, left_alone)
                if found is not None:
                    return found
        finally:
            self._overtake(race)
        raise StoreError(
            f"cannot get chunk {digest.hex()[:16]}…",
            cause="; ".join(race.failures),
            cure="check the store with `userfault verify`; a second store that has the chunk can"
            " stand in",
        )

    def now(self, digest: bytes, stored_length: int) -> bytes | None:
        """The same if it is in memory, else None; it waits for no disk and no network."""
        try:
            found = self._taken(digest)
            if found is None and self._cache is not None:
                found = self._cache.at_hand(digest, stored_length)
            store = self._stores[self._best()]
            if found is None and isinstance(store, LocalObjects):
                found = store.at_hand(chunk_key(digest), stored_length)
                if found is not None:
                    verify(digest, found)
        except (StoreError, FormatError):
            return None  # `chunk` will say it, or find it elsewhere
        return found

    def ahead(self, wanted: Sequence[Wanted]) -> None:
        """These chunks (digest, stored length) are wanted soon: begin to read them."""
        number = self._best()
        if number in self._fetchers:
            self._fetchers[number].ahead(wanted)
            return
        store = self._stores[number]
        assert isinstance(store, LocalObjects)
        for digest, _ in wanted:
            store.will_need(chunk_key(digest))

    def close(self) -> None:
        """End all requests and threads; whoever waits for a chunk gets StoreError."""
        for fetcher in self._fetchers.values():
            fetcher.close()
        if self._cache is not None:
            self._cache.close()

    def _order(self) -> list[int]:
        """The stores, those last that do not answer at the moment."""
        return sorted(range(len(self._stores)), key=lambda one: not self._health[one].try_it())

    def _best(self) -> int:
        """The store that is asked first now."""
        return next((n for n, health in enumerate(self._health) if health.usable()), 0)

    def _begin(self, race: _Race, number: int, wanted: Wanted) -> bytes | None:
        """Ask one more store: a folder at once, a remote one in its fetcher."""
        store = self._stores[number]
        left = race.end - time.monotonic()
        if left <= 0:
            race.failures.append(f"{store.url}: not tried, the time was over")
            return None
        try:
            if number not in self._fetchers:
                return self._read(store, *wanted)
            asked = self._fetchers[number].begin(wanted, urgent=race.urgent, timeout=left)
        except (StoreError, FormatError) as error:
            race.failures.append(_told(store, error))
        else:
            asked.add_done_callback(functools.partial(self._answered, number, time.monotonic()))
            race.running[asked] = number
        return None

    def _first_of(self, race: _Race, next_ones: Sequence[int]) -> bytes | None:
        """Wait for an answer that is right, or until it is time to ask the next store."""
        if not race.running:
            return None
        left = max(race.end - time.monotonic(), 0)
        pause = left + _GRACE_S
        if next_ones:
            # A store that does not answer either is asked when nothing else is left to do.
            usable = self._health[next_ones[0]].usable()
            pause = min(self._late(race), left) if usable else left / 2
        import concurrent.futures  # noqa: PLC0415  # with `logging` 4 ms, for remote stores alone

        done, _ = concurrent.futures.wait(
            race.running, timeout=pause, return_when=concurrent.futures.FIRST_COMPLETED
        )
        found = None
        for asked in done or (() if next_ones else list(race.running)):
            number = race.running.pop(asked)
            store = self._stores[number]
            try:
                found = self._fetchers[number].answer(asked)
            except (StoreError, FormatError) as error:
                race.failures.append(_told(store, error))
        return found

    def _late(self, race: _Race) -> float:
        """How long the stores that were asked may take before another is."""
        late = max(self._fetchers[number].late_s for number in race.running.values())
        least, most = _LATE_S
        return late if race.urgent else min(max(4 * late, least), most)

    def _answered(self, number: int, began: float, asked: Asked) -> None:
        """A store has answered, or will not."""
        health = self._health[number]
        if asked.cancelled():
            return
        if isinstance(asked.exception(), StoreError):
            health.failed(began)
        else:
            health.heard()

    def _overtake(self, race: _Race) -> None:
        """Another store was faster.  One request each goes on: whether it is answered tells more
        of the store than that it was late."""
        for asked, number in race.running.items():
            self._health[number].overtaken(race.began)
            began, held = self._lingering.get(number, (0.0, None))
            if held is not None and race.began - began < SILENT_S and not held.done():
                asked.cancel()
                continue
            if held is not None:
                held.cancel()
            self._lingering[number] = race.began, asked

    def _taken(self, digest: bytes) -> bytes | None:
        """What was read in advance."""
        for fetcher in self._fetchers.values():
            found = fetcher.take(digest)
            if found is not None:
                return found
        return None

    def _nearby(self, digest: bytes, stored_length: int) -> bytes | None:
        """From memory or the cache."""
        found = self._taken(digest)
        if found is None and self._cache is not None:
            found = self._cache.get(digest, stored_length)
        return found

    def _read(self, store: Objects, digest: bytes, stored_length: int) -> bytes:
        """From a folder: once more where the bytes are wrong, for they may be being replaced."""
        for number in range(_LOCAL_TRIES):
            data = store.get(chunk_key(digest), most=stored_length)
            try:
                verify(digest, data)
            except FormatError:
                if number == _LOCAL_TRIES - 1:
                    raise
            else:
                return data
        raise AssertionError("it returns or raises")

    def _fetcher(self, store: Fetchable, parallel: int) -> Fetcher:
        from userfault.snapshot.stores.fetching import Fetcher  # noqa: PLC0415  # asyncio, for remote ones

        cache = self._cache
        return Fetcher(
            store,
            deadline=self._deadline,
            parallel=parallel,
            ahead_bytes=_AHEAD_BYTES,
            arrived=cache.put_later if cache is not None else lambda *_: None,
            needless=cache.has if cache is not None else lambda _: False,
        )


class _Race:
    """One chunk being asked for, at one store or several, until `end`."""

    def __init__(self, end: float, *, urgent: bool) -> None:
        self.began = time.monotonic()
        self.end = end
        self.urgent = urgent
        self.running: dict[Asked, int] = {}
        self.failures: list[str] = []


def _told(store: Objects, error: StoreError | FormatError) -> str:
    return f"{store.url}: {told(error)}"
