"""Features, registration modes, ioctl bits and fault flags, as typed flags.

The numbers are those of `userfault.uapi.userfaultfd`; a flag prints by name, so that an error
can say `MISSING|MINOR` instead of `0x5`.  Hot paths use the plain integers of `uapi`.
"""

from __future__ import annotations

import enum

from userfault.uapi import userfaultfd as abi


class Feature(enum.IntFlag):
    """Feature bits of UFFDIO_API; the comment is the first kernel release that has the bit."""

    PAGEFAULT_FLAG_WP = abi.UFFD_FEATURE_PAGEFAULT_FLAG_WP  # 5.7
    EVENT_FORK = abi.UFFD_FEATURE_EVENT_FORK  # 4.11, needs CAP_SYS_PTRACE
    EVENT_REMAP = abi.UFFD_FEATURE_EVENT_REMAP  # 4.11
    EVENT_REMOVE = abi.UFFD_FEATURE_EVENT_REMOVE  # 4.11
    MISSING_HUGETLBFS = abi.UFFD_FEATURE_MISSING_HUGETLBFS  # 4.11
    MISSING_SHMEM = abi.UFFD_FEATURE_MISSING_SHMEM  # 4.11
    EVENT_UNMAP = abi.UFFD_FEATURE_EVENT_UNMAP  # 4.11
    SIGBUS = abi.UFFD_FEATURE_SIGBUS  # 4.14
    THREAD_ID = abi.UFFD_FEATURE_THREAD_ID  # 4.14
    MINOR_HUGETLBFS = abi.UFFD_FEATURE_MINOR_HUGETLBFS  # 5.13
    MINOR_SHMEM = abi.UFFD_FEATURE_MINOR_SHMEM  # 5.14
    EXACT_ADDRESS = abi.UFFD_FEATURE_EXACT_ADDRESS  # 5.18
    WP_HUGETLBFS_SHMEM = abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM  # 5.19
    WP_UNPOPULATED = abi.UFFD_FEATURE_WP_UNPOPULATED  # 6.4
    POISON = abi.UFFD_FEATURE_POISON  # 6.6
    WP_ASYNC = abi.UFFD_FEATURE_WP_ASYNC  # 6.7
    MOVE = abi.UFFD_FEATURE_MOVE  # 6.8
    RWP = abi.UFFD_FEATURE_RWP  # 7.3
    RWP_ASYNC = abi.UFFD_FEATURE_RWP_ASYNC  # 7.3


class Mode(enum.IntFlag):
    """Registration modes: which faults of a range become messages."""

    MISSING = abi.UFFDIO_REGISTER_MODE_MISSING
    WP = abi.UFFDIO_REGISTER_MODE_WP
    MINOR = abi.UFFDIO_REGISTER_MODE_MINOR
    RWP = abi.UFFDIO_REGISTER_MODE_RWP  # 7.3


class Ioctls(enum.IntFlag):
    """The `ioctls` word of UFFDIO_API and UFFDIO_REGISTER: bit n stands for command n."""

    REGISTER = 1 << abi._UFFDIO_REGISTER
    UNREGISTER = 1 << abi._UFFDIO_UNREGISTER
    WAKE = 1 << abi._UFFDIO_WAKE
    COPY = 1 << abi._UFFDIO_COPY
    ZEROPAGE = 1 << abi._UFFDIO_ZEROPAGE
    MOVE = 1 << abi._UFFDIO_MOVE
    WRITEPROTECT = 1 << abi._UFFDIO_WRITEPROTECT
    CONTINUE = 1 << abi._UFFDIO_CONTINUE
    POISON = 1 << abi._UFFDIO_POISON
    RWPROTECT = 1 << abi._UFFDIO_RWPROTECT
    SET_MODE = 1 << abi._UFFDIO_SET_MODE
    API = 1 << abi._UFFDIO_API


class FaultFlag(enum.IntFlag):
    """Flags of a fault message; a missing fault has none of WP, MINOR and RWP."""

    WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE
    WP = abi.UFFD_PAGEFAULT_FLAG_WP
    MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR
    RWP = abi.UFFD_PAGEFAULT_FLAG_RWP  # 7.3


def names(flags: enum.IntFlag | int, kind: type[enum.IntFlag] | None = None) -> str:
    """The names of set bits joined by `|`, unknown bits as hex, `0` when none is set.

    >>> names(Mode.MISSING | Mode.MINOR)
    'MISSING|MINOR'
    """
    kind = kind or (type(flags) if isinstance(flags, enum.IntFlag) else None)
    if kind is None:
        return hex(flags)
    found = [member.name or "" for member in kind if int(flags) & member.value]
    known = 0
    for member in kind:
        known |= member.value
    rest = int(flags) & ~known
    if rest:
        found.append(hex(rest))
    return "|".join(found) or "0"
