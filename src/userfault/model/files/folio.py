"""Folios, and the objects whose page cache holds them.

A folio is counted: each page-table entry, the page cache and everybody who works on it holds one
reference, and the last to drop it frees it.  Contents are interned values: trailing zeros are cut
and equal pages share one `bytes`, so that a million resident pages cost little more than their
bookkeeping.  A folio larger than 4 KiB keeps a dict of the 4 KiB pieces that are not zero.

A transparent huge page that fork(2) has shared can be mapped whole by one process and in small
pages by another: the small pages are `pieces` of it, folios of their own that know their `whole`
as long as anybody maps that.  Shared pages are not written, so both hold the same bytes.
"""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.tasks.recorder import RECORD

LOCKED = 1
UPTODATE = 2
DIRTY = 4
HWPOISON = 8
ANON = 16
PINNED = 32  # for DMA: MOVE refuses it
LARGE_POOL = 64  # of a hugetlb pool
SWAPPED = 256  # its bytes are in swap: what is in the cache stands for them until it is looked up
ZERO = 128  # the zero page, or the huge one: read-only, and counted for nobody

Content = bytes | dict[int, bytes]

# What memory holds that nobody has written yet: whatever its last owner left there.
STALE = b"\xa5stale\xa5" * 512

_INTERN_LIMIT = 1 << 16
_LISTED = 16  # places of the cache that are recorded one by one, rather than the whole cache
_interned: dict[bytes, bytes] = {}


def intern(data: bytes) -> bytes:
    """The one value that stands for this content."""
    data = data.rstrip(b"\0")
    if len(_interned) > _INTERN_LIMIT:
        _interned.clear()  # sharing begins anew; values in use stay
    return _interned.setdefault(data, data)


class Cgroup:
    """A memory cgroup: pages charged, and the limit if there is one."""

    __slots__ = ("charged", "limit", "number")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.charged = 0
        self.number = RECORD.number()


class Large:
    """A huge page whose entry was split: still one page to the kernel, until MOVE splits it, too.

    `exclusive`: whether the first of its `folios` belongs to one process; MOVE asks that one
    (measured on 6.18).
    """

    __slots__ = ("exclusive", "folios", "is_split")

    def __init__(self, exclusive: bool) -> None:
        self.exclusive = exclusive
        self.folios: list[Folio] = []
        self.is_split = False


class Folio:
    """Physical memory of `1 << order` base pages."""

    __slots__ = (
        "cgroup",
        "content",
        "flags",
        "index",
        "large",
        "mapcount",
        "number",
        "object",
        "order",
        "pieces",
        "refs",
        "whole",
    )

    def __init__(self, order: int, flags: int, content: Content, cgroup: Cgroup | None) -> None:
        self.number = RECORD.number()
        self.order = order
        self.flags = flags
        self.refs = 1
        self.mapcount = 0
        self.content = content
        self.object: Object | None = None  # in whose page cache it is, at `index`
        self.index = 0
        self.cgroup = cgroup
        self.pieces: dict[int, Folio] = {}
        self.large: Large | None = None
        self.whole: Folio | None = None  # whose piece it is, number `index`

    @property
    def in_large(self) -> Large | None:
        """The huge page that the kernel still takes it for a part of."""
        return self.large if self.large is not None and not self.large.is_split else None

    def own(self, exclusive: bool) -> None:
        """One process alone has it now, or no more."""
        if self.large is not None and self.large.folios[0] is self:
            self.large.exclusive = exclusive

    def mappings(self, piece: int = 0) -> int:
        """How many entries map a small page of it."""
        if RECORD.on:
            RECORD.reads.add(("refs", self.number))
            if self.whole is not None:
                RECORD.reads.add(("refs", self.whole.number))
        if self.whole is not None:
            return self.mapcount + self.whole.mapcount
        part = self.pieces.get(piece)
        return self.mapcount + (part.mapcount if part is not None else 0)

    @property
    def is_alone(self) -> bool:
        """Whether there is one reference and no more."""
        if RECORD.on:
            RECORD.reads.add(("refs", self.number))
        return self.refs == 1

    def record_taken(self) -> None:
        """A memory type gave it out locked and referenced (for the recorder)."""
        if RECORD.on:
            RECORD.writes.add(("page", self.number))
            RECORD.adds.add(("refs", self.number))

    def get(self) -> None:
        """Take one reference."""
        if RECORD.on:
            RECORD.adds.add(("refs", self.number))
        self.refs += 1

    def read(self, offset: int, length: int) -> bytes:
        if RECORD.on:
            RECORD.reads.add(("data", self.number))
        content = self.content
        if type(content) is bytes:
            return content[offset : offset + length].ljust(length, b"\0")
        assert isinstance(content, dict)
        parts = []
        end = offset + length
        while offset < end:
            at = offset % PAGE
            step = min(PAGE - at, end - offset)
            parts.append(content.get(offset // PAGE, b"")[at : at + step].ljust(step, b"\0"))
            offset += step
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        if RECORD.on:
            RECORD.writes.add(("data", self.number))
        content = self.content
        if type(content) is bytes:
            self.content = _patched(content, offset, data)
            return
        assert isinstance(content, dict)
        done = 0
        while done < len(data):
            at = (offset + done) % PAGE
            step = min(PAGE - at, len(data) - done)
            piece = (offset + done) // PAGE
            content[piece] = _patched(content.get(piece, b""), at, data[done : done + step])
            done += step

    def clear(self) -> None:
        """Zero it."""
        if RECORD.on:
            RECORD.writes.add(("data", self.number))
        self.content = {} if self.order else b""

    def copy_from(self, other: Folio) -> None:
        if RECORD.on:
            RECORD.reads.add(("data", other.number))
            RECORD.writes.add(("data", self.number))
        content = other.content
        self.content = content if type(content) is bytes else dict(content)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        where = f"{self.object.name}[{self.index}]" if self.object else "anon"
        return f"folio({where}, order {self.order}, refs {self.refs}, mapped {self.mapcount})"


def _patched(content: bytes, offset: int, data: bytes) -> bytes:
    if not offset and len(data) >= len(content):
        return intern(data)
    return intern(content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :])


class Mount:
    """A file system with a size: `limit` blocks of one base page (None: no limit)."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0

    def record(self) -> None:
        """Its blocks are counted (for the recorder): seen only where there is a limit."""
        if self.limit is not None:
            RECORD.writes.add(("blocks",))


class Object:
    """Pages by index, and how many there may be: all that a memory type's hooks know of a file.

    `size` in bytes (i_size), `shift`: log2 of its page size.
    """

    __slots__ = (
        "blocks",
        "cache",
        "mount",
        "name",
        "number",
        "private_indexes",
        "promised",
        "shift",
        "size",
        "traits",
    )

    def __init__(
        self, name: str, size: int, shift: int = 12, mount: Mount | None = None, traits: int = 0
    ) -> None:
        self.name = name
        self.number = RECORD.number()
        self.size = size
        self.shift = shift
        self.mount = mount
        self.traits = traits  # flags of the type's own, as INIT_SHARED of a guest_memfd
        self.cache: dict[int, Folio] = {}
        self.blocks = 0  # charged to the mount
        self.promised: set[int] = set()  # hugetlb: indexes reserved in the pool and not used yet
        self.private_indexes: set[int] = set()  # guest_memfd: pages that only the guest may see

    def pages(self) -> int:
        """Indexes that lie inside the size, a last partial page included."""
        if RECORD.on:
            RECORD.reads.add(("object", self.number))
        return (self.size + (1 << self.shift) - 1) >> self.shift

    def changed(self) -> None:
        """Its size, seals or traits are to be others (for the recorder)."""
        if RECORD.on:
            RECORD.writes.add(("object", self.number))

    def cached(self, index: int) -> Folio | None:
        """The page in the cache at `index`, if there is one, and whether it is locked."""
        folio = self.cache.get(index)
        if RECORD.on:
            RECORD.reads.add(("slot", self.number, index))
            if folio is not None:
                RECORD.reads.add(("page", folio.number))
        return folio

    def indexes(self, first: int, last: int) -> list[int]:
        """Where in [first, last) there are pages, in order."""
        if RECORD.on:
            if last - first > _LISTED:
                RECORD.reads.add(("slots", self.number))
            else:
                RECORD.reads.update(("slot", self.number, at) for at in range(first, last))
        if last - first < len(self.cache):
            return [at for at in range(first, last) if at in self.cache]
        return sorted(at for at in self.cache if first <= at < last)

    def _moved(self, folio: Folio, index: int) -> None:
        RECORD.writes.add(("slot", self.number, index))
        RECORD.writes.add(("page", folio.number))
        RECORD.adds.add(("slots", self.number))
        RECORD.adds.add(("refs", folio.number))

    def insert(self, folio: Folio, index: int) -> None:
        """Into the page cache, which takes a reference; EEXIST if there is one."""
        if RECORD.on:
            self._moved(folio, index)
        if index in self.cache:
            raise Errno(errno.EEXIST)
        folio.refs += 1
        folio.object = self
        folio.index = index
        self.cache[index] = folio

    def remove(self, folio: Folio) -> None:
        """Out of the page cache; the cache's reference passes to the caller."""
        if RECORD.on:
            self._moved(folio, folio.index)
        del self.cache[folio.index]
        folio.object = None

    def uncharge(self) -> None:
        """One block back to the mount."""
        if self.mount is not None:
            if RECORD.on:
                self.mount.record()
            self.mount.used -= 1
            self.blocks -= 1
