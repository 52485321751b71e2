"""A rule, and what it is shown: the address spaces after a step, and what the step did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from userfault.model.errors import InvariantBroken
from userfault.model.invariants.ledger import Ledger
from userfault.model.mm.address_space import AddressSpace, Spaces
from userfault.model.mm.pgtable import Entry
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import Note, Place
from userfault.model.uffd.context import Context

Shown = tuple[Vma | None, int, Entry]  # in which mapping, where, what
PAGE_KINDS = frozenset({"entry", "huge"})


class Rule(msgspec.Struct, frozen=True):
    """One invariant.

    `holds` raises InvariantBroken.  `watches`: first words of the places and notes (see
    `userfault.model.tasks.recorder`) without which it cannot have been broken; empty: it is
    looked at after every step.
    """

    name: str
    sentence: str
    source: str
    holds: Callable[[Seen], None]
    watches: frozenset[str] = frozenset()


def broken(what: str) -> None:
    """The rule that is asked does not hold."""
    raise InvariantBroken(what)


class Seen:
    """A step: `places` it wrote or counted, `notes` of what it did, `spaces` as it left them."""

    def __init__(
        self, spaces: Spaces, places: Iterable[Place], notes: Iterable[Note], ledger: Ledger
    ) -> None:
        self.spaces = spaces
        self.places = places
        self.notes = notes
        self.ledger = ledger
        self._numbered: dict[object, AddressSpace] | None = None
        self._entries: list[Shown] | None = None

    def did(self, kind: str) -> Iterator[Note]:
        """Notes of one kind."""
        return (note for note in self.notes if note[0] == kind)

    def wrote(self, kind: str) -> Iterator[Place]:
        """Places of one kind."""
        return (place for place in self.places if place[0] == kind)

    @property
    def numbered(self) -> dict[object, AddressSpace]:
        """Address spaces by number."""
        if self._numbered is None:
            self._numbered = {mm.number: mm for mm in self.spaces.all}
        return self._numbered

    @property
    def entries(self) -> list[Shown]:
        """What the step left in the tables."""
        if self._entries is None:
            self._entries = self._shown()
        return self._entries

    def _shown(self) -> list[Shown]:
        found: list[Shown] = []
        for place in self.places:
            if place[0] not in PAGE_KINDS:
                continue
            mm = self.numbered.get(place[1])
            if mm is None:
                continue
            address = place[2]
            assert isinstance(address, int)
            small = place[0] == "entry"
            table = mm.table
            if small:
                slots = table.tables.get(address >> 21)
                entry = slots[address >> 12 & 511] if slots is not None else None
            else:
                entry = table.huge.get(address)
            if entry is None:
                continue
            found.append((mm.find(address), address, entry))
        return found

    @property
    def remapped(self) -> list[AddressSpace]:
        """Address spaces whose mappings have changed."""
        numbers = {place[1] for place in self.places if place[0] == "maps"}
        return [self.numbered[number] for number in numbers if number in self.numbered]

    @property
    def contexts(self) -> list[Context]:
        """Contexts whose queues, events or features have changed."""
        numbers = {
            place[1]
            for place in self.places
            if place[0] in ("queue", "events", "changing", "context")
        }
        return [
            context
            for mm in self.spaces.all
            for context in mm.contexts
            if isinstance(context, Context) and context.number in numbers
        ]
