"""What a fault costs, and what a page: measured while they are served.

A fault costs what filling some twelve pages costs: a message, two changes of context, the decision
and an ioctl.  Both figures differ by memory type, source and machine, so each mapping measures its
own.  The driver tells when a fill began and ended; there is no clock here.
"""

from __future__ import annotations

from userfault.pager.core.actions import CONTINUE

_RATIO = 12.0  # until it is measured: 4 KiB pages copied on 6.18, 24 us a fault, 1.8 us a page
_CONTINUE_RATIO = 48.0  # to map a page takes a quarter of the time that it takes to copy it
_LARGE = 8  # pages from which on a fill tells what a page costs
_UP, _DOWN = 1 / 64, 1 / 4  # how fast a figure follows: near the least that was seen of late
_LEAST, _MOST = 2.0, 1000.0


class Costs:
    """Of one mapping, in seconds; 0 as long as nothing was measured.

    `fault_s`: from the end of one fill that a thread waited for to the begin of the next.  A client
    that computes in between makes that longer, so it follows the shortest that are seen.
    `page_s`: of a large fill, each page.  `ratio`: how many pages a fault is worth.
    """

    __slots__ = ("_ended", "_number", "_single_s", "fault_s", "page_s", "ratio")

    def __init__(self) -> None:
        self.fault_s = 0.0
        self.page_s = 0.0
        self.ratio = _RATIO
        self._single_s = 0.0
        self._ended = 0.0
        self._number = -1

    def took(self, began: float, ended: float, count: int, number: int) -> None:
        """A fill of `count` pages that a thread waited for, the driver's `number`th: of two that
        followed upon each other the time in between is a fault's."""
        if number == self._number + 1 and began > self._ended:
            self.fault_s = _followed(self.fault_s, began - self._ended)
        self._ended, self._number = ended, number
        if count == 1:
            self._single_s = _followed(self._single_s, ended - began)
        elif count >= _LARGE:
            self.page_s = _followed(self.page_s, (ended - began) / count)
        if self.page_s and self.fault_s:
            ratio = (self.fault_s + self._single_s) / self.page_s - 1
            self.ratio = min(max(ratio, _LEAST), _MOST)

    def of(self, kind: int) -> float:
        """How many pages of fills of that kind a fault is worth."""
        return max(self.ratio, _CONTINUE_RATIO) if kind == CONTINUE else self.ratio


def _followed(figure: float, seen: float) -> float:
    if not figure:
        return seen
    if seen < figure:
        return figure - (figure - seen) * _DOWN
    return figure + (min(seen, 2 * figure) - figure) * _UP
