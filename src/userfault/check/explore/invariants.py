"""What must hold after every step: the model's rules, asked where a step can have broken them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from userfault.check.explore.steps import Step
from userfault.model.errors import InvariantBroken
from userfault.model.invariants import RULES, Rule, Seen
from userfault.model.invariants.ledger import Ledger
from userfault.model.machine import Machine
from userfault.model.tasks.recorder import Note

Broken = tuple[str, str, InvariantBroken]  # name and sentence of the rule, and what is wrong

# What is looked at unless told otherwise.
INVARIANTS: list[Rule] = list(RULES.values())


class Watch:
    """Rules, asked after the steps that can break them."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._all = list(rules)
        self._by_kinds: dict[frozenset[object], Sequence[Rule]] = {}
        self._machine: Machine | None = None
        self._ledger: Ledger | None = None

    def __bool__(self) -> bool:
        return bool(self._all)

    def broken(self, machine: Machine, step: Step, notes: Sequence[Note]) -> Broken | None:
        """The name and the sentence of the first rule that does not hold after this step."""
        ledger = self._count(machine)
        kinds = {place[0] for place in step.writes}
        kinds.update([place[0] for place in step.adds])
        kinds.update([note[0] for note in notes])
        key = frozenset(kinds)
        asked = self._by_kinds.get(key)
        if asked is None:
            asked = self._by_kinds[key] = [
                rule for rule in self._all if not rule.watches or not rule.watches.isdisjoint(key)
            ]
        if not asked:
            return None
        return _first(asked, Seen(machine.spaces, step.writes | step.adds, notes, ledger))

    def broken_at_the_end(self, machine: Machine) -> Broken | None:
        """The same when all tasks have ended: what was leaked shows in no place."""
        asked = [rule for rule in self._all if "refs" in rule.watches]
        return _first(asked, Seen(machine.spaces, (), (), self._count(machine)))

    def _count(self, machine: Machine) -> Ledger:
        """The ledger of this machine; what the steps before left was looked at when first made."""
        if machine is not self._machine:
            self._machine = machine
            self._ledger = Ledger(machine.spaces)
        assert self._ledger is not None
        return self._ledger


def _first(rules: Iterable[Rule], seen: Seen) -> Broken | None:
    for rule in rules:
        try:
            rule.holds(seen)
        except InvariantBroken as broken:
            return rule.name, rule.sentence, broken
    return None
