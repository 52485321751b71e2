"""What is to come ahead of the faults, in pages of the memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol


class Course(Protocol):
    """`groups`: how many, in their order.  `sample`: pages that are left to faults."""

    groups: int

    @property
    def sample(self) -> Collection[int]: ...

    def group(self, number: int) -> Sequence[tuple[int, int]]:
        """The runs of a group: first page and count.  One look at the source brings them all."""
        ...

    def has(self, page: int) -> bool:
        """Whether a page is in one of the runs."""
        ...
