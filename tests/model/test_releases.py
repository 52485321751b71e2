"""Where releases differ, and no statement says it: each was a divergence on a real kernel."""

from __future__ import annotations

import errno

import pytest

from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Madvise, Mlock, Mmap, Mremap, Smaps
from userfault.model.profiles import PROFILES, Profile
from userfault.model.programs import ModelCalls
from userfault.uapi import mman

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
