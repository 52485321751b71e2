"""Pages that another process of ours gets from another host.

That process has the one connection to the host, and outlives a worker.  A worker has a socket to
it, which all workers of a family share and of which none keeps any state: through it goes one end
of a socket pair for each read that is under way at the same time, a *line*.  On a line a request is
a struct, its answer a struct with the bytes, or with why there are none.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections import deque

from userfault.kernel.errors import SourceError
from userfault.source.spec import PagesSpec

LINE = b"l"  # a packet: it brings the end of a line along
FINISHED = b"f"  # a packet: the restore is over, whatever becomes of it
DONE = struct.Struct("=cI")  # a packet: `D`, and a task that needs no page any more
_DONE = b"D"
REQUEST = struct.Struct("=QI")  # offset, bytes
ANSWER = struct.Struct("=?I")  # whether they are there; bytes of them, or of the reason


class PagesSource:
    """Reads by lines.  Thread-safe.  `fd`: the socket to that process, the caller's still."""

    def __init__(self, spec: PagesSpec, fd: int) -> None:
        self._spec = spec
        self._channel = socket.socket(fileno=os.dup(fd))
        self._idle: deque[socket.socket] = deque()  # append and pop are atomic
        self._closed = False

    def read(
        self, offset: int, length: int, *, urgent: bool = True, waited: float = 0.0
    ) -> memoryview:
        """`length` bytes from `offset`, zeros beyond the end of the source.  May block.

        Raises SourceError.
        """
        del urgent, waited  # the host answers in the order in which it is asked
        data = memoryview(bytearray(length))
        wanted = min(length, self._spec.length - offset)
        try:
            line = self._idle.pop() if self._idle else self._line()
        except (IndexError, OSError) as error:
            raise self._error(
                offset, f"the process that asks it cannot be reached: {error}"
            ) from None
        try:
            line.sendall(REQUEST.pack(self._spec.offset + offset, wanted))
            there, size = ANSWER.unpack(_exactly(line, ANSWER.size))
            if there and size == wanted:
                _fill(line, data[:wanted])
            else:
                why = _exactly(line, size).decode(errors="replace")
        except OSError as error:
            line.close()
            why = error.strerror or str(error)
            raise self._error(offset, f"the process that asks it has ended: {why}") from None
        self._idle.append(line)
        if self._closed:
            self._hang_up()
        if not there:
            raise self._error(offset, why)
        return data

    def done(self) -> None:
        """The task needs no page any more: its memory is in, or it has ended."""
        with contextlib.suppress(OSError):
            self._channel.send(DONE.pack(_DONE, self._spec.task), socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Ask for nothing more.  Lines of reads that are under way go with these."""
        self._closed = True
        self._hang_up()
        self._channel.close()

    def _line(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._channel, [LINE], [theirs.fileno()])
        return ours

    def _hang_up(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _error(self, offset: int, cause: str) -> SourceError:
        return SourceError(
            f"cannot get pages from {self._spec.name}",
            offset=offset,
            cause=cause,
            cure="see why the other host, or the network, does not answer",
        )


def finished(channel: socket.socket) -> None:
    """Tell that process that the restore is over: whoever is done from now on, or was, is done."""
    with contextlib.suppress(OSError):
        channel.send(FINISHED, socket.MSG_DONTWAIT)


def gone(channel: int) -> bool:
    """Whether that process has ended, as it does when the other host was told that all is done."""
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    _fill(line, memoryview(data))
    return bytes(data)


def _fill(line: socket.socket, target: memoryview) -> None:
    done = 0
    while done < len(target):
        count = line.recv_into(target[done:])
        if not count:
            raise ConnectionResetError(0, "it said nothing more")
        done += count
