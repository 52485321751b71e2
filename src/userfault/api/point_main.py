"""The main program of the process that copies a memory as it is at one moment.

Its client stands still while it looks which pages were written, and copies them.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import signal
import socket

import msgspec

from userfault.api.helper import answer, served
from userfault.kernel.errors import SourceError, UserfaultError
from userfault.linux.freezing import Frozen
from userfault.linux.pagemap import PAGE, Pagemap
from userfault.linux.written import Run, add, joined, unprotected, written


class Seen(msgspec.Struct):
    """[`start`, `end`) is tracked; of what was written the pages are copied that are counted from
    `low` on, as far as `high`."""

    start: int
    end: int
    low: int
    high: int


class Wanted(msgspec.Struct):
    """What to copy of process `pid`: `always`, and of `seen` (by WP_ASYNC) and `guarded` (by other
    write protection) the pages that were written.  With it come its pagemap and its memory."""

    pid: int
    always: list[Run]
    seen: list[Seen]
    guarded: list[Seen]


class Copied(msgspec.Struct):
    """What was copied, in the order in which it lies in the memfd that comes along; or what went
    wrong.  `stopped_s`: for how long the client stood still."""

    runs: list[Run] = []
    stopped_s: float = 0.0
    failed: tuple[str, str, str] | None = None


def main(channel: socket.socket) -> None:
    """`channel`: to the client, who asks once or several times."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    while (request := served(channel)) is not None:
        data, fds = request
        wanted = msgspec.msgpack.decode(data, type=Wanted)
        copy = os.memfd_create("userfault-point", os.MFD_CLOEXEC)
        try:
            copied = _copied(wanted, fds[0], fds[1], copy)
        except UserfaultError as error:
            copied = Copied(failed=(error.what, error.cause, error.cure))
        except OSError as error:
            copied = Copied(failed=(str(error), "", ""))
        answer(channel, msgspec.msgpack.encode(copied), [copy])
        for fd in (*fds, copy):
            os.close(fd)
        if copied.failed is not None:
            return  # a thread that could not be stopped is let go with our end


def _copied(wanted: Wanted, pagemap_fd: int, memory: int, copy: int) -> Copied:
    pagemap = Pagemap.adopt(pagemap_fd)
    frozen = Frozen(wanted.pid)
    try:
        runs = joined(
            wanted.always,
            *(
                rounded(written(pagemap, part.start, part.end, protect=True), part.low, part.high)
                for part in wanted.seen
            ),
            *(
                rounded(unprotected(pagemap, part.start, part.end), part.low, part.high)
                for part in wanted.guarded
            ),
        )
        _copy(memory, runs, copy)
    finally:
        stopped = frozen.thaw()
    return Copied(runs, stopped)


def rounded(runs: list[Run], low: int, high: int) -> list[Run]:
    """These as whole pages counted from `low` on; what is behind `high` is left out."""
    found: list[Run] = []
    for start, end in runs:
        first = low + max(0, start - low) // PAGE * PAGE
        last = min(high, low - (low - end) // PAGE * PAGE)
        if first < last:
            add(found, first, last)
    return found


def _copy(memory: int, runs: list[Run], copy: int) -> None:
    length = sum(end - start for start, end in runs)
    if not length:
        return
    os.ftruncate(copy, length)
    with mmap.mmap(copy, length) as target, memoryview(target) as view:
        at = 0
        for start, end in runs:
            done = 0
            while done < end - start:
                with view[at + done : at + end - start] as part:
                    done += _read(memory, part, start + done)
            at += end - start


def _read(memory: int, target: memoryview, address: int) -> int:
    try:
        got = os.preadv(memory, [target], address)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EFAULT):
            raise
        got = 0
    if not got:
        raise SourceError(
            f"the page at {address:#x} cannot be read",
            cause="it is poisoned, guarded, unmapped, or behind the end of its file",
            cure="mend the memory, then store it",
        )
    return got
