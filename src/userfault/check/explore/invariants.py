"""What must hold after every step: named functions, each with its sentence and its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from userfault.check.explore.steps import Step
from userfault.model import invariants
from userfault.model.errors import InvariantBroken
from userfault.model.machine import Machine


class Invariant(msgspec.Struct, frozen=True):
    """One rule.

    `holds` is given the machine between two steps and raises InvariantBroken.  `watches`: the
    kinds of places (first words, see `userfault.model.tasks.recorder`) whose change can break it;
    it is looked at after steps that wrote or counted one of them; if empty, after every step that
    changed anything.
    """

    name: str
    sentence: str
    source: str
    holds: Callable[[Machine], None]
    watches: frozenset[str] = frozenset()


def _books(machine: Machine) -> None:
    invariants.check(machine.spaces)


_BOOKED = {
    *("entry", "huge", "entries", "maps", "mappings", "refs", "page", "slot", "object", "queue"),
    *("waiters", "events", "changing", "context", "alive", "pool", "blocks", "memory", "cgroup"),
    *("links", "process"),
}

BOOKS = Invariant(
    "books",
    "counts of references and mappings, accounts and queues are what a recount gives",
    "userfault.model.invariants: every invariant of the model",
    _books,
    frozenset(_BOOKED),
)

# What is looked at unless told otherwise.
INVARIANTS: list[Invariant] = [BOOKS]


class Watch:
    """Invariants, looked at after the steps that can break them."""

    def __init__(self, invariants: Iterable[Invariant]) -> None:
        self._all = list(invariants)
        self._by_kinds: dict[frozenset[object], Sequence[Invariant]] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def broken(self, machine: Machine, step: Step) -> tuple[Invariant, InvariantBroken] | None:
        """The first one that does not hold after this step."""
        kinds = frozenset([place[0] for place in (*step.writes, *step.adds)])
        if not kinds:
            return None
        asked = self._by_kinds.get(kinds)
        if asked is None:
            asked = self._by_kinds[kinds] = [
                one for one in self._all if not one.watches or not one.watches.isdisjoint(kinds)
            ]
        for invariant in asked:
            try:
                invariant.holds(machine)
            except InvariantBroken as broken:
                return invariant, broken
        return None
