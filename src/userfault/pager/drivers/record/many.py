"""Fills that are made one after the other by one action, as they are recorded.

As with the fill under way (`journal.py`), each has its ioctl's own argument, into which the kernel
writes its result before it wakes anybody.  How many count is one word: it is 0 while they are
written, so that a fill is never taken for made that was not begun.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from userfault.pager.core.recorded import FillRecord

MOST = 208
_FIRST_AT = 64  # behind the word
_EACH = 72  # a fill
_ARGUMENT_AT = 32  # behind context, kind, page, count
_RESULT_AT = _ARGUMENT_AT + 32
# fcntl.ioctl copies an argument of at most 1024 bytes to a buffer of its own and back; a longer
# one goes to the kernel where it lies.
_DIRECT = 1100
# Bytes that they take, with the length of the last argument.  With them the journal takes 64 KiB:
# before Linux 5.16 a process may lock no more, where nobody has raised the limit (getrlimit(2)).
SIZE = 16384
assert _FIRST_AT + MOST * _EACH + _DIRECT <= SIZE

_fill = struct.Struct("=QqqQ")  # context, kind, page, count
_result = struct.Struct("=q")
_WORDS = _EACH // 8  # of a fill: context, kind, page, count, and the five of its argument


class ManyFills:
    """Those in the memory `held`, which is zeros at first.

    `copies`, `others`: the arguments of UFFDIO_COPYs, and of ZEROPAGEs and CONTINUEs, by number.
    `word`: how many count.
    """

    def __init__(self, held: memoryview) -> None:
        self.word = held[:8].cast("Q")
        self._held = held[_FIRST_AT:]
        self.words = held[_FIRST_AT : _FIRST_AT + MOST * _EACH].cast("Q")
        places = [at + _ARGUMENT_AT for at in range(0, MOST * _EACH, _EACH)]
        self.copies = [self._held[at : at + _DIRECT] for at in places]
        self.others = [self._held[at + 8 : at + 8 + _DIRECT] for at in places]

    def begin(self, context: int, kind: int, *columns: Sequence[int]) -> None:
        """Fills begin, `MOST` at most.  Their columns: page, count, then the first three words of
        their arguments: of a COPY dst, src and length, of others nothing, start and length.

        Columns are written as such: fill by fill would take three times as long.
        """
        self.word[0] = 0
        words, count = self.words, len(columns[0])
        end = count * _WORDS
        nothing = array("Q", bytes(8 * count))
        constant = array("Q", [context]) * count, array("Q", [kind]) * count
        given = (array("Q", column) for column in columns)
        for place, column in enumerate((*constant, *given, nothing, nothing)):
            words[place:end:_WORDS] = memoryview(column)
        self.word[0] = count

    def done_bytes(self, number: int) -> int:
        """How far the kernel came with one of them."""
        done: int = _result.unpack_from(self._held, number * _EACH + _RESULT_AT)[0]
        return max(done, 0)

    def last(self) -> list[FillRecord]:
        """Those that were under way, or made last; some may not have been begun."""
        found = []
        for number in range(min(self.word[0], MOST)):
            context, kind, page, count = _fill.unpack_from(self._held, number * _EACH)
            found.append(FillRecord(context, kind, page, count, self.done_bytes(number)))
        return found

    def close(self) -> None:
        """Let go of the memory."""
        for view in (*self.copies, *self.others, self.words, self._held, self.word):
            view.release()
