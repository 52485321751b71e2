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

from pager_core.simcalls import Calls
from pager_core.simmemory import Memory
from pager_core.simparts import (
    CACHE,
    MINOR,
    NONE,
    OWN,
    POISON,
    WRITE,
    ZEROS,
    Fault,
    Kind,
    Slot,
    Thread,
    Violation,
    rouse,
)
from pager_core.simuffd import Uffd


class Kernel:
    """Memory, the client's threads that touch it, its calls, and the pager's descriptor."""

    def __init__(
        self, kind: Kind, pages: int, *, prepared: bool, zeros: frozenset[int] = frozenset()
    ) -> None:
        self.memory = memory = Memory(kind, pages, prepared=prepared, zeros=zeros)
        self.calls = Calls(memory)
        self.uffd = Uffd(memory)
        self.kind, self.start, self.file, self.mms = kind, memory.start, memory.file, memory.mms

    def touch(self, thread: Thread, vpn: int, *, write: bool = False) -> None:
        """An idle thread reads or writes a page."""
        assert thread.state == "idle"
        thread.vpn = vpn
        thread.write = f"write {self.memory.number()}" if write else None
        self._access(thread)

    def run(self, thread: Thread) -> None:
        """A woken thread tries its access again."""
        assert thread.state == "woken"
        self._access(thread)

    def signal(self, thread: Thread) -> None:
        """A signal handler interrupts a wait; afterwards the access is tried again."""
        assert thread.state == "waiting"
        rouse(thread)

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
