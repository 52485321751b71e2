"""One piece of memory for all reads of an input: pages are copied out of it before the next."""

from __future__ import annotations

from userfault.snapshot.inputs.protocol import PAGE


class Buffer:
    """As large as the largest read so far."""

    def __init__(self) -> None:
        self._held = bytearray()

    def pages(self, count: int) -> memoryview:
        """Room for `count` pages; what was there before is still in it."""
        size = count * PAGE
        if len(self._held) < size:
            self._held = bytearray(size)
        return memoryview(self._held)[:size]
