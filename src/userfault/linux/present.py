"""Which pages of another process's memory are there, by its page tables."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from userfault.kernel.errors import KernelError
from userfault.linux.pagemap import PAGE, Pagemap
from userfault.uapi import pagemap as abi

_THERE = abi.PAGE_IS_PRESENT | abi.PAGE_IS_SWAPPED
_WORDS = 1 << 16  # pages whose words are read at once


class Present(NamedTuple):
    """[`start`, `end`) is mapped or swapped out; `zero`: it is mapped to the kernel's zero page."""

    start: int
    end: int
    zero: bool


def present(pagemap: Pagemap, start: int, end: int) -> Iterator[Present]:
    """The runs of [start, end) that are there, in ascending order; guard pages are not.

    Where the kernel lacks PAGEMAP_SCAN (6.7), `zero` is never told.
    """
    report = _THERE | abi.PAGE_IS_PFNZERO
    for guard in (abi.PAGE_IS_GUARD, 0):
        try:
            found = pagemap.scan(start, end, any_of=_THERE, report=report | guard)
        except KernelError as error:
            if error.errno == errno.EINVAL and guard:  # before 6.15
                continue
            if error.errno == errno.ENOTTY:
                yield from from_words(pagemap, start, end)
                return
            raise
        for each in found:
            if not each.categories & abi.PAGE_IS_GUARD:
                zero = bool(each.categories & abi.PAGE_IS_PFNZERO)
                yield Present(each.start, each.end, zero)
        return


def from_words(pagemap: Pagemap, start: int, end: int) -> Iterator[Present]:
    """The same from the words of /proc/PID/pagemap."""
    for at in range(start, end, _WORDS * PAGE):
        begun = None
        words = pagemap.words(at, min(_WORDS, (end - at) // PAGE))
        for number, word in enumerate((*words, 0)):
            there = word & (abi.PM_PRESENT | abi.PM_SWAP) and not word & abi.PM_GUARD_REGION
            if there and begun is None:
                begun = number
            elif not there and begun is not None:
                yield Present(at + begun * PAGE, at + number * PAGE, False)
                begun = None
