"""What is compared when everything is at rest: page states, bytes, files, queues.

Nothing here can change what it looks at: page states come from pagemap, bytes of pages are read
where both kernels say that the page is there, files are read where reading fills no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from userfault.check.differential.areas import FILE_PAGES, Area
from userfault.check.differential.verbs import Scope
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Call, Result
from userfault.uapi import pagemap as pm

# Has the observer of both kernels look, and gives what both saw.
Ask: TypeAlias = Callable[[list[Call]], list[Result]]
_PRESENT = pm.PM_PRESENT
_PROTECTED = pm.PM_UFFD_WP
_EDGE = 64  # bytes compared at each end of a huge page


def look(
    ask: Ask, areas: list[Area], scope: Scope, *, files: bool, thorough: bool, rwp: bool = False
) -> None:
    """Look at everything that can be looked at after every step.

    `files`: look at files too, which one process of a program does for all.  `thorough`: at both
    ends of huge pages, not only at their start.  `rwp`: pages may be RW-protected, so bytes are not
    read where the bit is that says so (or that they are write-protected).
    """
    states = [*_pagemaps(areas, thorough), *_queues(scope)]
    if files:
        states += _files(scope, thorough)
    if not states:
        return
    contents = [
        read
        for call, found in zip(states, ask(states), strict=True)
        if isinstance(call, calls.Pagemap)
        for read in _contents(call, found.data, _PRESENT | (_PROTECTED if rwp else 0))
    ]
    if contents:
        ask(contents)


def layout(ask: Ask, areas: list[Area]) -> None:
    """Look at the mappings by smaps: slow, so this is done once a program."""
    ask([calls.Smaps(areas[0].address, areas[-1].address + areas[-1].length)])


def _pagemaps(areas: list[Area], thorough: bool) -> Iterator[Call]:
    small = [area for area in areas if area.page == PAGE]
    if small:
        yield calls.Pagemap(
            small[0].address, small[-1].address + small[-1].length - small[0].address
        )
    for area in areas:
        if area.page != PAGE:  # the first word of each page: the others say the same
            for number in range(area.pages):
                yield calls.Pagemap(area.address + number * area.page, PAGE)
                if thorough:
                    yield calls.Pagemap(area.address + (number + 1) * area.page - PAGE, PAGE)


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


def _contents(call: calls.Pagemap, words: bytes, looked_at: int) -> Iterator[Call]:
    """Reads, by runs, of the pages that are present and have no other bit of `looked_at`."""
    if call.length == PAGE:  # the first one of a huge page, or the last
        if int.from_bytes(words[:8], "little") & looked_at == _PRESENT:
            last = bool(call.address % HUGE)
            yield calls.Read(call.address + last * (PAGE - _EDGE), _EDGE)
        return
    first: int | None = None
    for number in range(len(words) // 8 + 1):
        word = int.from_bytes(words[8 * number : 8 * number + 8], "little")
        if word & looked_at == _PRESENT:
            first = number if first is None else first
        elif first is not None:
            yield calls.Read(call.address + first * PAGE, (number - first) * PAGE)
            first = None
