"""How a lazily filled memory stands."""

from __future__ import annotations

import msgspec

from userfault.pager.core.plan import Counters
from userfault.pager.drivers.wire import messages
from userfault.snapshot.serving.counts import Counts


class Statistics(msgspec.Struct, frozen=True):
    """How a lazy memory stands.

    `pages`: all of them, of `page_size` bytes.  `states`: how many pages are in each state.
    `counters`: what the pager did (see `userfault.pager.core.plan.Counters`).  `copied_bytes`:
    bytes of the source copied to hand it over (bytes-like sources only).  `failed`: pages given
    up.  `finished`: everything is in and the pager has let go.  `user_mode_only`: system calls on
    missing pages fail with EFAULT until then.  `pager_memory`: bytes of private memory of each
    process of the pager.  `takeovers`: how often one of them went on for one that was killed.
    `pager_cpu_s`: CPU time that the pager's worker has used so far, for all that it serves;
    `pager_polled_s`: of that, spent on waiting for the next fault without sleeping.
    `overdue`: the faults that waited for longer than the policy's `fault_deadline_s` (the first
    16; `counters.overdue` has their number), as they were then.  `waiting`: how many of them wait
    still.  `most_in_flight`: reads of sources under way at once, of all mappings of the pager, at
    the highest.  `store`: for a snapshot in a store, what was read of it (see
    `userfault.snapshot.serving.counts.Counts`).  `residency`: of memory with a residency budget,
    what of it is in memory, was written, was spilled, and what is to be known about that (see
    `userfault.pager.drivers.wire.messages.Resident`).
    """

    memory: str
    pages: int
    page_size: int
    states: dict[str, int]
    counters: Counters
    copied_bytes: int
    failed: int
    finished: bool
    user_mode_only: bool
    pager_pid: int
    pager_memory: dict[str, int]
    takeovers: int
    pager_cpu_s: float
    pager_polled_s: float
    overdue: list[messages.Waited]
    waiting: int
    most_in_flight: int
    store: Counts | None = None
    residency: messages.Resident | None = None

    @property
    def set_hit_rate(self) -> float | None:
        """The share of the working set's pages that are touched, as its sample tells; None where
        nothing is known of that (no set was used, or all was in before its time came)."""
        counters = self.counters
        return counters.set_touched / counters.set_sampled if counters.set_sampled else None

    @property
    def set_for_nothing(self) -> int | None:
        """How many pages came ahead of faults for nothing, as the sample tells."""
        rate = self.set_hit_rate
        return None if rate is None else round(self.counters.set_filled * (1 - rate))
