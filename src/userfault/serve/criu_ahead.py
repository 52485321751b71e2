"""What the tasks of a restore will ask for, found out while CRIU is busy with something else.

CRIU connects some milliseconds before its first task hands over its memory, and that task touches a
page soon after (4 ms and 2 ms with a Redis of 300,000 keys; measured on 6.18, CRIU 4.2).  What it
takes to serve it by then, which is most of all reading its images, is done in between.
"""

from __future__ import annotations

import contextlib
import os
import time
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
_STEP = 2 * MIB  # of a file is mapped between two looks whether somebody waits

_clock = time.monotonic


class Ahead:
    """The memory of the first tasks of one restore.  `pressing`: whether somebody waits for us."""

    def __init__(self, pressing: Callable[[], bool]) -> None:
        self._pressing = pressing
        self._found: dict[int, Memory | None] = {}
        self._mapped: list[Shared] = []
        self._looked = False

    def look(self, door: Door, images: Images) -> None:
        """Nothing has been said yet: the first call gets what is most likely to be asked for.

        What cannot be read is left to the task that asks for it, which is told.
        """
        if self._looked or not door.dump:  # a snapshot's is at hand
            return
        self._looked = True
        until = _clock() + _LASTS_S
        with contextlib.suppress(UserfaultError, ValueError, OSError):
            for pid in tasks(door.dump)[:_MOST]:
                if os.path.getsize(os.path.join(door.dump, f"pagemap-{pid}.img")) > _LARGEST:
                    return
                self._found[pid] = memory = memory_of(pid, door, images)
                if memory is not None:
                    self._map(memory, until)
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

    def _map(self, memory: Memory, until: float) -> None:
        """The file that has its pages, as far as there is time."""
        spec = memory.spec
        assert isinstance(spec, FileSpec), "a folder of images has its pages in a file"
        file = FileSource(spec, os.dup(memory.fd))
        try:
            shared = borrow(file, BASE_PAGE, _answers)
        finally:
            file.close()
        self._mapped.append(shared)
        for offset in range(0, spec.length, _STEP):
            if self._pressing() or _clock() > until:
                return
            shared.residency.ready(offset, min(_STEP, spec.length - offset))


def _answers() -> bool:
    """What we ask of a file waits for no disk."""
    return True
