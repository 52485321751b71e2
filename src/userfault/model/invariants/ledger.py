"""Who refers to each folio, kept beside the machine: what steps wrote is counted again, not all.

The first look counts everything.  From then on an entry or a place of the page cache that was
written is compared with what it held before, and only folios that it touched are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress

from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.files.inode import Inode
from userfault.model.mm.address_space import AddressSpace, Spaces
from userfault.model.tasks.recorder import Place


class Ledger:
    """References and mappings of each folio, and the folios that exist."""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces
        self._held: dict[Place, Folio] = {}  # by entries and places of caches
        self._hands: dict[Folio, int] = dict(spaces.files.memory.in_hand)
        self.refs: dict[Folio, int] = {}
        self.maps: dict[Folio, int] = {}
        for folio, count in self._hands.items():
            self._count(folio, count)
        for mm in spaces.all:
            self._walk(mm)
        for target in spaces.files.inodes:
            for index, folio in target.cache.items():
                self._put(("slot", target.number, index), folio)

    def _walk(self, mm: AddressSpace) -> None:
        for key, table in mm.table.tables.items():
            for slot in compress(range(512), table):  # an entry is never false
                entry = table[slot]
                assert entry is not None
                self._put(("entry", mm.number, (key << 21) + (slot << 12)), entry[1])
        for address, entry in mm.table.huge.items():
            self._put(("huge", mm.number, address), entry[1])

    def _count(self, folio: Folio, by: int) -> None:
        count = self.refs.get(folio, 0) + by
        if count:
            self.refs[folio] = count
        else:
            self.refs.pop(folio, None)

    def _put(self, place: Place, folio: Folio | None) -> Folio | None:
        """What a place holds now; returns what it held."""
        if folio is not None and folio.flags & folios.ZERO:
            folio = None  # counted for nobody
        old = self._held.get(place)
        if old is folio:
            return old
        mapped = place[0] != "slot"
        if old is not None:
            self._count(old, -1)
            if mapped:
                self.maps[old] -= 1
        if folio is None:
            del self._held[place]
        else:
            self._held[place] = folio
            self._count(folio, 1)
            if mapped:
                self.maps[folio] = self.maps.get(folio, 0) + 1
        return old

    def update(self, places: Iterable[Place]) -> set[Folio]:
        """Count what was written; returns the folios that were touched."""
        touched: set[Folio] = set()
        spaces: dict[object, AddressSpace] | None = None
        objects: dict[object, Inode] | None = None
        for place in places:
            kind = place[0]
            now: Folio | None
            if kind in ("entry", "huge"):
                if spaces is None:
                    spaces = {mm.number: mm for mm in self._spaces.all}
                now = _mapped(spaces.get(place[1]), place)
            elif kind == "slot":
                if objects is None:
                    objects = {target.number: target for target in self._spaces.files.inodes}
                target = objects.get(place[1])
                now = target.cache.get(place[2]) if target is not None else None  # type: ignore[call-overload]
            else:
                continue
            old = self._put(place, now)
            if old is not None:
                touched.add(old)
            if now is not None and not now.flags & folios.ZERO:
                touched.add(now)
        hands = self._spaces.files.memory.in_hand
        if hands or self._hands:
            self._update_hands(hands, touched)
        return touched

    def _update_hands(self, hands: dict[Folio, int], touched: set[Folio]) -> None:
        if hands == self._hands:
            return
        for folio in {*hands, *self._hands}:
            by = hands.get(folio, 0) - self._hands.get(folio, 0)
            if by:
                self._count(folio, by)
                touched.add(folio)
        self._hands = dict(hands)


def _mapped(mm: AddressSpace | None, place: Place) -> Folio | None:
    if mm is None:
        return None
    address = place[2]
    assert isinstance(address, int)
    if place[0] == "huge":
        entry = mm.table.huge.get(address)
    else:
        table = mm.table.tables.get(address >> 21)
        entry = table[address >> 12 & 511] if table is not None else None
    return entry[1] if entry is not None else None
