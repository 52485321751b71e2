"""Where releases differ, and no statement says it: each was a divergence on a real kernel."""

from __future__ import annotations

import errno

import pytest

from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Madvise, Mlock, Mmap, Mprotect, Mremap, Smaps, Write
from userfault.model.profiles import PROFILES, Profile
from userfault.model.programs import ModelCalls
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

RELEASED = [profile for profile in PROFILES.values() if profile.name != "next"]
AT = calls.place(1)
ELSEWHERE = calls.place(2)


@pytest.mark.parametrize("profile", RELEASED, ids=lambda profile: profile.name)
def test_forking_hugetlb_again_is_refused_since_7_2(profile: Profile) -> None:
    kernel = ModelCalls(profile)
    kernel.hugepages(HUGE, 1)
    task = kernel.process().tasks[0]
    kind = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_HUGETLB | mman.MAP_FIXED_NOREPLACE
    assert task.call(Mmap(AT, HUGE, flags=kind)).result().ok

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
    task = ModelCalls(profile).process().tasks[0]
    assert task.call(Mmap(AT, 8 * PAGE)).result().ok
    uffd = task.call(calls.Userfaultfd(0)).result().value
    api = abi.uffdio_api.struct.pack(abi.UFFD_API, 0, 0)
    assert task.call(calls.Ioctl(uffd, abi.UFFDIO_API, api)).result().ok
    register = abi.uffdio_register.struct.pack(AT, 3 * PAGE, abi.UFFDIO_REGISTER_MODE_WP, 0)
    assert task.call(calls.Ioctl(uffd, abi.UFFDIO_REGISTER, register)).result().ok
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED

    assert task.call(Mremap(AT, PAGE, PAGE, flags, AT + PAGE)).result().ok

    vmas = task.call(Smaps(AT, AT + 8 * PAGE)).result().vmas
    registered = [(vma.start - AT) // PAGE for vma in vmas if "uw" in vma.flags]
    # 7.3 and the package of 6.12.118 have the mend.
    assert registered == ([2] if profile.name in ("6.12", "7.3") else [])
