"""What the tasks of a restore will ask for, found out while CRIU is busy with something else.

CRIU connects some milliseconds before its first task hands over its memory, and that task touches a
page soon after (4 ms and 2 ms with a Redis of 300,000 keys; measured on 6.18, CRIU 4.2).  What it
takes to serve it by then, which is most of all reading its images, is done in between; and what is
then left of these times maps its pages, a third of what their copies cost later.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable

from userfault.kernel.errors import UserfaultError
from userfault.kernel.memtypes import BASE_PAGE, KIB, MIB
from userfault.pager.drivers.mappings.residencies import Shared, borrow
from userfault.serve.criu_memory import Memory, memory_of
from userfault.serve.images import Images
from userfault.serve.records import Door
from userfault.snapshot.inputs.criu_images import tasks
from userfault.source.file import FileSource
from userfault.source.spec import FileSpec

_MOST = 4  # tasks: each keeps two descriptors
_LARGEST = 32 * KIB  # of a page map: one of 4 KiB takes 2 to 3 ms, while others wait
_LASTS_S = 0.005  # nothing more is begun after that
_STEP = MIB  # of a file is mapped between two looks whether somebody waits, in 80 µs

_clock = time.monotonic


class Ahead:
    """The memory of the first tasks of one restore.  `pressing`: whether somebody waits for us."""

    def __init__(self, pressing: Callable[[], bool]) -> None:
        self._pressing = pressing
        self._found: dict[int, Memory | None] = {}
        self._mapped: list[Shared] = []
        self._left: deque[tuple[Shared, int, int]] = deque()  # of whose files what is to be mapped
        self._looked = False

    def look(self, door: Door, images: Images) -> None:
        """Nobody waits: the first call gets what is most likely to be asked for, and each maps what
        is left of it, until somebody does.

        What cannot be read is left to the task that asks for it, which is told.
        """
        until = _clock() + _LASTS_S
        if not self._looked and door.dump:  # a snapshot's is at hand
            self._looked = True
            with contextlib.suppress(UserfaultError, ValueError, OSError):
                self._find(door, images, until)
        self._map(until)

    def _find(self, door: Door, images: Images, until: float) -> None:
        for pid in tasks(door.dump)[:_MOST]:
            if os.path.getsize(os.path.join(door.dump, f"pagemap-{pid}.img")) > _LARGEST:
                return
            self._found[pid] = memory = memory_of(pid, door, images)
            if memory is not None:
                self._left.append(self._opened(memory))
                self._map(until)
            if self._pressing() or _clock() > until:
                return

    def late(self) -> None:
        """There is no time for that."""
        self._looked = True

    def taken(self, pid: int, door: Door, images: Images) -> Memory | None:
        """As `memory_of`: what was found is the caller's from here on."""
        self.late()  # the others will come at once
        if pid in self._found:
            return self._found.pop(pid)
        return memory_of(pid, door, images)

    def close(self) -> None:
        """Let go of what nobody asked for, and leave what is mapped to those who are served."""
        for memory in self._found.values():
            if memory is not None:
                os.close(memory.fd)
        self._found.clear()
        for shared in self._mapped:
            shared.leave(_answers)
        self._mapped.clear()
        self._left.clear()

    def _opened(self, memory: Memory) -> tuple[Shared, int, int]:
        """The file that has its pages: from where to where it is to be mapped."""
        spec = memory.spec
        assert isinstance(spec, FileSpec), "a folder of images has its pages in a file"
        file = FileSource(spec, os.dup(memory.fd))
        try:
            shared = borrow(file, BASE_PAGE, _answers)
        finally:
            file.close()
        self._mapped.append(shared)
        return shared, 0, spec.length

    def _map(self, until: float) -> None:
        """As far as there is time."""
        while self._left and not self._pressing() and _clock() <= until:
            shared, offset, end = self._left.popleft()
            shared.residency.ready(offset, min(_STEP, end - offset))
            if offset + _STEP < end:
                self._left.appendleft((shared, offset + _STEP, end))


def _answers() -> bool:
    """What we ask of a file waits for no disk."""
    return True
