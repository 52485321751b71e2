"""UFFDIO_REGISTER and UFFDIO_UNREGISTER."""

from __future__ import annotations

import os
from errno import EBUSY, EEXIST, EINVAL, ENOENT, EPERM

from userfault.check.words.area import Area
from userfault.check.words.flags import READ_WRITE, UNDEFINED_MODE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.scenes import guard
from userfault.check.words.statement import ALL, ANON, HUGETLB, SHARED, SHMEM, statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MINOR, MISSING, RWP, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, TASK_SIZE, Mmap, Munmap, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature, Ioctls, Mode
from userfault.uapi import mman

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"

_NOREPLACE = mman.MAP_FIXED_NOREPLACE
_SHM_HUGETLB = 0o4000
_OWNER_ONLY = 0o600


# --- Arguments -----------------------------------------------------------------------------------


@statement(
    19,
    "A registration without a mode, or with an undefined one, fails with EINVAL.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def a_mode_must_be_known(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon")
    u.register(area.address, area.length, 0, fails=EINVAL)
    u.register(area.address, area.length, MISSING | UNDEFINED_MODE, fails=EINVAL)
    expect(t.vma(area.address).flags, (), "flags of the mapping")


@statement(
    20,
    "A range that is unaligned, empty, outside of the address space or wraps fails with EINVAL.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def a_range_must_be_whole_pages_of_user_addresses(t: Thread) -> None:
    u = t.uffd()
    area, end = t.map("anon", pages=2), t.task_size()
    for start, length in (
        (area.address + 1, PAGE),
        (area.address, PAGE + 1),
        (area.address, 0),
        (end, PAGE),
        (area.address, end - area.address + PAGE),
        (area.address, -PAGE % (1 << 64)),
        (-PAGE % (1 << 64), 2 * PAGE),
    ):
        u.register(start, length, MISSING, fails=EINVAL)
        u.unregister(start, length, fails=EINVAL)
        u.wake(start, length, fails=EINVAL)
    expect(t.vma(area.address).flags, (), "flags of the mapping")


@statement(
    21,
    "A range with holes registers what is mapped in it.",
    since="6.1",
    source=_MEASURED,
)
def holes_are_skipped(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon", pages=5)
    t.ok(Munmap(area.at(0), PAGE))
    t.ok(Munmap(area.at(2), PAGE))
    t.ok(Munmap(area.at(4), PAGE))
    u.register(area.address, area.length, MISSING)
    for page in (1, 3):
        t.thread().blocks(Read(area.at(page), 1))
        u.fault(area.at(page), 0)


@statement(
    22,
    "A range without any mapping fails with EINVAL.",
    since="4.3",
    source=_MAN,
)
def an_empty_range_is_refused(t: Thread) -> None:
    u = t.uffd()
    nowhere = t.program.free_place()
    u.register(nowhere, PAGE, MISSING, fails=EINVAL)
    u.unregister(nowhere, PAGE, fails=EINVAL)


@statement(
    23,
    "One mapping of an unsupported type in the range makes it fail with EINVAL, and nothing is"
    " registered.",
    since="4.3",
    source=_MEASURED,
)
def all_or_nothing(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon", pages=3)
    _ordinary_file(t, at=area.at(1), flags=mman.MAP_FIXED)
    u.register(area.address, area.length, MISSING, fails=EINVAL)
    source = t.source()
    for page in (0, 2):
        expect(t.vma(area.at(page)).flags, (), "flags of the good mappings")
        u.copy(area.at(page), source, PAGE, fails=ENOENT)
    u.register(area.at(0), PAGE, MISSING)  # it is the file that was refused


# --- Types of mappings ---------------------------------------------------------------------------


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
    27,
    "A mapping that another descriptor has registered fails with EBUSY.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_mapping_has_one_owner(t: Thread, memory: Memory) -> None:
    first, second = t.uffd(), t.uffd()
    area = t.map(memory, pages=2)
    first.register(area.at(1), area.page, MISSING)
    second.register(area.address, area.length, MISSING, fails=EBUSY)
    expect(t.vma(area.at(0)).flags.count("um"), 0, "registration of the page before it")
    second.register(area.at(0), area.page, MISSING)
    first.unregister(area.at(1), area.page)
    second.register(area.at(1), area.page, MISSING)


@statement(
    28,
    "Registering again with modes that the mapping has, all or some of them, succeeds and changes"
    " nothing; with any other set, that set replaces the old one.",
    since="6.1",
    source="measured on 6.18 (the success: on 6.1 to 7.3)",
    memories=ALL,
)
def registering_again_with_fewer_modes_changes_nothing(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    steps = [(MISSING, "um"), (MISSING | WP, "um uw"), (WP, "um uw"), (MISSING | WP, "um uw")]
    if memory.minor_faults:
        steps += [(WP | MINOR, "uw ui")]
    for mode, flags in steps:
        ioctls = Ioctls(u.register(area.address, area.length, mode))
        expect(bool(ioctls & Ioctls.WRITEPROTECT), bool(mode & WP), f"WRITEPROTECT for {mode!r}")
        expect(t.registration(area.address), flags, f"flags of the mapping after {mode!r}")


@statement(
    29,
    "Registering again with other modes, and without WP where WP was set, succeeds up to 7.2, and"
    " the bits in the page table stay; since 7.3 it fails with EBUSY.",
    since="6.1",
    source="measured on 6.1, 6.12, 6.18, 7.2 and 7.3",
    memories=ALL,
    outcomes={"up to 7.2": "success", "since 7.3": "EBUSY"},
)
def wp_may_be_dropped_up_to_7_2(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(area.address, b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    kept = t.since("7.3")
    u.register(area.address, area.length, MISSING, fails=EBUSY if kept else 0)
    expect(t.registration(area.address), "uw" if kept else "um", "flags of the mapping")
    expect(t.protected(area.address), True, "the bit in the page table")


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
        address = _ordinary_file(t, flags=kind)
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
    address = _ordinary_file(t)
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
    address = _ordinary_file(t)
    for mode in (MISSING, MINOR, WP | MISSING, WP | MINOR):
        u.register(address, PAGE, mode, fails=EINVAL)


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


# --- Answers -------------------------------------------------------------------------------------


@statement(
    38,
    "The ioctls of a range that holds hugetlb memory lack ZEROPAGE and MOVE.",
    since="6.8",
    source=_MEASURED,
    memories=HUGETLB,
)
def hugetlb_takes_zeropage_and_move_away(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.map("anon", at=area.end)
    lacking = Ioctls.ZEROPAGE | Ioctls.MOVE
    alone = Ioctls(u.register(area.end, PAGE, MISSING))
    expect(alone & lacking, lacking, "the two ioctls of the anonymous page")
    both = Ioctls(u.register(area.address, area.length + PAGE, MISSING))
    expect(both, alone & ~lacking, "the ioctls of both")


@statement(
    39,
    "The ioctls have WRITEPROTECT if and only if WP, CONTINUE if and only if MINOR, RWPROTECT if"
    " and only if RWP is asked for, and a fixed set besides.",
    since="6.1",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
    outcomes={"6.1": "neither POISON nor MOVE", "since 6.8": "POISON and MOVE"},
)
def ioctls_follow_the_modes(t: Thread, memory: Memory) -> None:
    always = Ioctls.WAKE | Ioctls.COPY
    if t.since("6.6"):
        always |= Ioctls.POISON
    if memory.traits.zeropage:
        always |= Ioctls.ZEROPAGE
        if t.since("6.8"):
            always |= Ioctls.MOVE  # for shmem too, where it never works
    by_mode = {WP: Ioctls.WRITEPROTECT, MINOR: Ioctls.CONTINUE, RWP: Ioctls.RWPROTECT}
    for mode in _modes(t, memory):
        features = Feature.RWP if mode & RWP else Feature(0)
        u = t.uffd(features)
        area = t.map(memory)
        expected = always
        for one, ioctl in by_mode.items():
            if mode & one:
                expected |= ioctl
        expect(Ioctls(u.register(area.address, area.length, mode)), expected, f"for {mode!r}")
        u.close()


def _modes(t: Thread, memory: Memory) -> list[Mode]:
    """Every set of modes that this memory can be registered with."""
    found = [MISSING, WP, MISSING | WP]
    if memory.minor_faults:
        found += [MINOR, MISSING | MINOR, WP | MINOR, MISSING | WP | MINOR]
    if t.since("7.3"):
        found += [RWP, RWP | MISSING]
    return found


@statement(
    40,
    "RWP fails with EINVAL without the descriptor's feature, together with WP, and on a mapping"
    " without any access.",
    since="7.3",
    source="the kernel's admin guide on userfaultfd; measured on 7.3",
    memories=ALL,
)
def rwp_is_asked_for_alone_and_in_time(t: Thread, memory: Memory) -> None:
    plain, tracker = t.uffd(), t.uffd(Feature.RWP)
    area = t.map(memory)
    plain.register(area.address, area.length, RWP, fails=EINVAL)
    tracker.register(area.address, area.length, RWP | WP, fails=EINVAL)
    t.ok(calls.Mprotect(area.address, area.length, mman.PROT_NONE))
    tracker.register(area.address, area.length, RWP, fails=EINVAL)
    t.ok(calls.Mprotect(area.address, area.length, READ_WRITE))
    tracker.register(area.address, area.length, RWP)


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
    u = t.uffd(Feature.WP_ASYNC)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, WP)
    t.write(area.address, b"1")
    t.write(area.at(1), b"2")
    u.writeprotect(area.address, area.length)
    t.write(area.at(1), b"3")
    expect(t.protected(area.at(0)), True, "the page that was not written")
    expect(t.protected(area.at(1)), False, "the page that was written")


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
    for address in (_ordinary_file(t), _sysv(t, PAGE)):
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


# --- Unregistering -------------------------------------------------------------------------------


@statement(
    43,
    "UFFDIO_UNREGISTER of a range that is registered in part succeeds, and once more after that.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def unregistering_what_is_not_registered_succeeds(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.at(0), area.page, MISSING)
    for _ in range(2):
        u.unregister(area.address, area.length)
        expect(t.registration(area.address), "", "flags of the mapping")


@statement(
    44,
    "UFFDIO_UNREGISTER through another descriptor of the process fails with EINVAL since 6.17; up"
    " to 6.12 it succeeded.",
    since="6.1",
    source="measured on 6.1, 6.12, 6.17, 6.18, 7.2 and 7.3",
    memories=ALL,
    outcomes={"up to 6.12": "success", "since 6.17": "EINVAL"},
)
def another_descriptor_cannot_unregister(t: Thread, memory: Memory) -> None:
    owner, other = t.uffd(), t.uffd()
    area = t.map(memory)
    owner.register(area.address, area.length, MISSING)
    refused = t.since("6.17")
    other.unregister(area.address, area.length, fails=EINVAL if refused else 0)
    expect(t.registration(area.address), "um" if refused else "", "flags of the mapping")


@statement(
    45,
    "UFFDIO_UNREGISTER wakes those who wait for a missing page; they get the page that the kernel"
    " makes.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def unregistering_wakes_waiters_of_missing_pages(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    first = t.thread().blocks(Read(area.at(0), 8))
    u.fault(area.at(0), 0)
    second = t.thread().blocks(Write(area.at(1), b"w"))  # nobody reads its message
    u.unregister(area.address, area.length)
    first.read(bytes(8))
    second.ok()
    expect(u.counts(), (0, 0), "faults that fdinfo counts")
    u.silent("the range was unregistered")


@statement(
    46,
    "UFFDIO_UNREGISTER of a range without MISSING wakes nobody: who waits there sleeps until"
    " UFFDIO_WAKE.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def unregistering_wakes_no_other_waiters(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(area.address, b"old")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    _sleeps_through_unregister(t, u, area, Write(area.address, b"new"))
    expect(t.read(area.address, 3), b"new", "the page")
    if memory.minor_faults:
        area = t.map(memory)
        t.write(t.alias(area).address, b"cached")
        u.register(area.address, area.length, MINOR)
        _sleeps_through_unregister(t, u, area, Read(area.address, 6))


def _sleeps_through_unregister(t: Thread, u: Uffd, area: Area, touch: calls.Touch) -> None:
    waiter = t.thread().blocks(touch)
    u.message()
    u.unregister(area.address, area.length)
    waiter.still("UFFDIO_UNREGISTER")
    expect(u.counts(), (0, 1), "faults that fdinfo counts")
    u.wake(area.address, area.length)
    waiter.ok()


@statement(
    47,
    "UFFDIO_UNREGISTER lifts write protection: of pages that are there, and of empty entries.",
    since="5.19",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def unregistering_lifts_protection(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature(0) if memory.minor_faults else Feature.WP_UNPOPULATED)
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"page")
    u.register(area.address, area.length, WP)
    before = t.page(area.at(0))
    u.writeprotect(area.address, area.length)
    expect(t.protected(area.at(0)), True, "the page while it is protected")
    expect(t.protected(area.at(1)), True, "the empty entry while it is protected")
    u.unregister(area.address, area.length)
    expect(t.page(area.at(0)), before, "the page")
    expect(t.page(area.at(1)), "-----", "the empty entry")
    t.write(area.at(0), b"1")
    t.write(area.at(1), b"2")
    u.silent("the range was unregistered")


@statement(
    48,
    "UFFDIO_UNREGISTER of a part of a mapping leaves the rest of it registered.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_part_can_be_unregistered(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, area.length, MISSING)
    u.unregister(area.at(1), area.page)
    expect(t.read(area.at(1), 8), bytes(8), "the page in the middle")
    u.silent("a touch of the page in the middle")
    for page in (0, 2):
        t.thread().blocks(Read(area.at(page), 1))
        u.fault(area.at(page), 0)


@statement(
    227,
    "Two mappings of a file that have guards become one when they are registered alike, also where"
    " they were not when the guards were made.",
    since="6.18",
    source="measured on 6.17 (where they stay two), 6.18, 7.2 and 7.3",
    memories=SHMEM,
)
def mappings_with_guards_join(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.at(1), PAGE, MISSING)
    guard(t, area.address, area.length)
    u.register(area.at(0), PAGE, MISSING)
    seen = t.vma(area.at(1))
    expect((seen.start, seen.end), (area.address, area.end), "the mapping of the second page")


# --- What they share -----------------------------------------------------------------------------


def _ordinary_file(t: Thread, *, at: int | None = None, flags: int = 0) -> int:
    """The address of one page of a fresh file on a disk; private unless `flags` says otherwise."""
    fd = t.do(calls.Open(calls.File.ORDINARY, os.O_RDWR | os.O_CLOEXEC))
    if fd.errno:
        raise CannotRun("no ordinary file", cause=errno_name(fd.errno), cure="set XDG_CACHE_HOME")
    t.ok(calls.Ftruncate(fd.value, PAGE))
    kind = flags & (mman.MAP_PRIVATE | mman.MAP_SHARED) or mman.MAP_PRIVATE
    place = flags & mman.MAP_FIXED or _NOREPLACE
    return t.ok(Mmap(at or t.program.free_place(), PAGE, READ_WRITE, kind | place, fd.value)).value


def _sysv(t: Thread, length: int, flags: int = 0) -> int:
    """The address of a SysV segment that goes with its last attachment."""
    made = t.do(calls.Shmget(length, flags | _OWNER_ONLY))
    if made.errno:
        raise CannotRun("no SysV shared memory", cause=f"shmget(2): {errno_name(made.errno)}")
    address = t.ok(calls.Shmat(made.value, t.program.free_place())).value
    t.ok(calls.ShmRemove(made.value))
    return address
