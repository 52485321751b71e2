"""Where things are in the memory of a guest: its program, its page tables, its memory.

The *system slot* at guest address 0 holds what a CPU needs before it can touch anything: program
and page tables, each address mapped to itself by pages of 2 MiB, and open to user mode.  It is made
anew wherever the machine comes up, and never lazy.  The memory begins at 4 GiB, above what KVM may
use itself.

Source: Intel SDM volume 3, 4.5 (paging), 3.4.5 (segments).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import GIB, MIB

MEMORY = 4 * GIB  # guest address of page 0
MOST_MEMORY = 508 * GIB  # what one table of the third level maps, and no more is made

_CODE, _PML4, _PDPT, _DIRECTORIES = 0, PAGE, 2 * PAGE, 3 * PAGE
_ENTRIES = 512
# Present, writable, user; accessed and dirty already, so that no CPU has to write to the tables.
_TABLE = 0x67
_LARGE = _TABLE | 0x80

_CR0 = 0x80050033  # PG, AM, WP, NE, ET, MP, PE
_CR4 = 0x220  # PAE, OSFXSR
_EFER = 0xD01  # NX, LMA, LME, SCE
_FLAGS = 0x2  # the bit that is always set
_IOPL = 0x3000  # user mode may use OUT
_CODE_SEGMENT, _DATA_SEGMENT, _BUSY_TSS, _LDT = 11, 3, 11, 2


def system_slot(code: bytes, length: int) -> bytes:
    """The bytes of the system slot for `length` bytes of memory."""
    gibs = [0, *range(MEMORY // GIB, (MEMORY + length - 1) // GIB + 1)]
    directories = bytearray(_ENTRIES * 8)
    tables = bytearray()
    for number, gib in enumerate(gibs):
        struct.pack_into("<Q", directories, gib * 8, _DIRECTORIES + number * PAGE | _TABLE)
        large = range(gib * GIB, (gib + 1) * GIB, 2 * MIB)
        tables += struct.pack(f"<{_ENTRIES}Q", *(at | _LARGE for at in large))
    top = struct.pack("<Q", _PDPT | _TABLE).ljust(PAGE, b"\0")
    return code.ljust(PAGE, b"\0") + top + directories + tables


def system_registers(before: dict[str, int], *, user: bool) -> dict[str, int]:
    """Those of a CPU in 64-bit mode, in user mode or kernel mode; `before`: as KVM made it."""
    level = 3 if user else 0
    code, data = (0x1B, 0x23) if user else (0x08, 0x10)
    values = dict(before)
    for name in ("ds", "es", "fs", "gs", "ss"):
        values |= _segment(name, data, _DATA_SEGMENT, level, db=1)
    values |= _segment("cs", code, _CODE_SEGMENT, level, long=1)
    values |= _system("tr", 0x28, _BUSY_TSS, 0x67, present=1) | _system("ldt", 0, _LDT, 0)
    values |= {"gdt.base": 0, "gdt.limit": 0, "idt.base": 0, "idt.limit": 0}
    values |= {"cr0": _CR0, "cr3": _PML4, "cr4": _CR4, "efer": _EFER}
    return values


def start(entry: int, registers: dict[str, int], *, user: bool) -> dict[str, int]:
    """General registers with which a CPU begins the program at `entry` of the code."""
    return registers | {"rip": _CODE + entry, "rflags": flags(0, user=user)}


def flags(value: int, *, user: bool) -> int:
    """RFLAGS as they have to be: some hosts tell of user mode without IOPL (measured: PVM)."""
    return value | _FLAGS | (_IOPL if user else 0)


def in_user_mode(system: dict[str, int]) -> bool:
    """Whether these are the system registers of user mode."""
    return system["cs.dpl"] == 3


def _segment(
    name: str, selector: int, kind: int, level: int, *, db: int = 0, long: int = 0
) -> dict[str, int]:
    values = {"base": 0, "limit": 0xFFFFFFFF, "selector": selector, "type": kind, "present": 1}
    values |= {"dpl": level, "db": db, "s": 1, "l": long, "g": 1, "avl": 0, "unusable": 0}
    return dict(_named(name, values))


def _system(name: str, selector: int, kind: int, limit: int, present: int = 0) -> dict[str, int]:
    values = {"base": 0, "limit": limit, "selector": selector, "type": kind, "present": present}
    values |= {"dpl": 0, "db": 0, "s": 0, "l": 0, "g": 0, "avl": 0, "unusable": 1 - present}
    return dict(_named(name, values))


def _named(name: str, values: dict[str, int]) -> Iterator[tuple[str, int]]:
    return ((f"{name}.{key}", value) for key, value in values.items())
