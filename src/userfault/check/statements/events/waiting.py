"""While an event waits to be read: what must not go on, and what ends the wait."""

from __future__ import annotations

from errno import EAGAIN

from userfault.check.words.outcome import expect
from userfault.check.words.scenes import field_of_an_event
from userfault.check.words.statement import ALL, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, WP
from userfault.kernel.calls import (
    WAITS_EVENT,
    Madvise,
    Munmap,
    Read,
)
from userfault.kernel.events import Remove
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"
_REMOVAL = Feature.EVENT_REMOVE | Feature.EVENT_UNMAP | Feature.EVENT_REMAP


@statement(
    136,
    "While an event waits to be read, COPY, ZEROPAGE, CONTINUE, POISON, MOVE and WRITEPROTECT fail"
    " with EAGAIN, anywhere in the context; REGISTER, WAKE and UNREGISTER work.",
    since="6.1",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
    outcomes={"6.1": "the result field is untouched", "since 6.12": "it is -EAGAIN"},
)
def fills_wait_for_the_event(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMOVE)
    area = t.map(memory, pages=3)
    elsewhere = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING | WP)
    u.register(elsewhere.address, elsewhere.length, MISSING | WP)
    source = t.source(b"s", area.page)
    reader = t.thread().blocks(Read(elsewhere.at(0), 1))
    u.fault(elsewhere.at(0), 0)
    drop = Madvise(area.at(1), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    field = field_of_an_event(t)
    u.copy(area.at(0), source, area.page, fails=EAGAIN, field=field)
    u.copy(elsewhere.at(0), source, elsewhere.page, fails=EAGAIN, field=field)
    u.zeropage(area.at(0), area.page, fails=EAGAIN, field=field)
    u.continue_(area.at(0), area.page, fails=EAGAIN, field=field)
    if t.since("6.6"):
        u.poison(area.at(0), area.page, fails=EAGAIN, field=field)
    if t.since("6.8"):
        u.move(elsewhere.at(0), source, elsewhere.page, fails=EAGAIN, field=field)
    u.writeprotect(area.at(0), area.page, fails=EAGAIN)
    expect(t.page(area.at(0)), "-----", "the entry")
    u.unregister(area.at(2), area.page)
    u.register(area.at(2), area.page, MISSING)
    u.wake(elsewhere.at(0), elsewhere.page)
    reader.still("UFFDIO_WAKE")
    found = u.read()
    expect(found[1:], [Remove(area.at(1), area.at(2))], "the event after the fault")
    dropper.ok()
    u.copy(elsewhere.at(0), source, elsewhere.page)
    u.copy(area.at(0), source, area.page)
    reader.read(b"s")


@statement(
    176,
    "Closing the last descriptor of a context lets those go on who wait for its events to be read.",
    since="4.11",
    source="measured on 6.18",
    memories=ALL,
)
def the_last_close_releases_senders(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, _REMOVAL, pages=3)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    drop = Madvise(area.at(0), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    unmapper = t.thread().blocks(Munmap(area.at(2), area.page), WAITS_EVENT)
    u.close()
    dropper.ok()
    unmapper.ok()
    expect(t.page(area.at(0)), "-----", "the page that was dropped")
    expect(t.registration(area.at(0)), "", "the registration")
