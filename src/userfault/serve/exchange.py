"""Requests and answers on one connection, each exactly once, whoever is killed when.

A client that waits for an answer waits for ever if it is lost, and is lost itself if it comes
twice.  A worker may be killed between any two system calls.  So where the two stand is held by the
kernel, not by the worker, and changes in the same call as what it tells:

- A request is looked at (MSG_PEEK) with SO_PEEK_OFF, written down, and taken out of the socket when
  it is answered.  That takes the same number of bytes off the socket's peek offset (socket(7)): the
  offset says how much of it was taken.
- An answer is written into a file, and sent from there by sendfile(2) without an offset of ours,
  which moves the file's own position by what was sent: the position says what was.

The file is a memfd that the family keeps; its position and the socket's offset belong to the open
descriptions, which a successor has too, also one of another family.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable

from userfault.linux.libc import fallocate
from userfault.linux.pidfd import close_all
from userfault.serve import handshake
from userfault.uapi.mman import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

MOST_ASKED = 64 << 10  # bytes of a request
_PEEK_OFF = 42  # SO_PEEK_OFF of asm-generic/socket.h
_MOST_ANSWERED = 1 << 40
_NOTE, _ASKED = 64, 4096  # where they lie in the file
_ANSWER = _ASKED + MOST_ASKED
_IDLE, _ASKS, _ANSWERS = 0, 1, 2
_STATE = struct.Struct("=Q")
# Behind the state: bytes of the request, how many were looked at with it, bytes of the answer.
_SIZES = struct.Struct("=QQQ")
Bytes = bytes | bytearray | memoryview


class EndedError(Exception):
    """The other side has closed the connection."""


def new_file() -> int:
    """A file for one connection: the caller's.  Raises OSError."""
    made = os.memfd_create("userfault-exchange", os.MFD_CLOEXEC)
    os.ftruncate(made, _ANSWER)
    return made


class Exchange:
    """On `channel`, with its `file`, which stays the caller's.  Goes on where another one stopped.

    `size_of`: how many bytes of a message there must be, given those that came: as soon as there
    are as many, it is so long.  `fds`: descriptors that came with what was looked at; whoever
    takes one takes it out of the list.
    """

    def __init__(self, channel: socket.socket, file: int, size_of: Callable[[bytes], int]) -> None:
        self._channel = channel
        self._file = file
        self._size_of = size_of
        self._held = mmap.mmap(file, _ANSWER)
        self._came = b""
        self.fds: list[int] = []
        self._written: tuple[Bytes, ...] = ()
        channel.setblocking(False)
        if self._state == _IDLE:
            self._look_from(0)

    def next(self) -> bytes | None:
        """The request that is to be answered: the same one until it is; None: none is there.

        Raises EndedError, OSError, and what `size_of` raises.
        """
        if self._state == _ANSWERS:
            return None
        if self._state == _IDLE and not self._peek():
            return None
        size, *_ = self._sizes
        return self._held[_ASKED : _ASKED + size]

    def answer(self, *pieces: Bytes) -> bool:
        """The answer to it; nothing, for one that has none.  Whether all of it is sent: if not,
        `send` is to be called again.  Raises EndedError, OSError."""
        size, looked, _ = self._sizes
        while (left := size - looked + self._offset()) > 0:
            self._channel.recv(left)
        if pieces != self._written:
            self._write(pieces)
        os.lseek(self._file, _ANSWER, os.SEEK_SET)
        self._sizes = size, looked, sum(map(len, pieces))
        self._state = _ANSWERS
        return self.send()

    def _write(self, pieces: tuple[Bytes, ...]) -> None:
        # The pages themselves are in the other's queue until it has read the last answer
        # (MSG_SPLICE_PAGES): they are not written again, but left to it.
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        fallocate(self._file, mode, _ANSWER, _MOST_ANSWERED)
        at = _ANSWER
        for piece in pieces:
            view = memoryview(piece)
            while view:
                done = os.pwrite(self._file, view, at)
                at, view = at + done, view[done:]
        short = len(pieces) == 1 and isinstance(pieces[0], bytes)
        self._written = pieces if short else ()

    def send(self) -> bool:
        """What is left of the answer: whether nothing is.  Raises EndedError, OSError."""
        if self._state != _ANSWERS:
            return True
        *_, size = self._sizes
        while (left := _ANSWER + size - os.lseek(self._file, 0, os.SEEK_CUR)) > 0:
            try:
                os.sendfile(self._channel.fileno(), self._file, None, left)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.ECONNRESET):
                    raise EndedError from None
                raise
        self._state = _IDLE
        self._came = b""
        self._look_from(0)
        return True

    def close(self) -> None:
        """Let go of the file's memory, and of descriptors that nobody took."""
        self._held.close()
        close_all(self.fds)
        self.fds = []

    def _peek(self) -> bool:
        """Whether a whole request is there; then it is written down."""
        while (size := self._size_of(self._came)) > len(self._came):
            assert size <= MOST_ASKED, "whoever says so bounds it"
            peeked = handshake.peek(self._channel)
            if peeked is None:
                return False
            self.fds += peeked.fds
            if peeked.ended:
                raise EndedError
            self._came += peeked.data
        self._held[_ASKED : _ASKED + size] = self._came[:size]
        self._sizes = size, len(self._came), 0
        self._state = _ASKS
        return True

    @property
    def note(self) -> int:
        """A byte of the user's, 0 at first, which outlives the process."""
        return self._held[_NOTE]

    @note.setter
    def note(self, note: int) -> None:
        self._held[_NOTE] = note

    @property
    def _sizes(self) -> tuple[int, int, int]:
        size, looked, answer = _SIZES.unpack_from(self._held, _STATE.size)
        return size, looked, answer

    @_sizes.setter
    def _sizes(self, sizes: tuple[int, int, int]) -> None:
        _SIZES.pack_into(self._held, _STATE.size, *sizes)

    @property
    def _state(self) -> int:
        return int(_STATE.unpack_from(self._held)[0])

    @_state.setter
    def _state(self, state: int) -> None:
        _STATE.pack_into(self._held, 0, state)

    def _offset(self) -> int:
        return self._channel.getsockopt(socket.SOL_SOCKET, _PEEK_OFF)

    def _look_from(self, offset: int) -> None:
        self._channel.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, offset)
