"""What random programs reached: every kind of step, on every kind of memory."""

from __future__ import annotations

from collections import Counter

from userfault.check.differential.areas import AREAS, FILES, MEMORIES
from userfault.check.differential.program import Step
from userfault.check.differential.verbs import OF_RWP, VERBS
from userfault.kernel.calls import Result

NO_MEMORY = "-"
_OF_FILES = frozenset({"punch", "allocate", "truncate", "pwrite", "pread"})
_OF_NOTHING = frozenset(
    {"uffd", "api", "setmode", "request", "events", "poll", "dup", "close", "fork", "exit"}
)

# Holes of an ordinary file are not drawn: see draw.py.
_FILE_MEMORIES = frozenset(FILES.values()) - {"disk-private"}


def cells(*, rwp: bool = False) -> list[tuple[str, str]]:
    """Every kind of step with every memory that it can be about; `rwp`: those of 7.3, too."""
    found = []
    for verb in VERBS:
        if verb in OF_RWP and not rwp:
            continue
        if verb in _OF_NOTHING:
            found.append((verb, NO_MEMORY))
        elif verb in _OF_FILES:
            found += [(verb, memory) for memory in MEMORIES if memory in _FILE_MEMORIES]
        else:
            found += [(verb, memory) for memory in MEMORIES if (verb, memory) != ("map", "nowhere")]
    return found


class Coverage:
    """Counts of steps: how often each was reached, and how often a call of it succeeded."""

    def __init__(self) -> None:
        self.steps: Counter[tuple[str, str]] = Counter()
        self.successes: Counter[tuple[str, str]] = Counter()

    def reached(self, step: Step) -> None:
        """A step of which at least one call was made."""
        self.steps[_cell(step)] += 1

    def count(self, step: Step, result: Result) -> None:
        """A call of a step has ended."""
        if result.ok:
            self.successes[_cell(step)] += 1

    def add(self, other: Coverage) -> None:
        """The counts of another batch."""
        self.steps += other.steps
        self.successes += other.successes

    def counted(self) -> tuple[tuple[str, str, int, int], ...]:
        """(verb, memory, reached, succeeded) of what was reached, for another process."""
        return tuple((*cell, reached, self.successes[cell]) for cell, reached in self.steps.items())

    @property
    def rwp(self) -> bool:
        """Whether the programs had steps of 7.3."""
        return any(verb in OF_RWP for verb, _ in self.steps)

    def never(self) -> list[tuple[str, str]]:
        """What was never reached."""
        return [cell for cell in cells(rwp=self.rwp) if not self.steps[cell]]


def _cell(step: Step) -> tuple[str, str]:
    if step.verb in _OF_NOTHING:
        return step.verb, NO_MEMORY
    if step.verb in _OF_FILES:
        return step.verb, FILES.get(str(step.args[0]), NO_MEMORY)
    if step.verb == "map":
        return step.verb, AREAS[str(step.args[0])].memory
    spot = step.spot
    return step.verb, spot.of.memory if spot else NO_MEMORY
