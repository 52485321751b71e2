"""A line on the client's standard error, which the pager's processes inherit.

Telling must never hold up serving, and nobody may be reading there: a pipe that is full, a terminal
that stands still.  Its flags belong to the client too, so it cannot be made not to block; instead
each write is made in a way that does not.  What is not taken at once is dropped, and counted in the
next line that is.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import os
import select
import socket
import stat

from userfault.kernel.names import shown
from userfault.pager.drivers.processes.texts import clipped

_ERROR = 2
_MOST = select.PIPE_BUF  # bytes of a write that a pipe takes whole or not at all (pipe(7))
_dropped = 0


def say(text: str, about: str = "") -> None:
    """One write, so that lines of several processes do not mix.  `about`: whom it concerns.

    With USERFAULT_LOG=json in the environment a line is an object.
    """
    if os.environ.get("USERFAULT_LOG") == "json":
        say_raw(_as_json(text, about))
    else:
        say_raw(f"userfault: {about}{clipped(shown(text), _MOST - 200)}\n".encode())


def _as_json(text: str, about: str) -> bytes:
    import json  # noqa: PLC0415  # for few users, and it takes 2 ms of a pager's start

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "process": os.getpid(), "about": about.rstrip(": "), "text": ""}
    room = _MOST - len(json.dumps(line)) - 1
    while True:  # what is no plain letter takes up to twelve bytes
        line["text"] = clipped(text, max(room, 0))
        data = json.dumps(line).encode() + b"\n"
        if len(data) <= _MOST or room <= 0:
            return data
        room -= len(data) - _MOST


def say_raw(data: bytes) -> None:
    """Bytes that were meant for standard error, at most what a pipe takes at once."""
    global _dropped  # noqa: PLW0603  # there is one standard error
    if not data:
        return
    if _dropped:
        lost = f"userfault: {_dropped} messages were dropped: nobody read standard error\n".encode()
        if _write(lost):
            _dropped = 0
    if not _write(data):
        _dropped += 1


class Errors(io.TextIOBase):
    """In place of sys.stderr: what Python itself says there does not block either."""

    def write(self, text: str) -> int:
        """All of it, in writes that are taken or dropped."""
        data = text.encode("utf-8", "backslashreplace")
        for at in range(0, len(data), _MOST):
            say_raw(data[at : at + _MOST])
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True


def _write(data: bytes) -> bool:
    """Whether it was taken, or can never be (a closed standard error is none of our business)."""
    try:
        return _written(data)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _written(data: bytes) -> bool:
    kind = os.fstat(_ERROR).st_mode
    if stat.S_ISREG(kind):  # which always has room, or an error
        os.write(_ERROR, data)
        return True
    if stat.S_ISSOCK(kind):
        return _sent(data)
    try:
        return os.pwritev(_ERROR, [data], -1, os.RWF_NOWAIT) == len(data)
    except (OSError, AttributeError) as error:
        # Pipes know the flag since 6.4, terminals do not; the C library of some does not.
        if getattr(error, "errno", errno.ENOSYS) not in _LACKING:
            raise
    return _reopened(data)


_LACKING = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE)


def _sent(data: bytes) -> bool:
    channel = socket.socket(fileno=_ERROR)
    try:
        return channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
    finally:
        channel.detach()


def _reopened(data: bytes) -> bool:
    """By an open file of our own, whose flags are nobody else's."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        own = os.open(f"/proc/self/fd/{_ERROR}", flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody holds the other end of
            raise
        return _polled(data)  # no /proc, no descriptor left, or the terminal of another user
    with contextlib.ExitStack() as end:
        end.callback(os.close, own)
        return os.write(own, data) == len(data)


def _polled(data: bytes) -> bool:
    """As long as it has room now.  (Another process may take that room in between.)"""
    poll = select.poll()
    poll.register(_ERROR, select.POLLOUT)
    if not any(event & select.POLLOUT for _, event in poll.poll(0)):
        return False
    os.write(_ERROR, data)
    return True
