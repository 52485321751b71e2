"""The mappings of a process: what is there of each, and its bytes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import msgspec

from userfault.kernel.errors import SourceError
from userfault.linux import maps
from userfault.linux.pagemap import Pagemap
from userfault.linux.present import present
from userfault.snapshot.inputs import process_access as access
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region

# The kernel's own, not the process's.  Of its code debuggers want all, mapped in or not.
_KERNELS = ("[vvar", "[vsyscall]", "[uprobes]")
_CODE_OF_THE_KERNEL = "[vdso]"


class Part(msgspec.Struct, frozen=True):
    """A region, and the open file that holds its pages; -1: they are read from the process."""

    region: Region
    fd: int


class ProcessPages:
    """The process `pid`, looked at by its thread `thread`.  Raises OSError.

    `unreadable` counts pages that could not be read, `warnings` tells what could not be had.
    """

    def __init__(self, pid: int, thread: int) -> None:
        self._pid = pid
        self._thread = thread
        self._files: dict[tuple[str, int], int] = {}
        self.warnings: list[str] = []
        self.unreadable = 0
        self._counting = threading.Lock()  # several threads may read
        self._memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._pagemap = Pagemap(thread)
        except BaseException:
            os.close(self._memory)
            raise

    def close(self) -> None:
        """Close its files."""
        self._pagemap.close()
        for fd in (self._memory, *self._files.values()):
            if fd >= 0:
                os.close(fd)
        self._memory, self._files = -1, {}

    def read(self, part: Part, target: memoryview, at: int) -> None:
        """Bytes of a part, from its byte `at` on; zeros where a page cannot be read."""
        if part.fd < 0:
            self._read(self._memory, target, part.region.start + at)
        else:
            self._read_file(part, target, at)

    def laid_out(self) -> Iterator[Part]:
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
            yield Part(region, fd)
            offset += region.length

    def _file(self, mapping: maps.Mapping) -> int:
        """The open file behind a mapping; -1, and a warning, where we may not open it."""
        key = (mapping.device, mapping.inode)
        if key not in self._files:
            self._files[key] = access.opened(self._thread, mapping)
            if self._files[key] < 0:
                self.warnings.append(
                    f"of the shared memory {mapping.name} only the pages that process {self._pid}"
                    " has mapped were seen, the others are holes: run as root to have them all"
                )
        return self._files[key]

    def there(self, part: Part) -> Iterator[tuple[int, int, Holds]]:
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

    def _of_file(self, part: Part) -> Iterator[tuple[int, int, Holds]]:
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
        shift = region.offset - region.start
        for found in present(self._pagemap, region.start, region.start + region.length):
            holds = Holds.ZERO if found.zero else Holds.DATA
            yield found.start + shift, found.end + shift, holds

    def _read_file(self, part: Part, target: memoryview, at: int) -> None:
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
            with self._counting:
                self.unreadable += 1
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
