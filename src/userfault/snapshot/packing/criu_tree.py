"""A dump of a process tree by CRIU as one image: what a lazy restore leaves to a pager."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator, Mapping, Sequence

from userfault.kernel.errors import SourceError, UsageError
from userfault.snapshot.format.page_maps import name_of
from userfault.snapshot.inputs import criu_images
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.criu_lazy import LazyTask
from userfault.snapshot.inputs.criu_pages import Found
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run


class CriuTreeInput:
    """All tasks of a dump, each with what a lazy restore leaves of it, one after the other.

    A region of the image is a stretch of one task's addresses, and named after its page map.
    """

    kind = "criu"

    def __init__(self, folder: str) -> None:
        self._buffer = Buffer()
        self._tasks: list[LazyTask] = []
        self._runs: list[tuple[int, Found]] = []  # with the page of the image
        regions: list[Region] = []
        offset = 0
        try:
            for pid in criu_images.tasks(folder):
                task = LazyTask(folder, pid)
                self._tasks.append(task)
                runs = iter(task.runs)
                for start, end in task.stretches():
                    region = Region(start, end - start, offset, name=name_of(str(pid), lazy=True))
                    regions.append(region)
                    self._take(runs, region)
                    offset += end - start
        except BaseException:
            self.close()
            raise
        self.regions: Sequence[Region] = regions
        self.length = offset
        if not offset:
            self.close()
            raise UsageError(
                f"{folder} has nothing that could be restored lazily",
                cause="no page of any task is private anonymous memory",
                cure="restore it without --lazy-pages",
            )

    def _take(self, runs: Iterator[Found], region: Region) -> None:
        done, end = 0, region.start + region.length
        while done < end:
            run = next(runs)
            self._runs.append(((run.address - region.start + region.offset) // PAGE, run))
            done = run.address + run.pages * PAGE

    def runs(self) -> Iterator[Run]:
        """What the dump has, and the holes that were taken along."""
        page = 0
        for first, run in self._runs:
            if first > page:
                yield Run(page, first - page, Holds.HOLE)
            yield Run(first, run.pages, Holds.DATA)
            page = first + run.pages

    def read(self, page: int, count: int) -> memoryview:
        """The pages, zeros where the dump has none."""
        view = self._buffer.pages(count)
        view[:] = bytes(count * PAGE)
        at = max(bisect.bisect_right(self._runs, page, key=lambda each: each[0]) - 1, 0)
        for first, run in self._runs[at:]:
            low, high = max(page, first), min(page + count, first + run.pages)
            if first >= page + count:
                break
            if low < high:
                part = view[(low - page) * PAGE : (high - page) * PAGE]
                _fill(part, run.fd, (run.position + low - first) * PAGE)
        return view

    def finish(self) -> Mapping[str, str]:
        """The tasks, in the order of the image."""
        return {"tasks": " ".join(str(task.pid) for task in self._tasks)}

    @property
    def warnings(self) -> Sequence[str]:
        """There are none."""
        return ()

    def close(self) -> None:
        """Close the files."""
        for task in self._tasks:
            task.close()
        self._tasks = []


def _fill(part: memoryview, fd: int, position: int) -> None:
    done = 0
    while done < len(part):
        got = os.preadv(fd, [part[done:]], position + done)
        if not got:
            raise SourceError(
                "a file of pages got shorter",
                offset=position + done,
                cause="it was written to while it was packed",
                cure="pack an intact copy",
            )
        done += got
