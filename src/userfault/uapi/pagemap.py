"""What /proc/PID/pagemap tells about pages: the PAGEMAP_SCAN ioctl and the 64-bit words.

Source: linux/fs.h of Linux 7.3 for the ioctl; the kernel's admin guide on pagemap for the words,
which no header declares (their names here are our own).
"""

from __future__ import annotations

from userfault.uapi.ioc import iowr
from userfault.uapi.layout import U64, Layout

# --- PAGEMAP_SCAN (6.7) --------------------------------------------------------------------------

# Categories, for the masks of pm_scan_arg and for page_region.categories.
PAGE_IS_WPALLOWED = 1 << 0  # the mapping tracks writes (WP registration, WP_ASYNC descriptor)
PAGE_IS_WRITTEN = 1 << 1  # written since it was last protected
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7
PAGE_IS_GUARD = 1 << 8  # 6.15
PAGE_IS_ACCESSED = 1 << 9  # 7.3; touched since it was last RW-protected

PM_SCAN_WP_MATCHING = 1 << 0  # protect the reported pages again, in the same step
PM_SCAN_CHECK_WPASYNC = 1 << 1  # fail with EPERM on a mapping that does not track writes

page_region = Layout("page_region", ("start", U64), ("end", U64), ("categories", U64))

# `vec` is the address of an array of page_region, `vec_len` its length in elements.
pm_scan_arg = Layout(
    "pm_scan_arg",
    ("size", U64),
    ("flags", U64),
    ("start", U64),
    ("end", U64),
    ("walk_end", U64),
    ("vec", U64),
    ("vec_len", U64),
    ("max_pages", U64),
    ("category_inverted", U64),
    ("category_mask", U64),
    ("category_anyof_mask", U64),
    ("return_mask", U64),
)

PROCFS_IOCTL_MAGIC = ord("f")
PAGEMAP_SCAN = iowr(PROCFS_IOCTL_MAGIC, 16, pm_scan_arg)

# --- The words of /proc/PID/pagemap --------------------------------------------------------------

# One 64-bit word for each page of the address space.
PM_PRESENT = 1 << 63
PM_SWAP = 1 << 62  # in swap, or a marker that userfaultfd left in place of a page
PM_FILE = 1 << 61  # of a file, or anonymous memory that is shared
PM_GUARD_REGION = 1 << 58  # 6.15; MADV_GUARD_INSTALL
PM_UFFD_WP = 1 << 57  # 5.14; write-protected through userfaultfd, and 7.3: RW-protected
PM_MMAP_EXCLUSIVE = 1 << 56  # mapped exactly once
PM_SOFT_DIRTY = 1 << 55
