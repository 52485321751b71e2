"""What is compared when everything is at rest: page states, bytes, files, queues.

Nothing here can change what it looks at: page states come from pagemap, bytes of pages are read
where pagemap says that the page is there, files are read where reading fills no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from userfault.check.differential.areas import FILE_PAGES, Area
from userfault.check.differential.verbs import Scope
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Call, Result
from userfault.uapi import pagemap as pm

# Has both kernels looked at, and gives what both showed.
Ask: TypeAlias = Callable[[list[Call]], list[Result]]
_EDGE = 64  # bytes compared at each end of a huge page


def look(
    ask: Ask, areas: list[Area], scope: Scope, *, files: bool, thorough: bool, rwp: bool = False
) -> None:
    """Look at everything that can be looked at after every step.

    `files`: look at files too, which one process of a program does for all.  `thorough`: at both
    ends of huge pages, not only at their start.  `rwp`: pages may be RW-protected, so bytes are not
    read where the bit is that says so (or that they are write-protected).
    """
    mask = pm.PM_PRESENT | (pm.PM_UFFD_WP if rwp else 0)
    wanted = [*_memory(areas, mask, thorough), *_queues(scope)]
    if files:
        wanted += _files(scope, thorough)
    if wanted:
        ask(wanted)


def layout(ask: Ask, areas: list[Area]) -> None:
    """Look at the mappings by smaps: slow, so this is done once a program."""
    ask([calls.Smaps(areas[0].address, areas[-1].address + areas[-1].length)])


def _memory(areas: list[Area], mask: int, thorough: bool) -> Iterator[Call]:
    parts = [area for area in areas if area.within]
    small = [area for area in areas if area.page == PAGE and not area.within]
    for area in parts:
        yield calls.Survey(area.address, PAGE, area.pages, mask, 0, PAGE)
    if small:
        pages = (small[-1].address + small[-1].length - small[0].address) // PAGE
        yield calls.Survey(small[0].address, PAGE, pages, mask, 0, PAGE)
    for area in areas:
        if area.page != PAGE:  # the first word of each page: the others say the same
            yield calls.Survey(area.address, area.page, area.pages, mask, 0, _EDGE)
            if thorough:
                last = area.address + area.page - PAGE
                yield calls.Survey(last, area.page, area.pages, mask, PAGE - _EDGE, _EDGE)


def _queues(scope: Scope) -> Iterator[Call]:
    for name, fd in scope.fds.items():
        if name[0] in "uf":
            yield calls.Fdinfo(fd)


def _files(scope: Scope, thorough: bool) -> Iterator[Call]:
    for name, size in (("m", PAGE), ("h", HUGE)):
        fd = scope.fds.get(name)
        if fd is None:
            continue
        yield calls.Fstat(fd)
        if size == PAGE:
            yield calls.Pread(fd, FILE_PAGES[name] * PAGE)
        else:
            for number in range(FILE_PAGES[name]):
                yield calls.Pread(fd, _EDGE, number * size)
                if thorough:
                    yield calls.Pread(fd, _EDGE, (number + 1) * size - _EDGE)
