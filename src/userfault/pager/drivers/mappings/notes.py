"""The notes of a recording, in memory that outlives a worker: when it began, and a byte a page.

The client made the memory, and may write there: what it says is believed as far as a hint is.
"""

from __future__ import annotations

import mmap
import os

from userfault.pager.core.touches import Touches
from userfault.snapshot.working_sets.place import HEAD_BYTES

_BEGAN, _OVER = 0, 1  # words: nanoseconds of the monotonic clock; whether it is over


class Notes:
    """Those in the memory behind `fd`, of so many pages.  Raises OSError."""

    def __init__(self, fd: int, pages: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, HEAD_BYTES + pages)
        whole = memoryview(self._map)
        self._words = whole[:HEAD_BYTES].cast("Q")
        self._held = whole[HEAD_BYTES : HEAD_BYTES + pages]
        self.touches = Touches(self._held, over=bool(self._words[_OVER]))

    def begin(self, now: float) -> float:
        """When it began: `now`, if it begins now."""
        if not self._words[_BEGAN]:
            self._words[_BEGAN] = int(now * 1e9)
        return min(self._words[_BEGAN] / 1e9, now)

    @property
    def any(self) -> bool:
        """Whether anything was noted, by this worker or one before it."""
        return bool(bytes(self._held).strip(b"\0"))

    def end(self) -> None:
        """It is over, for whoever goes on for this worker too."""
        self._words[_OVER] = 1
        self.touches.over = True

    def close(self) -> None:
        """Unmap it, and close the descriptor."""
        self.touches.over = True
        self.touches.held = b""  # type: ignore[assignment]  # nothing is noted any more
        self._words.release()
        self._held.release()
        self._map.close()
        os.close(self.fd)
