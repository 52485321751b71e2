"""Physical memory: what folios are allocated from."""

from __future__ import annotations

from userfault.model.errors import InvariantBroken
from userfault.model.files.folio import LARGE_POOL, LOCKED, STALE, UPTODATE, ZERO, Cgroup, Folio
from userfault.model.tasks.recorder import RECORD


class Pool:
    """A hugetlb pool.  `total` pages, of which `free` are unused and `reserved` are promised."""

    __slots__ = ("free", "reserved", "shift", "total")

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self.total = 0
        self.free = 0
        self.reserved = 0

    def grow(self, pages: int) -> None:
        self.total += pages
        self.free += pages

    def take(self, reserved: bool) -> bool:
        """One page out of the pool; False when none is left that was not promised."""
        if RECORD.on:
            RECORD.writes.add(("pool", self.shift))
        if reserved:
            self.reserved -= 1
        elif self.free <= self.reserved:
            return False
        self.free -= 1
        return True

    def reserve(self, pages: int) -> bool:
        if RECORD.on:
            RECORD.writes.add(("pool", self.shift))
        if self.free - self.reserved < pages:
            return False
        self.reserved += pages
        return True


class Memory:
    """Physical memory: `limit` base pages, and the hugetlb pools, which are apart from them."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0
        self.folios = 0  # that exist, of any size: check() finds each of them or reports a leak
        self.pools = {21: Pool(21), 30: Pool(30)}
        # Folios that a task holds outside of any table and cache, at a place where it may sleep.
        self.in_hand: dict[Folio, int] = {}
        self.zero = Folio(0, UPTODATE | ZERO, b"", None)
        self.huge_zero = Folio(9, UPTODATE | ZERO, {}, None)
        self.bad_unlocks = 0  # of folios that were not locked
        self.fail_after: int | None = None  # allocations until the next one fails
        self.prepare_fails = False  # taking pages out of the direct map, or encrypting them, does

    def allocate(self, order: int, flags: int, cgroup: Cgroup | None) -> Folio | None:
        """A folio with one reference and stale content; None when out of memory or over limit."""
        if self.fail_after is not None:
            if not self.fail_after:
                return None
            self.fail_after -= 1
        pages = 1 << order
        if RECORD.on:
            self._record(cgroup)
        if self.limit is not None and self.used + pages > self.limit:
            return None
        if cgroup is not None:
            if cgroup.limit is not None and cgroup.charged + pages > cgroup.limit:
                return None
            cgroup.charged += pages
        self.used += pages
        self.folios += 1
        return Folio(order, flags, STALE if not order else {}, cgroup)

    def _record(self, cgroup: Cgroup | None) -> None:
        """An account is looked at only where it has a limit; else it is a sum that nobody sees."""
        if self.limit is not None or self.fail_after is not None:
            RECORD.writes.add(("memory",))
        if cgroup is not None and cgroup.limit is not None:
            RECORD.writes.add(("cgroup", cgroup.number))

    def allocate_huge(self, shift: int, reserved: bool) -> Folio | None:
        """A page of the pool, zeroed as the kernel does before use; None when it is empty."""
        if not self.pools[shift].take(reserved):
            return None
        self.folios += 1
        return Folio(shift - 12, LARGE_POOL, {}, None)

    def put(self, folio: Folio) -> None:
        """Drop one reference."""
        if RECORD.on:
            RECORD.adds.add(("refs", folio.number))
        folio.refs -= 1
        if folio.refs:
            if folio.refs < 0:
                raise InvariantBroken(f"{folio.name} was freed twice")
            return
        if folio.flags & ZERO:
            raise InvariantBroken("the zero page was freed")
        if folio.mapcount or folio.object is not None:
            raise InvariantBroken(f"{folio.name} was freed while in use")
        self.folios -= 1
        if RECORD.on:
            self._record(folio.cgroup)
            if folio.flags & LARGE_POOL:
                RECORD.writes.add(("pool", folio.order + 12))
        if folio.whole is not None:
            del folio.whole.pieces[folio.index]
        for piece in folio.pieces.values():
            piece.whole = None
        if folio.flags & LARGE_POOL:
            self.pools[folio.order + 12].free += 1
            return
        self.used -= 1 << folio.order
        if folio.cgroup is not None:
            folio.cgroup.charged -= 1 << folio.order

    def unlock(self, folio: Folio) -> None:
        """folio_unlock(), as a hook calls it: of one that is not locked a BUG, or a lost page."""
        if not folio.flags & LOCKED:
            self.bad_unlocks += 1
            if RECORD.on:
                RECORD.notes.append(("unlocked twice", folio.name))
        folio.flags &= ~LOCKED

    def hold(self, folio: Folio) -> None:
        """Say that a reference is in a task's hand (for check)."""
        self.in_hand[folio] = self.in_hand.get(folio, 0) + 1

    def release(self, folio: Folio) -> None:
        """The hand is empty again; the reference itself stays with the caller."""
        left = self.in_hand[folio] - 1
        if left:
            self.in_hand[folio] = left
        else:
            del self.in_hand[folio]
