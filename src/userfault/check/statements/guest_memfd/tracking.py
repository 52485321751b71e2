"""guest_memfd as every kernel since 6.18 has it: registered for tracking alone.

41 and 42 are its registration; no released kernel serves its faults (`serving`, `guests`).
"""

from __future__ import annotations

import os
from errno import EINVAL, ENODEV

from userfault.check.words.area import Area
from userfault.check.words.flags import PUNCH_HOLE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.scans import regions
from userfault.check.words.scenes import EMPTY
from userfault.check.words.statement import statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MINOR, MISSING, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Fallocate, Ioctl, Madvise, Mmap, PagemapScan, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import kvm, mman
from userfault.uapi import pagemap as pm

_MEASURED = "measured on 6.18, 7.2 and 7.3"
_NONE = Feature(0)
_GUEST = ("guest_memfd",)
_SHARED = mman.MAP_SHARED | mman.MAP_FIXED_NOREPLACE


@statement(
    204,
    "COPY, ZEROPAGE, CONTINUE, POISON and MOVE in a guest_memfd that WP_ASYNC tracks fail with"
    " EINVAL on every released kernel.",
    since="6.18",
    source=f"{_MEASURED}; the patches posted to the kvm list in March 2026",
    memories=_GUEST,
    outcomes={"up to 7.3": "EINVAL", "with guest_memfd support": "success, but for MOVE"},
)
def fills_of_a_tracked_guest_memfd(t: Thread, memory: Memory) -> None:
    u, area = _tracked(t, memory, pages=5)
    refused = 0 if t.unreleased else EINVAL
    source = t.source()
    u.copy(area.at(0), source, PAGE, fails=refused)
    u.zeropage(area.at(1), PAGE, fails=refused)
    t.write(t.alias(area).at(2), b"cached")
    u.continue_(area.at(2), PAGE, fails=refused)
    u.poison(area.at(3), PAGE, fails=refused)
    u.move(area.at(4), source, PAGE, fails=EINVAL)
    expect(t.page(area.at(4)), EMPTY, "the entry")
    u.silent("all of this")


@statement(
    205,
    "A scan for WRITTEN lists exactly the pages of a guest_memfd that were written since WP_ASYNC"
    " protected them.",
    since="6.18",
    source=_MEASURED,
    memories=_GUEST,
)
def a_scan_of_a_tracked_guest_memfd(t: Thread, memory: Memory) -> None:
    u, area = _tracked(t, memory, pages=4)
    for page in range(4):
        t.write(area.at(page), b"page")
    u.writeprotect(area.address, area.length)
    written = pm.PAGE_IS_WRITTEN
    scan = PagemapScan(area.address, area.end, category_mask=written, return_mask=written)
    expect(regions(t, scan), [], "the pages after protecting them")
    t.read(area.at(0))
    t.write(area.at(1), b"w")
    t.write(area.at(3), b"w")
    promised = [(area.at(1), area.at(2), written), (area.at(3), area.end, written)]
    expect(regions(t, scan), promised, "the pages after two writes")
    u.silent("the writes")


@statement(
    206,
    "A hole punched into a guest_memfd takes its pages away without an event, and their protection"
    " with them; the next touch reads zeroes.",
    since="6.18",
    source=_MEASURED,
    memories=_GUEST,
)
def holes_in_a_guest_memfd(t: Thread, memory: Memory) -> None:
    u, area = _tracked(t, memory, pages=2, features=Feature.EVENT_REMOVE)
    t.write(area.at(0), b"zero")
    t.write(area.at(1), b"one!")
    u.writeprotect(area.address, area.length)
    t.ok(Fallocate(area.fd, PUNCH_HOLE, PAGE, PAGE))
    u.silent("the hole")
    expect(t.page(area.at(1)), EMPTY, "the entry")
    expect(t.read(area.at(1), 4), bytes(4), "the page")
    expect(t.read(area.at(0), 4), b"zero", "the page beside it")
    t.ok(Fallocate(area.fd, mman.FALLOC_FL_KEEP_SIZE, 0, 2 * PAGE))
    expect(t.read(area.at(0), 4), b"zero", "the page that was there")


@statement(
    207,
    "MADV_DONTNEED leaves the page of a guest_memfd in the file; MADV_REMOVE takes it out, with"
    " EVENT_REMOVE after the event was read.",
    since="6.18",
    source=_MEASURED,
    memories=_GUEST,
)
def advice_on_a_guest_memfd(t: Thread, memory: Memory) -> None:
    _, area = _tracked(t, memory, pages=1)
    t.write(area.address, b"page")
    t.ok(Madvise(area.address, PAGE, mman.MADV_DONTNEED))
    expect(t.page(area.address), EMPTY, "the entry")
    expect(t.read(area.address, 4), b"page", "the page after MADV_DONTNEED")
    t.ok(Madvise(area.address, PAGE, mman.MADV_REMOVE))
    expect(t.read(area.address, 4), bytes(4), "the page after MADV_REMOVE")


@statement(
    208,
    "A guest_memfd made without INIT_SHARED can be mapped, every touch raises SIGBUS, and it"
    " registers for WP under WP_ASYNC alone; one made without MMAP cannot be mapped (ENODEV).",
    since="6.18",
    source=f"{_MEASURED}; the patches posted to the kvm list in March 2026",
)
def a_guest_memfd_for_the_guest_alone(t: Thread) -> None:
    u, tracker = t.uffd(), t.uffd(Feature.WP_ASYNC)
    fd = guest_memfd(t, kvm.GUEST_MEMFD_FLAG_MMAP)
    address = t.ok(Mmap(t.program.free_place(), PAGE, flags=_SHARED, fd=fd)).value
    t.raises(Read(address, 1), SIGBUS)
    t.raises(Write(address, b"w"), SIGBUS)
    for mode in (MISSING, MINOR, WP):
        u.register(address, PAGE, mode, fails=EINVAL)
    tracker.register(address, PAGE, WP)
    hidden = guest_memfd(t, 0)
    t.fails(Mmap(t.program.free_place(), PAGE, flags=_SHARED, fd=hidden), ENODEV)


@statement(
    209,
    "A guest_memfd has a fixed size (ftruncate(2): EINVAL), and cannot be mapped private (EINVAL).",
    since="6.18",
    source=_MEASURED,
    memories=_GUEST,
)
def a_guest_memfd_is_of_one_size_and_shared(t: Thread, memory: Memory) -> None:
    area = t.map(memory, pages=2)
    t.fails(calls.Ftruncate(area.fd, PAGE), EINVAL)
    t.fails(calls.Ftruncate(area.fd, 4 * PAGE), EINVAL)
    private = mman.MAP_PRIVATE | mman.MAP_FIXED_NOREPLACE
    t.fails(Mmap(t.program.free_place(), PAGE, flags=private, fd=area.fd), EINVAL)


# --- What they share -----------------------------------------------------------------------------


def _tracked(t: Thread, memory: Memory, pages: int, features: Feature = _NONE) -> tuple[Uffd, Area]:
    """A guest_memfd that is registered for WP under WP_ASYNC."""
    return t.registered(memory, WP, Feature.WP_ASYNC | features, pages=pages)


def guest_memfd(t: Thread, flags: int) -> int:
    """The descriptor of one with these flags, of one page."""
    device = t.do(calls.Open(calls.File.KVM, os.O_RDWR | os.O_CLOEXEC))
    if device.errno:
        raise CannotRun("no KVM", cause=f"/dev/kvm: {errno_name(device.errno)}")
    machine = t.ok(Ioctl(device.value, kvm.KVM_CREATE_VM)).value
    argument = kvm.kvm_create_guest_memfd.struct.pack(PAGE, flags)
    return t.ok(Ioctl(machine, kvm.KVM_CREATE_GUEST_MEMFD, argument)).value
