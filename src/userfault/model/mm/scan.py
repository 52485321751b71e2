"""What /proc tells: pagemap words, PAGEMAP_SCAN, smaps."""

from __future__ import annotations

import errno

import msgspec

from userfault.kernel import calls
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.mm import pgtable as pt
from userfault.model.mm import softdirty, thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.change_protection import set_rwp, set_wp
from userfault.model.mm.vma import Vma
from userfault.uapi import mman
from userfault.uapi import pagemap as abi


def words(mm: AddressSpace, address: int, length: int) -> list[int]:
    """One 64-bit word for each 4 KiB page."""
    start, end = address & -PAGE, address + length
    found = [0] * len(range(start, end, PAGE))
    for vma in mm.overlapping(start, end):
        for at in range(max(vma.start, start), min(vma.end, end), PAGE):
            found[(at - start) // PAGE] = _word(mm, vma, at)
    return found


def _word(mm: AddressSpace, vma: Vma, address: int) -> int:
    soft = abi.PM_SOFT_DIRTY if softdirty.told(mm, vma, address) else 0
    return soft | _hard_word(mm, vma, address)


def _hard_word(mm: AddressSpace, vma: Vma, address: int) -> int:
    entry = mm.entry(vma, address & -(1 << vma.shift))
    if entry is None:
        return 0
    flags, folio = entry
    if folio is None:
        word = abi.PM_UFFD_WP if flags & pt.MARK_WP else 0
        if vma.shift == 12:
            word |= abi.PM_SWAP
        if flags & pt.MARK_GUARD and mm.profile.release >= (6, 15):
            word |= abi.PM_GUARD_REGION
        return word
    word = abi.PM_PRESENT
    if flags & (pt.UFFD_WP | pt.UFFD_RWP):
        word |= abi.PM_UFFD_WP
    if folio is mm.memory.huge_zero:
        word |= abi.PM_FILE if mm.profile.huge_zero_is_file else 0
    elif not folio.flags & folios.ZERO:
        if not folio.flags & folios.ANON:
            word |= abi.PM_FILE
        first = not folio.order or mm.profile.exclusive_by_first_page
        piece = 0 if first else (address & ~pt.PMD_MASK) // PAGE
        if folio.mappings(piece) == 1:
            word |= abi.PM_MMAP_EXCLUSIVE
    return word


def mincore(mm: AddressSpace, address: int, length: int) -> bytes:
    """mincore(2): one byte a page, 1 if it is resident; ENOMEM over a hole."""
    found = bytearray()
    for at in range(address, address + length, PAGE):
        vma = mm.find(at)
        if vma is None:
            raise Errno(errno.ENOMEM)
        entry = mm.entry(vma, at & -(1 << vma.shift))
        present = entry is not None and entry[1] is not None
        # Of huge pages an empty entry says no; without a table the page cache is asked.
        asked = vma.shift == 12 or not mm.table.has_table(at, vma.shift)
        if not present and vma.object is not None and asked:
            folio = vma.object.cached(_cached_at(mm, vma, at, address))
            finished = folios.UPTODATE | folios.SWAPPED
            present = folio is not None and folio.flags & finished == folios.UPTODATE
        found.append(int(present))
    return bytes(found)


def _cached_at(mm: AddressSpace, vma: Vma, at: int, asked: int) -> int:
    """Which page of the cache mincore(2) of a range from `asked` on looks for."""
    if vma.shift == 12 or mm.profile.huge_cache_by_small_pages:
        return vma.index(at)
    # It counts small pages from the first one of a huge page on, but the cache has huge ones.
    first = max(at & -(1 << vma.shift), asked)
    return vma.index(first) + (at - first) // PAGE


class ScanArgument(msgspec.Struct):
    """struct pm_scan_arg without the vector's address."""

    start: int
    end: int
    flags: int
    mask: int
    inverted: int
    any_of: int
    report: int
    max_pages: int
    regions: int


class Scan:
    """One PAGEMAP_SCAN: `regions` as (start, end, categories), and where the walk ended.

    Raises Errno for an argument that is refused; `errno` is what ended the walk itself, after
    which the kernel writes `walk_end` back all the same.
    """

    def __init__(self, mm: AddressSpace, argument: ScanArgument) -> None:
        self.mm = mm
        self.arg = argument
        self.regions: list[tuple[int, int, int]] = []
        self.pages = 0
        _check(mm, argument)
        self.walk_end = argument.end
        self.errno = 0
        mm.lock.read()
        try:
            self._walk()
        except Errno as refusal:
            self.errno = refusal.code
        finally:
            mm.lock.read_done()

    def _walk(self) -> None:
        arg = self.arg
        if arg.start == arg.end:
            return
        for vma in self.mm.overlapping(arg.start, arg.end):
            tracked = _tracks_writes(self.mm, vma)
            if not tracked:
                if arg.flags & abi.PM_SCAN_CHECK_WPASYNC:
                    raise Errno(errno.EPERM)
                if arg.flags & abi.PM_SCAN_WP_MATCHING:
                    continue
            base = abi.PAGE_IS_WPALLOWED if tracked else 0
            if self.mm.config.soft_dirty and vma.soft_dirty:
                base |= abi.PAGE_IS_SOFT_DIRTY
            required = arg.mask & abi.PAGE_IS_WPALLOWED
            if (base ^ arg.inverted) & required != required:
                continue
            if not self._walk_vma(vma, base):
                return

    def _walk_vma(self, vma: Vma, base: int) -> bool:
        arg = self.arg
        step = 1 << vma.shift
        address = max(vma.start, arg.start) & -step
        end = min(vma.end, arg.end)
        while address < end:
            if self.mm.is_huge(address):
                stop = min((address & pt.PMD_MASK) + pt.PMD_SIZE, end)
                told = self._walk_huge(vma, address, stop, base)
                if told is not None:
                    if not told:
                        return False
                    address = stop
                    continue
            entry = self.mm.entry(vma, address)
            categories = base | self._categories(vma, address, entry)
            if self._matches(categories):
                low, high = max(address, arg.start), min(address + step, end)
                before = self.pages
                goes_on = self._report(low, high, categories & arg.report)
                if arg.flags & abi.PM_SCAN_WP_MATCHING and self.pages > before:
                    goes_on = self._protect(vma, address, before, categories) or goes_on
                if not goes_on:
                    return False
            address += step
        return True

    def _walk_huge(self, vma: Vma, start: int, end: int, base: int) -> bool | None:
        """What the walk meets of a transparent huge page; None: it was split, so look again.

        That is so where a part of it is to be protected.
        """
        arg = self.arg
        entry = self.mm.table.huge[start & pt.PMD_MASK]
        categories = base | self._categories(vma, start, entry)
        if not self._matches(categories):
            return True
        before = self.pages
        goes_on = self._report(start, end, categories & arg.report)
        told = (self.pages - before) * PAGE
        if told and arg.flags & abi.PM_SCAN_WP_MATCHING and categories & abi.PAGE_IS_WRITTEN:
            if told < pt.PMD_SIZE:
                self._take_back(start, before)
                thp.split(self.mm, start & pt.PMD_MASK)
                return None
            set_wp(self.mm, vma, start, end, protect=True)
        return goes_on

    def _take_back(self, address: int, before: int) -> None:
        """Forget what was reported from `address` on; `before`: the pages reported up to there."""
        if not self.regions:
            return
        start, _, categories = self.regions[-1]
        self.regions[-1:] = [(start, address, categories)] if address > start else []
        self.pages = before

    def _protect(self, vma: Vma, address: int, before: int, categories: int) -> bool:
        """Protect what was just reported; True if that was taken back instead."""
        mm = self.mm
        step = 1 << vma.shift
        if _stays_empty(mm, vma, address):
            return False
        part = (self.pages - before) * PAGE
        entry = mm.entry(vma, address)
        written = categories & abi.PAGE_IS_WRITTEN or vma.modes & vmas.RWP
        there = entry is not None or mm.table.has_table(address, vma.shift)
        if there and not written:
            return False  # it is protected already, or empty on 6.17
        if part < step and entry is not None:
            # A part of a huge entry cannot be protected: it is not reported, and the walk goes on.
            low = self.regions[-1][1] - part
            self._take_back(low, before)
            self.walk_end = low
            return True
        if entry is not None and vma.shift == 12 and entry[0] & (pt.MARK_GUARD | pt.MARK_POISON):
            # Any entry that is not present gets the bit, whatever it stands for.
            mm.mark(vma, address, entry[0] | pt.MARK_WP)
            return False
        protect = set_rwp if vma.modes & vmas.RWP else set_wp
        protect(mm, vma, address, address + step, protect=True)
        return False

    def _categories(self, vma: Vma, address: int, entry: pt.Entry | None) -> int:
        """Of one entry (the encodings of holes, markers and huge pages: measured on 6.18)."""
        profile = self.mm.profile
        everywhere = profile.written_everywhere or vma.modes & vmas.WP
        written = abi.PAGE_IS_WRITTEN if everywhere else 0
        table = self.mm.table.has_table(address, vma.shift)
        huge = abi.PAGE_IS_HUGE if vma.shift != 12 and table else 0
        if entry is None:
            if vma.shift != 12:
                return huge
            if not profile.empty_is_written:
                return written if table and self._for_written_alone() else 0
            return written if table or vma.modes & vmas.WP else 0
        flags, folio = entry
        if folio is None:
            found = abi.PAGE_IS_SWAPPED | huge
            if not flags & pt.MARK_WP:
                found |= written
            if flags & pt.MARK_GUARD and profile.release >= (6, 15):
                found |= abi.PAGE_IS_GUARD
            return found
        return _of_page(self.mm, vma, flags, folio, written)

    def _for_written_alone(self) -> bool:
        """Whether the mask and what is reported are WRITTEN, which has a loop of its own."""
        arg = self.arg
        plain = not arg.any_of and not arg.inverted
        return plain and arg.mask == arg.report == abi.PAGE_IS_WRITTEN

    def _matches(self, categories: int) -> bool:
        arg = self.arg
        categories ^= arg.inverted
        if categories & arg.mask != arg.mask:
            return False
        return not arg.any_of or bool(categories & arg.any_of)

    def _report(self, start: int, end: int, categories: int) -> bool:
        """Add a run; False when the vector or the page limit is full."""
        arg = self.arg
        pages = (end - start) // PAGE
        left = arg.max_pages - self.pages if arg.max_pages else pages
        if left <= 0:
            self.walk_end = start
            return False
        whole = left >= pages
        if not whole:
            end = start + left * PAGE
        if arg.regions or self.regions:
            last = self.regions[-1] if self.regions else None
            if last is not None and last[1] == start and last[2] == categories:
                self.regions[-1] = (last[0], end, categories)
            elif len(self.regions) >= arg.regions:
                self.walk_end = start
                return False
            else:
                if self.regions and not len(self.regions) % _OWN_BUFFER:
                    # It is emptied, and the walk begins again here; where no region is left out
                    # after that, nobody sets walk_end again.
                    self.walk_end = start
                self.regions.append((start, end, categories))
        self.pages += (end - start) // PAGE
        if not whole:
            self.walk_end = end
        return whole


def _stays_empty(mm: AddressSpace, vma: Vma, address: int) -> bool:
    """Whether protecting leaves no marker: an empty huge entry in a table (measured on 6.18)."""
    empty = vma.shift != 12 and mm.entry(vma, address) is None
    return empty and mm.table.has_table(address, vma.shift)


_OWN_BUFFER = 512  # regions: PAGEMAP_WALK_SIZE >> PAGE_SHIFT (fs/proc/task_mmu.c)
_KNOWN_FLAGS = abi.PM_SCAN_WP_MATCHING | abi.PM_SCAN_CHECK_WPASYNC


def _check(mm: AddressSpace, arg: ScanArgument) -> None:
    if not mm.profile.pagemap_scan:
        raise Errno(errno.ENOTTY)
    known = 0xFF
    if mm.profile.release >= (6, 15):
        known |= abi.PAGE_IS_GUARD
    if mm.profile.modes & vmas.RWP:
        known |= abi.PAGE_IS_ACCESSED
    if arg.flags & ~_KNOWN_FLAGS or (arg.mask | arg.inverted | arg.any_of | arg.report) & ~known:
        raise Errno(errno.EINVAL)
    if arg.start % PAGE:
        raise Errno(errno.EINVAL)
    if arg.end < arg.start or arg.end > mm.task_size:
        raise Errno(errno.EFAULT)
    arg.end = arg.end & -PAGE if not arg.end % PAGE else (arg.end | (PAGE - 1)) + 1


def _tracks_writes(mm: AddressSpace, vma: Vma) -> bool:
    """WP registration on a WP_ASYNC descriptor."""
    return bool(vma.modes & vmas.WP) and mm.userfaultfd.wp_async(vma)


def _of_page(mm: AddressSpace, vma: Vma, flags: int, folio: Folio, written: int) -> int:
    """The categories of a present entry; `written`: what one has that is not protected."""
    found = abi.PAGE_IS_PRESENT
    if not flags & pt.UFFD_WP:
        found |= written
    if vma.modes & vmas.RWP and not flags & pt.UFFD_RWP and mm.profile.modes & vmas.RWP:
        found |= abi.PAGE_IS_ACCESSED
    if mm.config.soft_dirty and softdirty.written(flags):
        found |= abi.PAGE_IS_SOFT_DIRTY
    if folio.flags & folios.ZERO:
        return found | abi.PAGE_IS_PFNZERO | (abi.PAGE_IS_HUGE if folio.order else 0)
    if not folio.flags & folios.ANON:
        found |= abi.PAGE_IS_FILE
    if folio.order:
        found |= abi.PAGE_IS_HUGE
    return found


# --- smaps ---------------------------------------------------------------------------------------


def smaps(mm: AddressSpace, start: int, end: int) -> tuple[calls.Vma, ...]:
    """The mappings that overlap [start, end)."""
    return tuple(_smaps(mm, vma) for vma in mm.overlapping(start, end))


def _smaps(mm: AddressSpace, vma: Vma) -> calls.Vma:
    rss = anonymous = huge = 0
    present = list(mm.table.addresses(vma.start, vma.end, vma.shift))
    entries = [mm.table.get(address, vma.shift) for address in present]
    entries += [mm.table.huge[at] for at in mm.thp if vma.start <= at < vma.end]
    for entry in entries:
        folio = entry[1] if entry is not None else None
        if folio is None or folio.flags & folios.ZERO or vma.shift != 12:
            continue
        if folio.order and not vma.prot and not mm.profile.smaps_sees_no_access:
            continue
        size = PAGE << folio.order
        rss += size
        if folio.flags & folios.ANON:
            anonymous += size
            huge += size if folio.order else 0
    letters = (
        ("r" if vma.prot & mman.PROT_READ else "-")
        + ("w" if vma.prot & mman.PROT_WRITE else "-")
        + ("x" if vma.prot & mman.PROT_EXEC else "-")
        + ("s" if vma.shared else "p")
    )
    offset = vma.offset if vma.object is not None else 0
    locked = rss if vma.flags & vmas.LOCKED else 0
    return calls.Vma(
        vma.start,
        vma.end,
        letters,
        offset,
        vma.name,
        1 << vma.shift,
        rss,
        anonymous,
        huge,
        locked,
        tuple(name for name in calls.VM_FLAGS if _has(vma, name)),
    )


def _has(vma: Vma, name: str) -> bool:
    bits = {
        "sh": vma.shared,
        "lo": vma.flags & vmas.LOCKED,
        "ht": vma.ops.pool,
        "hg": vma.flags & vmas.HUGEPAGE,
        "nh": vma.flags & vmas.NOHUGEPAGE,
        "um": vma.modes & vmas.MISSING,
        "uw": vma.modes & vmas.WP,
        "ui": vma.modes & vmas.MINOR,
        "ur": vma.modes & vmas.RWP,
    }
    return bool(bits[name])
