"""The state of a machine in words, one line a thing: what a timeline tells of each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.files.inode import Inode
from userfault.model.machine import Machine
from userfault.model.mm import pgtable as pt
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.tasks.locks import RWLock
from userfault.model.tasks.sched import Task
from userfault.model.uffd.context import Context, Waiter
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

State = dict[str, str]

_MODES = ((vmas.MISSING, "MISSING"), (vmas.WP, "WP"), (vmas.MINOR, "MINOR"), (vmas.RWP, "RWP"))
_BITS = (
    (pt.WRITE, "writable"),
    (pt.UFFD_WP, "uffd-wp"),
    (pt.UFFD_RWP, "uffd-rwp"),
    (pt.EXCLUSIVE, "exclusive"),
    (pt.MARK_WP, "marker wp"),
    (pt.MARK_POISON, "marker poison"),
    (pt.MARK_GUARD, "marker guard"),
)
_FLAGS = (
    (folios.LOCKED, "locked"),
    (folios.SWAPPED, "in swap"),
    (folios.UPTODATE, "up to date"),
    (folios.HWPOISON, "poisoned"),
)


class Words:
    """Describes machines of one scenario; `names` of its tasks."""

    def __init__(self, names: Mapping[Task, str]) -> None:
        self._names = names

    def state(self, machine: Machine) -> State:
        """Every thing that can change, and what it is."""
        found: State = {}
        seen: dict[Folio, None] = {}
        for number, mm in enumerate(machine.spaces.all):
            self._space(found, mm, "" if not number else f" of space {number}", seen)
        for target in machine.files.inodes:
            self._object(found, target, seen)
        for folio in (*machine.memory.in_hand, *seen):
            if not folio.flags & folios.ZERO:
                found[f"folio {_short(folio)}"] = _folio(folio)
        return found

    def _name(self, task: Task) -> str:
        return self._names.get(task, task.name)

    def _space(self, found: State, mm: AddressSpace, of: str, seen: dict[Folio, None]) -> None:
        lock = self._lock(mm.lock)
        if lock:
            found[f"lock mmap{of}"] = lock
        for vma in mm.vmas.values():
            found[f"mapping {vma.start:#x}{of}"] = _mapping(vma)
            lock = self._lock(vma.lock)
            if lock:
                found[f"lock of mapping {vma.start:#x}{of}"] = lock
        for address, entry in _entries(mm):
            found[f"entry {address:#x}{of}"] = _entry(entry)
            if entry[1] is not None:
                seen[entry[1]] = None
        for context in mm.contexts:
            if isinstance(context, Context):
                self._context(found, context, of)

    def _lock(self, lock: RWLock) -> str:
        parts = []
        if lock.readers:
            parts.append(f"held by {lock.readers} for reading")
        if lock.writing:
            parts.append("held for writing")
        for write, task in lock._queue:
            parts.append(f"{self._name(task)} waits to {'write' if write else 'read'}")
        return ", ".join(parts)

    def _context(self, found: State, context: Context, of: str) -> None:
        name = f"{context.name}{of}"  # each space counts its own
        if context.pending:
            found[f"{name} pending"] = self._waiters(context.pending)
        if context.delivered:
            found[f"{name} delivered"] = self._waiters(context.delivered)
        if context.events:
            found[f"{name} events"] = ", ".join(event.name for event in context.events)
        if context.changing:
            found[f"{name} changing"] = str(context.changing)
        if context.readers:
            found[f"{name} readers"] = ", ".join(map(self._name, context.readers))
        if context.released:
            found[name] = "being closed"

    def _waiters(self, waiters: Iterable[Waiter]) -> str:
        return ", ".join(map(self._waiter, waiters))

    def _waiter(self, waiter: Waiter) -> str:
        kind = "missing"
        if waiter.flags & abi.UFFD_PAGEFAULT_FLAG_MINOR:
            kind = "minor"
        elif waiter.flags & abi.UFFD_PAGEFAULT_FLAG_WP:
            kind = "wp"
        elif waiter.flags & abi.UFFD_PAGEFAULT_FLAG_RWP:
            kind = "rwp"
        write = "write" if waiter.flags & abi.UFFD_PAGEFAULT_FLAG_WRITE else "read"
        return f"{self._name(waiter.task)} ({kind}, {write} at {waiter.address:#x})"

    def _object(self, found: State, target: Inode, seen: dict[Folio, None]) -> None:
        found[f"file {target.name}"] = f"{target.size} bytes"
        for index, folio in sorted(target.cache.items()):
            found[f"cache {target.name}[{index}]"] = f"folio {_short(folio)}"
            seen[folio] = None


def _entries(mm: AddressSpace) -> Iterator[tuple[int, pt.Entry]]:
    for key, table in sorted(mm.table.tables.items()):
        for slot in range(512):
            entry = table[slot]
            if entry is not None:
                yield (key << pt.PMD_SHIFT) + (slot << 12), entry
    yield from sorted(mm.table.huge.items())


def _entry(entry: pt.Entry) -> str:
    flags, folio = entry
    parts = []
    if folio is not None:
        parts.append("zero page" if folio.flags & folios.ZERO else f"folio {_short(folio)}")
    parts += [name for bit, name in _BITS if flags & bit]
    return ", ".join(parts)


def _mapping(vma: Vma) -> str:
    prot = ("r" if vma.prot & mman.PROT_READ else "-") + (
        "w" if vma.prot & mman.PROT_WRITE else "-"
    )
    modes = "|".join(name for bit, name in _MODES if vma.modes & bit)
    registered = f", {modes} with {vma.context.name}" if isinstance(vma.context, Context) else ""
    return f"to {vma.end:#x}, {vma.kind}, {prot}{registered}"


def _short(folio: Folio) -> str:
    """A name that a person can tell from others: who made it, and the how manieth it was."""
    task, count = divmod(folio.number, 1 << 32)
    return f"{count}" if not task else f"{count}.{task - 1}"


def _folio(folio: Folio) -> str:
    flags = [name for bit, name in _FLAGS if folio.flags & bit]
    content = folio.read(0, 8).rstrip(b"\0")
    parts = [f"refs {folio.refs}", f"mapped {folio.mapcount}", *flags, repr(content)]
    return ", ".join(parts)


def changes(before: State, after: State) -> list[str]:
    """What is different, a line each: new, gone, or other than it was."""
    found = []
    for thing in dict.fromkeys((*before, *after)):
        old, new = before.get(thing), after.get(thing)
        if old == new:
            continue
        if old is None:
            found.append(f"{thing}: {new}")
        elif new is None:
            found.append(f"{thing}: gone")
        else:
            found.append(f"{thing}: {old} -> {new}")
    return found
