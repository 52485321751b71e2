"""What an errno of a userfaultfd operation means, and what to do: one table for both kernels.

Sources: ioctl_userfaultfd(2) and its pages per operation; every row was measured on at least one
of 6.1, 6.12, 6.18, 7.2 and 7.3.
"""

from __future__ import annotations

import errno
import os

import msgspec


class Explanation(msgspec.Struct, frozen=True):
    """The likely cause, and the cure (empty where there is none)."""

    cause: str
    cure: str


_ANY = "*"
_UNKNOWN = "the kernel itself never says so: look for who refused it (seccomp, a security module)"

_TABLE: dict[tuple[str, int], Explanation] = {
    (_ANY, errno.EAGAIN): Explanation(
        "an event of this context has not been read, or the thread that raised it has not run"
        " since; or the operation stopped part-way",
        "read the events, then repeat the call from .resume",
    ),
    (_ANY, errno.EEXIST): Explanation(
        "there is a page (or a marker) at .resume already",
        "wake the range if a thread waits, and go on behind that page",
    ),
    (_ANY, errno.ENOENT): Explanation(
        "no single mapping registered with a userfaultfd holds the whole range",
        "register it first; cut the call where mprotect or munmap split the mapping",
    ),
    (_ANY, errno.ESRCH): Explanation("the process that owns the memory has exited", ""),
    (_ANY, errno.EFAULT): Explanation(
        "memory that the call reads or writes is not accessible, or the range lies beyond the"
        " end of the file behind the mapping",
        "check the source buffer and the size of the backing file",
    ),
    (_ANY, errno.EINVAL): Explanation(
        "bad alignment, an empty or overlong range, an unknown mode, or an operation that this"
        " memory type does not have",
        "align start and length to the page size of the memory; see `userfault probe`",
    ),
    (_ANY, errno.ENOMEM): Explanation(
        "no page could be allocated: memory, cgroup limit, tmpfs size or hugetlb pool exhausted",
        "raise the limit that is hit, or free memory",
    ),
    (_ANY, errno.EPERM): Explanation("not permitted", "see docs/privileges.md"),
    ("UFFDIO_API", errno.EINVAL): Explanation(
        "a feature this kernel lacks, or a second handshake on one descriptor",
        "ask for features the kernel offers (`userfault probe`)",
    ),
    ("UFFDIO_API", errno.EPERM): Explanation(
        "EVENT_FORK needs CAP_SYS_PTRACE",
        "run with CAP_SYS_PTRACE or do without fork events",
    ),
    ("UFFDIO_REGISTER", errno.EINVAL): Explanation(
        "this kernel has no such mode for this memory type, the range is not page aligned, or"
        " nothing is mapped there",
        "see `userfault probe` for what this kernel can register",
    ),
    ("UFFDIO_REGISTER", errno.EBUSY): Explanation(
        "another userfaultfd owns the range, or (7.3) WP or RWP would be dropped",
        "unregister it there first",
    ),
    ("UFFDIO_REGISTER", errno.EPERM): Explanation(
        "the mapping may never become writable (a shared mapping of a file opened read-only, or"
        " a write-sealed memfd)",
        "map it private, or open the file for writing",
    ),
    ("UFFDIO_REGISTER", errno.ENOMEM): Explanation(
        "the process that owns the memory has exited, or the kernel is out of memory",
        "free memory",
    ),
    ("UFFDIO_COPY", errno.ENOMEM): Explanation(
        "no page could be allocated: memory, cgroup limit, tmpfs size or hugetlb pool exhausted;"
        " or a gigantic page is copied from memory that is not resident, which takes a second"
        " page from the pool for a moment",
        "raise the limit that is hit, or free memory; populate the source first"
        " (MADV_POPULATE_READ)",
    ),
    ("UFFDIO_CONTINUE", errno.EFAULT): Explanation(
        "there is no page in the page cache at .resume, or it lies beyond the end of the file",
        "fill the page with UFFDIO_COPY or through another mapping first",
    ),
    ("UFFDIO_MOVE", errno.EBUSY): Explanation(
        "the source page is shared by fork or pinned",
        "write to it once so that it is exclusive, or use UFFDIO_COPY",
    ),
    ("UFFDIO_MOVE", errno.ENOENT): Explanation(
        "the source has no page there, or a range has no mapping",
        "pass allow_src_holes=True, or check both ranges",
    ),
}


def explain(operation: str, code: int) -> Explanation:
    """The row for `operation` and errno `code`, else the general row, else the system's text."""
    found = _TABLE.get((operation, code)) or _TABLE.get((_ANY, code))
    return found or Explanation(os.strerror(code), _UNKNOWN)
