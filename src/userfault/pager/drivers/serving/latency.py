"""How long faults waited, as histograms: for whoever looks at many mappings together.

The time runs from when the pager reads a fault's message, or puts it off, to when its page is
filled.  How long a message lay in the kernel's queue before nobody can tell.

Of faults that are answered at once, one batch in sixteen is timed, and stands for all of them: to
look at the clock and to note what it says for each took an eighth of what a fault takes.
"""

from __future__ import annotations

from userfault.pager.drivers.mappings.served import Context

_BUCKETS = 24
# Upper bounds in seconds: 4 µs, 8 µs, ... 33 s.
BOUNDS = tuple(4e-6 * 2**number for number in range(_BUCKETS))

_EVERY = 16
AT_ONCE, LATER = "at once", "later"
KINDS = ("missing", "minor")


class Histogram:
    """`counts`: by bucket, the last beyond all bounds.  `total_s`: of all."""

    def __init__(self) -> None:
        self.counts = [0] * (_BUCKETS + 1)
        self.total_s = 0.0

    def note(self, seconds: float, times: int = 1) -> None:
        """So many faults waited so long."""
        bucket = (int(seconds * 1e6) >> 2).bit_length()
        self.counts[min(bucket, _BUCKETS)] += times
        self.total_s += seconds * times


class Latency:
    """By kind of fault (of those answered at once), and of those that were put off."""

    def __init__(self) -> None:
        self.histograms = {(kind, AT_ONCE): Histogram() for kind in KINDS}
        self.histograms |= {("any", LATER): Histogram()}
        self._at_once = [self.histograms[kind, AT_ONCE] for kind in KINDS]
        self._later = self.histograms["any", LATER]
        self._left = 0  # batches until the next one that is timed

    def due(self) -> bool:
        """Whether the next batch is to be timed."""
        self._left -= 1
        if self._left >= 0:
            return False
        self._left = _EVERY - 1
        return True

    def answered(self, context: Context, before: tuple[int, int], took_s: float) -> None:
        """A batch of messages was served; `before`: faults and minor ones counted until then."""
        counters = context.core.counters
        minor = counters.minor - before[1]
        missing = counters.faults - before[0] - minor
        put_off = min(len(context.core.watch.fresh), missing)
        if missing > put_off:
            self._at_once[0].note(took_s, (missing - put_off) * _EVERY)
        if minor:
            self._at_once[1].note(took_s, minor * _EVERY)

    def ended(self, context: Context, now: float) -> None:
        """Faults that were put off are answered."""
        ends = context.core.watch.ends
        if ends:
            for since in ends:
                self._later.note(max(now - since, 0.0) if since else 0.0)
            ends.clear()
