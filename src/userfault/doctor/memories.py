"""Memory: huge pages, the page cache, page tables, limits of the cgroup."""

from __future__ import annotations

import os
import tempfile

from userfault.doctor.finding import Finding, degraded, missing, ok
from userfault.kernel.errors import KernelError, MemoryUnavailable
from userfault.kernel.memtypes import GIB, MIB, memory, size_name
from userfault.linux.hugepool import read_pool
from userfault.linux.libc import cachestat
from userfault.linux.pagemap import Pagemap
from userfault.linux.process import LiveProcess
from userfault.linux.room import room_of

_PAGE = 4096
_LITTLE = 512 * MIB


def huge() -> Finding:
    """The pools of hugetlb pages; a page of 2 MiB mapped."""
    why = "VMs with huge_pages=2M, and hugetlb memory of programs"
    try:
        pool, large = read_pool(2 * MIB), _gigabytes()
    except MemoryUnavailable as error:
        return missing("huge", error.cause, why, error.cure)
    told = f"2 MiB: {pool.available} of {pool.total} free; 1 GiB: {large}"
    try:
        LiveProcess().map(memory("hugetlb"), 2 * MIB).close()
    except MemoryUnavailable:
        cure = "sysctl vm.nr_hugepages=N (root); those of 1 GiB at boot: hugepagesz=1G hugepages=N"
        return degraded("huge", told, why, cure)
    return ok("huge", told, why)


def _gigabytes() -> str:
    try:
        return f"{read_pool(GIB).available} free"
    except MemoryUnavailable:
        return "none"


def memfd() -> Finding:
    """Shared memory, made, mapped and written."""
    why = "guest memory that back ends share, page states, copies of snapshots"
    try:
        mapping = LiveProcess().map(memory("shmem"), _PAGE)
        mapping.close()
    except MemoryUnavailable as error:
        return missing("memfd", error.cause, why, error.cure)
    return ok("memfd", "shared memory can be made and mapped", why)


def transparent() -> Finding:
    """Transparent huge pages."""
    why = "memory advised for huge pages; and a host that makes them of what was filled in 4 KiB"
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    try:
        with open(path, encoding="ascii") as file:
            chosen = file.read().partition("[")[2].partition("]")[0]
    except OSError as error:
        found = f"{path}: {error.strerror}"
        return degraded("transparent", found, why, "a kernel with CONFIG_TRANSPARENT_HUGEPAGE")
    if chosen == "never":
        return degraded("transparent", "never", why, f"echo madvise > {path}")
    return ok("transparent", chosen, why)


def page_cache() -> Finding:
    """cachestat(2), of a file that was just written."""
    why = "whether a page of an image is in memory is asked before it is copied"
    with tempfile.TemporaryFile() as file:
        file.write(bytes(_PAGE))
        file.flush()
        try:
            held = cachestat(file.fileno(), 0, _PAGE)
        except OSError as error:
            found = f"cachestat(2): {error.strerror}; mincore(2) is asked, which is slower"
            cure = "run Linux 6.5 or newer, and let a seccomp profile allow `cachestat`"
            return degraded("page-cache", found, why, cure)
    return ok("page-cache", f"cachestat(2) finds {held} of 1 page", why)


def scanning() -> Finding:
    """PAGEMAP_SCAN, of this process."""
    why = "which pages were written is found without looking at each"
    try:
        with Pagemap() as pagemap:
            pagemap.scan(0, 1 << 20)
    except KernelError as error:
        found = f"PAGEMAP_SCAN: {os.strerror(error.errno)}; the words of pagemap are read"
        return degraded("scanning", found, why, "run Linux 6.7 or newer")
    except OSError as error:
        cure = "a program that changed its user may not look into itself: start it as that user"
        return degraded("scanning", f"/proc/self/pagemap: {error.strerror}", why, cure)
    return ok("scanning", "PAGEMAP_SCAN works", why)


def room() -> Finding:
    """How much memory may come in."""
    why = "memory that is filled is charged to the client's cgroup, a daemon's own to the daemon's"
    found = room_of()
    if found is None:
        return degraded("room", "nobody says", why, "mount /proc and the memory cgroup")
    told = f"{found.left // MIB} MiB left of {found.limit // MIB} MiB, set by {found.whose}"
    if found.left < _LITTLE:
        return degraded("room", told, why, f"{size_name(_LITTLE)} or more: raise memory.max")
    return ok("room", told, why)
