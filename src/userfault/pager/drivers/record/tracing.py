"""A trace is written while faults are served, and never at their expense.

The loop packs a record and puts it into a queue (0.5 µs); a thread of its own writes what has come,
twice a second, so a file system that hangs stops the trace and nothing else.  What a killed worker
had not written is lost: its successor says so in the trace, and records on.
"""

from __future__ import annotations

import _thread
import os
import time
from collections import deque
from collections.abc import Callable

from userfault.pager.core import trace
from userfault.pager.core.core import MappingCore
from userfault.pager.core.trace import packed

_EVERY_S = 0.5
_MOST_WAITING = 1 << 18  # records (4 MiB and what Python adds): then the file system is too slow
_END_S = 0.2  # how long a mapping that goes waits for its last records


def recorded(
    core: MappingCore, fd: int, say: Callable[[str], None], *, resumed: bool = False
) -> Recorder | None:
    """Have what happens in this mapping recorded in the file `fd`; None where that is -1."""
    if fd < 0:
        return None
    core.ledger.trace = recorder = Recorder(fd, say, resumed=resumed)
    return recorder


class Recorder:
    """Appends records to `fd`.  `say`: tells the client what went wrong."""

    def __init__(self, fd: int, say: Callable[[str], None], *, resumed: bool) -> None:
        self._fd = fd
        self._say = say
        self._waiting: deque[bytes] = deque()  # append and popleft are atomic
        self._clock = time.monotonic_ns
        self._lost = 0
        import threading  # noqa: PLC0415  # a pager's start, which mostly records nothing, goes without

        self._ending = threading.Event()
        self._ended = threading.Event()
        self._left = trace.MOST_BYTES - os.fstat(fd).st_size
        self.open = self._left > 0
        if resumed:
            self._add(trace.RESUMED, 0, 0, 0)
        try:
            _thread.start_new_thread(self._write, ())
        except RuntimeError as error:  # a limit on processes counts threads too
            self.open = False
            self._ended.set()
            say(f"no trace is recorded: no thread to write it: {error}")

    # --- what happens ----------------------------------------------------------------------------

    def fault(self, page: int, flags: int, state: int) -> None:
        self._add(trace.FAULT, state, page, flags & 0xFFFFFFFF)

    def filled(self, page: int, count: int, kind: int, demand: bool) -> None:
        self._add(trace.FILLED, kind | (trace.DEMAND if demand else 0), page, count)

    def ahead(self, page: int, count: int, why: int) -> None:
        self._add(trace.AHEAD, why, page, count)

    def dropped(self, page: int, count: int) -> None:
        self._add(trace.DROPPED, 0, page, count)

    def _add(self, what: int, detail: int, page: int, count: int) -> None:
        if not self.open:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._waiting.append(packed(self._clock(), trace.LOST, 0, 0, lost))
        self._waiting.append(packed(self._clock(), what, detail, page, count))

    # --- the thread ------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            ending = False
            while self.open and not ending:
                ending = self._ending.wait(_EVERY_S)
                self._write_waiting()
        except OSError as error:
            self.open = False
            self._say(f"the trace ends here: {os.strerror(error.errno or 0)}")
        finally:
            self._waiting.clear()
            self._ended.set()

    def _write_waiting(self) -> None:
        while self._waiting and self.open:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), 4096))]
            data = b"".join(batch)
            self._left -= len(data)
            if self._left < trace.RECORD.size:
                self.open = False
                data += packed(self._clock(), trace.FULL, 0, 0, 0)
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])

    def end(self) -> bool:
        """The mapping goes: write the rest.  False where that takes too long: then the descriptor
        has to stay open."""
        self._ending.set()
        return self._ended.wait(_END_S)
