"""Which pages next, and why: what comes with a fault, and what is filled while nobody waits.

A planner chooses; it fills nothing.  `MappingCore` asks it, and is answered by runs of pages:
MISSING ones to be filled from the source, or CACHED ones to be mapped.  So what was recorded of
another run, or a policy to be replayed, can be a planner too.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

from userfault.pager.core.costs import Costs
from userfault.pager.core.plan import UNLIMITED, Counters, Plan
from userfault.pager.core.states import Pages

Run: TypeAlias = tuple[int, int]  # first page, count
# What to fill while nobody waits: a run, or several that are filled by one action, all of them
# MISSING or all CACHED.
Work: TypeAlias = Run | list[Run]


class Load(NamedTuple):
    """What is under way while a planner is asked.  `full`: no read more may be made in advance.
    `in_advance`: one is under way that nobody waits for.  `room`: how many pages may still come in
    under the residency budget.
    `background`: how many pages that nobody asked for may come now, at the pace that is set.
    """

    full: bool
    in_advance: bool
    room: int = UNLIMITED
    background: int = UNLIMITED


class Books(Protocol):
    """What a planner may look at.  `room`: as in `Load`; the page that a thread waits for comes in
    without any.  `costs`: of faults and pages here.  `patience`: above 1 where whoever waits, as
    far as a planner knows, waits for what is filled in advance (see `Together`).  `made`: how many
    of the runs that were chosen last have been filled.
    """

    room: int
    patience: int
    made: int

    @property
    def costs(self) -> Costs: ...

    @property
    def plan(self) -> Plan: ...
    @property
    def pages(self) -> Pages: ...
    @property
    def failures(self) -> dict[int, int]: ...
    @property
    def counters(self) -> Counters: ...
    def reachable(self, page: int, count: int) -> int: ...


class Planner(Protocol):
    """Chooses what is filled.  `background`: fill everything while nobody waits.

    `quiet`: pieces of background work since the last fault, here or elsewhere: set to 0 by one.
    `follows`: whether it wants to be told what is `settled`.  `why`: for what reason `idle` chose
    its last run (see `trace.REASONS`).
    """

    background: bool
    quiet: int
    follows: bool

    @property
    def along(self) -> list[Run]:
        """MISSING pages to be filled right behind the run of the last `fault`; taken by emptying
        it."""
        ...

    why: int

    @property
    def more(self) -> bool:
        """The last `idle` found nothing because it stopped early, not because there is nothing."""
        ...

    def fault(self, page: int) -> Run:
        """A thread waits for `page`, which is MISSING: the run of such pages to fill with it."""
        ...

    def minor(self, page: int) -> Run:
        """A thread waits for `page`, which is CACHED: the run of such pages to map with it."""
        ...

    def settled(self, page: int, count: int, demand: bool) -> None:
        """These pages are in.  `demand`: a thread waited for one of them."""
        ...

    def time(self, now: float) -> None:
        """Time has come to `now`."""
        ...

    def want(self, page: int, count: int) -> None:
        """These pages are asked for, though nobody waits for them yet."""
        ...

    def forget(self) -> None:
        """Nothing more is to be filled in advance, whatever was asked for."""
        ...

    @property
    def eager(self) -> bool:
        """Whether `idle` may find something."""
        ...

    def idle(self, load: Load) -> Work | None:
        """Nobody waits: what now?  None: nothing, at this time."""
        ...
