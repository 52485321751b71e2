"""What a mapping is, as far as decisions depend on it, and what was counted while serving it."""

from __future__ import annotations

import msgspec

from userfault.pager.core.actions import CONTINUE, COPY, POISON, UNSPILL, ZERO
from userfault.pager.core.course import Course
from userfault.pager.core.density import Experience
from userfault.pager.core.layout import Layout
from userfault.pager.core.policy import Policy
from userfault.pager.core.touches import Touches

UNLIMITED = 1 << 62  # pages that may still come in, where no budget bounds what is in

# After so many background fills without a fault (16 MiB at the default size, some 5 ms) they are
# made larger: a fault that comes then waits up to 0.3 ms, once.
_QUIET = 64
_QUIET_FACTOR = 4
# The same of a program that was made anew: so many are smaller, and at those they double.
_FULL, _TWICE, _FOUR_TIMES = 3, 16, 32


class Plan(msgspec.Struct, frozen=True):
    """One mapping to be served.  `start`: its address; `page_size`: a power of two, in bytes.

    `source_zero`: the source is all zeros.  `source_fetches`: every read of the source may block
    (a function), so none is tried at once.  `exists_is_ambiguous`: see `kernel.memtypes.Traits`.
    `has_poison`: the kernel has UFFDIO_POISON (6.6).  `shared`: mapped MAP_SHARED.  `layout`: what
    is known of a source that is stored in chunks.  `resident`: pages that may be in memory (0: all
    of them).  `evicts`: pages can be taken out of it, which takes memory that is protected against
    writes and has a file behind it.  `spills`: to a file, if they were written.  `touches`: where
    first touches are noted.  `course`: what comes ahead of the faults.
    `over_copy`: mapped privately over a copy of the source that other memories map too, so that the
    page cache has also what was dropped here.
    `restored`: of a process that another program makes anew, so that pages may be there that the
    pager has not filled; `early`: ranges are perhaps not registered yet.
    `tracked`: who tells which pages were written takes one that is MISSING for one that nobody can
    have written; so it is FILLING before its bytes are seen.
    `joinable`: processes may come later that map the same memory, and are served too; so pages that
    nobody shows stay the source's.
    `experiences`: what all learn that show the same image, by the size of their windows.
    """

    start: int
    page_size: int
    policy: Policy
    source_zero: bool = False
    source_fetches: bool = False
    exists_is_ambiguous: bool = False
    has_poison: bool = True
    shared: bool = False
    layout: Layout | None = None
    resident: int = 0
    evicts: bool = False
    spills: bool = False
    touches: Touches | None = None
    course: Course | None = None
    over_copy: bool = False
    restored: bool = False
    early: bool = False
    tracked: bool = False
    joinable: bool = False
    experiences: dict[int, Experience] | None = None

    @property
    def shift(self) -> int:
        """log2 of the page size."""
        return self.page_size.bit_length() - 1

    @property
    def watched(self) -> bool:
        """Whether no page may come by a fill that neither protects it nor finds it FILLING."""
        return self.evicts or self.tracked

    @property
    def window_pages(self) -> int:
        """Largest fill around a fault, in pages."""
        return self._at_once(self.policy.window_bytes)

    @property
    def chunk_pages(self) -> int:
        """Size of a background fill, in pages."""
        return self._at_once(self.policy.chunk_bytes)

    def piece_pages(self, quiet: int) -> int:
        """The same after `quiet` of them without a fault.

        A program that was made anew comes back to what it did, and faults in bursts: whoever waits
        meanwhile waits for the piece under way.  So pieces begin small there after each fault, and
        soon are large.
        """
        chunk = self.chunk_pages
        if self.source_fetches:
            return chunk
        if not self.restored:
            return chunk * (_QUIET_FACTOR if quiet >= _QUIET else 1)
        if quiet < _FULL:
            return max(chunk * (quiet + 1) // (_FULL + 1), 1)
        return chunk << (quiet >= _TWICE) + (quiet >= _FOUR_TIMES)

    @property
    def most_read_pages(self) -> int:
        """Largest read of a source that is asked for its bytes, in pages."""
        return max(self.policy.most_read // self.page_size, 1)

    def _at_once(self, size: int) -> int:
        """`size` bytes in pages, and never more than a sixteenth of what may be in."""
        pages = size // self.page_size
        return max(min(pages, self.resident // 16) if self.resident else pages, 1)


class Counters(msgspec.Struct):
    """What happened, counted in pages where nothing else is said."""

    faults: int = 0  # messages
    minor: int = 0  # messages of minor faults
    duplicates: int = 0  # messages whose page an earlier one of the batch had filled
    dropped: int = 0  # messages on pages that the client had dropped
    unowned: int = 0  # messages outside of what was given to us
    copied: int = 0
    zeroed: int = 0
    continued: int = 0
    poisoned: int = 0
    around: int = 0  # filled around a fault, in hope
    background: int = 0  # filled while nothing waited
    foreign: int = 0  # in the page cache before we filled them: written by the client itself
    removed: int = 0  # dropped by the client
    fetches: int = 0  # reads of the source away from the fault path
    source_failures: int = 0
    overdue: int = 0  # faults that waited for longer than `fault_deadline_s`
    deadlines: int = 0  # reads of the source that were not answered in time
    again: int = 0  # fills that met EAGAIN
    exists: int = 0  # fills that met EEXIST
    partial: int = 0  # fills that stopped part-way
    writes: int = 0  # messages of writes to pages that were protected
    evicted: int = 0  # taken out of memory to keep to the budget
    refaults: int = 0  # filled again a short time after they were taken out
    spilled: int = 0  # written to the spill file
    unspilled: int = 0  # filled from there
    set_filled: int = 0  # filled ahead of the faults, as a working set has them
    set_late: int = 0  # faults on pages of it that had not come yet
    set_outside: int = 0  # faults on pages that it does not have
    set_sampled: int = 0  # pages of the set that were left to faults, and it is known of by now:
    set_touched: int = 0  # so many of them were touched
    published: int = 0  # put into a copy that is shared, for whoever maps it

    proved: int = 0  # of `around`, those that a stream of faults has passed since
    spared: int = 0  # faults that blocks filled in hope have spared, estimated by other blocks

    def filled(self, kind: int, count: int) -> None:
        """A fill of that kind succeeded."""
        if kind == COPY:
            self.copied += count
        elif kind == ZERO:
            self.zeroed += count
        elif kind == CONTINUE:
            self.continued += count
        elif kind == POISON:
            self.poisoned += count
        elif kind == UNSPILL:
            self.unspilled += count
