"""Stored chunks, verified before anybody sees a byte of them: memory, cache, store, second store.

A chunk is named by the digest of its stored bytes, so that wrong bytes are seen for what they are,
whoever sent them.  A wrong or missing chunk is asked for again, then at the second store, and in
the end StoreError says what was tried.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from userfault.snapshot import chunk as chunks
from userfault.snapshot.errors import FormatError, StoreError
from userfault.snapshot.keys import chunk_key
from userfault.snapshot.local import LocalObjects
from userfault.snapshot.objects import Fetchable, Objects, open_objects

if TYPE_CHECKING:
    from userfault.snapshot.cache import ChunkCache
    from userfault.snapshot.fetching import Counts, Fetcher

Wanted = tuple[bytes, int]  # digest, stored length

DEADLINE_S = 20.0
_PARALLEL = 16
_AHEAD_BYTES = 32 << 20
_LOCAL_TRIES = 2
_DOWN_S = 5.0


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
        from userfault.snapshot.cache import open_cache  # noqa: PLC0415  # for remote stores alone

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
        self._first = self._fetchers.get(0)
        self._down: dict[int, float] = {}  # a remote store that did not answer, until when

    @property
    def counts(self) -> list[Counts]:
        """What was asked of each remote store, in their order."""
        return [fetcher.counts for fetcher in self._fetchers.values()]

    def chunk(self, digest: bytes, stored_length: int, *, urgent: bool = False) -> bytes:
        """The stored bytes of a chunk, verified.  May block, up to the deadline.

        `urgent`: somebody stands still until they are there.  Raises StoreError; its cause names
        every store that was tried and what it answered.
        """
        here = self._nearby(digest, stored_length)
        if here is not None:
            return here
        end = time.monotonic() + self._deadline
        failures = []
        order = self._order()
        for tried, number in enumerate(order):
            store = self._stores[number]
            left = end - time.monotonic()
            if left <= 0:
                failures.append(f"{store.url}: not tried, the time was over")
                continue
            try:
                if number not in self._fetchers:
                    return self._read(store, digest, stored_length)
                # A store that does not answer leaves time for the next one.
                share = left / (len(order) - tried)
                fetcher = self._fetchers[number]
                return fetcher.fetch((digest, stored_length), urgent=urgent, timeout=share)
            except (StoreError, FormatError) as error:
                if number in self._fetchers and isinstance(error, StoreError):
                    self._down[number] = time.monotonic() + _DOWN_S
                failures.append(f"{store.url}: {error.what}: {error.cause}".rstrip(": "))
        raise StoreError(
            f"cannot get chunk {digest.hex()[:16]}…",
            cause="; ".join(failures),
            cure="check the store with `userfault verify`; a second store that has the chunk can"
            " stand in",
        )

    def now(self, digest: bytes, stored_length: int) -> bytes | None:
        """The same if it is in memory, else None; it waits for no disk and no network."""
        try:
            if self._first is not None:
                found = self._first.take(digest)
                if found is None and self._cache is not None:
                    found = self._cache.at_hand(digest, stored_length)
                return found
            store = self._stores[0]
            assert isinstance(store, LocalObjects)
            found = store.at_hand(chunk_key(digest), stored_length)
            if found is not None:
                chunks.verify(digest, found)
        except (StoreError, FormatError):
            return None  # `chunk` will say it, or find it elsewhere
        return found

    def ahead(self, wanted: Sequence[Wanted]) -> None:
        """These chunks (digest, stored length) are wanted soon: begin to read them."""
        if self._first is not None:
            self._first.ahead(wanted)
            return
        store = self._stores[0]
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
        """The stores, those last that failed a moment ago: not each chunk waits for them."""
        now = time.monotonic()
        return sorted(range(len(self._stores)), key=lambda one: self._down.get(one, 0.0) > now)

    def _nearby(self, digest: bytes, stored_length: int) -> bytes | None:
        """From memory or the cache."""
        found = self._first.take(digest) if self._first is not None else None
        if found is None and self._cache is not None:
            found = self._cache.get(digest, stored_length)
        return found

    def _read(self, store: Objects, digest: bytes, stored_length: int) -> bytes:
        """From a folder: once more where the bytes are wrong, for they may be being replaced."""
        for number in range(_LOCAL_TRIES):
            data = store.get(chunk_key(digest), most=stored_length)
            try:
                chunks.verify(digest, data)
            except FormatError:
                if number == _LOCAL_TRIES - 1:
                    raise
            else:
                return data
        raise AssertionError("it returns or raises")

    def _fetcher(self, store: Fetchable, parallel: int) -> Fetcher:
        from userfault.snapshot.fetching import Fetcher  # noqa: PLC0415  # asyncio, for remote ones

        cache = self._cache
        return Fetcher(
            store,
            deadline=self._deadline,
            parallel=parallel,
            ahead_bytes=_AHEAD_BYTES,
            arrived=cache.put_later if cache is not None else lambda *_: None,
            needless=cache.has if cache is not None else lambda _: False,
        )


def is_remote(store: object) -> TypeGuard[Fetchable]:
    """Whether a store answers over a network, and is read in an event loop."""
    return hasattr(store, "fetch")
