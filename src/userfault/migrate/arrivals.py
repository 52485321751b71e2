"""What has arrived, and who waits for what has not: workers of the pager read here."""

from __future__ import annotations

import contextlib
import socket
import threading

from pyroaring import BitMap

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.linux.pidfd import close_all, receive
from userfault.migrate.frames import Kind, Phase, Refused, pack_runs, unpack_pages, unpack_runs
from userfault.migrate.link import LOST, Link
from userfault.migrate.pages import runs_of
from userfault.migrate.staging import Staging
from userfault.source.pages import ANSWER, LINE, REQUEST

_MOST_LINES = 1024
_MOST_BYTES = 1 << 30  # of one request of a worker: a huge page


class Arrivals:
    """The pages of a move, at the receiver.

    `changed` guards all of it; who calls holds it, but for `serve`.  `phase`: nobody is given a
    page before it runs here.  `link`: where pages are asked for; None while there is no connection.
    `failed`: why no more will come.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.phase = Phase.COPYING
        self.link: Link | None = None
        self.failed: Refused | None = None
        self._staging: Staging | None = None
        self._wanted = BitMap()

    def begin(self, pages: int) -> None:
        """How many there are; once."""
        if self._staging is None:
            self._staging = Staging(pages)
            self.changed.notify_all()

    def serve(self, line: socket.socket) -> None:
        """A line of a worker, until it hangs up."""
        with line, contextlib.suppress(OSError):
            while head := line.recv(REQUEST.size, socket.MSG_WAITALL):
                if len(head) < REQUEST.size:
                    break
                offset, length = REQUEST.unpack(head)
                data, why = self._read(offset, length)
                if why:
                    reason = why.encode()
                    line.sendall(ANSWER.pack(False, len(reason)) + reason)
                else:
                    line.sendall(ANSWER.pack(True, length))
                    line.sendall(memoryview(data)[:length])

    def connected(self, link: Link) -> None:
        """On a new connection: tell what is here, and ask again for what is not."""
        self.link = link
        for runs in pack_runs(runs_of(self._staged.have)):
            link.send(Kind.HAVE, runs)
        link.send(Kind.HAVE)
        self._ask(self._wanted)

    def pages(self, data: bytearray) -> None:
        """A frame of pages.  Raises BadMessageError."""
        first, count, view = unpack_pages(data, self._staged.pages)
        for at, some in self._lacking(first, count):
            self._staged.put(at, some, view[(at - first) * PAGE : (at - first + some) * PAGE])
        self._came(first, count)

    def zeros(self, data: bytearray) -> None:
        """A frame of zeros.  Raises BadMessageError."""
        for first, count in unpack_runs(data, self._staged.pages):
            for at, some in self._lacking(first, count):
                self._staged.zero(at, some)
            self._came(first, count)

    def stale(self, data: bytearray) -> None:
        """A frame of pages that were written since.  Raises BadMessageError."""
        for first, count in unpack_runs(data, self._staged.pages):
            self._staged.drop(first, count)

    @property
    def _staged(self) -> Staging:
        assert self._staging is not None
        return self._staging

    def _read(self, offset: int, length: int) -> tuple[bytes, str]:
        """These bytes, when they are here; or why they will never be."""
        first, count = offset // PAGE, -(-length // PAGE)
        with self.changed:
            # A pager fills as soon as there is memory, and that is before its sender is welcome.
            while self._staging is None and self.failed is None:
                self.changed.wait()
            while self.failed is None:
                staging = self._staged
                if offset % PAGE or not 0 < length <= _MOST_BYTES or first + count > staging.pages:
                    return b"", "there are no such pages"
                if self.phase >= Phase.RUNNING:
                    lacking = staging.lacks(first, count)
                    if not lacking:
                        return staging.take(first, count), ""
                    if new := lacking - self._wanted:
                        self._wanted |= new
                        self._ask(new)
                self.changed.wait()
            return b"", f"{self.failed.what}: {self.failed.cause}"

    def _ask(self, pages: BitMap) -> None:
        if self.link is not None:
            with contextlib.suppress(*LOST):  # they are asked for again on the next connection
                have = self._staged.have
                for runs in pack_runs(runs_of(pages - have)):
                    self.link.send(Kind.ASK, runs)
                for runs in pack_runs(runs_of(pages & have)):
                    self.link.send(Kind.AGAIN, runs)

    def _lacking(self, first: int, count: int) -> list[tuple[int, int]]:
        """What of them is taken: before it runs here the latest counts, then only what is lacking.

        A page that was delivered is never replaced; one that a worker asks for again has gone.
        """
        if self.phase is Phase.COPYING:
            return [(first, count)]
        came = BitMap(range(first, first + count))
        return list(runs_of(came - (self._staged.have - self._wanted)))

    def _came(self, first: int, count: int) -> None:
        if self._wanted.range_cardinality(first, first + count):
            self._wanted.remove_range(first, first + count)
            self.changed.notify_all()


class Lines:
    """Workers of the pager, each on a line of its own, which come by a socket."""

    def __init__(self, channel: socket.socket, arrivals: Arrivals) -> None:
        self._channel, self._arrivals = channel, arrivals
        self._room = threading.Semaphore(_MOST_LINES)

    def fileno(self) -> int:
        """Of the socket."""
        return self._channel.fileno()

    def new(self) -> bool:
        """One has come; False where none will come any more."""
        data, fds, *_ = receive(self._channel, 64, 1)
        if data == LINE and fds and self._room.acquire(blocking=False):
            line = socket.socket(fileno=fds.pop())
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()
        close_all(fds)
        return bool(data)

    def _serve(self, line: socket.socket) -> None:
        self._arrivals.serve(line)
        self._room.release()
