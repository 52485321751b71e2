"""What `criu restore --lazy-pages` says to whom it takes for `criu lazy-pages` (criu/uffd.c, 4.2).

Its processes share one connection, one at a time.  For each task: the process id that it has in the
images, 32 bits in the machine's byte order; then, unless that is negative (a zombie has no memory),
a byte that brings a userfaultfd along.  At the end one number that no process can have.  Nothing is
ever said in return.
"""

from __future__ import annotations

import struct

import msgspec

from userfault.wire.errors import BadMessageError

MOST = 5  # bytes of one message
_NUMBER = struct.Struct("=i")
_FINISHED = 0x52535446  # "RSTF", LAZY_PAGES_RESTORE_FINISHED
_HIGHEST_PID = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel


class Task(msgspec.Struct, frozen=True):
    """A task that has memory; its userfaultfd comes with the message."""

    pid: int
    size: int = MOST


class Zombie(msgspec.Struct, frozen=True):
    """One that has none."""

    pid: int
    size: int = _NUMBER.size


class Finished(msgspec.Struct, frozen=True):
    """The restore is over: all memory is registered, and the tasks run."""

    size: int = _NUMBER.size


Message = Task | Zombie | Finished


def first(data: bytes) -> Message | None:
    """The message that `data` begins with, of `size` bytes; None while it is not there as a whole.

    Raises BadMessageError for what no CRIU says.
    """
    if len(data) < _NUMBER.size:
        return None
    (number,) = _NUMBER.unpack_from(data)
    if number == _FINISHED:
        return Finished()
    if not 0 < abs(number) <= _HIGHEST_PID:
        raise _bad(f"{number} is no process id")
    if number < 0:
        return Zombie(-number)
    if len(data) < MOST:
        return None
    if data[_NUMBER.size]:
        raise _bad(f"byte {data[_NUMBER.size]:#x} where a userfaultfd is to come")
    return Task(number)


def _bad(cause: str) -> BadMessageError:
    return BadMessageError(
        "this is no lazy restore of CRIU",
        cause=cause,
        cure="look which program, in which version, connects to this socket",
    )
