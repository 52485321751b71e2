"""An address space: its mappings, how they are cut and joined, and what goes with them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from sortedcontainers import SortedDict

from userfault.kernel.calls import TASK_SIZE
from userfault.model.errors import ContractBreach, Errno
from userfault.model.files import folio as folios
from userfault.model.files.folio import Cgroup
from userfault.model.files.pagecache import PageCache
from userfault.model.mm import markers, thp
from userfault.model.mm import pgtable as pt
from userfault.model.mm.locked import Locked
from userfault.model.mm.userfaultfd_k import Userfaultfd
from userfault.model.mm.vma import WP, UserfaultfdCtx, Vma
from userfault.model.profiles import Config, Profile
from userfault.model.tasks.recorder import RECORD


class Pages(NamedTuple):
    """Of a mapping: whose private pages it may have (see Vma)."""

    family: int
    inherited: bool

    @classmethod
    def of(cls, vma: Vma) -> Pages:
        return cls(vma.family, vma.inherited)


class Spaces:
    """Every address space of one kernel, and what they stand on.

    `breaches`: contracts that memory types broke, as fills met them.
    """

    def __init__(
        self,
        profile: Profile,
        config: Config,
        files: PageCache,
        userfaultfd: Userfaultfd[AddressSpace],
    ) -> None:
        self.profile = profile
        self.config = config
        self.files = files
        self.userfaultfd = userfaultfd
        self.all: dict[AddressSpace, None] = {}
        self.breaches: list[ContractBreach] = []
        self._families = 1

    def family(self) -> int:
        """A fresh number for a mapping's first private page."""
        self._families += 1
        return self._families


class AddressSpace(Locked):
    """The memory of one process: mappings, and their entries."""

    def __init__(self, spaces: Spaces, cgroup: Cgroup) -> None:
        files = spaces.files
        super().__init__(files.memory, cgroup, files.sched, vma_locks=spaces.profile.vma_locks)
        self.spaces = spaces
        self.profile = spaces.profile
        self.config = spaces.config
        self.files = files
        self.userfaultfd = spaces.userfaultfd
        self.vmas: SortedDict[int, Vma] = SortedDict()
        self.number = self.table.number
        self.task_size = TASK_SIZE
        self.contexts: dict[UserfaultfdCtx, None] = {}  # userfaultfds that belong to it
        self._last: Vma | None = None
        spaces.all[self] = None

    # --- mappings --------------------------------------------------------------------------------

    def find(self, address: int) -> Vma | None:
        """The mapping that holds `address`."""
        if RECORD.on:
            RECORD.reads.add(("maps", self.number))
        last = self._last
        if last is not None and last.start <= address < last.end:
            return last
        at = self.vmas.bisect_right(address) - 1
        if at < 0:
            return None
        vma = self.vmas.peekitem(at)[1]
        if address >= vma.end:
            return None
        self._last = vma
        return vma

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """Mappings that meet [start, end), in address order."""
        if RECORD.on:
            RECORD.reads.add(("maps", self.number))
        vmas = self.vmas
        at = max(vmas.bisect_right(start) - 1, 0)
        found = []
        for key in vmas.islice(at):
            if key >= end:
                break
            vma = vmas[key]
            if vma.end > start:
                found.append(vma)
        return found

    def each(self, start: int, end: int) -> Iterator[Vma]:
        """Mappings that meet [start, end), one by one, while they are cut and joined."""
        at = start
        while at < end and (found := self.overlapping(at, end)):
            at = found[0].end
            yield found[0]

    def changed(self) -> None:
        """A mapping comes, goes, or is to be another one (for the recorder)."""
        if RECORD.on:
            RECORD.writes.add(("maps", self.number))

    def insert(self, vma: Vma) -> None:
        self.changed()
        if RECORD.on and vma.object is not None:
            RECORD.writes.add(("mappings", vma.object.number))
        self.start_write(vma)
        self.vmas[vma.start] = vma
        if vma.object is not None:
            vma.object.mappings[vma] = None
            vma.object.links += 1

    def remove(self, vma: Vma) -> None:
        self.changed()
        if RECORD.on and vma.object is not None:
            RECORD.writes.add(("mappings", vma.object.number))
        self.start_write(vma)
        del self.vmas[vma.start]
        self._last = None
        if vma.object is not None:
            del vma.object.mappings[vma]
            self.files.unlink(vma.object)

    def split(self, vma: Vma, at: int) -> Vma:
        """Cut at `at`; returns the upper part.  EINVAL inside of a huge page."""
        if at & ((1 << vma.shift) - 1):
            raise Errno(errno.EINVAL)
        self.start_write(vma)
        if self.thp and at & ~pt.PMD_MASK:
            thp.split(self, at & pt.PMD_MASK)
        upper = vma.like(at, vma.end, vma.offset + at - vma.start)
        self.changed()
        vma.end = at
        self._last = None
        self.insert(upper)
        return upper

    def isolate(self, vma: Vma, start: int, end: int) -> Vma:
        """The part of `vma` inside [start, end), split off where need be, to be changed."""
        self.start_write(vma)
        if vma.start < start:
            vma = self.split(vma, start)
        if vma.end > end:
            self.split(vma, end)
        return vma

    def merge(self, start: int, end: int) -> None:
        """What has changed in [start, end) joins its neighbours where they are one mapping."""
        if RECORD.on:
            RECORD.reads.add(("maps", self.number))
            RECORD.reads.add(("families", self.number))
        at = max(self.vmas.bisect_right(start) - 2, 0)
        if at >= len(self.vmas):
            return
        before = self.vmas.peekitem(at)[1]
        changed = Pages.of(before)  # the last mapping that has, as it was before it joined any
        while before.start <= end:
            after = self._next(before)
            if after is None or after.start > end:
                break
            if after.start < end:
                changed = Pages.of(after)
            if (
                before.continued_by(after)
                and self.userfaultfd.may_merge(before, after)
                and self._related(changed, before, after, end)
            ):
                self.start_write(before)
                self.start_write(after)
                before.family = before.family or after.family
                before.inherited = before.inherited or after.inherited
                before.soft_dirty |= after.soft_dirty
                before.guarded |= after.guarded
                self.remove(after)
                before.end = after.end
            else:
                before = after
                changed = Pages.of(before)

    def _related(self, changed: Pages, before: Vma, after: Vma, end: int) -> bool:
        """Whether private pages allow the two to join: their families must be one in the end."""
        other = Pages.of(before if after.start < end else after)
        if before.family and after.family:
            return before.family == after.family
        if changed.family and not other.family:
            return self.profile.joins_untouched and not changed.inherited
        return not (other.family and other.inherited)

    def _next(self, vma: Vma) -> Vma | None:
        at = self.vmas.bisect_right(vma.start)
        return self.vmas.peekitem(at)[1] if at < len(self.vmas) else None

    def neighbours(self, vma: Vma) -> Iterator[Vma]:
        at = self.vmas.bisect_left(vma.start)
        if at:
            yield self.vmas.peekitem(at - 1)[1]
        if at + 1 < len(self.vmas):
            yield self.vmas.peekitem(at + 1)[1]

    def prepare_private(self, vma: Vma) -> None:
        """Before the first private page: anon_vma_prepare, which takes a neighbour's if it may."""
        if RECORD.on:  # whoever comes first does the same
            RECORD.adds.add(("families", self.number))
        if vma.family:
            return
        for other in self.neighbours(vma):
            lower, upper = (other, vma) if other.start < vma.start else (vma, other)
            if (
                other.family
                and not other.inherited
                and lower.end == upper.start
                and lower.object is upper.object
                and lower.flags == upper.flags
                and self.userfaultfd.may_merge(lower, upper)
                and lower.offset + lower.end - lower.start == upper.offset
            ):
                vma.family = other.family
                return
        vma.family = self.spaces.family()

    def gap(self, length: int, align: int) -> int:
        """A free place for `length` bytes, from the top of the address space downwards."""
        end = 0x7FFF_F000_0000
        for key in reversed(self.vmas):
            vma = self.vmas[key]
            if vma.start >= end:
                continue
            start = (end - length) & -align
            if start >= vma.end:
                return start
            end = vma.start
        start = (end - length) & -align
        if start < 0x10000:
            raise Errno(errno.ENOMEM)
        return start

    # --- pages -----------------------------------------------------------------------------------

    def zap(
        self,
        vma: Vma,
        start: int,
        end: int,
        *,
        drop_markers: bool = False,
        private_too: bool = True,
    ) -> None:
        """Remove the pages of [start, end).

        File mappings keep uffd-wp as a marker unless `drop_markers`.  Without `private_too`
        (punching a hole) copies made by private writes stay, and poison with them.
        """
        if RECORD.on:
            RECORD.notes.append(("zap", self, vma))
            if vma.shift == 12:
                self.table.record_range(start & pt.PMD_MASK, end, pt.PMD_SHIFT)
        if self.thp:
            for address in thp.whole(self, start, end):
                self.forget(self.take_thp(address))
        keeps_wp = vma.ops.fault_folio is not None and not drop_markers
        # A huge page leaves its marker whatever is registered now (measured on 6.18).
        marks = vma.ops.pool or bool(vma.modes & WP)
        table = self.table
        for address in table.addresses(start, end, vma.shift):
            entry = table.get(address, vma.shift)
            assert entry is not None
            flags, folio = entry
            if folio is not None:
                if not private_too and folio.flags & folios.ANON:
                    continue
                wp = keeps_wp and flags & pt.UFFD_WP and marks
                self.unmap(vma, address, pt.MARKER_WP if wp else None)
                continue
            left = markers.left(
                flags, wp=keeps_wp, armed=marks, drop=drop_markers, private_too=private_too
            )
            if left != flags:
                self.mark(vma, address, left)

    def unmap_present(self, vma: Vma, start: int, end: int) -> None:
        """Remove what is present in [start, end), and leave no marker of it."""
        for address in self.table.addresses(start, end, vma.shift):
            entry = self.table.get(address, vma.shift)
            if entry is not None and entry[1] is not None:
                self.unmap(vma, address)
