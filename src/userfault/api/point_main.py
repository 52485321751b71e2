"""The main program of the process that copies a memory as it is at one moment.

Its client stands still while it looks which pages were written, and copies them.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import signal
import socket
import time
from collections.abc import Iterator

import msgspec

from userfault.api.helper import answer, served
from userfault.kernel.errors import KernelError, SourceError, UserfaultError
from userfault.linux import libc
from userfault.linux.freezing import Frozen
from userfault.linux.pagemap import PAGE, Pagemap
from userfault.linux.written import Run, add, joined, unprotected, written

_ROUNDS = 40
_LITTLE = 1 << 20  # bytes that are copied in the time in which everybody is stopped and let go
_AT_ONCE = 4 << 20  # bytes copied in one stop: 2 to 5 ms, with the pages that are made for them
_BREATH_S = 0.0005  # between two stops, and less where that does not help
_MOST = 256 << 20  # bytes copied before the last stop, beyond twice what was there at first
_RUNS_AT_ONCE = 1024  # IOV_MAX (process_vm_readv(2))
_MADV_POPULATE_WRITE = 23
_EAGER = -10  # nice(2): while we work, all others wait


class Seen(msgspec.Struct):
    """[`start`, `end`) is tracked; of what was written the pages are copied that are counted from
    `low` on, as far as `high`."""

    start: int
    end: int
    low: int
    high: int


class Wanted(msgspec.Struct):
    """What to copy of process `pid`: `early`, before it stands still; `always`; and of `seen` (by
    WP_ASYNC) and `guarded` (by other write protection) the pages that were written.  With it come
    its pagemap and its memory."""

    pid: int
    early: list[Run]
    always: list[Run]
    seen: list[Seen]
    guarded: list[Seen]


class Copied(msgspec.Struct):
    """What was copied, in the order in which it lies in the memfd that comes along, some of it more
    than once; or what was written, and what went wrong.  `stopped_s`: for how long the client stood
    still.  `lost`: a mapping is tracked no more."""

    runs: list[Run] = []
    stopped_s: float = 0.0
    held_s: float = 0.0
    failed: tuple[str, str, str] | None = None
    lost: bool = False


def main(channel: socket.socket) -> None:
    """`channel`: to the client, who asks once or several times."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    with contextlib.suppress(OSError):  # for the privileged alone
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, min(mine, _EAGER))
    while (request := served(channel)) is not None:
        data, fds = request
        wanted = msgspec.msgpack.decode(data, type=Wanted)
        copy = os.memfd_create("userfault-point", os.MFD_CLOEXEC)
        seen: list[Run] = []  # what was protected again
        try:
            copied = _copied(wanted, fds[0], fds[1], copy, seen)
        except UserfaultError as error:
            lost = isinstance(error, KernelError) and error.errno == errno.EPERM
            copied = Copied(seen, failed=(error.what, error.cause, error.cure), lost=lost)
        except OSError as error:
            copied = Copied(seen, failed=(str(error), "", ""))
        answer(channel, msgspec.msgpack.encode(copied), [copy])
        for fd in (*fds, copy):
            os.close(fd)
        if copied.failed is not None:
            return  # a thread that could not be stopped is let go with our end


def _copied(wanted: Wanted, pagemap_fd: int, memory: int, target: int, seen: list[Run]) -> Copied:
    pagemap = Pagemap.adopt(pagemap_fd)
    copy = _Copy(wanted.pid, memory, target)
    stops = _Stops(wanted.pid)
    early, room = wanted.early, _bytes(wanted.always) + 2 * _AT_ONCE
    most, breath_s = 2 * _bytes(early) + _MOST, 0.0
    for _ in range(_ROUNDS):  # each round has the less to do, the faster we are than who writes
        if breath_s:
            _copy_holding(stops, copy, early, room, breath_s)
        else:
            copy.add(early)
            copy.have(room)  # before the look: what is written meanwhile is seen by it
        fewer = _written(pagemap, wanted.seen)
        seen += fewer
        if _bytes(fewer) * 2 > _bytes(early):
            breath_s = breath_s / 4 or _BREATH_S
        early = fewer
        if _bytes(early) <= (_AT_ONCE if breath_s else _LITTLE) or copy.length > most:
            break
    copy.have(2 * _bytes(early) + room)  # mostly it is there
    with stops.one():
        last = _written(pagemap, wanted.seen)
        seen += last
        copy.add(joined(early, wanted.always, last, _unprotected(pagemap, wanted.guarded)))
    copy.end()
    return Copied(copy.runs, stops.longest, stops.all)


def _copy_holding(stops: _Stops, copy: _Copy, runs: list[Run], room: int, breath_s: float) -> None:
    """Who writes faster than we copy is held most of the time, but never for long."""
    for some in _pieces(runs):
        with stops.one():
            copy.have(room + _bytes(some))
            copy.add(some)
        time.sleep(breath_s)


def _pieces(runs: list[Run]) -> Iterator[list[Run]]:
    """The same in the same order, each list as much as is copied in one stop."""
    some: list[Run] = []
    left = _AT_ONCE
    for start, end in runs:
        at = start
        while at < end:
            cut = min(end, at + left)
            some.append((at, cut))
            left -= cut - at
            at = cut
            if not left:
                yield some
                some, left = [], _AT_ONCE
    if some:
        yield some


class _Stops:
    """For how long the process `pid` stood still, in seconds: at the `longest`, and in `all`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.longest = self.all = 0.0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """It stands still until the end of the block."""
        frozen = Frozen(self._pid)
        try:
            yield
        finally:
            took = frozen.thaw()
            self.longest = max(self.longest, took)
            self.all += took


def _written(pagemap: Pagemap, seen: list[Seen]) -> list[Run]:
    """What was written since the last time, which is protected again."""
    return joined(
        *(rounded(written(pagemap, s.start, s.end, protect=True), s.low, s.high) for s in seen)
    )


def _unprotected(pagemap: Pagemap, guarded: list[Seen]) -> list[Run]:
    return joined(*(rounded(unprotected(pagemap, s.start, s.end), s.low, s.high) for s in guarded))


def rounded(runs: list[Run], low: int, high: int) -> list[Run]:
    """These as whole pages counted from `low` on; what is behind `high` is left out."""
    found: list[Run] = []
    for start, end in runs:
        first = low + max(0, start - low) // PAGE * PAGE
        last = min(high, low - (low - end) // PAGE * PAGE)
        if first < last:
            add(found, first, last)
    return found


class _Copy:
    """Appends bytes of the process `pid`, whose memory is the file `memory`, to `target`."""

    def __init__(self, pid: int, memory: int, target: int) -> None:
        self._pid = pid
        self._memory = memory
        self._target = target
        self.runs: list[Run] = []
        self.length = 0
        self._ready: mmap.mmap | None = None

    def have(self, more: int) -> None:
        """See that there are pages for that many bytes, so that `add` need not wait for them."""
        end = -(-(self.length + more) // PAGE) * PAGE
        if self._ready is None:
            os.ftruncate(self._target, end)
            self._ready = mmap.mmap(self._target, end)
            self._populate(0)
        elif (there := len(self._ready)) < end:
            self._ready.resize(end)
            self._populate(there)

    def _populate(self, at: int) -> None:
        assert self._ready is not None
        with contextlib.suppress(OSError):  # before 5.14 they are made when they are written
            self._ready.madvise(_MADV_POPULATE_WRITE, at)

    def add(self, runs: list[Run]) -> None:
        """These; SourceError where they cannot be read."""
        more = _bytes(runs)
        if not more:
            return
        self.have(more)
        assert self._ready is not None
        at = self.length
        with memoryview(self._ready) as view, libc.Pinned(view) as pinned:
            for number in range(0, len(runs), _RUNS_AT_ONCE):
                some = runs[number : number + _RUNS_AT_ONCE]
                if not self._at_once(some, pinned.address + at):
                    self._one_by_one(some, view[at : at + _bytes(some)])
                at += _bytes(some)
        self.length = at
        self.runs += runs

    def end(self) -> None:
        """No more: what was reserved in vain goes."""
        self._ready = None
        os.ftruncate(self._target, self.length)

    def _at_once(self, runs: list[Run], address: int) -> bool:
        """Whether all of them could be read in one call."""
        try:
            return libc.process_vm_readv(self._pid, address, runs) == _bytes(runs)
        except OSError:  # as long as we do not hold it, that may be forbidden
            return False

    def _one_by_one(self, runs: list[Run], view: memoryview) -> None:
        at = 0
        with view:
            for start, end in runs:
                done = 0
                while done < end - start:
                    with view[at + done : at + end - start] as part:
                        done += _read(self._memory, part, start + done)
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


def _bytes(runs: list[Run]) -> int:
    return sum(end - start for start, end in runs)
