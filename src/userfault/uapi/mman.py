"""Memory mappings, memory files and their holes: flags of mmap(2), madvise(2), mremap(2),
memfd_create(2), fallocate(2) and the seals of fcntl(2).

Python's `mmap`, `os` and `fcntl` modules have some of these, depending on the C library they were
built with; the whole set is here so that the kernel alone decides what works.

Source: linux/mman.h, linux/memfd.h, linux/falloc.h, linux/fcntl.h and asm-generic/mman*.h of
Linux 7.3. The values are those of x86-64 and aarch64.
"""

from __future__ import annotations

# --- mmap(2), mprotect(2) ------------------------------------------------------------------------

PROT_NONE = 0x0
PROT_READ = 0x1
PROT_WRITE = 0x2
PROT_EXEC = 0x4

MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_SHARED_VALIDATE = 0x03
MAP_DROPPABLE = 0x08  # 6.11
MAP_TYPE = 0x0F  # a mask of these
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_GROWSDOWN = 0x100
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MAP_POPULATE = 0x8000
MAP_NONBLOCK = 0x10000
MAP_STACK = 0x20000
MAP_HUGETLB = 0x40000
MAP_SYNC = 0x80000
MAP_FIXED_NOREPLACE = 0x100000  # 4.17

# A huge page size is its logarithm, shifted: with MAP_HUGETLB here, with MFD_HUGETLB below.
MAP_HUGE_SHIFT = 26
MAP_HUGE_MASK = 0x3F
MAP_HUGE_2MB = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB = 30 << MAP_HUGE_SHIFT

# --- mremap(2) -----------------------------------------------------------------------------------

MREMAP_MAYMOVE = 1
MREMAP_FIXED = 2
MREMAP_DONTUNMAP = 4  # 5.7

# --- madvise(2), process_madvise(2) --------------------------------------------------------------

MADV_NORMAL = 0
MADV_RANDOM = 1
MADV_SEQUENTIAL = 2
MADV_WILLNEED = 3
MADV_DONTNEED = 4
MADV_FREE = 8
MADV_REMOVE = 9
MADV_DONTFORK = 10
MADV_DOFORK = 11
MADV_MERGEABLE = 12
MADV_UNMERGEABLE = 13
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_DONTDUMP = 16
MADV_DODUMP = 17
MADV_WIPEONFORK = 18
MADV_KEEPONFORK = 19
MADV_COLD = 20  # 5.4
MADV_PAGEOUT = 21  # 5.4
MADV_POPULATE_READ = 22  # 5.14
MADV_POPULATE_WRITE = 23  # 5.14
MADV_DONTNEED_LOCKED = 24  # 5.18
MADV_COLLAPSE = 25  # 6.1
MADV_HWPOISON = 100
MADV_SOFT_OFFLINE = 101
MADV_GUARD_INSTALL = 102  # 6.13
MADV_GUARD_REMOVE = 103  # 6.13

# --- memfd_create(2) -----------------------------------------------------------------------------

MFD_CLOEXEC = 0x01
MFD_ALLOW_SEALING = 0x02
MFD_HUGETLB = 0x04
MFD_NOEXEC_SEAL = 0x08  # 6.3
MFD_EXEC = 0x10  # 6.3

MFD_HUGE_SHIFT = MAP_HUGE_SHIFT
MFD_HUGE_MASK = MAP_HUGE_MASK
MFD_HUGE_2MB = MAP_HUGE_2MB
MFD_HUGE_1GB = MAP_HUGE_1GB

# --- fcntl(2): seals -----------------------------------------------------------------------------

F_LINUX_SPECIFIC_BASE = 1024
F_ADD_SEALS = F_LINUX_SPECIFIC_BASE + 9
F_GET_SEALS = F_LINUX_SPECIFIC_BASE + 10

F_SEAL_SEAL = 0x01
F_SEAL_SHRINK = 0x02
F_SEAL_GROW = 0x04
F_SEAL_WRITE = 0x08
F_SEAL_FUTURE_WRITE = 0x10  # 5.1
F_SEAL_EXEC = 0x20  # 6.3

# --- fallocate(2) --------------------------------------------------------------------------------

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02  # only together with KEEP_SIZE
FALLOC_FL_COLLAPSE_RANGE = 0x08
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20
FALLOC_FL_UNSHARE_RANGE = 0x40
FALLOC_FL_WRITE_ZEROES = 0x80  # 6.17
