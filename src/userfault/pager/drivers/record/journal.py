"""What outlives a killed worker: one memfd that every process of the pager's family maps.

Nobody else has it: not the client, which may have fewer rights than its pager (`status.py` is what
that is shown).  It holds four things, each written so that a reader finds it whole, wherever the
writer was killed (a store of one aligned word is the only thing that is never half done):

* **Words**: who does what in the family, how far reading has come.
* **The ring**: userfaultfd messages are read straight into it, so that one that was taken from the
  kernel's queue cannot be lost.  The 64 places after the last batch are zero; so what lies there
  after a kill was read, even if the reader never saw its read return.
* **The fill under way**: the ioctl's own argument (or those of several: `many.py`).  The kernel
  writes its result there before it wakes anybody (fs/userfaultfd.c, put_user before wake_userfault;
  4.3 to 7.3), so a page that a client can have seen is never taken for one that was not filled.
* **The record**: what is served, as msgpack.  A new one is written beside the last one, then one
  word points to it.  What changes of it is added behind it, then the same word says that there is
  more: with a thousand clients the whole takes a millisecond, and one of them some microseconds.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import mmap
import os
import struct
import sys
from collections.abc import Iterator

from userfault.kernel.errors import PagerError
from userfault.linux.libc import Pinned, madvise, mlock
from userfault.linux.refused import calling
from userfault.pager.core.actions import UNPROTECT
from userfault.pager.core.recorded import FillRecord
from userfault.pager.drivers.record import many
from userfault.pager.drivers.record.status import ROLES, Shown, Status
from userfault.uapi.mman import MADV_POPULATE_WRITE
from userfault.uapi.userfaultfd import UFFDIO_COPY_MODE_WP, uffd_msg

MESSAGE = uffd_msg.size
BATCH = 64  # messages a read; 64 threads waiting at once are rare, and more come with the next
_RING = 1024  # messages
_MESSAGE_WORDS = MESSAGE // 8
_AHEAD = _RING - BATCH

_PAGES_AT = 4096  # of words: one for the family that serves, one for the family to come
_FILL_AT = _PAGES_AT + 2 * 4096
_ARGUMENT_AT = _FILL_AT + 32  # behind context, kind, page, count
_RESULT_AT = _ARGUMENT_AT + 32
_RING_AT = _FILL_AT + 4096
_MANY_AT = _RING_AT + _RING * MESSAGE
_RECORDS_AT = _MANY_AT + many.SIZE
_ALIGNMENT = 64
_LENGTH = struct.Struct("=I")  # before each part of a record
_ADDED = 1 << 16  # bytes that may be added to a small record
# fcntl.ioctl copies an argument of at most 1024 bytes to a buffer of its own and back; a longer
# one goes to the kernel where it lies.
_DIRECT = 1100

_fill = struct.Struct("=QqqQ")  # context, kind, page, count
_mode = struct.Struct("=Q")
_MODE_AT = 32 + 24  # the same place for both shapes of argument
_pack_copy = struct.Struct("=QqqQQQQQq").pack_into  # ..., dst, src, len, mode, copy
_pack_short = struct.Struct("=QqqQQQQQq").pack_into  # ..., 0, start, len, mode, result
_ZEROS = bytes(BATCH * MESSAGE)


class Word(enum.IntEnum):
    """The words of a family, by place."""

    RECORD = 1  # where the record lies: offset << 32 | length
    HEAD = 2  # messages whose batch is wholly done
    CONTEXT = 3  # whose messages the batch under way are
    WORKER = 4  # members: process id | its pidfd << 32
    SUPERVISOR = 5
    SPARE = 6
    CALL_FD = 7  # eventfd: the spare is called
    WATCH_FD = 8  # by which the spare watches its supervisor
    CHANNEL_FD = 9  # socket to whoever waits for the start, until a worker serves
    ASKING = 10  # the client whose request is being answered
    RETIRED = 11  # the family has nobody left to serve
    TAKEOVERS = 12
    CRASHES = 13  # workers that ended by an error of their own
    SUCCESSOR_FD = 14  # pidfd of the process that a handover was begun with
    STATUS_FD = 16  # what the client that made the family is shown (0: nothing)
    UP = 17  # a worker of this family, or of one before it, has served
    STDERR_FD = 18  # the client's standard error, until a worker serves
    EARLY = 19  # workers that were killed before they served


_INHERITED = (Word.RECORD, Word.HEAD, Word.CONTEXT, Word.TAKEOVERS, Word.UP)


class Journal:
    """The shared memory of a family, and of the one that may replace it (`handover.py`).

    `words` are those of the family that serves, or with `coming` of the one to come.  `fd` may be
    open for reading only: then nothing of it can be written.  Not thread-safe: a word has one
    writer at a time.
    """

    def __init__(self, fd: int, *, coming: bool = False) -> None:
        self.fd = fd
        written = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if written else 0)
        self._map = mmap.mmap(fd, _RECORDS_AT, prot=protection)
        whole = memoryview(self._map)
        self._serving = whole[:8].cast("Q")  # which page of words
        pages = whole[_PAGES_AT:_FILL_AT].cast("Q")
        self._pages = (pages[:512], pages[512:])
        self._page = self._serving[0] ^ coming
        self.words = self._pages[self._page]
        self._results = whole[_RESULT_AT : _RESULT_AT + 8].cast("q")
        self._record = whole[_FILL_AT : _FILL_AT + 4096]
        self.ring = whole[_RING_AT:_MANY_AT]
        self._ring_words = self.ring.cast("Q")
        # The result lies at the same place for both shapes of argument.
        self.copy_argument = whole[_ARGUMENT_AT : _ARGUMENT_AT + _DIRECT]
        self.short_argument = whole[_ARGUMENT_AT + 8 : _ARGUMENT_AT + 8 + _DIRECT]
        self.many = many.ManyFills(whole[_MANY_AT:_RECORDS_AT])
        self._status: Status | None = None
        self._head = self.words[Word.HEAD]
        self.applied = 0  # events of the batch under way that are in the record

    @classmethod
    def create(cls) -> Journal:
        """A new one.  Raises OSError: no memory, no descriptor."""
        with calling("memfd_create"):
            fd = os.memfd_create("userfault-journal", os.MFD_CLOEXEC)
        try:
            # Now, not in the middle of a fault, is the time to find that there is no memory.
            with calling("fallocate"):
                os.posix_fallocate(fd, 0, _RECORDS_AT)
            with calling("mmap"):
                return cls(fd)
        except OSError:
            os.close(fd)
            raise

    def take_up(self) -> None:
        """Become the one who reads messages: this process was forked when others read them.

        All of it is brought into memory: a killed process whose message has no page to go to loses
        it.
        """
        self._head = self.words[Word.HEAD]
        with Pinned(self._map) as pinned, contextlib.suppress(OSError):  # a limit on locked memory
            madvise(pinned.address, pinned.length, MADV_POPULATE_WRITE)
            mlock(pinned.address, pinned.length)

    def close(self) -> None:
        """Unmap it and close its descriptor (the family's ends with it)."""
        fills = self._results, self._record, self.copy_argument, self.short_argument
        for view in (self._serving, *self._pages, self._ring_words, self.ring, *fills):
            view.release()
        self.many.close()
        self._map.close()
        os.close(self.fd)
        if self._status is not None:
            self._status.close()

    # --- families --------------------------------------------------------------------------------

    @property
    def serves(self) -> bool:
        """Whether ours is the family that serves, not one to come or one that was replaced."""
        return self._serving[0] == self._page

    def serve(self) -> None:
        """Ours is the family that serves, from this store on."""
        self._serving[0] = self._page
        self._show()

    def inherit(self) -> None:
        """Begin the words of a family to come: how far reading has come, and what is counted."""
        before = self._pages[1 - self._page]
        self.words[:] = memoryview(bytes(4096)).cast("Q")
        for word in _INHERITED:
            self.words[word] = before[word]
        self._head = self.words[Word.HEAD]

    # --- members ---------------------------------------------------------------------------------

    def member(self, role: Word) -> tuple[int, int]:
        """Process id and pidfd (in the family's table) of who plays `role`; zeros for nobody."""
        word = self.words[role]
        return word & 0xFFFFFFFF, word >> 32

    def appoint(self, role: Word, pid: int, process: int) -> None:
        """`pid`, with pidfd `process`, plays `role` from now on: one store, never half done."""
        self.words[role] = process << 32 | pid
        if self.serves:
            self._show()

    def _show(self) -> None:
        """Let the client see who serves it."""
        fd = self.words[Word.STATUS_FD]
        if self._status is None:
            if not fd:
                return
            self._status = Status(fd, write=True)
        for role in ROLES:
            self._status.words[role] = self.member(Word[role.name])[0]
        self._status.words[Shown.TAKEOVERS] = self.words[Word.TAKEOVERS]

    # --- messages --------------------------------------------------------------------------------

    def batch(self, context: int, most: int = BATCH) -> tuple[int, memoryview]:
        """Where the next messages of `context`, `most` or fewer, go: byte in the ring, and view."""
        self.words[3] = context  # Word.CONTEXT; plain numbers cost less in the fault's path
        at = self._head % _RING * MESSAGE
        return at, self.ring[at : at + most * MESSAGE]

    def batch_done(self, size: int) -> None:
        """The batch of `size` bytes is wholly done: its messages are history."""
        head = self._head
        place = (head + BATCH) % _RING
        if size == MESSAGE:  # nearly always: its first word, which no message has as zero
            self._ring_words[place * _MESSAGE_WORDS] = 0
            self._head = self.words[2] = head + 1  # Word.HEAD
        else:
            at = place * MESSAGE
            first = min(size, len(self.ring) - at)
            self.ring[at : at + first] = _ZEROS[:first]
            if first < size:
                self.ring[: size - first] = _ZEROS[: size - first]
            self._head = self.words[2] = head + size // MESSAGE
        self.applied = 0

    @property
    def head(self) -> int:
        """The number of the first message of the batch under way."""
        return self._head

    def unfinished(self) -> list[memoryview]:
        """The messages of the batch that a killed worker did not finish."""
        self._head = self.words[Word.HEAD]  # others have read since we were forked
        at, view = self.batch(self.words[Word.CONTEXT])
        del at
        found = []
        for start in range(0, len(view), MESSAGE):
            message = view[start : start + MESSAGE]
            if not message[0]:
                break
            found.append(message)
        return found

    # --- the fill under way ----------------------------------------------------------------------

    def copying(
        self,
        context: int,
        kind: int,
        page: int,
        count: int,
        dst: int,
        src: int,
        length: int,
        mode: int = 0,
    ) -> None:
        """A UFFDIO_COPY begins; its argument is `copy_argument`."""
        self._results[0] = 0  # first: nothing of what comes next was done
        _pack_copy(self._record, 0, context, kind, page, count, dst, src, length, mode, 0)

    def filling(
        self, context: int, kind: int, page: int, count: int, start: int, length: int, mode: int = 0
    ) -> None:
        """A ZEROPAGE, CONTINUE, POISON or WRITEPROTECT begins; its argument is `short_argument`."""
        self._results[0] = 0
        _pack_short(self._record, 0, context, kind, page, count, 0, start, length, mode, 0)

    def forget_fill(self) -> None:
        """What the last fill brought in is about to be taken out again."""
        self._results[0] = 0

    def done_bytes(self) -> int:
        """How far the kernel came with the fill."""
        return max(self._results[0], 0)

    def last_fill(self) -> FillRecord:
        """The fill that was under way, or the last one done."""
        context, kind, page, count = _fill.unpack_from(self._record)
        mode = _mode.unpack_from(self._record, _MODE_AT)[0]
        protect = kind != UNPROTECT and bool(mode & UFFDIO_COPY_MODE_WP)
        return FillRecord(context, kind, page, count, self.done_bytes(), protect)

    # --- the record ------------------------------------------------------------------------------

    def commit(self, data: bytes) -> None:
        """Put a new record in place of the last one.  Raises PagerError when there is no room."""
        place, length = self._place()
        framed = _LENGTH.pack(len(data)) + data
        new = _RECORDS_AT
        if place and len(framed) > place - new:
            new = -(-(place + length) // _ALIGNMENT) * _ALIGNMENT
        self._put(framed, new)
        self.words[Word.RECORD] = new << 32 | len(framed)

    def append(self, data: bytes) -> bool:
        """Add to the record what has changed of it.

        False when so much was added that all of it should be written anew, when there is none yet,
        or when there would be no room left in which to write it anew.
        """
        place, length = self._place()
        whole = int.from_bytes(os.pread(self.fd, _LENGTH.size, place), sys.byteorder)
        if not place or length > 2 * whole + _ADDED:
            return False
        framed = _LENGTH.pack(len(data)) + data
        end = length + len(framed)
        if not _has_room(self.fd, place + 2 * end + _ALIGNMENT):
            return False
        self._put(framed, place + length)
        self.words[Word.RECORD] = place << 32 | end
        return True

    def _put(self, data: bytes, at: int) -> None:
        try:
            written = os.pwrite(self.fd, data, at)
            if written < len(data):
                written += os.pwrite(self.fd, data[written:], at + written)
        except OSError as error:
            raise no_room(error) from error
        if written < len(data):
            raise no_room(OSError(28, "No space left on device"))

    def record(self) -> bytes:
        """The last record that was committed as a whole; empty before the first."""
        return next(iter(self.parts()), b"")

    def parts(self) -> list[bytes]:
        """That, and what was added to it since, in turn.  Raises ValueError for what is none."""
        place, length = self._place()
        room = os.fstat(self.fd).st_size - place  # a length that lies must not cost memory
        data = os.pread(self.fd, min(length, max(room, 0)), place) if place else b""
        return list(_parts(data))

    def _place(self) -> tuple[int, int]:
        word = self.words[Word.RECORD]
        return word >> 32, word & 0xFFFFFFFF


def _parts(data: bytes) -> Iterator[bytes]:
    """The parts of a record, each behind its length.  Raises ValueError."""
    at = 0
    while at < len(data):
        behind = at + _LENGTH.size + int.from_bytes(data[at : at + _LENGTH.size], sys.byteorder)
        if behind > len(data):
            raise ValueError("a part of it is longer than the whole")
        yield data[at + _LENGTH.size : behind]
        at = behind


def _has_room(fd: int, size: int) -> bool:
    """Whether the memory can be as large; then it is."""
    held = os.fstat(fd).st_size
    try:
        if held < size:
            os.posix_fallocate(fd, held, size - held)
    except OSError:
        return False
    return True


def no_room(error: OSError) -> PagerError:
    """The journal cannot grow."""
    return PagerError(
        "the pager's journal cannot grow",
        cause=os.strerror(error.errno or 0),
        cure="raise the limit that is hit: memory cgroup or file size (ulimit -f)",
    )
