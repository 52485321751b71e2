"""How long threads stood still after a kill."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import msgspec

_AFTER_NS = 50_000_000  # an operation that begins so soon after a kill may meet nobody
_COUNTS_NS = 1_000_000  # and counts if it takes as long as this


class Standstill(msgspec.Struct, frozen=True):
    """Milliseconds; `count` threads were blocked."""

    count: int
    p50: float
    p99: float
    max: float


def after_kills(
    slow: Sequence[tuple[int, int, int, int]], kills: Sequence[int], slots: set[int]
) -> Standstill:
    """From the kill (or the operation's begin, if that was later) to the operation's end.

    `slow`: (start, end, slot, operation); `kills`: when, sorted; all in ns.  An operation that
    met several kills counts from the last.  `slots`: which mappings count: a source that fails on
    purpose makes its threads wait for reasons of its own.
    """
    found = []
    for start, end, slot, _ in slow:
        if slot not in slots:
            continue
        at = bisect.bisect_left(kills, end) - 1
        if at < 0:
            continue
        kill = kills[at]
        if start <= kill:
            found.append(end - kill)
        elif start - kill < _AFTER_NS and end - start >= _COUNTS_NS:
            found.append(end - start)
    return summary(found)


def summary(times_ns: list[int]) -> Standstill:
    """Percentiles of times."""
    if not times_ns:
        return Standstill(0, 0.0, 0.0, 0.0)
    ordered = sorted(times_ns)

    def at(part: float) -> float:
        return round(ordered[min(int(part * len(ordered)), len(ordered) - 1)] / 1e6, 2)

    return Standstill(len(ordered), at(0.5), at(0.99), at(1.0))
