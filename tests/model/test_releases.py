"""Where releases differ, and no statement says it: each was a divergence on a real kernel."""

from __future__ import annotations

import errno
import os

import pytest

from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Madvise, Mlock, Mmap, Mprotect, Mremap, Smaps, Write
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import PROFILES, Profile
from userfault.uapi import mman
from userfault.uapi import pagemap as pm
from userfault.uapi import userfaultfd as abi

RELEASED = [profile for profile in PROFILES.values() if profile.name != "next"]
AT = calls.place(1)
ELSEWHERE = calls.place(2)


def _huge(profile: Profile, pages: int) -> tuple[ModelCalls, calls.CallTask]:
    """Private anonymous huge pages at `AT`, of a pool with two."""
    kernel = ModelCalls(profile)
    kernel.hugepages(HUGE, 2)
    task = kernel.process().tasks[0]
    kind = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_HUGETLB | mman.MAP_FIXED_NOREPLACE
    assert task.call(Mmap(AT, pages * HUGE, flags=kind)).result().ok
    return kernel, task


def _word(task: calls.CallTask, address: int) -> int:
    """What pagemap says of a page."""
    return int.from_bytes(task.call(calls.Pagemap(address, PAGE)).result().data, "little")


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_forking_hugetlb_again_is_refused_since_7_2(profile: Profile) -> None:
    task = _huge(profile, pages=1)[1]

    told = task.call(Madvise(AT, HUGE, mman.MADV_DOFORK)).result()

    assert told.errno == (errno.EINVAL if profile.release >= (7, 2) else 0)


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_moving_a_part_of_locked_memory_unlocks_that_part(profile: Profile) -> None:
    task = ModelCalls(profile).process().tasks[0]
    assert task.call(Mmap(AT, 3 * PAGE)).result().ok
    assert task.call(Mlock(AT, 3 * PAGE)).result().ok
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_DONTUNMAP

    assert task.call(Mremap(AT, 2 * PAGE, 2 * PAGE, flags, ELSEWHERE)).result().ok

    vmas = task.call(Smaps(AT, AT + 3 * PAGE)).result().vmas
    locked = [vma.start - AT for vma in vmas if "lo" in vma.flags]
    # 6.18 unlocked all of the mapping; the packages of the other releases have the mend.
    assert locked == ([] if profile.name in ("6.17", "6.18") else [2 * PAGE])


_MOVE = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED


def _registered(
    profile: Profile, features: int, pages: int
) -> tuple[ModelCalls, calls.CallTask, int]:
    """8 pages of which the first are registered for WP; the userfaultfd, which does not block."""
    kernel = ModelCalls(profile)
    task = kernel.process().tasks[0]
    assert task.call(Mmap(AT, 8 * PAGE)).result().ok
    return kernel, task, _enrolled(task, features, pages * PAGE)


def _enrolled(task: calls.CallTask, features: int, length: int) -> int:
    """A userfaultfd that has registered memory for WP."""
    uffd = task.call(calls.Userfaultfd(os.O_NONBLOCK)).result().value
    api = abi.uffdio_api.struct.pack(abi.UFFD_API, features, 0)
    assert task.call(calls.Ioctl(uffd, abi.UFFDIO_API, api)).result().ok
    register = abi.uffdio_register.struct.pack(AT, length, abi.UFFDIO_REGISTER_MODE_WP, 0)
    assert task.call(calls.Ioctl(uffd, abi.UFFDIO_REGISTER, register)).result().ok
    return uffd


def _unregister(uffd: int, start: int, length: int) -> calls.Ioctl:
    argument = abi.uffdio_range.struct.pack(start, length)
    return calls.Ioctl(uffd, abi.UFFDIO_UNREGISTER, argument)


def _mappings(profile: Profile, *program: calls.Call) -> list[tuple[int, int]]:
    """Where mappings of 8 pages lie after a program, in pages."""
    task = ModelCalls(profile).process().tasks[0]
    for call in (Mmap(AT, 8 * PAGE), *program):
        assert task.call(call).result().ok
    vmas = task.call(Smaps(AT, AT + 8 * PAGE)).result().vmas
    return [((vma.start - AT) // PAGE, (vma.end - AT) // PAGE) for vma in vmas]


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_memory_that_was_touched_joins_what_never_was_since_6_17(profile: Profile) -> None:
    found = _mappings(
        profile,
        Write(AT, b"x"),
        Mprotect(AT + PAGE, PAGE, mman.PROT_READ),
        Mmap(AT, PAGE, flags=mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED),
        Mprotect(AT + PAGE, PAGE, mman.PROT_READ | mman.PROT_WRITE),
    )
    # Of the packages that were tried; the kernel's own mend came in between.
    assert found == ([(0, 1), (1, 8)] if profile.release < (6, 17) else [(0, 8)])


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_new_memory_joins_what_was_touched_on_every_release(profile: Profile) -> None:
    flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
    assert _mappings(profile, Write(AT, b"x"), Mmap(AT, PAGE, flags=flags)) == [(0, 8)]


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_registered_memory_that_moves_beside_its_like_leaves_it_alone_where_mended(
    profile: Profile,
) -> None:
    task = _registered(profile, 0, pages=3)[1]

    assert task.call(Mremap(AT, PAGE, PAGE, _MOVE, AT + PAGE)).result().ok

    vmas = task.call(Smaps(AT, AT + 8 * PAGE)).result().vmas
    registered = [(vma.start - AT) // PAGE for vma in vmas if "uw" in vma.flags]
    # 7.3 and the package of 6.12.118 have the mend.
    assert registered == ([2] if profile.name in ("6.12", "7.3") else [])


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_the_end_of_a_registered_mapping_joins_what_follows_but_on_6_1(profile: Profile) -> None:
    _, task, uffd = _registered(profile, 0, pages=2)

    assert task.call(_unregister(uffd, AT + PAGE, PAGE)).result().ok

    vmas = task.call(Smaps(AT, AT + 8 * PAGE)).result().vmas
    apart = profile.name == "6.1"
    assert [(vma.start - AT) // PAGE for vma in vmas] == ([0, 1, 2] if apart else [0, 1])


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_a_range_above_every_mapping_is_enomem_on_6_1_and_einval_later(profile: Profile) -> None:
    _, task, uffd = _registered(profile, 0, pages=2)
    told = task.call(_unregister(uffd, calls.TASK_SIZE - PAGE, PAGE)).result()
    below = task.call(_unregister(uffd, AT - PAGE, PAGE)).result()

    assert told.errno == (errno.ENOMEM if profile.name == "6.1" else errno.EINVAL)
    assert below.errno == errno.EINVAL


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_populating_goes_on_behind_a_hole_on_6_1_alone(profile: Profile) -> None:
    task = ModelCalls(profile).process().tasks[0]
    assert task.call(Mmap(AT + PAGE, PAGE)).result().ok

    told = task.call(Madvise(AT, 2 * PAGE, mman.MADV_POPULATE_WRITE)).result()

    assert told.errno == errno.ENOMEM
    assert bool(_word(task, AT + PAGE) & pm.PM_PRESENT) == (profile.name == "6.1")


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_a_remap_event_tells_the_length_that_moved_since_6_17(profile: Profile) -> None:
    kernel, task, uffd = _registered(profile, abi.UFFD_FEATURE_EVENT_REMAP, pages=8)
    reader = next(iter(kernel.processes.values())).task()

    task.call(Mremap(AT, 2 * PAGE, PAGE, _MOVE, ELSEWHERE))
    kernel.settle()
    message = reader.call(calls.ReadFd(uffd, abi.uffd_msg.size)).result().data

    _, start, to, length = abi.uffd_msg_remap.struct.unpack(message)
    pages = 1 if profile.release >= (6, 17) else 2
    assert (start, to, length) == (AT, ELSEWHERE, pages * PAGE)


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_what_a_mapping_lost_while_its_removal_was_told_is_removed_since_6_17(
    profile: Profile,
) -> None:
    kernel, task, uffd = _registered(profile, abi.UFFD_FEATURE_EVENT_REMOVE, pages=8)
    other = next(iter(kernel.processes.values())).task()
    assert other.call(Write(AT + PAGE, b"x")).result().value

    removal = task.call(Madvise(AT, 2 * PAGE, mman.MADV_DONTNEED))
    kernel.settle()
    assert other.call(Madvise(AT, PAGE, mman.MADV_SEQUENTIAL)).result().ok
    for _ in range(2):  # the part that is a mapping of its own now may have an event of its own
        other.call(calls.ReadFd(uffd, abi.uffd_msg.size)).result()
        kernel.settle()

    assert removal.result().ok
    assert bool(_word(task, AT + PAGE) & pm.PM_PRESENT) == (profile.release < (6, 17))


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_huge_pages_do_not_stay_when_they_move_whatever_else_is_wrong(profile: Profile) -> None:
    task = _huge(profile, pages=2)[1]
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_DONTUNMAP

    told = task.call(Mremap(AT + HUGE, 2 * HUGE, 2 * HUGE, flags, ELSEWHERE)).result()

    assert told.errno == errno.EINVAL


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_mincore_takes_small_pages_for_huge_ones_on_6_1_where_there_is_no_table(
    profile: Profile,
) -> None:
    kernel = ModelCalls(profile)
    kernel.hugepages(HUGE, 2)
    task = kernel.process().tasks[0]
    file = task.call(calls.MemfdCreate(mman.MFD_HUGETLB | mman.MFD_HUGE_2MB)).result().value
    assert task.call(calls.Ftruncate(file, 2 * HUGE)).result().ok
    assert task.call(calls.Fallocate(file, 0, HUGE, HUGE)).result().ok
    shared = mman.MAP_SHARED | mman.MAP_FIXED_NOREPLACE
    assert task.call(Mmap(AT, 2 * HUGE, flags=shared, fd=file)).result().ok

    told = task.call(calls.Mincore(AT, 2 * HUGE)).result().data

    wrong = profile.name == "6.1"
    assert told[:512] == (b"\0\1" + bytes(510) if wrong else bytes(512))
    assert told[512:] == (b"\1" + bytes(511) if wrong else b"\1" * 512)


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_a_child_without_the_event_has_protected_huge_pages_on_6_1(profile: Profile) -> None:
    kernel, task = _huge(profile, pages=1)
    assert task.call(Write(AT, b"x")).result().value
    uffd = _enrolled(task, 0, HUGE)
    protect = abi.uffdio_writeprotect.struct.pack(AT, HUGE, abi.UFFDIO_WRITEPROTECT_MODE_WP)
    assert task.call(calls.Ioctl(uffd, abi.UFFDIO_WRITEPROTECT, protect)).result().ok

    child = task.call(calls.Fork()).result().value

    word = _word(kernel.processes[child].tasks[0], AT)
    assert bool(word & pm.PM_UFFD_WP) == (profile.name == "6.1")
