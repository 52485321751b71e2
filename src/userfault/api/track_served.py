"""Seeing the writes to memory that a pager still fills: by the pager's own userfaultfd.

That has WP_ASYNC (`lazy(..., track=True)`), so the kernel tells written pages for us; one that the
pager has filled counts as written, too.  When all is in, the pager lets go of the memory, and with
it goes all protection; then a userfaultfd of our own takes over.
"""

from __future__ import annotations

from userfault.api.parts import Parts
from userfault.api.track_modes import Async, own_pagemap
from userfault.kernel.errors import KernelError, RegistrationRefused, TrackingLost
from userfault.linux.unpatched import original
from userfault.linux.written import Run, joined, written
from userfault.pager.core.states import CACHED, MISSING, Pages

_TRIES, _STEP_S = 200, 0.005


class Served:
    """See `track_modes.Way`.  What is missing is never told: nobody can have written it."""

    name = "async"

    def __init__(self, start: int, end: int, parts: Parts) -> None:
        self._start, self._end = start, end
        self._parts = parts
        self._own: Async | None = None
        self.pagemap = own_pagemap()
        try:
            self.take()
        except BaseException:
            self.close()
            raise

    def take(self) -> list[Run]:
        """See `Way`.  All of it, once, after the pager has let go of it."""
        if self._own is not None:
            return self._own.take()
        if not self._parts.finished:
            try:
                found = written(self.pagemap, self._start, self._end, protect=True)
            except KernelError:  # it lets go of it at this moment
                pass
            else:
                # Looked at after the marks: a page that is missing now was missing then.
                return without(found, self.missing())
        return self._take_over()

    def missing(self) -> list[Run]:
        """What nobody has touched through this mapping yet."""
        states, parts = self._parts.states, self._parts
        if states is None or self._own is not None:
            return []
        size, pages = parts.recipe.memory.page_size, Pages(states, parts.pages)
        return joined(
            *(
                [
                    (parts.address + page * size, parts.address + (page + count) * size)
                    for page, count in pages.runs(0, parts.pages, state)
                ]
                for state in (MISSING, CACHED)  # what left these never comes back to them
            )
        )

    def close(self) -> None:
        """See `Way`.  The pager's userfaultfd stays as it is."""
        self.pagemap.close()
        if self._own is not None:
            self._own.close()

    def forked(self) -> None:
        """See `Way`."""
        self.close()

    def _take_over(self) -> list[Run]:
        for left in reversed(range(_TRIES)):
            try:
                self._own = Async(self._start, self._end)
                break
            except RegistrationRefused as error:
                if not left:
                    raise TrackingLost(
                        f"the writes to [{self._start:#x}, {self._end:#x})",
                        cause="its pager was killed, or something else was mapped there",
                        cure="take all of it for written, and track() it again",
                    ) from error
            original("time", "sleep")(_STEP_S)  # it lets go of one mapping after the other
        return [(self._start, self._end)]


def without(runs: list[Run], others: list[Run]) -> list[Run]:
    """What of `runs` is in none of `others`; both are in ascending order."""
    found: list[Run] = []
    number = 0
    for start, end in runs:
        while number < len(others) and others[number][1] <= start:
            number += 1
        at = start
        for first, last in others[number:]:
            if first >= end:
                break
            if first > at:
                found.append((at, first))
            at = max(at, last)
        if at < end:
            found.append((at, end))
    return joined(found)
