"""What the core asks a driver to do.

A driver performs actions in the order given and answers each `Fill` by `MappingCore.done` or
`failed`, each `Fetch` by `fetched` or `fetch_failed`.  The others need no answer.
"""

from __future__ import annotations

import enum
from typing import Any, TypeAlias

import msgspec

COPY = 0  # UFFDIO_COPY from the source (or from `data`)
ZERO = 1  # zeros: UFFDIO_ZEROPAGE, or a copy of zeros where the memory type has none
CONTINUE = 2  # UFFDIO_CONTINUE
POISON = 3  # UFFDIO_POISON
UNPROTECT = 4  # UFFDIO_WRITEPROTECT: a page that is there may be written from now on
UNSPILL = 5  # UFFDIO_COPY from the spill file

# their names, for traces
KINDS = ("copy", "zero", "continue", "poison", "unprotect", "unspill")


class Found(enum.Enum):
    """What lies where a fill was refused."""

    NOTHING = enum.auto()  # no page
    SAME = enum.auto()  # a page with the bytes that were to be filled in
    OTHER = enum.auto()  # a page with other bytes
    UNSEEN = enum.auto()  # it could not be looked at (of shared memory: a page with any bytes)
    NO_MAPPING = enum.auto()


class Fill(msgspec.Struct, gc=False):
    """Fill `count` pages from `page` on, shown at `address`; wake whoever waits there.

    `data`: bytes fetched before (the page `data_page` is its first), None to take the source.
    `demand`: a thread waits for it (background fills have False).  `found`: what was
    there after it had been refused once, to be believed if it is refused a second time.
    `protect`: a write to these pages is to ask first (the MODE_WP of COPY and CONTINUE).
    """

    kind: int
    page: int
    count: int
    address: int
    demand: bool = True
    data: memoryview | None = None
    data_page: int = 0
    found: Found | None = None
    protect: bool = False

    def rest(self, done: int, shift: int) -> Fill:
        """What is left after the first `done` pages, of 1 << `shift` bytes each."""
        return Fill(
            self.kind,
            self.page + done if self.page >= 0 else -1,
            self.count - done,
            self.address + (done << shift),
            self.demand,
            self.data,
            self.data_page,
            protect=self.protect,
        )

    def single(self, index: int, shift: int) -> Fill:
        """That of its page `index` alone."""
        one = self.rest(index, shift)
        one.count = 1
        return one


# Between two looks at whether somebody waits, a driver fills so much by so many ioctls at most (one
# costs as much as copying a page), times its patience.
_LOOK_BYTES = 64 << 10
LOOK_FILLS = 16


def between_looks(patience: int, runs: int, length: int) -> int:
    """How many of some runs, of `length` bytes in all, a driver fills between two looks."""
    return max(min(patience * _LOOK_BYTES * runs // length, patience * LOOK_FILLS), 1)


class Together(msgspec.Struct, gc=False):
    """Fill runs (first page, count) of MISSING or CACHED pages, one ioctl each, nobody waits for
    them.

    `base`: the address of page 0.  A fault that comes meanwhile goes first: the driver looks for
    one between the ioctls, and may stop after any of them.  It answers by
    `MappingCore.series.done`; a run that is refused, or whose source is not at hand, becomes a
    `Fill` by `series.stopped`.  `patience`: it may look so many times more seldom, as whoever
    waits, as far as is known, waits for what comes here.
    """

    kind: int
    runs: list[tuple[int, int]]
    base: int
    patience: int = 1


class Fetch(msgspec.Struct):
    """Read pages [page, page + count) of the source, away from the fault path."""

    number: int
    page: int
    count: int
    demand: bool
    deadline: float  # on the driver's clock
    abandoned: bool = False
    waited: float = 0.0  # seconds that a thread had waited for these pages when the read began
    owner: Any = None  # the driver's: which of its contexts asked


class Abandon(msgspec.Struct, frozen=True):
    """Fetch `number` has passed its deadline: stop it if possible, ignore its answer."""

    number: int


class Hasten(msgspec.Struct, frozen=True):
    """A fetch that was asked for in advance is waited for now (its `demand` says so)."""


class Wake(msgspec.Struct, frozen=True, gc=False):
    """Make every waiter in [start, start + length) fault again."""

    start: int
    length: int


class WakeAll(msgspec.Struct, frozen=True):
    """Make every waiter of this context fault again, at whatever address it waits.

    (UFFDIO_WAKE takes the whole address space as one range, with an event pending too: measured on
    6.18.  What was registered and is in no segment is reached only so.)
    """


class Inspect(msgspec.Struct, frozen=True):
    """A fill of `page` at `address` met EEXIST: what is there?  Answer by `MappingCore.inspected`.

    `compare`: whether it has to be the bytes that the fill was to bring, of its `kind`, `data` and
    `data_page`.
    """

    page: int
    address: int
    compare: bool = False
    kind: int = COPY
    data: memoryview | None = None
    data_page: int = 0
    demand: bool = True


class Report(msgspec.Struct, frozen=True):
    """Tell the client: page `page` was given up because of `cause`."""

    page: int
    cause: str
    cure: str


class Overdue(msgspec.Struct, frozen=True):
    """Tell the client: a fault has waited for longer than its policy's `fault_deadline_s`.

    `page`: -1 - n or less for an address that is none of our pages.  `address`: where it is shown
    (-1: nowhere any more).  `state`: of the page, by name.  `faults`: how many asked for it.
    `waits_for`: what the pager is waiting for.  `answer`: what is done about it: nothing more
    ("report"), "alone" (the pages of its read are read one by one), "poison" or "kill".
    """

    page: int
    address: int
    state: str
    age_s: float
    faults: int
    waits_for: str
    answer: str


class EndClient(msgspec.Struct, frozen=True):
    """End the client with this message: poison is not to be had, and wrong bytes must not be."""

    message: str


class Evict(msgspec.Struct, frozen=True):
    """Take pages [page, page + count) out of the file behind the memory: the source has them, or
    the client has dropped them (`dropped`).  Answer by `Residency.evicted` or `not_evicted`.
    """

    page: int
    count: int
    dropped: bool = False


class Spill(msgspec.Struct, frozen=True):
    """Protect pages [page, page + count), shown at `address`, and copy them to the spill file.
    Answer by `Residency.spilled`, then take them out of memory, or by `not_spilled`.
    """

    page: int
    count: int
    address: int


class Finish(msgspec.Struct, frozen=True):
    """Every page is settled: unregister what is still mapped.  `owner_gone`: the process ended."""

    segments: tuple[tuple[int, int], ...]  # (start, length)
    owner_gone: bool = False


Action: TypeAlias = (
    Fill
    | Together
    | Fetch
    | Abandon
    | Hasten
    | Wake
    | WakeAll
    | Inspect
    | Report
    | Overdue
    | EndClient
    | Evict
    | Spill
    | Finish
)
