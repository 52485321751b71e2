"""What each kernel version has, as data: features, ioctls, and the behaviour that differs.

Source: the same program run on 6.1.192, 6.12.118, 6.17.13, 6.18.44, 7.2.13 and 7.3.4; a profile
is what that package did, not what the first release of its series did.  `next` is 7.3 with
guest_memfd behind the table, which no released kernel has.
"""

from __future__ import annotations

import errno

import msgspec

from userfault.kernel.errors import UsageError
from userfault.uapi import userfaultfd as abi

_RANGE = (
    1 << abi._UFFDIO_WAKE
    | 1 << abi._UFFDIO_COPY
    | 1 << abi._UFFDIO_ZEROPAGE
    | 1 << abi._UFFDIO_WRITEPROTECT
    | 1 << abi._UFFDIO_CONTINUE
)
_API = 1 << abi._UFFDIO_API | 1 << abi._UFFDIO_REGISTER | 1 << abi._UFFDIO_UNREGISTER
_MODES = (
    abi.UFFDIO_REGISTER_MODE_MISSING | abi.UFFDIO_REGISTER_MODE_WP | abi.UFFDIO_REGISTER_MODE_MINOR
)


class Profile(msgspec.Struct, frozen=True):
    """One kernel version.  Defaults are those of 6.18."""

    name: str
    release: tuple[int, int]
    features: int = 0x1FFFF
    api_ioctls: int = _API
    range_ioctls: int = _RANGE | 1 << abi._UFFDIO_POISON | 1 << abi._UFFDIO_MOVE
    modes: int = _MODES
    continue_wp: bool = True  # UFFDIO_CONTINUE_MODE_WP (6.4)
    pagemap_scan: bool = True  # PAGEMAP_SCAN (6.7)
    guard_markers: bool = True  # MADV_GUARD_INSTALL (6.13)
    droppable: bool = True  # MAP_DROPPABLE exists (6.11)
    # Registration
    refuse_to_drop_wp: bool = False  # EBUSY where WP or RWP would be dropped (7.3)
    foreign_unregister: bool = False  # another descriptor of the process may unregister (to 6.12)
    droppable_registers: bool = False  # MAP_DROPPABLE can be registered (6.12)
    vvar_wp_async: int = errno.EINVAL  # WP registration of vvar, on a WP_ASYNC descriptor
    sysv_hugetlb: bool = True  # SysV huge-page segments are recognised (to 6.18)
    # Fills
    checks_source: bool = True  # COPY: a source outside of user addresses is EINVAL (after 6.1)
    copy_beyond_eof: int = errno.EFAULT  # shared COPY or ZEROPAGE; ENOMEM with the table (7.1)
    continue_beyond_eof: int = errno.EINVAL  # EFAULT with the table
    checks_after_retry: bool = False  # a COPY sees most of what took its place (7.1)
    no_huge_page: int = errno.EEXIST  # COPY with an empty hugetlb pool; ENOMEM to 6.17
    copy_over_guard: bool = True  # EEXIST since 7.2
    # Faults (6.6) and fills (6.9) lock their mapping and not the address space, and an event waits
    # for the fills that have begun (map_changing_lock, 6.9)
    vma_locks: bool = True
    fill_prepares_first: bool = True  # the destination's anon_vma, before any check (not 6.1)
    field_on_event: bool = True  # the result field says -EAGAIN while an event is pending
    # The rest
    wp_many_mappings: bool = True  # WRITEPROTECT over several VMAs
    read_nowait: int = errno.EAGAIN  # RWF_NOWAIT on a blocking descriptor
    written_everywhere: bool = True  # PAGEMAP_SCAN: WRITTEN outside of WP mappings (to 7.2)
    # PAGEMAP_SCAN: an empty entry is WRITTEN (6.18, and the package of 6.12.118); else only in a
    # scan for WRITTEN and nothing else, which has a loop of its own
    empty_is_written: bool = True
    zero_page_becomes_huge: bool = True  # a write to the huge zero page gives a huge page
    collapse_tells_of_holes: bool = True  # MADV_COLLAPSE of registered memory: EBUSY, else EINVAL
    collapse_needs_writable: bool = False  # ... EINVAL where no page is writable (to 6.17)
    collapse_of_nothing: int = errno.EINVAL  # ... and where the range holds no whole huge page
    huge_zero_is_file: bool = True  # pagemap: what is not anonymous is of a file (to 7.2)
    # pagemap says of a huge page that it is mapped here alone if that is so of its first page;
    # 6.12 looks at each (parts of one that fork(2) has shared can be mapped less often)
    exclusive_by_first_page: bool = True
    keeps_parts: bool = True  # the last user of a huge page's part may keep it (not 6.1 and 6.12)
    smaps_sees_no_access: bool = True  # smaps counts huge pages of PROT_NONE memory (not 6.1)
    guards_prepare_files: bool = False  # guards of file mappings need an anon_vma
    frees_tables: bool = True  # MADV_DONTNEED frees page tables that it empties (6.14)
    dofork_of_hugetlb: bool = True  # MADV_DOFORK of hugetlb; EINVAL on 7.2 and 7.3
    mmap_cannot_unmap: int = 0  # mmap(2) over what munmap(2) refuses: ENOMEM on 6.1, else why
    mremap_many: bool = True  # one mremap may move several VMAs (6.17)
    # KVM_CREATE_GUEST_MEMFD, else ENOTTY (6.8; not in Debian's 6.12 and 6.17)
    guest_memfd: bool = True

    # mremap(2) of registered memory, without EVENT_REMAP, takes the registration of the neighbours
    # that the copy joins (to 7.2; 6.12 to the package of 6.12.117)
    moving_takes_neighbours: bool = True
    # Above every mapping REGISTER and UNREGISTER say what they say elsewhere; ENOMEM on 6.1
    above_all: int = errno.EINVAL
    # Of a mapping whose beginning stays as it is, the part that they change joins what follows it
    # (not on 6.1, which looks for another offset)
    cut_part_joins: bool = True
    # Ranges below vm.mmap_min_addr are EINVAL, where the package has that check (6.17; others have
    # not, or not any more)
    lowest_address: int = 0
    # MADV_POPULATE skips holes and tells of them at the end (6.1), else it ends at the first
    populate_skips_holes: bool = False
    # The page cache counts huge pages in small ones (6.7), as mincore(2) does
    huge_cache_by_small_pages: bool = True
    # A child without EVENT_FORK has no uffd-wp bit on huge pages (6.4)
    fork_unprotects_huge: bool = True
    # After a REMOVE event, what its mapping does not cover any more is removed too (6.17)
    removal_goes_on: bool = True
    # The REMAP event of a mapping that shrinks as it moves tells its new length (6.17)
    remap_tells_moved: bool = True
    # A mapping that has had private pages joins a neighbour that never had any (not 6.1 and 6.12)
    joins_untouched: bool = True
    # MREMAP_DONTUNMAP of a part of a locked mapping unlocks all of it (6.18; the packages of 6.1,
    # 6.12, 7.2 and 7.3 unlock the part)
    dontunmap_unlocks_all: bool = True
    # The copy that MREMAP_DONTUNMAP makes joins the mapping that it is a copy of (6.18 alone).
    # Beside that mapping, it joins the neighbour on its other side (not on 6.1).
    dontunmap_joins_source: bool = True
    dontunmap_joins_beside: bool = True
    guest_memfd_mmap: bool = True  # guest_memfd can be mapped (6.18)
    guest_memfd_userfault: bool = False  # ... and serves userfaults (no release)
    says_guest_memfd: int = 0  # a feature bit of the model's own, so that it can be discovered

    @property
    def rwp(self) -> bool:
        """It has RWP and UFFDIO_SET_MODE (7.3)."""
        return bool(self.modes & abi.UFFDIO_REGISTER_MODE_RWP)


# In `next` alone: MISSING and MINOR work on guest_memfd.  A bit that no kernel uses.
FEATURE_GUEST_MEMFD = 1 << 62

_RWP = {
    "features": 0x7FFFF,
    "api_ioctls": _API | 1 << abi._UFFDIO_SET_MODE,
    "range_ioctls": Profile("", (0, 0)).range_ioctls | 1 << abi._UFFDIO_RWPROTECT,
    "modes": _MODES | abi.UFFDIO_REGISTER_MODE_RWP,
    "refuse_to_drop_wp": True,
    "written_everywhere": False,
    "huge_zero_is_file": False,
    "moving_takes_neighbours": False,
}
_TABLE = {
    "collapse_of_nothing": 0,
    "sysv_hugetlb": False,
    "copy_beyond_eof": errno.ENOMEM,
    "continue_beyond_eof": errno.EFAULT,
    "checks_after_retry": True,
    "copy_over_guard": False,
    "dofork_of_hugetlb": False,
    "dontunmap_unlocks_all": False,
    "dontunmap_joins_source": False,
}

_BEFORE_6_17 = {
    "joins_untouched": False,
    "mremap_many": False,
    "remap_tells_moved": False,
    "removal_goes_on": False,
}

LINUX_6_1 = Profile(
    "6.1",
    (6, 1),
    smaps_sees_no_access=False,
    collapse_needs_writable=True,
    keeps_parts=False,
    zero_page_becomes_huge=False,
    collapse_tells_of_holes=False,
    features=0x1FFF,
    range_ioctls=_RANGE,
    continue_wp=False,
    pagemap_scan=False,
    guard_markers=False,
    droppable=False,
    foreign_unregister=True,
    checks_source=False,
    no_huge_page=errno.ENOMEM,
    vma_locks=False,
    fill_prepares_first=False,
    field_on_event=False,
    wp_many_mappings=False,
    read_nowait=errno.EOPNOTSUPP,
    frees_tables=False,
    mmap_cannot_unmap=errno.ENOMEM,
    dontunmap_unlocks_all=False,
    dontunmap_joins_beside=False,
    dontunmap_joins_source=False,
    above_all=errno.ENOMEM,
    huge_cache_by_small_pages=False,
    fork_unprotects_huge=False,
    cut_part_joins=False,
    populate_skips_holes=True,
    **_BEFORE_6_17,
    guest_memfd=False,
    guest_memfd_mmap=False,
)
LINUX_6_12 = Profile(
    "6.12",
    (6, 12),
    exclusive_by_first_page=False,
    collapse_needs_writable=True,
    keeps_parts=False,
    zero_page_becomes_huge=False,
    guard_markers=False,
    foreign_unregister=True,
    droppable_registers=True,
    no_huge_page=errno.ENOMEM,
    frees_tables=False,
    dontunmap_unlocks_all=False,
    dontunmap_joins_source=False,
    moving_takes_neighbours=False,
    guest_memfd=False,
    guest_memfd_mmap=False,
    **_BEFORE_6_17,
)
LINUX_6_17 = Profile(
    "6.17",
    (6, 17),
    vvar_wp_async=errno.EPERM,
    no_huge_page=errno.ENOMEM,
    empty_is_written=False,
    collapse_needs_writable=True,
    guards_prepare_files=True,
    lowest_address=0x10000,
    guest_memfd=False,
    guest_memfd_mmap=False,
)
LINUX_6_18 = Profile("6.18", (6, 18))
LINUX_7_2 = Profile("7.2", (7, 2), **_TABLE)  # type: ignore[arg-type]
LINUX_7_3 = Profile("7.3", (7, 3), **_TABLE, **_RWP)  # type: ignore[arg-type]
NEXT = msgspec.structs.replace(
    LINUX_7_3,
    name="next",
    release=(99, 0),
    guest_memfd_userfault=True,
    says_guest_memfd=FEATURE_GUEST_MEMFD,
)

PROFILES = {
    profile.name: profile
    for profile in (LINUX_6_1, LINUX_6_12, LINUX_6_17, LINUX_6_18, LINUX_7_2, LINUX_7_3, NEXT)
}


def profile_named(name: str) -> Profile:
    """The kernel of a name; UsageError names those that there are."""
    found = PROFILES.get(name)
    if found is None:
        raise UsageError(
            f"no kernel is called {name!r}",
            cause=f"the model knows {', '.join(PROFILES)}",
        )
    return found


class Config(msgspec.Struct, frozen=True):
    """What the builder or the administrator of a kernel chose, apart from its version."""

    memory_failure: bool = True  # poison raises BUS_MCEERR_AR, else BUS_ADRERR
    soft_dirty: bool = False  # CONFIG_MEM_SOFT_DIRTY: bit 55 of pagemap words
    kvm: bool = True
    userfaultfd: bool = True  # CONFIG_USERFAULTFD
    thp: str = "madvise"  # transparent huge pages: always, madvise, never
    unprivileged_userfaultfd: int = 0
    limit_pages: int | None = None  # physical memory in base pages
    fault_around: int = 16  # base pages mapped around a read fault of a file
    design: str = "ours"  # how the core asks memory types: one of model/designs/
    bugs: frozenset[str] = frozenset()  # old ones put back, by name: `if NAME in machine.bugs`
