"""A task of a CRIU dump: the areas of its memory one after the other, as far as the dump has them.

Holes: pages that the task never touched, and pages of files that it did not change, which CRIU
leaves to the files.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence

from userfault.kernel.errors import SourceError, UsageError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs import criu_images
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.criu_images import ANON_SHARED, HEAP, MEMFD, SYSVIPC, VDSO, Area
from userfault.snapshot.inputs.criu_pages import Found, Layers
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run, registers_about

_GROWS_DOWN = 0x100  # MAP_GROWSDOWN (mmap(2)): the stack
_PAGE_SIZE = 6  # AT_PAGESZ (getauxval(3))


def the_task(folder: str, pid: int | None) -> int:
    """The task that is meant.  Raises UsageError where there are several to choose from."""
    found = criu_images.tasks(folder)
    if pid in found:
        return pid
    listed = ", ".join(map(str, found)) or "none"
    if pid is not None:
        raise UsageError(
            f"{folder} has no memory of task {pid}", cause=f"its tasks: {listed}", cure="name one"
        )
    if len(found) != 1:
        raise UsageError(
            f"{folder} has {len(found)} tasks", cause=listed, cure="name one (--pid-of-image)"
        )
    return found[0]


class CriuInput:
    """The memory of the task `pid` in an image folder.

    Raises FormatError where the dump is damaged or not complete.
    """

    kind = "criu"

    def __init__(self, folder: str, pid: int) -> None:
        self._folder = folder
        self._pid = pid
        self._maps: dict[str, Layers] = {}
        self._warnings: list[str] = []
        self._buffer = Buffer()
        # What is present: page of the image, pages, and where they are
        self._first, self._count, self._position = array("Q"), array("Q"), array("Q")
        self._fd = array("i")
        memory = criu_images.memory(folder, pid)
        self._auxv = memory.auxv
        self._machine, self._registers = criu_images.registers(folder, pid)
        self._refuse_other_page_sizes()
        self._names = criu_images.file_names(folder)
        self._memfds = criu_images.memfd_pages(folder)
        self.regions: Sequence[Region] = _regions(memory.areas, self._names)
        self.length = sum(region.length for region in self.regions)
        try:
            for area, region in zip(memory.areas, self.regions, strict=True):
                self._add(area, region)
        except BaseException:
            self.close()
            raise

    def runs(self) -> Iterator[Run]:
        """What is present, and the holes between."""
        page = begun = 0  # the pages from `begun` to `page` are data, not yet told
        for first, count in zip(self._first, self._count, strict=True):
            if first > page:
                if page > begun:
                    yield Run(begun, page - begun, Holds.DATA)
                yield Run(page, first - page, Holds.HOLE)
                begun = first
            page = first + count
        if page > begun:
            yield Run(begun, page - begun, Holds.DATA)
        if page < self.length // PAGE:
            yield Run(page, self.length // PAGE - page, Holds.HOLE)

    def read(self, page: int, count: int) -> memoryview:
        """The pages, zeros where the dump has none."""
        view = self._buffer.pages(count)
        at = page
        number = max(0, bisect.bisect_right(self._first, page) - 1)
        while at < page + count and number < len(self._first):
            first, last = self._first[number], self._first[number] + self._count[number]
            start, end = max(at, first), min(page + count, last)
            if start < end:
                view[(at - page) * PAGE : (start - page) * PAGE] = bytes((start - at) * PAGE)
                part = view[(start - page) * PAGE : (end - page) * PAGE]
                self._fill(part, self._fd[number], self._position[number] + start - first)
                at = end
            number += 1
        view[(at - page) * PAGE :] = bytes((page + count - at) * PAGE)
        return view

    def finish(self) -> Mapping[str, str]:
        """The pid, the auxiliary vector of the process, the registers of its threads."""
        vector = struct.pack(f"<{len(self._auxv)}Q", *self._auxv)
        about = {"pid": str(self._pid), "auxv": vector.hex()}
        if self._machine:
            about["machine"] = self._machine
        return about | registers_about(self._registers)

    @property
    def warnings(self) -> Sequence[str]:
        """Areas whose contents the dump has elsewhere."""
        return self._warnings

    def close(self) -> None:
        """Close the files of the dump."""
        for layers in self._maps.values():
            layers.close()
        self._maps = {}

    def _add(self, area: Area, region: Region) -> None:
        """Note what the dump has of an area: its own pages, before those of what it shares."""
        own = self._present(str(self._pid), area.start, area.end)
        shared: Iterator[Found] = iter(())
        if (name := self._shared_map(area)) is not None:
            shared = (
                found._replace(address=found.address - area.offset + area.start)
                for found in self._present(name, area.offset, area.offset + area.end - area.start)
            )
        for found in _first_over_second(own, shared):
            self._first.append((found.address - area.start + region.offset) // PAGE)
            self._count.append(found.pages)
            self._fd.append(found.fd)
            self._position.append(found.position)

    def _shared_map(self, area: Area) -> str | None:
        """The page map that has the pages of shared memory; None for other areas."""
        if area.status & SYSVIPC:
            self._warnings.append(
                f"the System V shared memory at {area.start:#x} is a hole: the dump keeps it apart"
            )
        elif area.status & MEMFD:
            if area.file not in self._memfds:
                raise FormatError(
                    f"{self._folder} does not tell the pages of the memfd at {area.start:#x}",
                    cause="memfd.img or files.img lacks it",
                    cure="dump again, or take another copy",
                )
            return f"shmem-{self._memfds[area.file]}"
        elif area.status & ANON_SHARED:
            return f"shmem-{area.file}"
        return None

    def _present(self, name: str, start: int, end: int) -> Iterator[Found]:
        if name not in self._maps:
            self._maps[name] = Layers(self._folder, name)
        return self._maps[name].present(start, end)

    def _fill(self, part: memoryview, fd: int, position: int) -> None:
        done = 0
        while done < len(part):
            got = os.preadv(fd, [part[done:]], position * PAGE + done)
            if not got:
                raise SourceError(
                    f"a file of pages in {self._folder} got shorter",
                    offset=position * PAGE + done,
                    cause="it was written to while it was packed",
                    cure="pack an intact copy",
                )
            done += got

    def _refuse_other_page_sizes(self) -> None:
        sizes = dict(zip(self._auxv[::2], self._auxv[1::2], strict=False))
        if sizes.get(_PAGE_SIZE, PAGE) != PAGE:
            raise FormatError(
                f"task {self._pid} in {self._folder} has pages of {sizes[_PAGE_SIZE]} bytes",
                cause="the dump is from a machine with other pages",
                cure="only dumps with pages of 4 KiB can be packed",
            )


def _first_over_second(first: Iterator[Found], second: Iterator[Found]) -> Iterator[Found]:
    """Both in ascending order, what the first has hiding what the second has there."""
    waiting = next(second, None)
    for found in first:
        while waiting is not None and waiting.address < found.address:
            pages = min(waiting.pages, (found.address - waiting.address) // PAGE)
            yield waiting._replace(pages=pages)
            waiting = _behind(waiting, waiting.address + pages * PAGE) or next(second, None)
        yield found
        end = found.address + found.pages * PAGE
        while waiting is not None and waiting.address < end:
            waiting = _behind(waiting, end) or next(second, None)
    if waiting is not None:
        yield waiting
        yield from second


def _behind(found: Found, address: int) -> Found | None:
    """What of it lies at `address` and behind."""
    skip = (address - found.address) // PAGE
    if skip >= found.pages:
        return None
    return Found(address, found.pages - skip, found.fd, found.position + skip)


def _regions(areas: list[Area], names: Mapping[int, str]) -> list[Region]:
    found = []
    offset = 0
    for area in areas:
        found.append(
            Region(
                start=area.start,
                length=area.end - area.start,
                offset=offset,
                protection=area.protection & 7,
                shared=bool(area.flags & mmap.MAP_SHARED),
                name=_name(area, names),
                file_offset=area.offset,
            )
        )
        offset += area.end - area.start
    return found


def _name(area: Area, names: Mapping[int, str]) -> str:
    if area.status & HEAP:
        return "[heap]"
    if area.status & VDSO:
        return "[vdso]"
    if area.flags & _GROWS_DOWN:
        return "[stack]"
    return names.get(area.file, "") if area.file else ""
