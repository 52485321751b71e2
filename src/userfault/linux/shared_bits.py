"""A bitmap in memory that the kernel and other processes write to, too: a bit is cleared at once.

Python has no atomic operation on memory.  FUTEX_WAKE_OP does one on a word before it looks whom to
wake (futex(2); kernel/futex/waitwake.c, `futex_atomic_op_inuser`), which nobody waits for here: it
is the operation alone that is wanted, with the full barrier of an atomic instruction.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

from userfault.linux.libc import Pinned
from userfault.linux.refused import CallRefusedError
from userfault.uapi.syscalls import SYSCALLS

_WAKE_OP = 5  # FUTEX_WAKE_OP, of memory that processes share (linux/futex.h)
_AND_NOT, _SHIFTED = 3, 8  # FUTEX_OP_ANDN, FUTEX_OP_OPARG_SHIFT
_WORD = 32  # bits

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_NONE = ctypes.c_void_p(0)


class SharedBits:
    """`count` bits from the first byte of file `fd` on: bit i is `1 << i % 8` of byte i // 8.

    Raises OSError where it cannot be mapped.
    """

    def __init__(self, fd: int, count: int) -> None:
        assert sys.byteorder == "little", "words are those of the bytes"
        self._held = mmap.mmap(fd, -(-count // _WORD) * _WORD // 8)
        with Pinned(self._held) as pinned:
            self._address = pinned.address
        self._futex = SYSCALLS.get(os.uname().machine, {}).get("futex", -1)

    def __getitem__(self, bit: int) -> bool:
        return bool(self._held[bit // 8] >> bit % 8 & 1)

    def clear(self, bit: int) -> None:
        """Others may change other bits of the word at the same time.  Raises OSError."""
        word = ctypes.c_void_p(self._address + bit // _WORD * 4)
        operation = (_AND_NOT | _SHIFTED) << 28 | (bit % _WORD) << 12
        operation -= (operation >> 31) << 32  # as the kernel's int
        if _syscall(self._futex, word, _WAKE_OP, 0, _NONE, word, ctypes.c_int(operation)) < 0:
            raise CallRefusedError("futex", ctypes.get_errno())

    def close(self) -> None:
        """Unmap."""
        self._held.close()
