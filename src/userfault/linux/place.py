"""The addresses of memory that goes, or that a forked child has not: kept from others.

`mmap.mmap` unmaps its addresses when it is closed or deallocated, whatever lies there by then.
"""

from __future__ import annotations

import ctypes
import mmap

from userfault.kernel.memtypes import round_up
from userfault.linux import libc
from userfault.uapi import mman

_NOTHING = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE


def keep(address: int, length: int) -> bool:
    """Have nobody else get free addresses, and any access to them be SIGSEGV; False where somebody
    has some of them already.

    MADV_DONTFORK leaves a hole in a child's address space, which the kernel would give to the next
    one who asks for memory.
    """
    try:
        found = libc.mmap(
            address, length, mman.PROT_NONE, _NOTHING | mman.MAP_FIXED_NOREPLACE, -1, 0
        )
    except OSError:
        return False
    if found != address:  # before 4.17 the flag was not known, and the address a hint
        libc.munmap(found, length)
        return False
    return True


def keep_alive(thing: object) -> None:
    """Never deallocate it in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def clear_rest(address: int, length: int, whole: int) -> None:
    """Free huge pages of which `mmap.mmap` is about to unmap only `length` bytes.

    The kernel refuses that for a part of a huge page (EINVAL).  What it is about to unmap stays
    mapped until then, though nothing is there any more: nobody else may get it in between.
    """
    base = round_up(length, mmap.PAGESIZE)
    if base < whole:
        libc.mmap(address, whole, mman.PROT_NONE, _NOTHING | mman.MAP_FIXED, -1, 0)
        libc.munmap(address + base, whole - base)
