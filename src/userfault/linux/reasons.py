"""Why a registration is refused, where the reason is known: UFFDIO_REGISTER itself says EINVAL.

A table by memory type and mode, with the cure; what it does not know is left to the general
explanation (`userfault.kernel.explain`).
"""

from __future__ import annotations

from userfault.kernel.explain import Explanation
from userfault.kernel.memtypes import Memory, MemoryType, size_name
from userfault.kernel.modes import Feature, Mode
from userfault.linux.guest_memfd import NOT_IN_ANY_RELEASE

NO_RWP = "read-write-protect faults came with Linux 7.3"

_UNKNOWN = Explanation("", "")
_GUEST_MEMFD = Explanation(
    NOT_IN_ANY_RELEASE, "back the guest with shmem or hugetlb where its faults are to be served"
)
_ANON_MINOR = Explanation(
    "anonymous memory has no page cache, so it has no minor faults",
    "register it for MISSING, or use shmem or hugetlb",
)


def why_not(memory: Memory, mode: Mode) -> str:
    """Why a registration of this memory in this mode is refused, else the empty string."""
    return by_type(memory, mode).cause


def by_type(memory: Memory, mode: Mode) -> Explanation:
    """What the memory type has against the mode, on every kernel released so far."""
    if memory.type is MemoryType.GUEST_MEMFD:
        return _GUEST_MEMFD
    if memory.type is MemoryType.ANON and mode & Mode.MINOR:
        return _ANON_MINOR
    return _UNKNOWN


def refused(
    memory: Memory | None, mode: Mode, *, start: int, length: int, offered: Feature
) -> Explanation:
    """Cause and cure of an EINVAL, the surest reason first; empty where none is known."""
    if mode & Mode.RWP and offered and Feature.RWP not in offered:
        return Explanation(NO_RWP, "register for WP, or run Linux 7.3 or newer")
    step = memory.page_size if memory else 4096
    if length <= 0 or start % step or length % step:
        of = f" of {memory}" if memory else ""
        return Explanation(
            f"the range is not a positive number of whole pages{of}",
            f"align start and length to {size_name(step)}",
        )
    return by_type(memory, mode) if memory else _UNKNOWN
