"""Page tables: what is at an address, as explicit values.

An entry is `None` (nothing there) or a pair `(flags, folio)`:

* present: PRESENT is set and `folio` is what is mapped; WRITE, DIRTY, EXCLUSIVE (anonymous and
  not shared by fork), UFFD_WP, UFFD_RWP, SOFT_CLEAN and SOFT_DIRTY qualify it;
* the zero page: present, and `folio` is the one zero page;
* a marker: PRESENT is clear, `folio` is None, one or more of MARK_WP, MARK_POISON, MARK_GUARD.

Base pages live in tables of 512 entries, one for each 2 MiB; huge entries (hugetlb, THP) in a
dict by address.  Entries are values: changing one means replacing it.
"""

from __future__ import annotations

from collections.abc import Iterator

from userfault.model.files.folio import Folio
from userfault.model.tasks.recorder import RECORD

PRESENT = 1
WRITE = 2  # the processor may store
DIRTY = 4
UFFD_WP = 8
UFFD_RWP = 16
EXCLUSIVE = 32
MARK_WP = 64
MARK_POISON = 128
MARK_GUARD = 256
READ = 512  # the processor may load: no PROT_NONE, no RWP
WP_OPEN = 4096  # beside UFFD_WP: written where WP was not registered, so that stores go on
SOFT_CLEAN = 1024  # not written since soft-dirty bits were cleared: the next store faults
SOFT_DIRTY = 2048  # soft dirty without having been written: mremap moved it here

_LISTED = 16  # entries of a range that are recorded one by one, rather than the whole table

MARKS = MARK_WP | MARK_POISON | MARK_GUARD

Entry = tuple[int, Folio | None]

MARKER_WP: Entry = (MARK_WP, None)
MARKER_POISON: Entry = (MARK_POISON, None)
MARKER_GUARD: Entry = (MARK_GUARD, None)

PMD_SHIFT = 21
PMD_SIZE = 1 << PMD_SHIFT
PMD_MASK = ~(PMD_SIZE - 1)

_EMPTY: list[Entry | None] = [None] * 512


class PageTable:
    """The entries of one address space; knows nothing of what they count for."""

    __slots__ = ("built", "huge", "number", "tables", "used")

    def __init__(self) -> None:
        self.tables: dict[int, list[Entry | None]] = {}
        self.used: dict[int, int] = {}  # of each table, how many entries are in use
        self.huge: dict[int, Entry] = {}
        self.number = RECORD.number()
        # Tables that the kernel would have: they stay when their last entry goes.  PAGEMAP_SCAN
        # tells a hole without a table from an empty entry.  (shift of the entries, number)
        self.built: set[tuple[int, int]] = set()

    def get(self, address: int, shift: int = 12) -> Entry | None:
        """The entry of the page of `1 << shift` bytes at `address` (aligned)."""
        if RECORD.on:
            kind = "entry" if shift == 12 else "huge"
            RECORD.reads.add((kind, self.number, address))
        if shift != 12:
            return self.huge.get(address)
        table = self.tables.get(address >> PMD_SHIFT)
        return None if table is None else table[(address >> 12) & 511]

    def set(self, address: int, shift: int, entry: Entry | None) -> None:
        """Replace it."""
        if RECORD.on:
            RECORD.writes.add(("entry" if shift == 12 else "huge", self.number, address))
            RECORD.adds.add(("entries", self.number))
            if RECORD.hook:
                RECORD.notes.append(("hook", RECORD.hook, address))
        if shift != 12:
            if entry is None:
                self.huge.pop(address, None)
            else:
                self.huge[address] = entry
                self.built.add((shift, address >> 30))
            return
        key = address >> PMD_SHIFT
        table = self.tables.get(key)
        slot = (address >> 12) & 511
        if table is None:
            if entry is None:
                return
            table = self.tables[key] = _EMPTY.copy()
            self.used[key] = 0
            self.build(address, 12)
        change = (entry is not None) - (table[slot] is not None)
        table[slot] = entry
        if change:
            used = self.used[key] + change
            if used:
                self.used[key] = used
            else:
                del self.tables[key], self.used[key]

    def has_table(self, address: int, shift: int) -> bool:
        """Whether the table that would hold this entry was ever needed."""
        if RECORD.on:
            RECORD.reads.add(("tables", self.number))
        return (shift, address >> (PMD_SHIFT if shift == 12 else 30)) in self.built

    def build(self, address: int, shift: int) -> None:
        """A fault needs the table of this entry, whatever becomes of the fault."""
        if RECORD.on:
            RECORD.adds.add(("tables", self.number))
        if shift == 12:
            self.built.add((12, address >> PMD_SHIFT))
            shift = PMD_SHIFT  # the table of tables, in which entries of 2 MiB pages lie
        self.built.add((shift, address >> 30))

    def inherit(self, parent: PageTable, start: int, end: int, shift: int) -> None:
        """fork copies tables, empty ones too."""
        if RECORD.on:
            RECORD.reads.add(("tables", parent.number))
        up = PMD_SHIFT if shift == 12 else 30
        for kind, key in parent.built:
            if kind == shift and key << up < end and (key + 1) << up > start:
                self.build(key << up, shift)

    def free_empty(self, start: int, end: int) -> None:
        """Free tables of small pages that lie in [start, end) whole and have no entry."""
        if RECORD.on and -(-start >> PMD_SHIFT) < end >> PMD_SHIFT:
            RECORD.reads.add(("entries", self.number))
            RECORD.writes.add(("tables", self.number))
        for key in range(-(-start >> PMD_SHIFT), end >> PMD_SHIFT):
            if key not in self.tables:
                self.built.discard((12, key))

    def forget_tables(self, start: int, end: int) -> None:
        """Nothing is mapped in [start, end): tables go that lie inside of it."""
        if RECORD.on:
            RECORD.writes.add(("tables", self.number))
        gone = [
            (kind, key)
            for kind, key in self.built
            for up in (PMD_SHIFT if kind == 12 else 30,)
            if start <= key << up and (key + 1) << up <= end
        ]
        self.built.difference_update(gone)

    def record_range(self, start: int, end: int, shift: int) -> None:
        """The entries of a range are looked at (for the recorder)."""
        if (end - start) >> shift > _LISTED:
            RECORD.reads.add(("entries", self.number))
            return
        kind = "entry" if shift == 12 else "huge"
        for address in range(start, end, 1 << shift):
            RECORD.reads.add((kind, self.number, address))

    def addresses(self, start: int, end: int, shift: int = 12) -> Iterator[int]:
        """Addresses in [start, end) whose entry is not None, in order; safe against changes."""
        if RECORD.on:
            self.record_range(start, end, shift)
        if shift != 12:
            step = 1 << shift
            if (end - start) >> shift <= len(self.huge):
                yield from [at for at in range(start, end, step) if at in self.huge]
            else:
                yield from sorted(at for at in self.huge if start <= at < end)
            return
        first, last = start >> PMD_SHIFT, (end - 1) >> PMD_SHIFT
        if last - first < len(self.tables):
            keys = [key for key in range(first, last + 1) if key in self.tables]
        else:
            keys = sorted(key for key in self.tables if first <= key <= last)
        for key in keys:
            table = self.tables.get(key)
            if table is None:
                continue
            base = key << PMD_SHIFT
            low = max(start - base, 0) >> 12
            high = min(end - base, PMD_SIZE) >> 12
            for slot in range(low, high):
                if table[slot] is not None:
                    yield base + (slot << 12)
