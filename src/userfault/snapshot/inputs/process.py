"""The memory of a live process: what is present of each mapping, read through /proc/PID/mem.

The process is stopped while it is read, so that the image is of one moment, and runs on
afterwards; `running=True` leaves it running, and pages are of different moments.  With `aside=True`
it is stopped only while its pages are copied into memory here, and runs on while they are packed.

Holes: what was never touched, and pages of files that the process has not in its page tables.
Memory that is a file without a disk (a memfd, shared anonymous memory, tmpfs) is read from that
file, whichever process touched it: then no page is added to the process that is looked at.  Where
it is mapped private, the process's own pages lie over those of the file.
/proc/PID/mem does not wait for a userfaultfd: a page that is missing fails with EIO (measured on
6.18).  So a process whose pages are served by itself can be read too.
"""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from userfault.kernel.errors import KernelError, SourceError, UsageError
from userfault.linux.registers import registers as registers_of
from userfault.linux.smaps import served_ranges
from userfault.linux.stopping import Stopped
from userfault.snapshot.inputs import process_access as access
from userfault.snapshot.inputs.aside import Aside, room_for
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.process_missing import missing_pages, refuse
from userfault.snapshot.inputs.process_pages import ProcessPages
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run, registers_about


class ProcessInput:
    """The process `pid`, stopped until `finish` or `close` unless `running`.

    `registers`: keep those of its threads too (see `linux.registers` for what that asks of the
    caller); where they cannot be had that is a warning.  `aside`: see above; where there is no
    memory for a copy, it stays stopped.  `missing_are_holes`: so are pages that a userfaultfd is
    yet to fill; otherwise these are an error.

    Raises UsageError (no such process, a thread, a kernel thread, ourselves), Unavailable (no
    permission, or it does not stop), SourceError (it ends meanwhile, or is not complete).
    """

    kind = "process"

    def __init__(
        self,
        pid: int,
        *,
        running: bool = False,
        registers: bool = False,
        aside: bool = False,
        missing_are_holes: bool = False,
    ) -> None:
        self._thread = access.refuse_others(pid)  # by which the process is looked at
        self._pid = pid
        self._running = running
        self._registers = registers and not running
        self._missing_are_holes = missing_are_holes
        self._stopped: Stopped | None = None
        self._aside: Aside | None = None
        self.stopped_s = 0.0  # for how long the process was stopped, in seconds
        self._pages: ProcessPages | None = None
        self._buffer = Buffer()
        try:
            self._open(aside=aside and not running)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, KernelError):
                raise access.refusal(pid, error) from None
            raise

    def _open(self, *, aside: bool) -> None:
        pages = self._pages = ProcessPages(self._pid, self._thread)
        room = self._make_room() if aside else None
        if not self._running:
            self._stopped = Stopped(self._pid)
        self._about = access.about(self._pid, self._thread)
        if self._registers:
            self._keep_registers()
        self._parts = list(pages.laid_out())
        self.regions: Sequence[Region] = [part.region for part in self._parts]
        self._offsets = [region.offset for region in self.regions]
        self.length = sum(region.length for region in self.regions)
        if not self.length:
            raise UsageError(
                f"process {self._pid} has no memory", cause="it has ended", cure="name a live one"
            )
        if not self._missing_are_holes:
            self._refuse_missing()
        if room is not None:
            self._copy_to(room)

    def _make_room(self) -> Aside | None:
        """For what is there now, and some more; None where that is too much."""
        source = self._source
        runs = (stop - start for part in source.laid_out() for start, stop, _ in source.there(part))
        pages = sum(runs) // PAGE
        pages += pages // 50 + 1024
        try:
            return Aside(pages) if room_for(pages) else None
        except (OSError, MemoryError):
            return None

    def _copy_to(self, room: Aside) -> None:
        """Have all of it there, and let the process go on."""
        try:
            if room.fill(list(self.runs()), self._read_into):
                self._let_go()
                self._aside = room
        finally:
            if self._aside is None:
                room.close()

    def _refuse_missing(self) -> None:
        served = served_ranges(self._thread)
        missing = 0
        for part in self._parts if served else []:
            there = (run[:2] for run in self._source.there(part))
            missing += missing_pages(served, part.region, there)
        refuse(self._pid, missing)

    def _keep_registers(self) -> None:
        try:
            self._about |= registers_about(registers_of(self._pid))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            self._source.warnings.append(
                f"the registers of process {self._pid} are left out: {why}"
            )
        if self._stopped is not None:
            self._stopped.settle()

    def runs(self) -> Iterator[Run]:
        """What is present and what is not."""
        if self._aside is not None:
            yield from self._aside.runs()
            return
        for part in self._parts:
            first, end = part.region.offset, part.region.offset + part.region.length
            at = first
            for start, stop, holds in self._source.there(part):
                if start > at:
                    yield _run(at, start, Holds.HOLE)
                yield _run(start, stop, holds)
                at = stop
            if at < end:
                yield _run(at, end, Holds.HOLE)

    def read(self, page: int, count: int) -> memoryview:
        """The pages; what cannot be read is zeros, and counted."""
        view = self._buffer.pages(count)
        if self._aside is not None:
            self._aside.read_into(page, view)
        else:
            self._read_into(page, view)
        return view

    def _read_into(self, page: int, view: memoryview) -> None:
        at, end = page * PAGE, page * PAGE + len(view)
        while at < end:
            part = self._parts[bisect.bisect_right(self._offsets, at) - 1]
            region = part.region
            stop = min(end, region.offset + region.length)
            target = view[at - page * PAGE : stop - page * PAGE]
            self._source.read(part, target, at - region.offset)
            at = stop

    def finish(self) -> Mapping[str, str]:
        """Who it was; it runs on from here.  SourceError where it ran meanwhile, or has ended."""
        self._let_go()
        if unreadable := self._source.unreadable:
            self._source.warnings.append(
                f"{unreadable} pages could not be read and are zeros: device memory, poisoned"
                " pages, or pages that went away meanwhile"
            )
        return self._about

    def _let_go(self) -> None:
        """Let it run on; SourceError where it did so before."""
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return
        still = stopped.still
        stopped.resume()
        self.stopped_s = time.monotonic() - stopped.since
        if not still:
            raise SourceError(
                f"process {self._pid} ran while its memory was read",
                cause="somebody sent it SIGCONT",
                cure="pack it again",
            )

    @property
    def _source(self) -> ProcessPages:
        assert self._pages is not None
        return self._pages

    @property
    def warnings(self) -> Sequence[str]:
        """What could not be had."""
        return self._source.warnings

    def close(self) -> None:
        """Let the process run on, and close its files."""
        if self._stopped is not None:
            self._stopped.resume()
        if self._pages is not None:
            self._pages.close()
        if self._aside is not None:
            self._aside.close()


def _run(start: int, end: int, holds: Holds) -> Run:
    return Run(start // PAGE, (end - start) // PAGE, holds)
