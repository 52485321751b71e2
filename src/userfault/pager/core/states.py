"""One byte of state a page, the legal moves between states, and counting.

The bytes may lie in shared memory (the client reads its progress from them without asking); any
object with slicing, `find` and item access of bytes does: `bytearray`, `mmap.mmap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, overload

MISSING = 0  # never filled: the source has its bytes
FILLING = 1  # a fill or a fetch is under way
PRESENT = 2  # complete, and mapped at least once
REMOVED = 3  # the client dropped it: it reads zero from now on, never the source
POISONED = 4  # given up: accesses raise SIGBUS
CACHED = 5  # complete in the page cache, not yet mapped (shared memory prepared by others)
# Under a residency budget (`residency.py`):
CLEAN = 6  # complete, as the source has it, and protected everywhere: a write asks first
EVICTING = 7  # was clean, and is being taken out of memory: the source has it
SPILLING = 8  # was written, and is being copied to the spill file: memory has it
SPILLED = 9  # was written: the spill file has it
HIDDEN = 10  # never filled, and shown by nobody; who comes to show it has it from the source

NAMES = (
    "missing",
    "filling",
    "present",
    "removed",
    "poisoned",
    "cached",
    "clean",
    "evicting",
    "spilling",
    "spilled",
    "hidden",
)

# Which state may follow which.  Everything else is a bug of the core, named by `Pages.move`.
MOVES: dict[int, frozenset[int]] = {
    MISSING: frozenset({FILLING, PRESENT, REMOVED, POISONED, CLEAN, HIDDEN}),
    FILLING: frozenset({MISSING, PRESENT, REMOVED, POISONED, CLEAN, HIDDEN}),
    CACHED: frozenset({PRESENT, REMOVED}),
    PRESENT: frozenset({PRESENT, REMOVED, SPILLING}),
    REMOVED: frozenset({PRESENT, REMOVED}),
    POISONED: frozenset({POISONED, REMOVED}),
    CLEAN: frozenset({PRESENT, REMOVED, CLEAN, EVICTING}),
    EVICTING: frozenset({MISSING, REMOVED, CLEAN}),
    SPILLING: frozenset({PRESENT, REMOVED, SPILLED}),
    SPILLED: frozenset({PRESENT, REMOVED, POISONED}),
    HIDDEN: frozenset({MISSING}),
}

_ONE = [bytes([state]) for state in range(len(NAMES))]
# Something is still to be done for these.
UNSETTLED = (MISSING, FILLING, CACHED, EVICTING, SPILLED)
_FAR = 1 << 14  # pages: to count them takes as long as to look at some runs each by itself
HELD = (FILLING, PRESENT, CLEAN, EVICTING, SPILLING)  # these take memory


def _step(old: int, new: int, which: tuple[int, ...]) -> int | None:
    """What a move adds to the number of pages in the states `which`; None for an illegal move."""
    return (new in which) - (old in which) if new in MOVES[old] else None


_STATES = range(len(NAMES))
_STEP = [[_step(old, new, UNSETTLED) for new in _STATES] for old in _STATES]
_TAKEN = [[_step(old, new, HELD) or 0 for new in _STATES] for old in _STATES]


class StateBytes(Protocol):
    """What holds the states."""

    @overload
    def __getitem__(self, at: int, /) -> int: ...
    @overload
    def __getitem__(self, at: slice, /) -> bytes | bytearray: ...
    def __getitem__(self, at: int | slice, /) -> int | bytes | bytearray: ...
    @overload
    def __setitem__(self, at: int, value: int, /) -> None: ...
    @overload
    def __setitem__(self, at: slice, value: bytes, /) -> None: ...
    def __setitem__(self, at: int | slice, value: int | bytes, /) -> None: ...
    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


class Pages:
    """The states of `count` pages, how many are not settled yet, and how many take memory (`held`).

    Shared memory that a fork shares has one `Pages` for all its mappings.
    """

    __slots__ = ("_from", "count", "held", "states", "unsettled")

    def __init__(self, states: StateBytes, count: int) -> None:
        self.states = states
        self.count = count
        held = states[0:count]
        self.unsettled = sum(held.count(_ONE[state]) for state in UNSETTLED)
        self.held = sum(held.count(_ONE[state]) for state in HELD)
        self._from = {MISSING: 0, CACHED: 0}  # no page before it is in that state

    def move(self, page: int, count: int, new: int) -> None:
        """Move pages to `new`; cost: O(count).  Raises AssertionError for an illegal move."""
        states = self.states
        if new == MISSING:
            self._from[MISSING] = min(self._from[MISSING], page)
        if count == 1:  # the way of nearly every fault
            old = states[page]
            step = _STEP[old][new]
            if step is None:
                raise self._illegal(page, 1, old, new)
            states[page] = new
            self.unsettled += step
            self.held += _TAKEN[old][new]
            return
        held = states[page : page + count]
        old = held[0]
        # Nearly always all are in one state; counting each state in turn would take longer.
        olds = (old,) if held.count(old) == count else range(len(NAMES))
        for old in olds:
            met = held.count(old)
            if met:
                step = _STEP[old][new]
                if step is None:
                    raise self._illegal(page, count, old, new)
                self.unsettled += met * step
                self.held += met * _TAKEN[old][new]
        states[page : page + count] = _ONE[new] * count

    def came(self, page: int, count: int, state: int = PRESENT) -> None:
        """MISSING pages, all of them, are PRESENT or CLEAN: as two moves, and quicker."""
        if count == 1:
            self.states[page] = state
        else:
            self.states[page : page + count] = _ONE[state] * count
        self.unsettled -= count
        self.held += count

    def settle(self, runs: Sequence[tuple[int, int]]) -> None:
        """Runs of MISSING or CACHED pages, in the order of their pages, are PRESENT: as `move`, and
        quicker.

        A page may be in two of them: whoever says which are filled is not to be trusted.
        """
        if not runs:
            return
        low, high = runs[0][0], sum(runs[-1])
        if high - low > _FAR and len(runs) > 1:
            half = len(runs) // 2
            self.settle(runs[:half])
            self.settle(runs[half:])
            return
        states, present = self.states, _ONE[PRESENT]
        # (To count what is nearly everywhere takes ten times as long.)
        before = len(states[low:high].translate(None, present))
        for page, count in runs:
            if count == 1:
                states[page] = PRESENT
            else:
                states[page : page + count] = present * count
        done = before - len(states[low:high].translate(None, present))
        self.unsettled -= done
        self.held += done

    @staticmethod
    def _illegal(page: int, count: int, old: int, new: int) -> AssertionError:
        where = f"page {page}" if count == 1 else f"a page of [{page}, {page + count})"
        return AssertionError(f"{where}: {NAMES[old]} must not become {NAMES[new]}")

    def run(self, page: int, limit: int, state: int) -> int:
        """How many pages from `page` on are in `state`, at most `limit`."""
        held = self.states[page : min(page + limit, self.count)]
        return len(held) - len(held.lstrip(_ONE[state]))

    def run_down(self, page: int, limit: int, state: int) -> int:
        """The same downwards: the run that ends with `page`."""
        held = self.states[max(page + 1 - limit, 0) : page + 1]
        return len(held) - len(held.rstrip(_ONE[state]))

    def runs(self, page: int, count: int, state: int) -> list[tuple[int, int]]:
        """The runs (first page, count) of pages in `state` within [page, page + count)."""
        found = []
        end = page + count
        at = self.states.find(_ONE[state], page, end)
        while at >= 0:
            length = self.run(at, end - at, state)
            found.append((at, length))
            at = self.states.find(_ONE[state], at + length, end)
        return found

    def revert(self, page: int, count: int) -> None:
        """What is FILLING there is the source's again."""
        for first, length in self.runs(page, count, FILLING):
            self.move(first, length, MISSING)

    def find(self, state: int, start: int = 0, end: int | None = None) -> int:
        """The first page in `state` from `start` on (before `end`), or -1."""
        return self.states.find(_ONE[state], start, self.count if end is None else end)

    def first(self, state: int) -> int:
        """The first page that is MISSING (or CACHED), or -1; walking all of them costs one pass."""
        found = self.states.find(_ONE[state], self._from[state], self.count)
        self._from[state] = self.count if found < 0 else found
        return found

    def counts(self) -> dict[str, int]:
        """How many pages are in each state."""
        held = self.states[0 : self.count]
        return {name: held.count(_ONE[state]) for state, name in enumerate(NAMES)}
