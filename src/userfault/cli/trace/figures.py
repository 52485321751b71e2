"""What a trace tells, as numbers: who waited for how long, what was filled for whom, and when.

A fault is answered by the first fill after it that has its page.  What a fill was made for says
the trace: a thread waited for one of its pages, or a planner chose them in advance.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from userfault.pager.core import trace
from userfault.pager.core.trace import Header, Record, Trace

# What pages were filled for.  The numbers of the planner's reasons come first.
FAULTED = len(trace.REASONS)
AROUND = FAULTED + 1
CLASSES = (*trace.REASONS, "a fault", "around a fault")
_NONE = 255
_FEW = 64  # waiting faults: then each is looked at, else each page of a fill is


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Pages at a time, in seconds since the trace began: of a fill, with what it was for."""

    at: float
    page: int
    count: int
    what: int


class Usage(msgspec.Struct, frozen=True):
    """Pages that came in advance, and how many of them were touched.

    `touched` is None where that cannot be known: a page that is filled before it is touched raises
    no fault, so only a touch trace of the same work tells.
    """

    filled: int
    touched: int | None


class Figures(msgspec.Struct, frozen=True):
    """Of one trace.

    `seconds`: until its last record.  `faults`, `fills`: when and where.  `waits`: seconds from a
    fault's message until its page was filled, in no order.  `unanswered`: faults without a fill.
    `pages`: filled, by what for (`CLASSES`).  `bytes_by_kind`: what filled them.  `planners`: of
    each reason to fill in advance.  `late`: faults before the last page of the working set was in.
    `resumed`: takeovers by another worker.  `lost`: records.  `full`: it ends before its time.
    """

    header: Header
    seconds: float
    faults: Sequence[Mark]
    fills: Sequence[Mark]
    waits: Sequence[float]
    unanswered: int
    pages: dict[str, int]
    bytes_by_kind: dict[str, int]
    planners: dict[str, Usage]
    late: int
    dropped: int
    evicted: int
    resumed: int
    lost: int
    full: bool

    def wait_at(self, share: float) -> float:
        """The time within which that share of the faults was answered; 0 without any."""
        waits = sorted(self.waits)
        return waits[min(int(share * len(waits)), len(waits) - 1)] if waits else 0.0


def figures(recorded: Trace, touched: Collection[int] | None = None) -> Figures:
    """The numbers of a trace.  `touched`: pages that the same work touches, if that is known."""
    reader = _Reader(recorded.header)
    for record in recorded.records:
        reader.take(record)
    return reader.figures(touched if touched is not None else reader.touched())


class _Reader:
    """Goes through the records in their order."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.waiting: dict[int, int] = {}  # page -> when its first fault was read
        self.why = bytearray([_NONE]) * header.pages  # a planner chose it for that
        self.came = bytearray([_NONE]) * header.pages  # what it was filled for, the first time
        self.faults: list[Mark] = []
        self.fills: list[Mark] = []
        self.waits: list[float] = []
        self.kinds: dict[str, int] = {}
        self.counts = dict.fromkeys(range(trace.FULL + 1), 0)
        self.last_ns = 0
        self.set_end_ns = 0

    def take(self, record: Record) -> None:
        """One more."""
        self.last_ns = max(self.last_ns, record.time_ns)
        what, page, extent = record.what, record.page, record.extent
        self.counts[what] += extent if what in _COUNTED else 1
        if what == trace.FAULT:
            self.faults.append(Mark(record.time_ns / 1e9, page, 1, record.detail))
            self.waiting.setdefault(page, record.time_ns)
        elif what == trace.FILLED:
            self._filled(record)
        elif what == trace.AHEAD:
            self.why[page : page + extent] = bytes([record.detail]) * extent

    def _filled(self, record: Record) -> None:
        page, count, now = record.page, record.extent, record.time_ns
        answered = self._answered(page, count)
        for each in answered:
            self.waits.append((now - self.waiting.pop(each)) / 1e9)
        kind = trace.kind_of(record.detail)
        if kind == "unprotect":  # the page was in already
            return
        self.kinds[kind] = self.kinds.get(kind, 0) + count * self.header.page_size
        if record.detail & trace.DEMAND:
            self._mark(now, page, count, AROUND)
            for each in answered:
                self.came[each] = FAULTED
        else:
            self._in_advance(now, page, count)

    def _answered(self, page: int, count: int) -> list[int]:
        waiting = self.waiting
        if len(waiting) < _FEW or count > len(waiting):
            return [each for each in waiting if page <= each < page + count]
        return [each for each in range(page, page + count) if each in waiting]

    def _in_advance(self, now: int, page: int, count: int) -> None:
        """A fill of pages that may have been chosen for different reasons."""
        at, end = page, page + count
        while at < end:
            why = self.why[at]
            upto = at + 1
            while upto < end and self.why[upto] == why:
                upto += 1
            reason = trace.BACKGROUND if why == _NONE else why
            self._mark(now, at, upto - at, reason)
            if reason == trace.SET:
                self.set_end_ns = now
            at = upto

    def _mark(self, now: int, page: int, count: int, what: int) -> None:
        self.fills.append(Mark(now / 1e9, page, count, what))
        self.came[page : page + count] = bytes([what]) * count

    def touched(self) -> frozenset[int] | None:
        """All that was touched, if this trace can tell."""
        return frozenset(mark.page for mark in self.faults) if self.header.touches else None

    def figures(self, touched: Collection[int] | None) -> Figures:
        """What was gone through, as numbers."""
        came = self.came
        return Figures(
            header=self.header,
            seconds=self.last_ns / 1e9,
            faults=self.faults,
            fills=self.fills,
            waits=self.waits,
            unanswered=len(self.waiting),
            pages={name: came.count(number) for number, name in enumerate(CLASSES)},
            bytes_by_kind=self.kinds,
            planners=self._planners(touched),
            late=sum(mark.at * 1e9 < self.set_end_ns for mark in self.faults),
            dropped=self.counts[trace.DROPPED],
            evicted=self.counts[trace.EVICTED],
            resumed=self.counts[trace.RESUMED],
            lost=self.counts[trace.LOST],
            full=self.counts[trace.FULL] > 0,
        )

    def _planners(self, touched: Collection[int] | None) -> dict[str, Usage]:
        """Pages that nobody waited for, and what use they were."""
        used: dict[int, int] = {}
        for page in touched or ():
            if page < len(self.came):
                used[self.came[page]] = used.get(self.came[page], 0) + 1
        found: dict[str, Usage] = {}
        for number, name in enumerate(CLASSES):
            filled = self.came.count(number)
            if number != FAULTED and filled:
                found[name] = Usage(filled, None if touched is None else used.get(number, 0))
        return found


_COUNTED = (trace.DROPPED, trace.EVICTED, trace.LOST)  # their extents are what is counted
