"""A snapshot as a source of pages: any range of bytes, from chunks that are unpacked as needed.

It delivers exactly the bytes that the manifest promises or raises SourceError; what lies beyond
the length is zeros.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from userfault.kernel.errors import SourceError, UserfaultError
from userfault.snapshot.errors import told
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.counts import Counts
from userfault.snapshot.serving.table import Table
from userfault.snapshot.serving.unpacked import Chunks, Unpacked

_WORD_BYTES = 8


class _NotAtHandError(Exception):
    """A chunk would have to be waited for."""


class SnapshotSource:
    """`length` bytes of an image.  `name`: for messages.  Thread-safe.

    `table`: where they are; `store`: who has the chunks (closed with this).
    """

    def __init__(self, table: Table, store: Chunks, *, length: int, name: str) -> None:
        self.unpacked = Unpacked(table, store)
        self.table = table
        self.reached: Callable[[int], None] | None = None  # hears what chunk is read in advance
        self._length = length
        self._name = name
        self._word = 0, memoryview(b"")

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self.unpacked.counts

    def read(
        self, offset: int, length: int, *, urgent: bool = True, waited: float = 0.0
    ) -> memoryview:
        """`length` bytes from `offset`, a multiple of the page size.  May block.

        `urgent`: a thread waits for them, since `waited` seconds; otherwise they are read in the
        order of the table, and what comes after them will be wanted.  Raises SourceError.
        """
        began = time.monotonic() - waited

        def raw(chunk: int) -> memoryview:
            return self.unpacked.get(chunk, urgent=urgent, waited=time.monotonic() - began)

        try:
            return self._bytes(offset, length, raw)
        except UserfaultError as error:
            raise SourceError(
                f"cannot read {self._name} at offset {offset}",
                offset=offset,
                cause=told(error),
                cure=error.cure,
            ) from None

    def at_hand(self, offset: int, length: int, *, urgent: bool) -> memoryview | None:
        """The same, or None where something would have to be waited for.  Never blocks.

        `urgent`: one chunk may be unpacked on the way, if the store has it at hand.
        """
        piece = self.table.piece(offset // PAGE, length // PAGE)
        if piece is None or offset + length > self._length or length % PAGE:
            return self._joined_at_hand(offset, length, urgent=urgent)
        chunk, slot, word = piece
        if chunk < 0:
            return self._repeated(word, length)
        if not urgent and self.reached is not None:
            self.reached(chunk)
        raw = self.unpacked.at_hand(chunk, unpack=urgent)
        return None if raw is None else raw[slot * PAGE : slot * PAGE + length]

    def _joined_at_hand(self, offset: int, length: int, *, urgent: bool) -> memoryview | None:
        """The same for pages of several pieces."""
        left = int(urgent)

        def raw(chunk: int) -> memoryview:
            nonlocal left
            if not urgent and self.reached is not None:
                self.reached(chunk)
            found = self.unpacked.at_hand(chunk, unpack=False)
            if found is None and left:
                left -= 1
                found = self.unpacked.at_hand(chunk, unpack=True)
            if found is None:
                raise _NotAtHandError
            return found

        try:
            return self._bytes(offset, length, raw)
        except _NotAtHandError:
            return None

    def _repeated(self, word: int, length: int) -> memoryview:
        """A word over and over.  The last one is kept: images have long runs of few of them."""
        held, repeated = self._word
        if held != word or len(repeated) < length:
            repeated = memoryview(word.to_bytes(_WORD_BYTES, "little") * (length // _WORD_BYTES))
            self._word = word, repeated
        return repeated[:length]

    def forget(self) -> None:
        """Nothing is read for some time: free memory."""
        self.unpacked.forget()

    def close(self) -> None:
        """Let go of the store."""
        self.unpacked.close()

    def _bytes(self, offset: int, length: int, raw: Callable[[int], memoryview]) -> memoryview:
        page, count = offset // PAGE, -(-length // PAGE)
        pieces = list(self.table.pieces(page, count))
        if len(pieces) == 1 and offset + length <= self._length:
            size, chunk, slot, _ = pieces[0]
            if size == count and chunk >= 0:  # nothing to be put together
                start = slot * PAGE
                return raw(chunk)[start : start + length]
        return memoryview(self._joined(pieces, offset, count, raw))[:length]

    def _joined(
        self,
        pieces: list[tuple[int, int, int, int]],
        offset: int,
        count: int,
        raw: Callable[[int], memoryview],
    ) -> bytearray:
        """Pages put together from pieces."""
        answer = bytearray(count * PAGE)
        at = 0
        for size, chunk, slot, word in pieces:
            end = at + size * PAGE
            if chunk >= 0:
                answer[at:end] = raw(chunk)[slot * PAGE : (slot + size) * PAGE]
            elif word:
                answer[at:end] = word.to_bytes(_WORD_BYTES, "little") * (size * PAGE // _WORD_BYTES)
            at = end
        beyond = min(offset + len(answer) - self._length, len(answer))
        if beyond > 0:
            answer[-beyond:] = bytes(beyond)
        return answer
