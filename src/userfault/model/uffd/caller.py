"""Who makes a call on a userfaultfd."""

from __future__ import annotations

from typing import Protocol

from userfault.model.files.open_files import OpenFile
from userfault.model.mm.address_space import AddressSpace
from userfault.model.tasks.sched import Task


class Caller(Protocol):
    """The process that makes the call, as far as it takes part: COPY reads its memory, the
    descriptor of a FORK event lands in it."""

    mm: AddressSpace

    def open(self, file: OpenFile, flags: int) -> int:
        """A new descriptor."""

    def may(self, task: Task, right: int) -> bool:
        """Whether this task of it has a capability."""
