"""How Linux encodes an ioctl request number.

32 bits: direction (2), size of the argument (14), type (8), number (8). The size comes from the
Layout itself, so a wrong layout shows as a wrong request number. The directions are named from
the caller's side: "read" means that the kernel writes into the argument.

Source: the generic encoding of Linux's ioctl numbers (asm-generic/ioctl.h), which x86-64 and
aarch64 use. Some other machines (MIPS, PowerPC, SPARC, Alpha) have their own.
"""

from __future__ import annotations

from userfault.uapi.layout import Layout

_NONE, _WRITE, _READ = 0, 1, 2


def _request(direction: int, kind: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | kind << 8 | number


def io(kind: int, number: int) -> int:
    """A request whose argument is a plain value, or absent."""
    return _request(_NONE, kind, number, 0)


def ior(kind: int, number: int, argument: Layout) -> int:
    """A request declared as filling in its argument (userfaultfd uses it the other way too)."""
    return _request(_READ, kind, number, argument.size)


def iow(kind: int, number: int, argument: Layout) -> int:
    """A request that only reads its argument."""
    return _request(_WRITE, kind, number, argument.size)


def iowr(kind: int, number: int, argument: Layout) -> int:
    """A request that reads its argument and writes results back into it."""
    return _request(_READ | _WRITE, kind, number, argument.size)
