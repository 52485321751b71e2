"""How long an address space lives: as long as anybody uses it (mm_users, include/linux/sched/mm.h).

A process is one user, each of its threads that is still in the kernel when it ends another, and
so is a call on a userfaultfd of another process (mmget_not_zero in fs/userfaultfd.c): memory goes
when the last of them is done with it.
"""

from __future__ import annotations

from userfault.model.errors import Errno
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.mmap import discard
from userfault.model.tasks.recorder import RECORD


class using:  # noqa: N801 - reads as a word, like contextlib.closing; every fill asks: no generator
    """Within the block it stays; the errno `gone` where it is gone already."""

    __slots__ = ("_mm",)

    def __init__(self, mm: AddressSpace, gone: int) -> None:
        if RECORD.on:
            RECORD.adds.add(("alive", mm.number))
        if not mm.alive:
            raise Errno(gone)
        self._mm = mm

    def __enter__(self) -> AddressSpace:
        self._mm.users += 1
        return self._mm

    def __exit__(self, *exc: object) -> None:
        put(self._mm)


def put(mm: AddressSpace, *, owner: bool = False) -> None:
    """One user less; with the last one everything goes.  `owner`: it was the process itself."""
    if owner:
        mm.owned = False
    if RECORD.on:  # who is the last matters once the process has ended
        (RECORD.adds if mm.owned else RECORD.writes).add(("alive", mm.number))
    mm.users -= 1
    if mm.users:
        return
    mm.changed()
    mm.alive = False
    for vma in list(mm.vmas.values()):
        vma.reset_ctx()
        discard(mm, vma)
    mm.spaces.all.pop(mm, None)
