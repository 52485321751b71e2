"""UFFDIO_REGISTER by the type of the mapping: which can be registered, and for what."""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, EPERM

from userfault.check.words.flags import READ_WRITE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.scenes import ordinary_file
from userfault.check.words.statement import ANON, HUGETLB, SHARED, statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MINOR, MISSING, WP
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, TASK_SIZE, Mmap, Read
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"
_NOREPLACE = mman.MAP_FIXED_NOREPLACE
_SHM_HUGETLB = 0o4000
_OWNER_ONLY = 0o600


# --- Anonymous memory and memfds -----------------------------------------------------------------


@statement(
    24,
    "MINOR on anonymous memory fails with EINVAL, alone and with other modes.",
    since="5.13",
    source=f"{_MAN}; {_MEASURED}",
    memories=ANON,
)
def anonymous_memory_has_no_minor_faults(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    for mode in (MINOR, MINOR | MISSING, MINOR | WP, MINOR | MISSING | WP):
        u.register(area.address, area.length, mode, fails=EINVAL)


@statement(
    25,
    "A shared mapping of a file that was opened read-only fails with EPERM; a private one of it"
    " registers.",
    since="6.1",
    source=_MEASURED,
    memories=SHARED,
)
def a_mapping_that_may_never_be_written_is_refused(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    fd = t.ok(calls.Reopen(area.fd, os.O_RDONLY | os.O_CLOEXEC)).value
    shared, private = t.program.free_place(), t.program.free_place()
    t.ok(Mmap(shared, area.length, mman.PROT_READ, mman.MAP_SHARED | _NOREPLACE, fd))
    u.register(shared, area.length, MISSING, fails=EPERM)
    flags = mman.MAP_PRIVATE | mman.MAP_NORESERVE | _NOREPLACE
    t.ok(Mmap(private, area.length, mman.PROT_READ, flags, fd))
    u.register(private, area.length, MISSING)


@statement(
    26,
    "Private anonymous memory registers for MISSING whatever its protection is.",
    since="4.3",
    source=_MEASURED,
    memories=ANON,
)
def protection_does_not_matter(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    for prot in (mman.PROT_NONE, mman.PROT_READ, READ_WRITE):
        area = t.map(memory, prot=prot)
        u.register(area.address, area.length, MISSING)
        expect(t.vma(area.address).flags, ("um",), "flags of the mapping")


@statement(
    37,
    "A range that begins or ends inside of a huge page fails with EINVAL.",
    since="4.11",
    source=_MEASURED,
    memories=HUGETLB,
)
def huge_pages_are_registered_whole(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address + PAGE, area.page, MISSING, fails=EINVAL)
    u.register(area.address, area.page + PAGE, MISSING, fails=EINVAL)
    u.register(area.address, PAGE, MISSING, fails=EINVAL)
    u.register(area.address, area.page, MISSING)
    u.unregister(area.address + PAGE, area.page - PAGE, fails=EINVAL)
    u.unregister(area.address, PAGE, fails=EINVAL)


# --- Ordinary files ------------------------------------------------------------------------------


@statement(
    30,
    "A mapping of an ordinary file, private or shared, fails with EINVAL for MISSING, WP and"
    " MINOR.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def ordinary_files_are_refused(t: Thread) -> None:
    u = t.uffd()
    for kind in (mman.MAP_PRIVATE, mman.MAP_SHARED):
        address = ordinary_file(t, flags=kind)
        for mode in (MISSING, WP, MINOR, MISSING | WP):
            u.register(address, PAGE, mode, fails=EINVAL)


@statement(
    31,
    "WP alone, on a descriptor with WP_ASYNC, registers a mapping of an ordinary file.",
    since="6.7",
    source=f"the kernel's admin guide on userfaultfd; {_MEASURED}",
)
def wp_async_tracks_ordinary_files(t: Thread) -> None:
    u = t.uffd(Feature.WP_ASYNC)
    address = ordinary_file(t)
    u.register(address, PAGE, WP)
    t.read(address)
    u.writeprotect(address, PAGE)
    expect(t.protected(address), True, "the page after protecting it")
    t.write(address, b"w")
    expect(t.protected(address), False, "the page after writing it")
    u.silent("a write to a range with WP_ASYNC")


@statement(
    32,
    "WP with MISSING or MINOR on an ordinary file fails with EINVAL, under WP_ASYNC too.",
    since="6.7",
    source=_MEASURED,
)
def wp_async_allows_wp_alone(t: Thread) -> None:
    u = t.uffd(Feature.WP_ASYNC)
    address = ordinary_file(t)
    for mode in (MISSING, MINOR, WP | MISSING, WP | MINOR):
        u.register(address, PAGE, mode, fails=EINVAL)


@statement(
    203,
    "Where only WP under WP_ASYNC registers, in an ordinary file and in SysV memory, fills fail"
    " with EINVAL; SysV memory of huge pages is filled all the same.",
    since="6.7",
    source="measured on 6.12 to 7.3",
)
def what_is_only_tracked_is_not_filled(t: Thread) -> None:
    u = t.uffd(Feature.WP_ASYNC)
    source = t.source()
    for address in (ordinary_file(t), _sysv(t, PAGE)):
        u.register(address, PAGE, WP)
        u.copy(address, source, PAGE, fails=EINVAL)
        u.zeropage(address, PAGE, fails=EINVAL)
        u.continue_(address, PAGE, fails=EINVAL)
        u.poison(address, PAGE, fails=EINVAL)
        t.write(address, b"w")
    t.reserve(HUGE, 2)
    address = _sysv(t, HUGE, _SHM_HUGETLB | mman.MAP_HUGE_2MB)
    u.register(address, HUGE, WP)
    u.copy(address, t.source(b"v", HUGE), HUGE)
    expect(t.read(address), b"v", "the page")
    u.copy(address, t.source(b"v", HUGE), HUGE, fails=EEXIST)
    address = _sysv(t, HUGE, _SHM_HUGETLB | mman.MAP_HUGE_2MB)
    u.register(address, HUGE, WP)
    u.poison(address, HUGE)
    t.raises(Read(address, 1), SIGBUS)
    u.silent("all of this")


def _sysv(t: Thread, length: int, flags: int = 0) -> int:
    """The address of a SysV segment that goes with its last attachment."""
    made = t.do(calls.Shmget(length, flags | _OWNER_ONLY))
    if made.errno:
        raise CannotRun("no SysV shared memory", cause=f"shmget(2): {errno_name(made.errno)}")
    address = t.ok(calls.Shmat(made.value, t.program.free_place())).value
    t.ok(calls.ShmRemove(made.value))
    return address


# --- Other mappings ------------------------------------------------------------------------------


@statement(
    33,
    "The kernel's own mappings, vdso and vvar, fail with EINVAL for MISSING.",
    since="4.3",
    source=_MEASURED,
)
def the_kernels_own_mappings_are_refused(t: Thread) -> None:
    u = t.uffd()
    found = [vma for vma in t.ok(calls.Smaps(0, TASK_SIZE)).vmas if vma.name]
    if not found:
        raise CannotRun("the process has neither vdso nor vvar")
    for vma in found:
        u.register(vma.start, vma.end - vma.start, MISSING, fails=EINVAL)


@statement(
    34,
    "MAP_DROPPABLE memory fails with EINVAL for every mode.",
    since="6.12",
    source="measured on 6.12, 6.17, 6.18, 7.2 and 7.3",
    outcomes={"6.12": "MISSING and WP are accepted, and fills work", "since 6.17": "EINVAL"},
)
def droppable_memory_is_refused(t: Thread) -> None:
    u = t.uffd()
    address = t.program.free_place()
    t.ok(Mmap(address, PAGE, READ_WRITE, mman.MAP_DROPPABLE | mman.MAP_ANONYMOUS | _NOREPLACE))
    refused = t.since("6.17")
    for mode in (MISSING, WP):
        u.register(address, PAGE, mode, fails=EINVAL if refused else 0)
    u.register(address, PAGE, MINOR, fails=EINVAL)
    if not refused:
        u.move(address, t.source(b"m"), PAGE)
        expect(t.read(address), b"m", "the page")


@statement(
    35,
    "SysV shared memory of ordinary pages fails with EINVAL for every mode, except for WP alone"
    " under WP_ASYNC.",
    since="6.7",
    source=_MEASURED,
)
def sysv_memory_is_refused(t: Thread) -> None:
    u, tracker = t.uffd(), t.uffd(Feature.WP_ASYNC)
    address = _sysv(t, PAGE)
    for mode in (MISSING, WP, MINOR, MISSING | WP):
        u.register(address, PAGE, mode, fails=EINVAL)
    tracker.register(address, PAGE, WP | MISSING, fails=EINVAL)
    tracker.register(address, PAGE, WP)


@statement(
    36,
    "SysV shared memory of huge pages registers for MISSING up to 6.18, and fails with EINVAL on"
    " 7.2 and 7.3.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    outcomes={"up to 6.18": "success", "since 7.2": "EINVAL"},
)
def sysv_huge_pages_lost_userfaultfd(t: Thread) -> None:
    u = t.uffd()
    t.reserve(HUGE, 1)
    address = _sysv(t, HUGE, _SHM_HUGETLB | mman.MAP_HUGE_2MB)
    if t.since("7.2"):
        u.register(address, HUGE, MISSING, fails=EINVAL)
        return
    u.register(address, HUGE, MISSING)
    u.copy(address, t.source(b"v", HUGE), HUGE)
    expect(t.read(address), b"v", "the page")


# --- guest_memfd ---------------------------------------------------------------------------------


@statement(
    41,
    "A mapping of a guest_memfd fails with EINVAL for MISSING, MINOR and WP, on every released"
    " kernel.",
    since="6.18",
    source="measured on 6.18 and 7.3; the patches posted to the kvm list in March 2026",
    memories=("guest_memfd",),
    outcomes={"up to 7.3": "EINVAL", "with guest_memfd support": "success"},
)
def no_release_has_userfaultfd_for_guest_memfd(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    for mode in (MISSING, MINOR, WP, MISSING | MINOR):
        area = t.map(memory)
        u.register(area.address, area.length, mode, fails=0 if t.unreleased else EINVAL)


@statement(
    42,
    "WP alone, on a descriptor with WP_ASYNC, registers a guest_memfd, and a write clears the bit.",
    since="6.18",
    source="measured on 6.18 and 7.3",
    memories=("guest_memfd",),
)
def wp_async_tracks_guest_memfd(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, WP, Feature.WP_ASYNC, pages=2)
    t.write(area.address, b"1")
    t.write(area.at(1), b"2")
    u.writeprotect(area.address, area.length)
    t.write(area.at(1), b"3")
    expect(t.protected(area.at(0)), True, "the page that was not written")
    expect(t.protected(area.at(1)), False, "the page that was written")
