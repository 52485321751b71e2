"""A mapping of an address space (vm_area_struct), and when two of them are one."""

from __future__ import annotations

from typing import Protocol

from userfault.model.files.inode import Inode
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.tasks.locks import RWLock
from userfault.model.tasks.sched import Sched

SHARED = 1
MAY_WRITE = 2
LOCKED = 4
HUGEPAGE = 8  # MADV_HUGEPAGE
NOHUGEPAGE = 16
DROPPABLE = 32
SPECIAL = 64  # vdso, vvar
DONTFORK = 128
WIPEONFORK = 256
NORESERVE = 512
RANDOM = 1024  # MADV_RANDOM, MADV_SEQUENTIAL: hints, but mappings with others do not join
SEQUENTIAL = 2048
DONTDUMP = 4096
ACCOUNT = 8192  # charged against overcommit: no limit here, but mappings must agree to join

MISSING = 1
WP = 2
MINOR = 4
RWP = 8


class UserfaultfdCtx:
    """With what a mapping is registered: `mm` compares it, and only `uffd` knows what is in it."""

    __slots__ = ()


class Space(Protocol):
    """The address space of a mapping, as far as the mapping itself asks it something."""

    sched: Sched

    def zap(
        self,
        vma: Vma,
        start: int,
        end: int,
        *,
        drop_markers: bool = False,
        private_too: bool = True,
    ) -> None:
        """Remove the pages of [start, end)."""

    def unmap_present(self, vma: Vma, start: int, end: int) -> None:
        """Remove what is present in [start, end), and leave no marker of it."""


class Vma:
    """[start, end) with one protection, one object and one registration.

    `offset`: of `start` in the object, in bytes; of anonymous memory, where it would be if it had
    never been moved.  `modes`: registration modes, not 0 if and only if there is a `context`.
    `lock`: held for reading by faults and fills, for writing (beside the mmap lock) by who changes
    the mapping.  `family` stands for the kernel's anon_vma: 0 until a private page could exist;
    `inherited`: it came with a fork, so that nobody else may join it.
    """

    __slots__ = (
        "context",
        "end",
        "family",
        "flags",
        "guarded",
        "inherited",
        "lock",
        "mm",
        "modes",
        "name",
        "object",
        "offset",
        "ops",
        "promised",
        "prot",
        "shared",
        "shift",
        "soft_dirty",
        "start",
    )

    def __init__(
        self,
        mm: Space,
        start: int,
        end: int,
        prot: int,
        flags: int,
        ops: MemoryOps,
        target: Inode | None,
        offset: int,
    ) -> None:
        self.mm = mm
        self.lock = RWLock(mm.sched, "vma")
        self.start = start
        self.end = end
        self.prot = prot
        self.flags = flags
        self.ops = ops
        self.object = target
        self.offset = offset
        self.shift = target.shift if target is not None else 12
        self.shared = bool(flags & SHARED)
        self.modes = 0
        self.context: UserfaultfdCtx | None = None
        self.family = 0
        self.inherited = False
        self.promised: set[int] | None = None
        self.name = ""
        self.guarded = False  # VM_MAYBE_GUARD: it has had guards, or was one mapping with one
        self.soft_dirty = True  # VM_SOFTDIRTY: new since soft-dirty bits were cleared

    def index(self, address: int) -> int:
        """Which page of the object is at `address`."""
        return (address - self.start + self.offset) >> self.shift

    def address_of(self, index: int) -> int:
        """Where page `index` of the object is mapped; may lie outside of the mapping."""
        return self.start + (index << self.shift) - self.offset

    def like(self, start: int, end: int, offset: int) -> Vma:
        """The same mapping elsewhere."""
        twin = Vma(self.mm, start, end, self.prot, self.flags, self.ops, self.object, offset)
        twin.modes = self.modes
        twin.context = self.context
        twin.family = self.family
        twin.inherited = self.inherited
        twin.promised = self.promised
        twin.name = self.name
        twin.soft_dirty = self.soft_dirty
        twin.guarded = self.guarded
        return twin

    def zap(
        self, start: int, end: int, *, drop_markers: bool = False, private_too: bool = True
    ) -> None:
        """Remove the pages of [start, end)."""
        self.mm.zap(self, start, end, drop_markers=drop_markers, private_too=private_too)

    def unmap_present(self, start: int, end: int) -> None:
        """Remove what is present in [start, end), and leave no marker of it."""
        self.mm.unmap_present(self, start, end)

    @property
    def writes_through(self) -> bool:
        """Whether stores may reach the file."""
        return self.shared and bool(self.flags & MAY_WRITE)

    def reset_ctx(self) -> None:
        """It is registered no more (userfaultfd_reset_ctx)."""
        self.context = None
        self.modes = 0

    def continued_by(self, after: Vma) -> bool:
        """Whether `after` continues this mapping, as far as no registration stands against it."""
        return (
            self.end == after.start
            and self.prot == after.prot
            and self.flags == after.flags
            and self.object is after.object
            and self.ops is after.ops
            and self.promised is after.promised
            and not self.flags & SPECIAL
            and not self.ops.pool  # hugetlb mappings are VM_DONTEXPAND, which never merge
            and self.offset + self.end - self.start == after.offset
        )

    @property
    def kind(self) -> str:
        return f"{self.ops.name}{'' if self.shared else ' private'}"
