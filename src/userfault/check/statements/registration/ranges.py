"""UFFDIO_REGISTER: ranges, modes and owners, and the ioctls that it answers with."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT

from userfault.check.words.flags import READ_WRITE, UNDEFINED_MODE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import ordinary_file
from userfault.check.words.statement import ALL, HUGETLB, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MINOR, MISSING, RWP, WP
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Munmap, Read
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature, Ioctls, Mode
from userfault.uapi import mman

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"


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
    ordinary_file(t, at=area.at(1), flags=mman.MAP_FIXED)
    u.register(area.address, area.length, MISSING, fails=EINVAL)
    source = t.source()
    for page in (0, 2):
        expect(t.vma(area.at(page)).flags, (), "flags of the good mappings")
        u.copy(area.at(page), source, PAGE, fails=ENOENT)
    u.register(area.at(0), PAGE, MISSING)  # it is the file that was refused


# --- What is registered already ------------------------------------------------------------------


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
