"""Transparent huge pages: one entry for 2 MiB of anonymous memory, whole or split into small ones.

Splitting is of one address space's entry: where fork(2) has shared the page, the others keep
mapping it whole.  The page that reads map, the *huge zero page*, is one for all, as the zero page
is (admin guide on transparent huge pages; what /proc says of it: measured on 6.18).
"""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio, Large
from userfault.model.mm import pgtable as pt
from userfault.model.mm import vma as vmas
from userfault.model.mm.entries import Entries
from userfault.model.mm.vma import Vma

ORDER = 9
PIECES = 1 << ORDER


def suitable(vma: Vma, start: int) -> bool:
    """Whether a huge page at `start` would lie inside of the mapping (thp_vma_suitable_order)."""
    return vma.start <= start and start + pt.PMD_SIZE <= vma.end


def of_zeroes(mm: Entries) -> Folio | None:
    """A new huge page, zeroed; None where there is no memory for it."""
    return mm.memory.allocate(ORDER, folios.ANON | folios.UPTODATE, mm.cgroup)


def within(mm: Entries, start: int, end: int) -> list[int]:
    """Where huge pages meet [start, end)."""
    return sorted(at for at in mm.thp if at < end and at + pt.PMD_SIZE > start)


def whole(mm: Entries, start: int, end: int) -> list[int]:
    """Where huge pages lie in [start, end) whole; those that lie there in part are split."""
    found = []
    for at in within(mm, start, end):
        if start <= at and at + pt.PMD_SIZE <= end:
            found.append(at)
        else:
            split(mm, at)
    return found


def split(mm: Entries, address: int) -> None:
    """512 small entries instead of the huge one at `address`, if there is one."""
    if address not in mm.thp:
        return
    flags, folio = mm.take_thp(address)
    assert folio is not None
    if folio.flags & folios.ZERO:
        for piece in range(PIECES):
            mm.table.set(address + piece * PAGE, 12, (flags, mm.memory.zero))
        return
    content, cgroup, pieces = folio.content, folio.cgroup, folio.pieces
    assert isinstance(content, dict)
    stays = folio.refs > 1  # others map it whole
    large = folio.large = folio.large or Large(bool(flags & pt.EXCLUSIVE))
    smalls = []
    folio.mapcount -= 1
    mm.memory.put(folio)
    for piece in range(PIECES):
        small = pieces.get(piece)
        if small is not None:
            small.refs += 1
        else:
            # The pages are those of the huge folio: memory that was just given back.
            small = mm.memory.allocate(0, folios.ANON | folios.UPTODATE, cgroup)
            if small is None:
                raise Errno(errno.ENOMEM)
            small.content = content.get(piece, b"")
            if stays:
                small.whole = folio
                small.index = piece
                pieces[piece] = small
        small.mapcount += 1
        small.large = large
        smalls.append(small)
        mm.table.set(address + piece * PAGE, 12, (flags, small))
    large.folios = large.folios or smalls


def split_large(mm: Entries, vma: Vma, address: int, large: Large) -> None:
    """The kernel splits the page itself, of which this process maps parts around `address`.

    Those that are full of zeroes become the zero page since 6.12, where the mapping is not locked
    (measured on 6.18).
    """
    large.is_split = True
    start = address & pt.PMD_MASK
    for at in mm.table.addresses(max(start, vma.start), min(start + pt.PMD_SIZE, vma.end)):
        entry = mm.table.get(at)
        assert entry is not None
        flags, folio = entry
        if folio is None or folio.large is not large or vma.flags & vmas.LOCKED:
            continue
        if not any(folio.read(0, PAGE)):
            mm.unmap(vma, at)
            mm.map_folio(vma, at, flags & pt.UFFD_WP, mm.memory.zero)


def is_shared(mm: Entries, address: int, large: Large) -> bool:
    """Whether anybody else maps a part of it, so that a part that is written has to be copied."""
    start = address & pt.PMD_MASK
    entries = [mm.table.get(at) for at in range(start, start + pt.PMD_SIZE, PAGE)]
    mine = sum(1 for e in entries if e is not None and e[1] is not None and e[1].large is large)
    return sum(folio.mapcount for folio in large.folios) != mine
