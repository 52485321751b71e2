"""A dump that comes over the network, as memory to pack: `criu dump --page-server`.

It is read once, in the order in which it comes, and no more of it is held than what one read takes:
the peer is read from as fast as its pages are packed.  What ends without CLOSE is no dump.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

from userfault.kernel.errors import Unavailable
from userfault.serve.page_server.stream import Stream
from userfault.serve.peers import RefusedError
from userfault.snapshot.format.manifest import MOST_LENGTH, MOST_REGIONS
from userfault.snapshot.format.page_maps import SENT, SENT_WHOLE, name_of
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run
from userfault.wire.criu.page_server import (
    LAZY,
    PRESENT,
    SIZE,
    STATUS,
    Command,
    PageMap,
    Request,
    check_size,
)

_HAS_PARENT = struct.Struct("=B")  # the answer to OPEN2
_MOST_MAPS = 1 << 16


class DumpInput:
    """What one connection sends.  `ask`: reads the next request.  `first`: was read already.

    `compressed`: whether pages may come so (a command later than CRIU 4.2).
    """

    kind = "criu"
    warnings: Sequence[str] = ()

    def __init__(
        self, stream: Stream, first: Request, ask: Callable[[], Request], *, compressed: bool
    ) -> None:
        self._stream = stream
        self._ask = ask
        self._first: Request | None = first
        self._inflate = _inflater() if compressed else None
        self._buffer = bytearray()
        self._pages = 0
        self.closed = False
        self._maps: set[PageMap] = set()
        self._map: PageMap | None = None
        self._behind = 0  # the end of the last pages of this map
        self._now: Request | None = None
        self.began = False
        self.regions: list[Region] = []

    @property
    def length(self) -> int:
        """Bytes; as many as there may be, until all have come."""
        return self._pages * PAGE if self.closed else MOST_LENGTH

    def runs(self) -> Iterator[Run]:
        """What comes, up to CLOSE.

        Raises ConnectionLostError without that, BadMessageError, RefusedError.
        """
        self.began = True
        while True:
            request = self._next()
            if request.command in (Command.CLOSE, Command.FORCE_CLOSE):
                self.closed = True
                return
            if request.command in (Command.OPEN, Command.OPEN2):
                self._open(request)
            elif request.command is Command.PARENT:
                self._stream.send(STATUS.pack(0))
            elif request.command is Command.GET:
                raise _wrong("it asks for pages in the middle of a dump")
            else:
                first = self._add(request)
                yield Run(first, request.pages, Holds.DATA)

    def read(self, page: int, count: int) -> memoryview:
        """The next pages, from the connection."""
        del page  # they come in order, and are asked for in order
        request = self._now
        assert request is not None
        if len(self._buffer) < count * PAGE:
            self._buffer = bytearray(count * PAGE)
        view = memoryview(self._buffer)[: count * PAGE]
        if request.command is Command.ADD_F_COMPRESSED:
            for at in range(0, len(view), PAGE):
                self._inflated(view[at : at + PAGE])
        else:
            self._stream.into(view)
        return view

    def finish(self) -> Mapping[str, str]:
        """Whose memory it is."""
        return {SENT: SENT_WHOLE}

    def close(self) -> None:
        """The connection is its owner's."""

    def _next(self) -> Request:
        if self._first is not None:
            request, self._first = self._first, None
            return request
        return self._ask()

    def _open(self, request: Request) -> None:
        assert request.map is not None
        if request.map in self._maps or len(self._maps) >= _MOST_MAPS:
            raise _wrong(f"it begins pagemap-{request.map} a second time, or too many")
        self._maps.add(request.map)
        self._map, self._behind = request.map, 0
        if request.command is Command.OPEN2:
            self._stream.send(_HAS_PARENT.pack(0))

    def _add(self, request: Request) -> int:
        """The page of the image at which it begins."""
        if request.command is Command.ADD_F_COMPRESSED and self._inflate is None:
            raise RefusedError(
                "a dump of compressed pages",
                cause="they are of a CRIU later than 4.2, and of others that mean something else",
                cure="dump without compression; or --page-server-compressed, if it is such a CRIU",
            )
        if request.map != self._map:
            raise _wrong(f"pages of pagemap-{request.map}, which is not begun")
        if request.address < self._behind:
            raise _wrong(f"pages at {request.address:#x}, behind others")
        if not request.flags & PRESENT:
            raise RefusedError(
                f"a dump that lacks the pages at {request.address:#x}",
                cause="they are still in the process, or in an earlier dump",
                cure="dump without --lazy-pages and --prev-images-dir",
            )
        first = self._pages
        self._pages += request.pages
        if self._pages * PAGE > MOST_LENGTH:
            raise _wrong(f"more than {MOST_LENGTH} bytes")
        self._region(request, first)
        self._behind = request.end
        self._now = request
        return first

    def _region(self, request: Request, first: int) -> None:
        """One more, or more of the last one."""
        assert request.map is not None
        name = name_of(str(request.map), lazy=bool(request.flags & LAZY))
        length = request.pages * PAGE
        if self.regions:
            last = self.regions[-1]
            if last.name == name and last.start + last.length == request.address:
                self.regions[-1] = Region(
                    last.start, last.length + length, last.offset, shared=last.shared, name=name
                )
                return
        if len(self.regions) >= MOST_REGIONS:
            raise _wrong(f"pages in more than {MOST_REGIONS} places")
        shared = request.map.shared
        self.regions.append(Region(request.address, length, first * PAGE, shared=shared, name=name))

    def _inflated(self, target: memoryview) -> None:
        (size,) = SIZE.unpack(self._stream.exactly(SIZE.size))
        data = self._stream.exactly(check_size(size))
        assert self._inflate is not None
        if not size:
            target[:] = bytes(PAGE)
        elif size == PAGE:
            target[:] = data
        else:
            target[:] = self._inflate(data)


def _inflater() -> Callable[[bytes], bytes]:
    """From an LZ4 block to a page.  Raises Unavailable without the library."""
    try:
        from lz4.block import LZ4BlockError, decompress  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise Unavailable(
            "compressed pages cannot be taken",
            cause=str(error),
            cure="pip install 'userfault[criu]'",
        ) from None

    def inflate(data: bytes) -> bytes:
        try:
            page: bytes = decompress(data, uncompressed_size=PAGE)
        except LZ4BlockError as error:
            raise _wrong(f"a page that does not decompress: {error}") from None
        if len(page) != PAGE:
            raise _wrong(f"a compressed page of {len(page)} bytes")
        return page

    return inflate


def _wrong(cause: str) -> RefusedError:
    return RefusedError(
        "a dump that cannot be", cause=cause, cure="look which program, in which version, sends it"
    )
