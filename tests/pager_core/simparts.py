"""What the simulated kernel is made of: memory types, pages, threads, messages, calls.

`Truth` says which contents a page may show, `Violation` is raised for any other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from userfault.uapi import userfaultfd as abi

MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR
WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE

SHIFT = 12
ZEROS = "zeros"


def source(page: int) -> str:
    """What the source has in `page`."""
    return f"source {page}"


class Violation(AssertionError):  # noqa: N818  # it says what it is
    """The client saw, or would have seen, what it must not see."""


class Kind(NamedTuple):
    """A memory type, as far as fills and faults depend on it."""

    name: str
    file: bool = False  # a page cache is behind it
    shared: bool = False
    zeropage: bool = True
    ambiguous: bool = False  # COPY says EEXIST where no page could be had


ANON = Kind("anon")
SHMEM = Kind("shmem", file=True, shared=True)
SHMEM_PRIVATE = Kind("shmem-private", file=True)
HUGETLB = Kind("hugetlb", file=True, shared=True, zeropage=False, ambiguous=True)
HUGETLB_PRIVATE = Kind("hugetlb-private", file=True, zeropage=False, ambiguous=True)
KINDS = (ANON, SHMEM, SHMEM_PRIVATE, HUGETLB, HUGETLB_PRIVATE)


@dataclass(slots=True, eq=False)
class Truth:
    """What one page may show, judged from what the client did, not from what the pager did.

    `dropping`: madvise calls under way on it.  `known`: the pager had a way to know that the page
    is not the source's any more (it filled it, or was told); a hole punched into a page that it
    never saw leaves both answers right.  `failures`, `refusals`: reads of the source that failed,
    fills refused for want of memory; beyond the bound, `given_up`: SIGBUS is right.
    """

    page: int
    allowed: set[str]
    dropping: int = 0
    known: bool = False
    failures: int = 0
    refusals: int = 0
    given_up: bool = False

    def saw(self, value: str) -> None:
        if value not in self.allowed:
            allowed = " or ".join(sorted(self.allowed))
            raise Violation(f"page {self.page} reads {value}, but must read {allowed}")
        self._is(value)

    def wrote(self, value: str) -> None:
        self._is(value)

    def _is(self, value: str) -> None:
        self.allowed = {value, ZEROS} if self.dropping else {value}

    def copy(self) -> Truth:
        """For the child of a fork: a drop under way may or may not have come first."""
        return Truth(self.page, set(self.allowed), known=self.known, given_up=self.given_up)


# What a page-table entry can be.
NONE = "none"
OWN = "own"  # a private page (or the zero page): its content is in the slot
CACHE = "cache"  # maps the page cache
POISON = "poison"


@dataclass(slots=True, eq=False)
class Slot:
    """One page of address space."""

    truth: Truth
    index: int  # page of the file
    vma: int
    registered: bool = True
    entry: str = NONE
    content: str = ZEROS


@dataclass(slots=True, eq=False)
class Thread:
    """A thread of the client: idle, waiting (in a page fault), or woken (to try again)."""

    mm: Mm
    name: str
    state: str = "idle"
    vpn: int = 0
    write: str | None = None
    last: str = ""  # what its last access came to: a content or a signal


@dataclass(slots=True, eq=False)
class Fault:
    """A message: `thread` waits at page `vpn`."""

    thread: Thread
    vpn: int
    flags: int


@dataclass(slots=True, eq=False)
class Event:
    """A message that a call of the client raised, which waits for it to be read."""

    kind: str  # remove, unmap, remap, fork
    call: Call
    start: int = 0
    end: int = 0
    new: int = 0
    child: Mm | None = None
    queued: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """A system call of the client on its way: it sleeps until the event it queued was read.

    `stage`: asleep (the event is in the queue), ready (it was read), or opened (fills work again,
    the pages are still there).
    """

    mm: Mm
    name: str
    events: deque[Event] = field(default_factory=deque)
    stage: str = "asleep"
    slots: list[tuple[int, Slot]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Mm:
    """One address space with its userfaultfd."""

    name: str
    truths: list[Truth]  # of the pages that the pager was given
    slots: dict[int, Slot] = field(default_factory=dict)
    threads: list[Thread] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    events: deque[Event] = field(default_factory=deque)
    calls: list[Call] = field(default_factory=list)
    changing: int = 0
    overtaking: bool = False  # a change came since the pager's last step: after a fill has begun
    alive: bool = True
    finishes: int = 0  # how often the pager began to let go of it

    @property
    def readable(self) -> bool:
        return bool(self.faults or self.events)


class File:
    """The page cache behind file memory, and how many pages the file has."""

    def __init__(self, size: int, cache: dict[int, str]) -> None:
        self.size = size
        self.cache = cache


def rouse(thread: Thread) -> None:
    """It waits no more; its message, if nobody has read it, disappears."""
    thread.state = "woken"
    faults = thread.mm.faults
    for fault in [fault for fault in faults if fault.thread is thread]:
        faults.remove(fault)
