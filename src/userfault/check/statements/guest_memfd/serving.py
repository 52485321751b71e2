"""guest_memfd on a kernel that serves it: registration, fills, messages, as its host sees them.

No released kernel does; facts are those of 7.3.4 with the patches of March 2026, but for what is
wrong in them (docs/guest_memfd.md).
"""

from __future__ import annotations

from errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ESPIPE

from userfault.check.statements.guest_memfd.tracking import guest_memfd
from userfault.check.words.flags import PUNCH_HOLE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import EMPTY, MAPPED_FILE
from userfault.check.words.statement import statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.uffd import MINOR, MISSING, RWP, WP
from userfault.kernel.calls import PAGE, Fallocate, Mmap, Pread, Pwrite, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import kvm, mman
from userfault.uapi import userfaultfd as abi

_PATCHED = "measured on 7.3.4 with the patches posted to linux-mm in March 2026"
_GUEST = ("guest_memfd",)
_SHARED = mman.MAP_SHARED | mman.MAP_FIXED_NOREPLACE
_WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE
_OF_MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR
# The ioctls that a registration answers with: those of the page's life, and those of the mode.
_IOCTLS = {
    MISSING: 0x13C,
    WP: 0x17C,
    MINOR: 0x1BC,
    MISSING | WP: 0x17C,
    MISSING | MINOR: 0x1BC,
    WP | MINOR: 0x1FC,
    MISSING | WP | MINOR: 0x1FC,
    RWP: 0x33C,
}
_BIT = 1 << 62  # of the model's `next`: the posted patches have none, so that only a trial tells


@statement(
    228,
    "A guest_memfd registers in every mode, and the ioctls are those of shmem: WRITEPROTECT with"
    " WP, CONTINUE with MINOR, RWPROTECT with RWP.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def every_mode_registers(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    for mode, promised in _IOCTLS.items():
        area = t.map(memory)
        expect(u.register(area.address, PAGE, mode), promised, f"the ioctls for {Mode(mode)!r}")


@statement(
    229,
    "One feature bit tells that guest_memfd is served: there is no need for a trial registration.",
    since="next",
    source="nobody has it: the bit of the first patches was dropped, and the model's is its own",
)
def a_bit_tells_of_guest_memfd(t: Thread) -> None:
    expect(int(t.offered_features()) & _BIT, _BIT, "the bit")


@statement(
    230,
    "One call registers anonymous memory and a guest_memfd side by side for MISSING; where one of"
    " the two cannot have the mode it fails with EINVAL, and nothing is registered.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def one_call_registers_both(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    place = t.program.free_place()
    area = t.map(memory, at=place + PAGE)
    t.map("anon", at=place)
    u.register(place, 2 * PAGE, MINOR, fails=EINVAL)
    expect(t.registration(area.address), "", "the registration after the failure")
    u.register(place, 2 * PAGE, MISSING)
    u.unregister(place, 2 * PAGE)
    hidden = guest_memfd(t, kvm.GUEST_MEMFD_FLAG_MMAP)
    t.ok(Mmap(place + 2 * PAGE, PAGE, flags=_SHARED, fd=hidden))
    u.register(place, 3 * PAGE, MISSING, fails=EINVAL)
    expect(t.registration(place), "", "the registration beside what may not be touched")


@statement(
    231,
    "A touch of a missing page of a guest_memfd is a message; COPY maps the page, wakes the reader,"
    " and every other mapping has it.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_missing_page_is_copied_in(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    other = t.alias(area)
    reader = t.thread().blocks(Read(area.at(0), 4))
    u.fault(area.at(0), 0)
    u.copy(area.at(0), t.source(b"copy"), PAGE)
    reader.read(b"copy")
    expect(t.page(area.at(0)), MAPPED_FILE, "the entry")
    expect(t.read(other.at(0), 4), b"copy", "the page through the other mapping")
    writer = t.thread().blocks(Write(area.at(1), b"w"))
    u.fault(area.at(1), _WRITE)
    u.copy(area.at(1), t.source(b"copy"), PAGE)
    writer.ok()
    expect(t.read(other.at(1), 4), b"wopy", "what was written")


@statement(
    232,
    "COPY onto a page of a guest_memfd that is mapped, or cached and not mapped, whoever made it,"
    " fails with EEXIST, and the page is as it was; of several pages those before it are done.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def an_occupied_page_is_refused(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=4)
    other = t.alias(area)
    source = t.source(b"copy", 3 * PAGE)
    t.write(other.at(0), b"cached")
    t.ok(Fallocate(area.fd, mman.FALLOC_FL_KEEP_SIZE, 3 * PAGE, PAGE))
    u.copy(area.at(1), source, PAGE)
    u.copy(area.at(1), source, PAGE, fails=EEXIST)
    u.copy(area.at(0), source, PAGE, fails=EEXIST)
    u.copy(area.at(3), source, PAGE, fails=EEXIST)
    u.copy(area.at(2), source, 2 * PAGE, fails=EAGAIN, field=PAGE)
    expect(t.page(area.at(0)), EMPTY, "the entry of the page that was cached")
    expect(t.read(area.at(0), 6), b"cached", "the page that was cached")
    expect(t.read(area.at(3), 4), bytes(4), "the page that fallocate made")


@statement(
    233,
    "ZEROPAGE gives a guest_memfd a page of its own, not the zero page: what is written there"
    " every mapping sees; a page that is there is EEXIST.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def zeropage_makes_a_page(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    other = t.alias(area)
    u.zeropage(area.address, PAGE)
    expect(t.page(area.address), MAPPED_FILE, "the entry")
    t.write(area.address, b"seen")
    expect(t.read(other.address, 4), b"seen", "the page through the other mapping")
    u.zeropage(area.address, PAGE, fails=EEXIST)


@statement(
    234,
    "CONTINUE maps a page of a guest_memfd that is cached, writable, in a range registered for"
    " MISSING alone, too; where none is cached it fails with EFAULT, where one is mapped with"
    " EEXIST.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_cached_page_is_mapped(t: Thread, memory: Memory) -> None:
    for mode in (MINOR, MISSING):
        u, area = t.registered(memory, mode, pages=2)
        other = t.alias(area)
        t.write(other.at(0), b"page")
        u.continue_(area.at(0), 2 * PAGE, fails=EAGAIN, field=PAGE)
        u.continue_(area.at(0), PAGE, fails=EEXIST)
        u.continue_(area.at(1), PAGE, fails=EFAULT)
        t.write(area.at(0), b"s")
        expect(t.read(other.at(0), 4), b"sage", "the page after a store")
        u.silent("all of this")


@statement(
    235,
    "CONTINUE of a page of a guest_memfd that fallocate(2) made and nobody has written maps zeros;"
    " what its host then writes stays.",
    since="next",
    source="as on shmem (measured on 6.1 to 7.3); the posted patches show what the memory held",
    memories=_GUEST,
)
def nobody_sees_what_the_memory_held(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MINOR)
    t.ok(Fallocate(area.fd, mman.FALLOC_FL_KEEP_SIZE, 0, PAGE))
    u.continue_(area.address, PAGE)
    expect(t.read(area.address, 8), bytes(8), "the page")
    t.write(area.address, b"host")
    expect(t.read(t.alias(area).address, 4), b"host", "the page through another mapping")


@statement(
    236,
    "Under MINOR a touch of a cached page of a guest_memfd is a message with the flag MINOR, and"
    " CONTINUE answers it; a page that is not there is none, and reads as zeros.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_cached_page_is_a_minor_fault(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MINOR, pages=2)
    t.write(t.alias(area).at(0), b"page")
    reader = t.thread().blocks(Read(area.at(0), 4))
    u.fault(area.at(0), _OF_MINOR)
    u.continue_(area.at(0), PAGE)
    reader.read(b"page")
    expect(t.read(area.at(1), 4), bytes(4), "the page that was not there")
    u.silent("the touch of the page that was not there")


@statement(
    237,
    "Beyond the end of a guest_memfd a touch is SIGBUS and never a message; COPY and ZEROPAGE fail"
    " with ENOMEM there, CONTINUE and POISON with EFAULT.",
    since="next",
    source="as on shmem (measured on 6.1 to 7.3); with the posted patches the touch waits",
    memories=_GUEST,
)
def beyond_the_end_is_sigbus(t: Thread, memory: Memory) -> None:
    short = t.map(memory)
    place = t.program.free_place()
    t.ok(Mmap(place, 2 * PAGE, flags=_SHARED, fd=short.fd))
    beyond = place + PAGE
    u = t.uffd()
    source = t.source()
    for mode in (MISSING, MINOR, MISSING | MINOR):
        u.register(place, 2 * PAGE, mode)
        u.copy(beyond, source, PAGE, fails=ENOMEM)
        u.zeropage(beyond, PAGE, fails=ENOMEM)
        u.continue_(beyond, PAGE, fails=EFAULT)
        u.poison(beyond, PAGE, fails=EFAULT)
        t.raises(Read(beyond, 1), SIGBUS)
        t.raises(Write(beyond, b"w"), SIGBUS)
        u.silent("touches beyond the end")
        u.unregister(place, 2 * PAGE)
    u.copy(place, source, PAGE, fails=ENOENT)  # nothing is registered any more


@statement(
    238,
    "A hole punched into a guest_memfd takes a page out of its mapping, and the next touch is a"
    " message again; who waits for a page goes on waiting.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_hole_makes_pages_missing(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    u.copy(area.at(0), t.source(b"one!"), PAGE)
    waiting = t.thread().blocks(Read(area.at(1), 1))
    u.fault(area.at(1), 0)
    t.ok(Fallocate(area.fd, PUNCH_HOLE, 0, 2 * PAGE))
    expect(t.page(area.at(0)), EMPTY, "the entry")
    waiting.still("the hole")
    reader = t.thread().blocks(Read(area.at(0), 4))
    u.fault(area.at(0), 0)
    u.copy(area.at(0), t.source(b"two!"), PAGE)
    reader.read(b"two!")
    u.unregister(area.address, area.length)
    waiting.read(b"\0")


@statement(
    239,
    "pread(2) and pwrite(2) of a guest_memfd fail with ESPIPE: its bytes are reached through"
    " mappings, and by its guest.",
    since="6.18",
    source="measured on 6.18, 7.2 and 7.3",
    memories=_GUEST,
)
def a_guest_memfd_is_not_read_or_written(t: Thread, memory: Memory) -> None:
    area = t.map(memory)
    t.fails(Pread(area.fd, 8, 0), ESPIPE)
    t.fails(Pwrite(area.fd, b"bytes", 0), ESPIPE)
    expect(t.read(area.address, 5), bytes(5), "the page")
