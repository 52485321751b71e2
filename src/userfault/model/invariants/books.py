"""Every invariant of the model, walked: `check(spaces)` raises InvariantBroken, or returns.

It may be called whenever no task runs: between steps, also while tasks sleep half-way through a
call.  It trusts nothing that the model keeps as a sum: it counts again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import compress

from userfault.model.errors import InvariantBroken
from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.files.inode import Inode, Mapping
from userfault.model.mm import pgtable as pt
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace, Spaces
from userfault.model.mm.entries import allowed
from userfault.model.mm.vma import Vma
from userfault.model.uffd.context import Context

Counts = dict[Folio, int]  # of those that are not there: 0 (a Counter is slower to make)


def check(spaces: Spaces) -> None:
    """Walk everything; raises InvariantBroken with what is wrong."""
    refs: Counts = defaultdict(int)
    maps: Counts = defaultdict(int)
    for mm in spaces.all:
        _check_mappings(mm)
        _check_entries(mm, refs, maps)
        for context in mm.contexts:
            assert isinstance(context, Context)
            _check_context(mm, context)
    for target in spaces.files.inodes:
        _check_object(spaces, target, refs)
    _check_counts(spaces, refs, maps)
    _check_pools(spaces, refs)


def _fail(what: str) -> None:
    raise InvariantBroken(what)


# In words only where something is wrong: this runs after every step of every schedule.


def _mapping(vma: Vma) -> str:
    return f"mapping [{vma.start:#x}, {vma.end:#x}) of {vma.kind}"


def _entry(flags: int, address: int) -> str:
    return f"entry {flags:#x} at {address:#x}"


def _check_mappings(mm: AddressSpace) -> None:
    before: Vma | None = None
    for start, vma in mm.vmas.items():
        where = partial(_mapping, vma)
        if start != vma.start or vma.start >= vma.end or vma.mm is not mm:
            _fail(f"{where()} is filed wrongly")
        if (vma.start | vma.end | vma.offset) & ((1 << vma.shift) - 1):
            _fail(f"{where()} is not whole pages of its type")
        if before is not None and before.end > vma.start:
            _fail(f"{where()} overlaps the one before it")
        if (vma.context is None) != (not vma.modes):
            _fail(f"{where()} has modes {vma.modes} and context {vma.context}")
        # One that is being closed waits for the lock with its ranges still registered.
        if vma.context is not None and vma.context not in mm.contexts:
            _fail(f"{where()} is registered with a context of another process, or a closed one")
        if vma.modes & vmas.WP and vma.modes & vmas.RWP:
            _fail(f"{where()} is registered for WP and RWP")
        if vma.object is not None and vma not in vma.object.mappings:
            _fail(f"{where()} is not known to its object")
        before = vma


def _check_entries(mm: AddressSpace, refs: Counts, maps: Counts) -> None:
    for key, table in mm.table.tables.items():
        slots = list(compress(range(512), table))  # not empty: an entry is never false
        for slot in slots:
            entry = table[slot]
            assert entry is not None
            _check_entry(mm, (key << pt.PMD_SHIFT) + (slot << 12), entry, 12, refs, maps)
        if len(slots) != mm.table.used[key] or not slots:
            _fail(f"the table at {key << pt.PMD_SHIFT:#x} counts its entries wrongly")
    if len(mm.table.used) != len(mm.table.tables):
        _fail("entries are counted of a table that is gone")
    for address, entry in mm.table.huge.items():
        vma = mm.find(address)
        thp = address in mm.thp
        shift = pt.PMD_SHIFT if thp else vma.shift if vma is not None else 12
        _check_entry(mm, address, entry, shift, refs, maps, thp=thp)
    if not mm.thp <= mm.table.huge.keys():
        _fail("a transparent huge page is noted where none is")


def _check_entry(
    mm: AddressSpace,
    address: int,
    entry: pt.Entry,
    shift: int,
    refs: Counts,
    maps: Counts,
    *,
    thp: bool = False,
) -> None:
    flags, folio = entry
    where = partial(_entry, flags, address)
    vma = mm.find(address)
    if vma is None or address + (1 << shift) > vma.end:
        _fail(f"{where()} lies outside of every mapping")
        return
    if vma.shift != shift and not thp:
        _fail(f"{where()} has the page size of another type")
    if folio is None:
        if not flags & pt.MARKS or flags & ~pt.MARKS:
            _fail(f"{where()} is neither a page nor a marker")
        return
    if not flags & pt.PRESENT or flags & pt.MARKS:
        _fail(f"{where()} has a folio and is not present")
    if allowed(vma, flags) != flags:
        _fail(f"{where()} does not give what the mapping and its protection give")
    if folio.flags & folios.ZERO:
        if flags & (pt.EXCLUSIVE | pt.WRITE) or vma.shared:
            _fail(f"{where()} makes the zero page writable or shared")
        return
    _check_page(vma, address, flags, folio, where)
    refs[folio] += 1
    maps[folio] += 1


def _check_page(vma: Vma, address: int, flags: int, folio: Folio, where: Callable[[], str]) -> None:
    if not folio.flags & folios.UPTODATE:
        _fail(f"{where()} shows a page that nobody has written")
    if folio.flags & folios.ANON:
        if folio.object is not None or vma.shared:
            _fail(f"{where()}: a private page is in a page cache or a shared mapping")
        if flags & pt.EXCLUSIVE and folio.mapcount != 1:
            _fail(f"{where()}: an exclusive page is mapped {folio.mapcount} times")
        return
    if flags & pt.EXCLUSIVE:
        _fail(f"{where()}: a page of a file is exclusive")
    if folio.object is not vma.object or folio.index != vma.index(address):
        _fail(f"{where()}: stale mapping of {folio.name}")


def _check_object(spaces: Spaces, target: Inode, refs: Counts) -> None:
    for index, folio in target.cache.items():
        refs[folio] += 1
        if folio.object is not target or folio.index != index:
            _fail(f"{folio.name} is cached by {target.name} at {index}")
        if folio.order + 12 != target.shift:
            _fail(f"{folio.name} has the wrong size")
        busy = folio.flags & folios.LOCKED
        if index >= target.pages() and not busy and folio not in spaces.files.memory.in_hand:
            _fail(f"{folio.name} lies beyond the end of the file")
    if target.links <= 0:
        _fail(f"{target.name} outlived its last link")
    if target.mount is not None and target.blocks != len(target.cache):
        _fail(f"{target.name} is charged {target.blocks} blocks for {len(target.cache)} pages")
    for vma in target.mappings:
        if not _is_mapped(vma, target):
            _fail(f"{target.name} believes in a mapping that is gone")


def _is_mapped(vma: Mapping, target: Inode) -> bool:
    """Whether it is a mapping of this file, and filed where it says."""
    if not isinstance(vma, Vma) or vma.object is not target:
        return False
    mm = vma.mm
    return isinstance(mm, AddressSpace) and mm.vmas.get(vma.start) is vma


def _check_counts(spaces: Spaces, refs: Counts, maps: Counts) -> None:
    memory = spaces.files.memory
    for folio, held in memory.in_hand.items():
        refs[folio] += held
    if len(refs) != memory.folios:
        _fail(f"{memory.folios} folios exist and {len(refs)} are in use: the rest leaked")
    pages = 0
    charged: dict[object, int] = defaultdict(int)
    for folio, count in refs.items():
        if folio.refs != count:
            _fail(f"{folio.name} has {count} users")
        if folio.mapcount != maps[folio]:
            _fail(f"{folio.name} is mapped {maps[folio]} times")
        if folio.flags & folios.LOCKED and folio not in memory.in_hand:
            _fail(f"{folio.name} is locked and nobody works on it")
        if not folio.flags & folios.LARGE_POOL:
            pages += 1 << folio.order
            charged[folio.cgroup] += 1 << folio.order
    if pages != memory.used:
        _fail(f"{memory.used} base pages are counted and {pages} are in use")
    for group in {mm.cgroup for mm in spaces.all}:
        if group.charged != charged[group]:
            _fail(f"a cgroup is charged {group.charged} pages and has {charged[group]}")


def _check_pools(spaces: Spaces, refs: Counts) -> None:
    used = Counter(folio.order + 12 for folio in refs if folio.flags & folios.LARGE_POOL)
    promised: dict[int, int] = defaultdict(int)
    seen: set[int] = set()
    for target in spaces.files.inodes:
        promised[target.shift] += len(target.promised)
    for mm in spaces.all:
        for vma in mm.vmas.values():
            if vma.promised is not None and id(vma.promised) not in seen:
                seen.add(id(vma.promised))
                promised[vma.shift] += len(vma.promised)
    for shift, pool in spaces.files.memory.pools.items():
        if pool.free + used[shift] != pool.total:
            _fail(f"the pool of {1 << shift} has {pool.total} pages, {pool.free} free")
        if pool.reserved != promised[shift] or pool.reserved > pool.free:
            _fail(f"the pool of {1 << shift} has {pool.reserved} promised, {promised[shift]} held")


def _check_context(mm: AddressSpace, context: Context) -> None:
    if context.mm is not mm:
        _fail(f"{context.name} is filed under another process")
    if context.changing < len(context.events):
        _fail(f"{context.name} has events that were not announced")
    waiters = [*context.pending, *context.delivered]
    for waiter in waiters:
        if waiter.asleep and waiter.task.waits is None:
            _fail(f"{waiter.task.name} is queued by {context.name} and does not sleep")
    if len({waiter.task for waiter in waiters}) != len(waiters):
        _fail(f"{context.name} queues a task twice")
