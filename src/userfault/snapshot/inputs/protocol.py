"""What `pack` needs to know of the memory it packs: its pages, run by run, and what they were."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

PAGE = 4096
REGISTERS = "registers "  # of a thread: how the word begins that tells them in `finish`
MOST_THREADS = 2000


class Holds(enum.Enum):
    """What an input says of a run of pages before any of them is read."""

    DATA = "data"  # bytes to read; zeros among them are for the packer to find
    ZERO = "zero"  # reads zero, and was memory: allocated, or mapped to the zero page
    HOLE = "hole"  # nothing was ever there: a hole of a file, a page that was never touched
    BASE = "base"  # as in the base: a hole of an image that tells changes alone


class Run(NamedTuple):
    """`pages` pages from page `first` of the image."""

    first: int
    pages: int
    holds: Holds


class Region(msgspec.Struct, frozen=True):
    """A range of addresses of the program whose memory this is, and where in the image it lies.

    `start` and `length` are bytes, multiples of 4096; so is `offset`, the position in the image.
    `protection` has the PROT_* bits of mmap(2).  `name` is the name that /proc/PID/maps gives (a
    path, `[heap]`, or nothing) and `file_offset` the position in that file, bytes.
    """

    start: int
    length: int
    offset: int
    protection: int = 0
    shared: bool = False
    name: str = ""
    file_offset: int = 0


def registers_about(threads: Mapping[int, bytes]) -> dict[str, str]:
    """The general registers of threads as words for the manifest, the first thread's first.

    A set is the kernel's (NT_PRSTATUS); of more threads than `MOST_THREADS` the rest is left out.
    """
    few = list(threads.items())[:MOST_THREADS]
    return {f"{REGISTERS}{thread}": data.hex() for thread, data in few}


class PageInput(Protocol):
    """Memory to pack.  It is read once, from its first page to its last."""

    @property
    def kind(self) -> str:
        """What it is: `raw`, `firecracker`, `criu`, `process`."""
        ...

    @property
    def length(self) -> int:
        """Bytes; the last page may be a part of one."""
        ...

    @property
    def regions(self) -> Sequence[Region]:
        """Where the pages lay, in the order of their addresses; empty where nobody knows."""
        ...

    def runs(self) -> Iterator[Run]:
        """All pages in ascending order, without gaps."""
        ...

    def read(self, page: int, count: int) -> memoryview:
        """Exactly `count` pages from `page`, zeros behind the end; valid until the next `read`.

        Raises UserfaultError where they cannot be read any more.
        """
        ...

    def finish(self) -> Mapping[str, str]:
        """Every page was read: free words about the input for the manifest (program, pid, ...).

        A process that was stopped runs on from here.  Raises SourceError where the memory changed
        while it was read, so that what was read is of no single moment.
        """
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What the user must know of pages that could not be had; complete after `finish`."""
        ...

    def close(self) -> None:
        """Let go of files and of the process, which runs on.  May be called at any time."""
        ...


@runtime_checkable
class MovingInput(PageInput, Protocol):
    """Memory that is written while it is read."""

    def again(self) -> Iterator[tuple[int, memoryview]]:
        """Whole pages, from this page on, whose bytes were read before they changed last.

        Called when all runs were read.  The same page may come several times: the last one counts,
        and with these the image is of one moment.  Each is valid until the next.
        """
        ...
