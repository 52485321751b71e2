"""What is said with one peer: a dump that writes into a store, or a restore that asks for pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from userfault.kernel.errors import UserfaultError
from userfault.serve.page_server.giving import Giving
from userfault.serve.page_server.sink import DumpInput
from userfault.serve.page_server.stream import ConnectionLostError, Stream
from userfault.serve.peers import RefusedError
from userfault.snapshot.errors import SnapshotInUse
from userfault.snapshot.packing.pack import Packed, pack
from userfault.snapshot.stores.keys import snapshot_key
from userfault.snapshot.stores.objects import Objects
from userfault.wire.criu.page_server import (
    PAGE,
    STATUS,
    Command,
    Request,
    Requests,
    answer,
)
from userfault.wire.errors import BadMessageError

_MOST_GIVEN = 256  # pages of one answer; who wanted more asks for the rest
_DEDUPE = 128 << 20  # bytes that are remembered of page contents, for one dump
_ENDS = (Command.CLOSE, Command.FORCE_CLOSE)
_OPENS = (Command.OPEN, Command.OPEN2)
_FAILED = -1


class Target:
    """Where dumps go: an open store, and the name; with {n} in it, the first number that is free.

    `compressed`: whether pages may come so.  Thread-safe.
    """

    def __init__(self, objects: Objects, name: str, *, compressed: bool = False) -> None:
        self.objects = objects
        self.compressed = compressed
        self._name = name
        self._lock = threading.Lock()
        self._taken: set[str] = set()  # by dumps that are under way

    def store(self, dump: DumpInput) -> Packed:
        """Pack what comes.  Raises as `pack` does."""
        number = 0
        while True:
            name = self._name.replace("{n}", str(number))
            if name == self._name or self._take(name):
                try:
                    return pack(self.objects, name, dump, dedupe_memory=_DEDUPE)
                except SnapshotInUse:
                    if name == self._name or dump.began:
                        raise
                finally:
                    self._taken.discard(name)
            number += 1

    def _take(self, name: str) -> bool:
        with self._lock:
            if name in self._taken or self.objects.exists(snapshot_key(name)):
                return False
            self._taken.add(name)
        return True


class Talk:
    """`stream`: to the peer; `quiet_s`: how long it may say nothing between two requests.

    `give`: what restores are given, `into`: where dumps go; None: it is not done.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        give: Giving | None,
        into: Target | None,
        quiet_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._give = give
        self._into = into
        self._quiet_s = quiet_s
        self._tell = tell
        self._requests = Requests()
        self.began = False
        self.given = 0  # pages

    def run(self) -> None:
        """Until it has ended.

        Raises UserfaultError: of the peer (BadMessageError, RefusedError, ConnectionLostError), of
        the store, of the images.
        """
        while (request := self._next()) is not None:
            if request.command is Command.GET:
                self._answer(request)
            elif request.command in _ENDS:
                self._stream.send(STATUS.pack(0))
                self._stream.finish()
                return
            elif request.command is Command.PARENT:
                self._check_sink()
                self._stream.send(STATUS.pack(0))
            elif request.command in _OPENS:
                self._store(request)
                self._stream.finish()
                return
            else:
                raise BadMessageError(
                    "a dump that cannot be",
                    cause="pages of a page map that is not begun",
                    cure="look which program, in which version, sends it",
                )

    def _next(self) -> Request | None:
        """The next request; None at the end of the connection."""
        if not self._stream.wait(self._quiet_s):
            raise ConnectionLostError(
                "a page server's peer that says nothing more",
                cause=f"nothing came for {self._quiet_s:g} s",
                cure="look whether it still runs",
            )
        data = self._stream.begun(self._requests.wanted)
        if not data:
            return None
        self.began = True
        while (request := self._requests.take(data)) is None:
            data = self._stream.exactly(self._requests.wanted)
        return request

    def _ask(self) -> Request:
        """The next request of a dump."""
        request = self._next()
        if request is None:
            raise ConnectionLostError(
                "a dump that did not end",
                cause="the connection ended without CLOSE: nothing was stored",
                cure="see the log of `criu dump`, and dump again",
            )
        return request

    def _answer(self, request: Request) -> None:
        if self._give is None:
            raise RefusedError(
                "a restore that asks for pages",
                cause="this page server gives none",
                cure="name where they are: --pages-from IMAGES or STORE/NAME",
            )
        data = self._give.pages(request, _MOST_GIVEN)
        form = self._requests.form
        assert form is not None
        self._stream.send(answer(request, len(data) // PAGE, form), data)
        self.given += len(data) // PAGE

    def _check_sink(self) -> Target:
        if self._into is None:
            raise RefusedError(
                "a dump that sends pages",
                cause="this page server takes none",
                cure="name where they go: --pages-to STORE/NAME",
            )
        return self._into

    def _store(self, first: Request) -> None:
        """Pack what comes.  The peer is told how that went: it takes any number but 0 for no."""
        began = time.monotonic()
        into = self._check_sink()
        dump = DumpInput(self._stream, first, self._ask, compressed=into.compressed)
        try:
            packed = into.store(dump)
        except ConnectionLostError:
            raise
        except UserfaultError:
            if dump.closed:
                self._stream.send(STATUS.pack(_FAILED))
            raise
        self._stream.send(STATUS.pack(0))
        self._tell(
            f"stored {packed.name}: {packed.pages} pages, {packed.stored} of them new,"
            f" {packed.bytes} bytes, in {time.monotonic() - began:.1f} s"
        )
