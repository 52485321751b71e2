"""Sending: memory, and what runs on it, goes to a receiver while it runs.

Rounds first: all pages, then those that were written meanwhile.  Then the guest stands still, its
state goes, and it is the receiver's.  What is lacking there still follows, asked for or pushed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from userfault.api.track import Tracker, track
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.numbers import real, whole
from userfault.migrate.frames import PIECE, Kind, Offer, Phase, pack_runs, pages_head
from userfault.migrate.link import PATIENCE_S, SAY_S
from userfault.migrate.pages import Outgoing, Row, runs_of
from userfault.migrate.sender_link import Connection
from userfault.serve.page_server.places import host_and_port
from userfault.serve.page_server.tls import Tls

STILL_S = 10.0  # how long the guest may stand still here before it is called off
ROUNDS = 3
_LITTLE = 256  # pages: a round more would save nothing
_ZEROS = bytes(PIECE * PAGE)


class Moving(Protocol):
    """What is to be moved; `memories` in their order."""

    @property
    def memories(self) -> Sequence[Any]: ...

    def about(self) -> bytes:
        """What the receiver has to know to prepare for it."""
        ...

    def stop(self) -> bytes:
        """Stand still: the state from which it goes on."""
        ...

    def go_on(self) -> None:
        """Run on here: it was called off."""
        ...


class Memories:
    """Memories alone: whoever writes to them has stopped when `stop` returns."""

    def __init__(
        self, memories: Sequence[Any], stop: Callable[[], bytes], go_on: Callable[[], None]
    ) -> None:
        self.memories = memories
        self.stop = stop
        self.go_on = go_on

    def about(self) -> bytes:
        """Nothing."""
        return b""


class Sent(msgspec.Struct, frozen=True):
    """A move that was made.  Bytes: `before` the switch, `asked` for after it, and `pushed`.

    `stopped_s`: from when the guest was stopped here to when the receiver has said that it runs.
    `rounds`: over the memory before that.  `breaks`: connections that were lost meanwhile.
    """

    pages: int
    rounds: int
    before: int
    asked: int
    pushed: int
    stopped_s: float
    seconds: float
    breaks: int


class Progress(msgspec.Struct):
    """Where it stands; `phase`: `copying`, `switching`, `following`."""

    phase: str
    round: int
    left: int  # pages
    pages: int


_Tell = Callable[[Progress], None]


def send(
    moving: Moving,
    address: str,
    *,
    tls: Tls | None,
    rounds: int = ROUNDS,
    modes: Sequence[str | None] | None = None,
    patience_s: float = PATIENCE_S,
    still_s: float = STILL_S,
    progress: Callable[[Progress], None] | None = None,
) -> Sent:
    """Move it to the receiver at `address` (HOST:PORT); returns when all pages are there.

    It runs meanwhile, here and then there.  `rounds`: how often pages are sent before the switch at
    most; 0: none, and nothing is tracked.  `modes`: how writes to each memory are seen, as for
    `track()`.  `patience_s`: how long a receiver may be away before it is given up; `still_s`: for
    how long the guest may stand still here until it is known that the receiver can take it.

    Raises NotMoved where it runs on here (UsageError, and what `track()` raises, too); HalfMoved
    where it is the receiver's and was not seen to be complete: its memories are here still, as they
    were when it was stopped.  After any other exception (Ctrl-C)
    it runs on here before the switch, and stands still here after it.
    """
    host, port = host_and_port(address)
    row = Row(moving.memories)
    try:
        pages = Outgoing(row.pages)
        link = Connection(
            (host or "127.0.0.1", port),
            tls.context(server=False) if tls is not None else None,
            Offer(row.lengths, moving.about()),
            pages,
            real("patience_s", patience_s),
            real("still_s", still_s),
        )
        sending = _Sending(moving, row, link, pages, progress)
        return sending.run(whole("rounds", rounds), modes or [None] * len(row.lengths))
    finally:
        row.close()


class _Sending:
    """One move.  `counts`: pages that went before the switch, asked for, and pushed."""

    def __init__(
        self, moving: Moving, row: Row, link: Connection, pages: Outgoing, tell: _Tell | None
    ) -> None:
        self._moving, self._row, self._link, self._pages = moving, row, link, pages
        self._progress = tell or (lambda _: None)
        self._trackers: list[Tracker] = []
        self._state = b""
        self._counts = {"before": 0, "asked": 0, "pushed": 0}
        self._round = 0

    def run(self, rounds: int, modes: Sequence[str | None]) -> Sent:
        """See `send`."""
        begun, link = time.monotonic(), self._link
        try:
            link.begin()
            if rounds:
                for memory, mode in zip(self._moving.memories, modes, strict=True):
                    self._trackers.append(track(memory, mode=mode))
            link.resuming(lambda: self._copy(rounds))
            self._stop()
            link.resuming(self._switch)
            link.given = True
            link.resuming(self._follow)
            link.bye()
        except BaseException as error:
            link.call_off(error)
            if link.stopped and not link.given:
                self._moving.go_on()
            raise
        finally:
            link.close()
            for tracker in self._trackers:
                tracker.close()
        return Sent(
            self._row.pages,
            self._round,
            **{name: pages * PAGE for name, pages in self._counts.items()},
            stopped_s=link.stopped_s,
            seconds=time.monotonic() - begun,
            breaks=link.breaks,
        )

    # What is done, each to be begun anew on another connection.

    def _copy(self, rounds: int) -> None:
        """Rounds while it runs."""
        before = self._row.pages
        while self._round < rounds:
            self._tell("copying")
            while self._push("before"):
                pass
            self._round += 1
            left = self._seen()
            if left <= _LITTLE or left > before // 2:
                break
            before = left
        self._link.catch_up()  # what waits in the network would be waited for standing still

    def _stop(self) -> None:
        self._tell("switching")
        self._link.stopped, self._link.stopped_at = True, time.monotonic()
        self._state = self._moving.stop()
        self._seen()

    def _switch(self) -> None:
        """Until the receiver is known to be able to take it."""
        link = self._link
        if link.phase is Phase.COPYING:
            for runs in pack_runs(runs_of(self._pages.stale())):
                link.send(Kind.STALE, runs)
            link.send(Kind.SWITCH, self._state)
            link.wait(lambda: link.phase is not Phase.COPYING)

    def _follow(self) -> None:
        """It is theirs; pages that somebody waits for, and then those that are left."""
        link = self._link
        if link.phase is Phase.READY:
            link.send(Kind.GO)
        while link.phase is not Phase.ALL:
            self._tell("following")
            if not self._answer() and not self._push("pushed"):
                link.wait(lambda: link.asked or link.phase is Phase.ALL, SAY_S)

    def _seen(self) -> int:
        """What was written since the last look is to be sent again: how much is."""
        for tracker, first in zip(self._trackers, self._row.firsts, strict=False):
            for offset, length in tracker.written().runs:
                start, end = offset // PAGE, -(-(offset + length) // PAGE)
                self._pages.todo.add_range(first + start, first + end)
        return len(self._pages.todo)

    def _push(self, why: str) -> bool:
        """The next of those that are to be sent; False where there is none."""
        run = self._pages.next()
        if run is not None:
            self._give(*run, why)
        return run is not None

    def _answer(self) -> bool:
        """Pages that were asked for."""
        try:
            wanted, again = self._link.asked.popleft()
        except IndexError:
            return False
        if not again:  # what was sent on this connection arrives by itself
            wanted &= self._pages.todo
        for first, count in runs_of(wanted):
            for at in range(first, first + count, PIECE):
                self._give(at, min(PIECE, first + count - at), "asked")
        return True

    def _give(self, first: int, count: int, why: str) -> None:
        # Before they are read: what is written from here on is told by the next look.  And before
        # they are sent, which may end in the middle.
        self._pages.sending(first, count)
        data = self._row.read(first, count)
        if data == _ZEROS[: len(data)]:
            self._link.send(Kind.ZEROS, pages_head(first, count))
        else:
            self._link.send(Kind.PAGES, pages_head(first, count), data)
        self._counts[why] += count

    def _tell(self, phase: str) -> None:
        self._progress(Progress(phase, self._round, len(self._pages.todo), self._row.pages))
