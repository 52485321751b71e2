"""One mapping of a source for all who are filled from it.

Clients that are shown the same image would each map it into the pager, and each of these mappings
would have its own page tables to be filled, fault by fault, under the copies: half of what a copy
costs.  So those that show the same bytes in the same way share one, with what is known of the page
cache behind it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from userfault.pager.core.density import Experience
from userfault.pager.drivers.mappings.residency import Residency
from userfault.source.file import FileSource
from userfault.source.spec import FileSpec

_Key = tuple[int, int, FileSpec, int]


class Shared:
    """A residency, and who uses it: each by what says whether its source answers as a disk does.

    `experiences`: what they learn of how it is touched, by the size of their windows.
    """

    def __init__(self, key: _Key, source: FileSource, page_size: int) -> None:
        self._key = key
        self._source = FileSource(source.spec, os.dup(source.fileno()))
        self.experiences: dict[int, Experience] = {}
        self._users: list[Callable[[], bool]] = []
        try:
            self.residency = Residency(self._source, page_size, self._prompt)
        except BaseException:
            self._source.close()
            raise

    def _prompt(self) -> bool:
        return all(each() for each in self._users)

    def join(self, prompt: Callable[[], bool]) -> None:
        """One more uses it."""
        self._users.append(prompt)

    def leave(self, prompt: Callable[[], bool]) -> None:
        """One less; the last one closes it."""
        self._users.remove(prompt)
        if not self._users:
            del _held[self._key]
            self.residency.close()
            self._source.close()


_held: dict[_Key, Shared] = {}  # of this process


def borrow(source: FileSource, page_size: int, prompt: Callable[[], bool]) -> Shared:
    """That of this source in pages of this size, made if nobody has it.  Raises OSError."""
    held = os.fstat(source.fileno())
    key = (held.st_dev, held.st_ino, source.spec, page_size)
    found = _held.get(key)
    if found is None:
        found = _held[key] = Shared(key, source, page_size)
    found.join(prompt)
    return found
