"""The memory of a live process: what is present of each mapping, read through /proc/PID/mem.

The process is stopped while it is read, so that the image is of one moment, and runs on
afterwards; `running=True` leaves it running, and pages are of different moments.

Holes: what was never touched, and pages of files that the process has not in its page tables.
Memory that is a file without a disk (a memfd, shared anonymous memory, tmpfs) is read from that
file, whichever process touched it: then no page is added to the process that is looked at.  Where
it is mapped private, the process's own pages lie over those of the file.
/proc/PID/mem does not wait for a userfaultfd: a page that is missing fails with EIO (measured on
6.18).  So a process whose pages are served by itself can be read too.
"""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from userfault.kernel.errors import KernelError, SourceError, UsageError
from userfault.linux import maps
from userfault.linux.pagemap import Pagemap
from userfault.linux.present import present
from userfault.linux.registers import registers as registers_of
from userfault.linux.stopping import Stopped
from userfault.snapshot.inputs import process_access as access
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run, registers_about

# The kernel's own, not the process's.  Of its code debuggers want all, mapped in or not.
_KERNELS = ("[vvar", "[vsyscall]", "[uprobes]")
_CODE_OF_THE_KERNEL = "[vdso]"


class _Part(msgspec.Struct, frozen=True):
    """A region, and the open file that holds its pages; -1: they are read from the process."""

    region: Region
    fd: int


class ProcessInput:
    """The process `pid`, stopped until `finish` or `close` unless `running`.

    `registers`: keep those of its threads too (see `linux.registers` for what that asks of the
    caller); where they cannot be had that is a warning.

    Raises UsageError (no such process, a thread, a kernel thread, ourselves), Unavailable (no
    permission, or it does not stop), SourceError (it ends meanwhile).
    """

    kind = "process"

    def __init__(self, pid: int, *, running: bool = False, registers: bool = False) -> None:
        self._thread = access.refuse_others(pid)  # by which the process is looked at
        self._pid = pid
        self._running = running
        self._registers = registers and not running
        self._stopped: Stopped | None = None
        self._memory = -1
        self._pagemap: Pagemap | None = None
        self._files: dict[tuple[str, int], int] = {}
        self._warnings: list[str] = []
        self._unreadable = 0
        self._buffer = Buffer()
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, KernelError):
                raise access.refusal(pid, error) from None
            raise

    def _open(self) -> None:
        self._memory = os.open(f"/proc/{self._thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._pagemap = Pagemap(self._thread)
        if not self._running:
            self._stopped = Stopped(self._pid)
        self._about = access.about(self._pid, self._thread)
        if self._registers:
            self._keep_registers()
        self._parts = list(self._laid_out())
        self.regions: Sequence[Region] = [part.region for part in self._parts]
        self._offsets = [region.offset for region in self.regions]
        self.length = sum(region.length for region in self.regions)
        if not self.length:
            raise UsageError(
                f"process {self._pid} has no memory", cause="it has ended", cure="name a live one"
            )

    def _keep_registers(self) -> None:
        try:
            self._about |= registers_about(registers_of(self._pid))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            self._warnings.append(f"the registers of process {self._pid} are left out: {why}")
        if self._stopped is not None:
            self._stopped.settle()

    def runs(self) -> Iterator[Run]:
        """What is present and what is not."""
        for part in self._parts:
            first, end = part.region.offset, part.region.offset + part.region.length
            at = first
            for start, stop, holds in self._there(part):
                if start > at:
                    yield _run(at, start, Holds.HOLE)
                yield _run(start, stop, holds)
                at = stop
            if at < end:
                yield _run(at, end, Holds.HOLE)

    def read(self, page: int, count: int) -> memoryview:
        """The pages; what cannot be read is zeros, and counted."""
        size = count * PAGE
        view = self._buffer.pages(count)
        at, end = page * PAGE, page * PAGE + size
        while at < end:
            part = self._parts[bisect.bisect_right(self._offsets, at) - 1]
            region = part.region
            stop = min(end, region.offset + region.length)
            target = view[at - page * PAGE : stop - page * PAGE]
            if part.fd < 0:
                self._read(self._memory, target, region.start + at - region.offset)
            else:
                self._read_file(part, target, at - region.offset)
            at = stop
        return view

    def finish(self) -> Mapping[str, str]:
        """Who it was; it runs on from here.  SourceError where it ran meanwhile, or has ended."""
        if self._stopped is not None:
            still = self._stopped.still
            self._stopped.resume()
            if not still:
                raise SourceError(
                    f"process {self._pid} ran while its memory was read",
                    cause="somebody sent it SIGCONT",
                    cure="pack it again",
                )
        if self._unreadable:
            self._warnings.append(
                f"{self._unreadable} pages could not be read and are zeros: device memory, poisoned"
                " pages, or pages that went away meanwhile"
            )
        return self._about

    @property
    def warnings(self) -> Sequence[str]:
        """What could not be had."""
        return self._warnings

    def close(self) -> None:
        """Let the process run on, and close its files."""
        if self._stopped is not None:
            self._stopped.resume()
        if self._pagemap is not None:
            self._pagemap.close()
        for fd in (self._memory, *self._files.values()):
            if fd >= 0:
                os.close(fd)
        self._memory, self._files = -1, {}

    def _laid_out(self) -> Iterator[_Part]:
        """The mappings, one after the other; without those that are nothing but reserved."""
        offset = 0
        memory_devices = maps.memory_devices(self._thread)
        for mapping in maps.mappings(self._thread):
            if mapping.name.startswith(_KERNELS):
                continue
            region = Region(
                start=mapping.start,
                length=mapping.length,
                offset=offset,
                protection=mapping.protection,
                shared=mapping.shared,
                name=mapping.name,
                file_offset=mapping.offset,
            )
            if not region.protection and not any(self._of_tables(region)):
                continue
            fd = -1
            if maps.is_memory_file(mapping, memory_devices):
                fd = self._file(mapping)
            yield _Part(region, fd)
            offset += region.length

    def _file(self, mapping: maps.Mapping) -> int:
        """The open file behind a mapping; -1, and a warning, where we may not open it."""
        key = (mapping.device, mapping.inode)
        if key not in self._files:
            self._files[key] = access.opened(self._thread, mapping)
            if self._files[key] < 0:
                self._warnings.append(
                    f"of the shared memory {mapping.name} only the pages that process {self._pid}"
                    " has mapped were seen, the others are holes: run as root to have them all"
                )
        return self._files[key]

    def _there(self, part: _Part) -> Iterator[tuple[int, int, Holds]]:
        """What of a region is there, in bytes of the image, in ascending order."""
        region = part.region
        if region.name == _CODE_OF_THE_KERNEL:
            return iter([(region.offset, region.offset + region.length, Holds.DATA)])
        if part.fd < 0:
            return self._of_tables(region)
        if part.region.shared:
            return self._of_file(part)
        both = sorted((*self._of_file(part), *self._of_tables(part.region)), key=lambda run: run[0])
        return _joined(both)

    def _of_file(self, part: _Part) -> Iterator[tuple[int, int, Holds]]:
        """What of a region its file has, in bytes of the image."""
        region = part.region
        shift = region.offset - region.file_offset
        at, end = region.file_offset, region.file_offset + region.length
        end = min(end, -(-os.fstat(part.fd).st_size // PAGE) * PAGE)
        while at < end:
            try:
                start = os.lseek(part.fd, at, os.SEEK_DATA)
                stop = min(end, -(-os.lseek(part.fd, start, os.SEEK_HOLE) // PAGE) * PAGE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            start = max(at, start // PAGE * PAGE)
            if start < stop:
                yield start + shift, stop + shift, Holds.DATA
            at = max(stop, start + PAGE)

    def _of_tables(self, region: Region) -> Iterator[tuple[int, int, Holds]]:
        """What of a region the page tables have, in bytes of the image."""
        assert self._pagemap is not None
        shift = region.offset - region.start
        for found in present(self._pagemap, region.start, region.start + region.length):
            holds = Holds.ZERO if found.zero else Holds.DATA
            yield found.start + shift, found.end + shift, holds

    def _read_file(self, part: _Part, target: memoryview, at: int) -> None:
        """Bytes of a region from its file, and over them what the process has of its own."""
        region = part.region
        done = 0
        while done < len(target):
            got = os.preadv(part.fd, [target[done:]], region.file_offset + at + done)
            if not got:  # behind the end of the file, which no process can read either
                target[done:] = bytes(len(target) - done)
                break
            done += got
        if not region.shared:
            assert self._pagemap is not None
            start = region.start + at
            for own in present(self._pagemap, start, start + len(target)):
                self._read(self._memory, target[own.start - start : own.end - start], own.start)

    def _read(self, fd: int, target: memoryview, position: int) -> None:
        """Fill `target`, with zeros where a page cannot be read."""
        done = 0
        while done < len(target):
            try:
                got = os.preadv(fd, [target[done:]], position + done)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise access.refusal(self._pid, error) from None
                got = 0
            if got:
                done += got
                continue
            self._refuse_ended()
            target[done : done + PAGE] = bytes(PAGE)
            self._unreadable += 1
            done += PAGE

    def _refuse_ended(self) -> None:
        """Where a process has ended, its memory reads as the end of a file (proc(5))."""
        try:
            os.kill(self._pid, 0)
            with open(f"/proc/{self._thread}/maps", "rb") as file:
                if file.read(1):
                    return
        except OSError:
            pass
        raise SourceError(
            f"process {self._pid} ended while its memory was read",
            cause="it was killed, or went on and left",
            cure="pack a process that lives",
        )


def _joined(runs: list[tuple[int, int, Holds]]) -> Iterator[tuple[int, int, Holds]]:
    """Runs that may overlap, by their starts, as runs of data that do not."""
    begun = end = 0
    for start, stop, _ in runs:
        if start > end:
            if end > begun:
                yield begun, end, Holds.DATA
            begun = start
        end = max(end, stop)
    if end > begun:
        yield begun, end, Holds.DATA


def _run(start: int, end: int, holds: Holds) -> Run:
    return Run(start // PAGE, (end - start) // PAGE, holds)
