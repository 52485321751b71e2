"""Flags that go together in several subjects."""

from __future__ import annotations

from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

READ_WRITE = mman.PROT_READ | mman.PROT_WRITE
MOVE_TO = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
PUNCH_HOLE = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
UNDEFINED_MODE = 1 << 20  # of REGISTER and of every ioctl that has modes
WP_WRITE = abi.UFFD_PAGEFAULT_FLAG_WP | abi.UFFD_PAGEFAULT_FLAG_WRITE
