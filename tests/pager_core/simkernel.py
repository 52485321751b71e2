"""A small deterministic kernel: one lazily filled range, its clients, and what they may read.

Enough of userfaultfd(2) to test the decision core, nothing more.  What it models, as measured on
6.18 and documented in userfaultfd(2):

* pages that are absent, mapped, or marked as poisoned; a page cache where the memory has a file;
* threads that touch pages, wait for a page, are woken and try again; signals that end a wait;
* messages: a read gives faults before events; a fault whose thread was woken disappears;
* REMOVE is raised before the pages go, UNMAP, REMAP and FORK after the change.  Whoever raised it
  sleeps until it was read, and until that thread has run again every fill fails with EAGAIN.
  There is one more gap: fills work again a moment before the pages of a REMOVE go;
* a fill looks for events, then for its mapping, then for events again (since 6.9): a move that
  overtakes it shows as ENOENT, though its event is not read;
* holes punched into a file raise no event;
* fills stop part-way and say how far they came; EEXIST, ENOENT, EFAULT, ENOMEM, ESRCH.

One step is one atomic change.  Every access is judged: `Truth` says which contents a page may
show, `Violation` is raised for any other.  Contents are short texts: a page of the source, zeros,
or a client's write.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from userfault.uapi import userfaultfd as abi

MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR
WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE

SHIFT = 12
ZEROS = "zeros"


def source(page: int) -> str:
    """What the source has in `page`."""
    return f"source {page}"


class Violation(AssertionError):  # noqa: N818  # it says what it is
    """The client saw, or would have seen, what it must not see."""


class Kind(NamedTuple):
    """A memory type, as far as fills and faults depend on it."""

    name: str
    file: bool = False  # a page cache is behind it
    shared: bool = False
    zeropage: bool = True
    ambiguous: bool = False  # COPY says EEXIST where no page could be had


ANON = Kind("anon")
SHMEM = Kind("shmem", file=True, shared=True)
SHMEM_PRIVATE = Kind("shmem-private", file=True)
HUGETLB = Kind("hugetlb", file=True, shared=True, zeropage=False, ambiguous=True)
HUGETLB_PRIVATE = Kind("hugetlb-private", file=True, zeropage=False, ambiguous=True)
KINDS = (ANON, SHMEM, SHMEM_PRIVATE, HUGETLB, HUGETLB_PRIVATE)


@dataclass(slots=True, eq=False)
class Truth:
    """What one page may show, judged from what the client did, not from what the pager did.

    `dropping`: madvise calls under way on it.  `known`: the pager had a way to know that the page
    is not the source's any more (it filled it, or was told); a hole punched into a page that it
    never saw leaves both answers right.  `failures`, `refusals`: reads of the source that failed,
    fills refused for want of memory; beyond the bound, `given_up`: SIGBUS is right.
    """

    page: int
    allowed: set[str]
    dropping: int = 0
    known: bool = False
    failures: int = 0
    refusals: int = 0
    given_up: bool = False

    def saw(self, value: str) -> None:
        if value not in self.allowed:
            allowed = " or ".join(sorted(self.allowed))
            raise Violation(f"page {self.page} reads {value}, but must read {allowed}")
        self._is(value)

    def wrote(self, value: str) -> None:
        self._is(value)

    def _is(self, value: str) -> None:
        self.allowed = {value, ZEROS} if self.dropping else {value}

    def copy(self) -> Truth:
        """For the child of a fork: a drop under way may or may not have come first."""
        return Truth(self.page, set(self.allowed), known=self.known, given_up=self.given_up)


# What a page-table entry can be.
NONE = "none"
OWN = "own"  # a private page (or the zero page): its content is in the slot
CACHE = "cache"  # maps the page cache
POISON = "poison"


@dataclass(slots=True, eq=False)
class Slot:
    """One page of address space."""

    truth: Truth
    index: int  # page of the file
    vma: int
    registered: bool = True
    entry: str = NONE
    content: str = ZEROS


@dataclass(slots=True, eq=False)
class Thread:
    """A thread of the client: idle, waiting (in a page fault), or woken (to try again)."""

    mm: Mm
    name: str
    state: str = "idle"
    vpn: int = 0
    write: str | None = None
    last: str = ""  # what its last access came to: a content or a signal


@dataclass(slots=True, eq=False)
class Fault:
    """A message: `thread` waits at page `vpn`."""

    thread: Thread
    vpn: int
    flags: int


@dataclass(slots=True, eq=False)
class Event:
    """A message that a call of the client raised, which waits for it to be read."""

    kind: str  # remove, unmap, remap, fork
    call: Call
    start: int = 0
    end: int = 0
    new: int = 0
    child: Mm | None = None
    queued: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """A system call of the client on its way: it sleeps until the event it queued was read.

    `stage`: asleep (the event is in the queue), ready (it was read), or opened (fills work again,
    the pages are still there).
    """

    mm: Mm
    name: str
    events: deque[Event] = field(default_factory=deque)
    stage: str = "asleep"
    slots: list[tuple[int, Slot]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Mm:
    """One address space with its userfaultfd."""

    name: str
    truths: list[Truth]  # of the pages that the pager was given
    slots: dict[int, Slot] = field(default_factory=dict)
    threads: list[Thread] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    events: deque[Event] = field(default_factory=deque)
    calls: list[Call] = field(default_factory=list)
    changing: int = 0
    overtaking: bool = False  # a change came since the pager's last step: after a fill has begun
    alive: bool = True
    finishes: int = 0  # how often the pager began to let go of it

    @property
    def readable(self) -> bool:
        return bool(self.faults or self.events)


class File:
    """The page cache behind file memory, and how many pages the file has."""

    def __init__(self, size: int, cache: dict[int, str]) -> None:
        self.size = size
        self.cache = cache


class Kernel:
    """The range [`start`, `start` + `pages`) of page numbers, in one process and its forks."""

    def __init__(
        self, kind: Kind, pages: int, *, prepared: bool, zeros: frozenset[int] = frozenset()
    ) -> None:
        self.kind = kind
        self.pages = pages
        self.start = start = 0x100
        self._zeros = zeros  # pages of the source that are zeros
        self.poor = 0  # so many allocations of the pager will fail
        self.memory_retries = 1 << 30  # refusals after which giving a page up is right
        self._numbers = 0
        self._fresh = start + 0x1000
        self._extras: dict[int, Truth] = {}  # of pages of the file beyond those given to the pager
        held = {page: source(page) for page in range(pages)} if prepared else {}
        self.file = File(pages + 4, held)
        truths = [Truth(page, {self.unfilled(page)}, known=prepared) for page in range(pages)]
        main = Mm("main", truths)
        vma = self._number()
        main.slots = {start + page: Slot(truths[page], page, vma) for page in range(pages)}
        main.threads = [Thread(main, f"thread {number}") for number in range(3)]
        self.mms = [main]

    def unfilled(self, page: int) -> str:
        """What a page shows that nobody has touched."""
        return ZEROS if page in self._zeros else source(page)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- threads ---------------------------------------------------------------------------------

    def touch(self, thread: Thread, vpn: int, *, write: bool = False) -> None:
        """An idle thread reads or writes a page."""
        assert thread.state == "idle"
        thread.vpn = vpn
        thread.write = f"write {self._number()}" if write else None
        self._access(thread)

    def run(self, thread: Thread) -> None:
        """A woken thread tries its access again."""
        assert thread.state == "woken"
        self._access(thread)

    def signal(self, thread: Thread) -> None:
        """A signal handler interrupts a wait; afterwards the access is tried again."""
        assert thread.state == "waiting"
        self._rouse(thread)

    def _rouse(self, thread: Thread) -> None:
        thread.state = "woken"
        faults = thread.mm.faults
        for fault in [fault for fault in faults if fault.thread is thread]:
            faults.remove(fault)

    def _access(self, thread: Thread) -> None:
        slot = thread.mm.slots.get(thread.vpn)
        thread.state = "idle"
        if slot is None:
            thread.last = "SIGSEGV"
            return
        if slot.entry == POISON:
            if not slot.truth.given_up:
                raise Violation(f"SIGBUS on page {slot.truth.page}, which nobody had to give up")
            thread.last = "SIGBUS"
            return
        if slot.entry == NONE and not self._fault(thread, slot):
            return
        self._finish_access(thread, slot)

    def _fault(self, thread: Thread, slot: Slot) -> bool:
        """Nothing is mapped: True once something is."""
        cached = self.kind.file and slot.index in self.file.cache
        if self.kind.file and slot.index >= self.file.size:
            thread.last = "SIGBUS"
            return False
        if slot.registered:
            flags = (MINOR if cached else 0) | (WRITE if thread.write else 0)
            thread.state = "waiting"
            thread.mm.faults.append(Fault(thread, thread.vpn, flags))
            return False
        if self.kind.file:
            self.file.cache.setdefault(slot.index, ZEROS)
            slot.entry = CACHE
        else:
            slot.entry, slot.content = OWN, ZEROS
        return True

    def _finish_access(self, thread: Thread, slot: Slot) -> None:
        if thread.write is None:
            value = self.file.cache[slot.index] if slot.entry == CACHE else slot.content
            slot.truth.saw(value)
        else:
            value = thread.write
            if self.kind.shared:
                self.file.cache[slot.index] = value
            else:
                slot.entry, slot.content = OWN, value
            slot.truth.wrote(value)
        thread.last = value

    # --- calls of the client ---------------------------------------------------------------------

    def dontneed(self, mm: Mm, start: int, count: int) -> Call | None:
        """madvise(MADV_DONTNEED) on pages of one mapping."""
        return self._drop(mm, "dontneed", start, count)

    def remove(self, mm: Mm, start: int, count: int) -> Call | None:
        """madvise(MADV_REMOVE): drops the pages from the file too."""
        return self._drop(mm, "remove", start, count)

    def _drop(self, mm: Mm, name: str, start: int, count: int) -> Call | None:
        slots = self.stretch(mm, start, count)
        if not slots:
            return None
        call = Call(mm, name, slots=slots)
        for _, slot in slots:
            slot.truth.dropping += 1
            slot.truth.allowed.add(ZEROS)
        if slots[0][1].registered:
            self._raise(call, [Event("remove", call, start, start + len(slots))])
        else:
            self._drop_now(call)
        return call

    def _drop_now(self, call: Call) -> None:
        for vpn, slot in call.slots:
            truth = slot.truth
            truth.dropping -= 1
            if call.mm.slots.get(vpn) is not slot:
                continue  # unmapped or moved meanwhile: madvise passes over it
            if call.name == "remove":
                self._uncache(slot.index)
                truth.allowed = {ZEROS}
            else:
                slot.entry = NONE
                cached = self.kind.file and slot.index in self.file.cache
                truth.allowed = {self.file.cache[slot.index] if cached else ZEROS}
                truth.given_up &= self.kind.shared  # the marker of other mappings stays
            truth.known = True

    def _uncache(self, index: int) -> None:
        self.file.cache.pop(index, None)
        for mm in self.mms:
            for slot in mm.slots.values():
                if slot.index == index and slot.entry == CACHE:
                    slot.entry = NONE

    def punch(self, index: int) -> None:
        """fallocate(FALLOC_FL_PUNCH_HOLE) on one page of the file: no event."""
        self._uncache(index)
        truth = self._truth_of(index)
        if truth is not None:
            truth.allowed = {ZEROS} if truth.known else {ZEROS, self.unfilled(index)}

    def _truth_of(self, index: int) -> Truth | None:
        return self.mms[0].truths[index] if index < self.pages else self._extras.get(index)

    def resize(self, size: int) -> None:
        """ftruncate: pages beyond the end go, and accesses there raise SIGBUS."""
        for index in range(size, self.file.size):
            self.punch(index)
        self.file.size = size

    def alias(self, index: int) -> None:
        """The client writes the whole page through another mapping of the file."""
        if index < self.file.size:
            value = f"alias {self._number()}"
            self.file.cache[index] = value
            truth = self._truth_of(index)
            if truth is not None:
                truth.wrote(value)

    def munmap(self, mm: Mm, start: int, count: int) -> Call | None:
        slots = self.stretch(mm, start, count)
        if not slots:
            return None
        call = Call(mm, "munmap")
        for vpn, _ in slots:
            del mm.slots[vpn]
        if slots[0][1].registered:
            self._raise(call, [Event("unmap", call, start, start + len(slots))])
        return call

    def mremap(
        self, mm: Mm, start: int, count: int, *, new: int | None = None, change: int = 0,
        keep: bool = False,
    ) -> Call | None:  # fmt: skip
        """Move pages to `new` (default: where nothing is), growing or shrinking by `change`.

        `keep`: MREMAP_DONTUNMAP.  Events: UNMAP of what was at the target, REMAP, UNMAP of the
        tail cut off, UNMAP of the old place: one after the other (measured on 6.18).
        """
        slots = self.stretch(mm, start, count)
        count = len(slots)
        size = count if keep else max(count + change, 1)
        new = self._room(size) if new is None else new
        if not slots or (new < start + count and start < new + size):
            return None
        call = Call(mm, "mremap")
        events = [
            Event("unmap", call, vpn, vpn + 1) for vpn in range(new, new + size)
            if mm.slots.pop(vpn, None)
        ]  # fmt: skip
        vma = self._number()
        moved = min(size, count)
        for at, (vpn, slot) in enumerate(slots):
            if at < moved:
                mm.slots[new + at] = slot
            del mm.slots[vpn]
            if keep:
                mm.slots[vpn] = self._extra(slot.index, slot)
        last = slots[-1][1]
        for at in range(moved, size):
            mm.slots[new + at] = self._extra(last.index + 1 + at - moved, last)
        for at in range(size):
            mm.slots[new + at].vma = vma
        events.append(Event("remap", call, start, start + moved, new))
        if moved < count:
            events.append(Event("unmap", call, start + moved, start + count))
        if not keep:
            events.append(Event("unmap", call, start, start + moved))
        if last.registered:
            self._raise(call, events)
        return call

    def _room(self, size: int) -> int:
        at, self._fresh = self._fresh, self._fresh + size + 8
        return at

    def grow(self, mm: Mm, count: int) -> None:
        """mremap that lengthens the last mapping in place: no event, registered as the rest."""
        if not mm.slots:
            return
        top = max(mm.slots)
        last = mm.slots[top]
        for at in range(1, count + 1):
            mm.slots[top + at] = self._extra(last.index + at, last)

    def _extra(self, index: int, like: Slot) -> Slot:
        """A page that the pager was not given: it shows the file, or zeros."""
        truth = Truth(-1, {self.file.cache.get(index, ZEROS)})
        if self.kind.shared:
            truth = self._extras.setdefault(index, truth)
        return Slot(truth, index, like.vma, like.registered)

    def split(self, mm: Mm, vpn: int) -> None:
        """mprotect: what lies behind `vpn` in its mapping becomes a mapping of its own."""
        if vpn in mm.slots:
            old, new = mm.slots[vpn].vma, self._number()
            for at, slot in mm.slots.items():
                if at >= vpn and slot.vma == old:
                    slot.vma = new

    def fork(self, mm: Mm) -> Call:
        """fork with EVENT_FORK: the child's address space, whose threads start after the event."""
        truths = mm.truths if self.kind.shared else [truth.copy() for truth in mm.truths]
        child = Mm(f"child {len(self.mms)}", truths)
        renamed = {id(old): new for old, new in zip(mm.truths, truths, strict=True)}
        vmas: dict[int, int] = {}
        for vpn, slot in mm.slots.items():
            truth = slot.truth
            if not self.kind.shared:
                truth = renamed.get(id(truth)) or truth.copy()
            vma = vmas.setdefault(slot.vma, self._number())
            twin = Slot(truth, slot.index, vma, slot.registered, slot.entry, slot.content)
            if self.kind.shared:
                twin.entry = NONE  # page tables of shared memory are not copied, markers neither
            child.slots[vpn] = twin
        self.mms.append(child)
        call = Call(mm, "fork")
        if any(slot.registered for slot in mm.slots.values()):
            self._raise(call, [Event("fork", call, child=child)])
        else:
            self._started(child)
        return call

    def _started(self, child: Mm) -> None:
        child.threads = [Thread(child, f"{child.name} thread {number}") for number in range(2)]

    def exit(self, mm: Mm) -> None:
        """The process ends, with whatever it was doing."""
        mm.alive = False
        for call in mm.calls:
            for _, slot in call.slots:
                slot.truth.dropping -= 1
        mm.calls.clear()
        mm.changing = 0
        mm.faults.clear()
        mm.events.clear()
        mm.threads.clear()

    def _raise(self, call: Call, events: Iterable[Event]) -> None:
        call.events.extend(events)
        call.mm.overtaking |= not call.mm.changing
        call.mm.changing += len(call.events)
        call.mm.calls.append(call)
        self._queue(call)

    def _queue(self, call: Call) -> None:
        call.stage = "asleep"
        call.mm.events.append(call.events[0])

    def resume(self, call: Call) -> None:
        """The thread in `call`, whose event was read, runs: to its next sleep, or to its end."""
        assert call.stage != "asleep"
        if call.stage == "opened":
            call.mm.calls.remove(call)
            self._drop_now(call)
            return
        event = call.events.popleft()
        call.mm.changing -= 1
        if call.events:
            self._queue(call)
        elif event.kind == "remove":
            call.stage = "opened"  # fills work again, and the pages are still there
        else:
            call.mm.calls.remove(call)
            if event.child is not None:
                self._started(event.child)

    def stretch(self, mm: Mm, start: int, count: int) -> list[tuple[int, Slot]]:
        """The slots from `start` on that lie in one mapping, at most `count`."""
        found: list[tuple[int, Slot]] = []
        for vpn in range(start, start + count):
            slot = mm.slots.get(vpn)
            if slot is None or (found and slot.vma != found[0][1].vma):
                break
            found.append((vpn, slot))
        return found

    # --- what the pager does ---------------------------------------------------------------------

    def read(self, mm: Mm, limit: int) -> list[Fault | Event]:
        """read(2): up to `limit` messages, faults first."""
        found: list[Fault | Event] = []
        while mm.faults and len(found) < limit:
            found.append(mm.faults.popleft())
        while mm.events and len(found) < limit:
            event = mm.events.popleft()
            event.call.stage = "ready"
            found.append(event)
        return found

    def fill(
        self, mm: Mm, kind: str, vpn: int, contents: Sequence[str], *,
        stop: int = -1, result: Callable[[int], None],
    ) -> tuple[int, int]:  # fmt: skip
        """One fill ioctl on as many pages as `contents` has: (errno, pages done).

        `stop`: it is interrupted there (its lock was contended).  `result`: is told the pages done
        before anybody is woken, as the kernel writes its answer into the argument.
        """
        if mm.changing and not mm.overtaking:
            return errno.EAGAIN, 0
        if not mm.alive:
            return errno.ESRCH, 0
        slots = self.stretch(mm, vpn, len(contents))
        if len(slots) < len(contents) or not slots[0][1].registered:
            return errno.ENOENT, 0
        if mm.changing:
            return errno.EAGAIN, 0
        code = done = 0
        for done, ((_, slot), content) in enumerate(zip(slots, contents, strict=True)):
            code = errno.EAGAIN if done == stop else self._install(kind, slot, content)
            if code:
                break
        else:
            done = len(contents)
        if done:
            result(done)
            self.wake(mm, vpn, done)
        return (errno.EAGAIN if done and code else code), done

    def _install(self, kind: str, slot: Slot, content: str) -> int:
        """One page of a fill: 0 or an errno."""
        if self.kind.file and slot.index >= self.file.size:
            return errno.EFAULT
        if kind == "continue":
            return self._map_cached(slot)
        if self._refuse(slot):
            return errno.EEXIST if self.kind.ambiguous and kind == "copy" else errno.ENOMEM
        if slot.entry in (OWN, CACHE) or (slot.entry == POISON and kind != "copy"):
            return errno.EEXIST
        return self._mark(slot) if kind == "poison" else self._put(slot, content)

    def _mark(self, slot: Slot) -> int:
        """POISON where nothing is mapped."""
        if not slot.truth.given_up:
            raise Violation(f"page {slot.truth.page} is poisoned without a reason")
        slot.entry = POISON
        return 0

    def _put(self, slot: Slot, content: str) -> int:
        """COPY or ZEROPAGE where nothing is mapped."""
        if self.kind.shared and slot.index in self.file.cache:
            return errno.EEXIST
        if self.kind.shared:
            self.file.cache[slot.index] = content
            slot.entry = CACHE
        else:
            slot.entry, slot.content = OWN, content
        slot.truth.known = True
        return 0

    def _map_cached(self, slot: Slot) -> int:
        if not self.kind.file:
            return errno.EINVAL
        if slot.index not in self.file.cache:
            return errno.EFAULT
        if slot.entry in (OWN, CACHE):
            return errno.EEXIST
        slot.entry = CACHE
        slot.truth.known = True
        return 0

    def _refuse(self, slot: Slot) -> bool:
        if self.poor <= 0:
            return False
        self.poor -= 1
        slot.truth.refusals += 1
        slot.truth.given_up |= slot.truth.refusals > self.memory_retries
        return True

    def wake(self, mm: Mm, vpn: int, count: int) -> None:
        """UFFDIO_WAKE: works on any range, and with an event pending."""
        for thread in mm.threads:
            if thread.state == "waiting" and vpn <= thread.vpn < vpn + count:
                self._rouse(thread)

    def wake_all(self, mm: Mm) -> None:
        """UFFDIO_WAKE of the whole address space."""
        self.wake(mm, 0, 1 << 64)

    def unregister(self, mm: Mm, vpn: int, count: int) -> None:
        """UFFDIO_UNREGISTER: faults are the kernel's own from now on; who waits is woken."""
        self.split(mm, vpn)
        self.split(mm, vpn + count)
        for at in range(vpn, vpn + count):
            if at in mm.slots:
                mm.slots[at].registered = False
        self.wake(mm, vpn, count)

    def shown(self, mm: Mm, vpn: int) -> str | None:
        """What the page that is mapped there shows; None where none is."""
        slot = mm.slots.get(vpn)
        if slot is None or slot.entry not in (OWN, CACHE):
            return None
        return slot.content if slot.entry == OWN else self.file.cache[slot.index]
