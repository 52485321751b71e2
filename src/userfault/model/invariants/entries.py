"""What entries of page tables show: whose pages, in whole, and what may be done with them."""

from __future__ import annotations

from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.files.inode import Inode
from userfault.model.invariants.rule import Seen, broken
from userfault.model.mm import pgtable as pt
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.entries import allowed
from userfault.model.mm.vma import Vma


def own_page(seen: Seen) -> None:
    """Of a file the page of its object and index, in private mappings else a private page."""
    for vma, address, (flags, folio) in seen.entries:
        if vma is None:
            broken(f"an entry at {address:#x} lies outside of every mapping")
            return
        if folio is None:
            continue
        if folio.flags & folios.ZERO:
            if vma.shared or flags & (pt.WRITE | pt.EXCLUSIVE):
                broken(f"the zero page is writable or shared at {address:#x}")
        elif folio.flags & folios.ANON:
            if vma.shared or folio.object is not None:
                broken(f"a private page is shared at {address:#x}")
        elif flags & pt.EXCLUSIVE:
            broken(f"{folio.name} is taken for a private page at {address:#x}")
        elif folio.object is not vma.object or folio.index != vma.index(address):
            broken(f"{folio.name} is mapped at {address:#x}, where it does not belong")


def whole(seen: Seen) -> None:
    """What is mapped, or in a page cache and said to be complete, has its whole content."""
    for _, address, (_, folio) in seen.entries:
        if folio is not None and (not folio.flags & folios.UPTODATE or _stale(folio)):
            broken(f"{folio.name} is mapped at {address:#x} before anybody has written it")
    for target, index in _slots(seen):
        folio = target.cache.get(index)
        if folio is not None and folio.flags & folios.UPTODATE and _stale(folio):
            broken(f"{folio.name} can be found before anybody has written it")


def _stale(folio: Folio) -> bool:
    return folio.content is folios.STALE


def _slots(seen: Seen) -> list[tuple[Inode, int]]:
    """Places of page caches that were written."""
    numbers = {place[1:] for place in seen.wrote("slot")}
    if not numbers:
        return []
    by_number = {target.number: target for target in seen.spaces.files.inodes}
    return [(by_number[number], index) for number, index in numbers if number in by_number]  # type: ignore[misc]


def in_file(seen: Seen) -> None:
    """No entry and no page of the cache lies beyond the end of its file, but while it is cut."""
    for vma, address, (_, folio) in seen.entries:
        if vma is not None and folio is not None:
            _inside(vma, address, folio)
    for target, index in _slots(seen):
        folio = target.cache.get(index)
        if folio is None or target.cut or folio.flags & folios.LOCKED:
            continue
        if index >= _pages(target):
            broken(f"{folio.name} is in the cache beyond the end of the file")
    for _, target in seen.did("cut"):
        for vma in target.mappings:
            for address in vma.mm.table.addresses(vma.start, vma.end, vma.shift):
                entry = vma.mm.table.get(address, vma.shift)
                if entry is not None and entry[1] is not None:
                    _inside(vma, address, entry[1])


def _pages(target: Inode) -> int:
    return target.size + (1 << target.shift) - 1 >> target.shift


def _inside(vma: Vma, address: int, folio: Folio) -> None:
    """Private huge pages may lie beyond it (measured on 6.1 to 7.3)."""
    target = vma.object
    if target is None or target.cut or (vma.ops.pool and not vma.shared):
        return
    if folio.flags & folios.LOCKED:  # whoever has it locked is not done yet
        return
    if vma.index(address) >= _pages(target) and not folio.flags & folios.ZERO:
        broken(f"{address:#x} shows a page beyond the end of {target.name}")


def protected(seen: Seen) -> None:
    """What may be done follows from the mapping and the protection; MODE_WP leaves a page so."""
    for vma, address, (flags, folio) in seen.entries:
        if vma is not None and folio is not None and allowed(vma, flags) != flags:
            what = "be written" if flags & pt.WRITE else "be touched"
            broken(f"the page at {address:#x} may {what} otherwise than it is protected")
    for _, context, vma, address, _, job, _ in seen.did("fill"):
        if job is None or not job.wp:
            continue
        entry = context.mm.table.get(address, vma.shift)
        if entry is not None and entry[1] is not None and not entry[0] & pt.UFFD_WP:
            broken(f"the page filled at {address:#x} with MODE_WP can be written unnoticed")


def unprotected(seen: Seen) -> None:
    """Where nothing is registered no page is protected and no marker waits for one."""
    for vma, address, entry in seen.entries:
        if vma is not None and not vma.modes:
            _free(address, entry)
    for mm in seen.remapped:
        for vma in mm.vmas.values():
            if not vma.modes:
                _all_free(mm, vma)


def _all_free(mm: AddressSpace, vma: Vma) -> None:
    for key, table in mm.table.tables.items():
        if (key + 1) << 21 <= vma.start or key << 21 >= vma.end:
            continue
        first = max(vma.start - (key << 21), 0) >> 12
        last = min(vma.end - (key << 21), 1 << 21) >> 12
        for slot in range(first, last):
            entry = table[slot]
            if entry is not None:
                _free((key << 21) + (slot << 12), entry)
    for address, entry in mm.table.huge.items():
        if vma.start <= address < vma.end:
            _free(address, entry)


def _free(address: int, entry: pt.Entry) -> None:
    flags = entry[0]
    if flags & (pt.UFFD_WP | pt.UFFD_RWP) or (entry[1] is None and flags & pt.MARKS == pt.MARK_WP):
        broken(f"{address:#x} is protected, and no userfaultfd can lift that")


def core_alone(seen: Seen) -> None:
    """No hook of a memory type changes an entry."""
    for _, kind, address in seen.did("hook"):
        broken(f"a hook of {kind} changed the entry at {address:#x}")
