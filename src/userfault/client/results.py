"""What a client has found out about its handler."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

CLOSED = "closed"  # the stage of a client whose handler has closed the connection
TOLD = 10  # wrong pages that are told one by one


class Wrong(msgspec.Struct, frozen=True):
    """Bytes that are not those due: from `address` on, `offset` in the image; 16 bytes of each, in
    hexadecimal, and what it looks like."""

    address: int
    offset: int
    due: str
    found: str
    what: str


class Latency(msgspec.Struct, frozen=True):
    """Microseconds from a touch to its end, of touches that had to wait for the handler."""

    faults: int = 0
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0


class Result(msgspec.Struct):
    """Of one client that came to its end."""

    pages: int = 0  # of its memory
    touches: int = 0
    checked: int = 0  # pages compared as a whole, again at the end included
    removed: int = 0  # ranges given back
    written: int = 0
    by_kernel: int = 0  # touches by system calls
    wrong_pages: int = 0
    wrong: list[Wrong] = []
    answered: str = ""  # what the handler wrote where it has to be silent, in hexadecimal
    closed: bool = False  # the handler had closed the connection at the end
    seconds: float = 0.0
    latency: Latency = Latency()
    notes: list[str] = []

    @property
    def is_right(self) -> bool:
        return not self.wrong_pages and not self.answered

    def add(self, wrong: Wrong) -> None:
        """A wrong page more; the first ones are kept."""
        self.wrong_pages += 1
        if len(self.wrong) < TOLD:
            self.wrong.append(wrong)


class Said(msgspec.Struct):
    """A line of a client to its parent: how far it is, how it ended, or why it could not begin."""

    stage: str = ""
    steps: int = 0  # that are to be done in all, where that is known
    result: Result | None = None
    refused: str = ""  # the handler did not let it come so far
    poisoned: str = ""  # a page was given up
    lacking: tuple[str, str, str] | None = None  # this system: what, cause, cure
    did: str = ""  # of a hostile client: what the handler did


def latency(nanoseconds: Sequence[int]) -> Latency:
    """The percentiles (nearest rank) of these durations."""
    if not nanoseconds:
        return Latency()
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1

    def rank(share: float) -> float:
        return round(ordered[min(int(share * len(ordered)), last)] / 1000, 1)

    return Latency(len(ordered), rank(0.5), rank(0.9), rank(0.99), round(ordered[-1] / 1000, 1))
